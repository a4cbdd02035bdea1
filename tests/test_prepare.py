import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import catalog, publication, scan
from jax_mrissl.data.inventory import check_folder, list_files
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.readers.read import read

CLASSES = ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented')


def command(*flags):
    return subprocess.run(
        [sys.executable, '-m', 'jax_mrissl.prepare', *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {'COLUMNS': '200'},
    )


def alzheimer_tree(root, splits=('train', 'test')):
    for split in splits:
        for label in CLASSES:
            (root / split / label).mkdir(parents=True)
            (root / split / label / '1.jpg').touch()
    return root


def pictures(root, count=3):
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (20, 20), np.uint8)
        Image.fromarray(pixels).save(root / f'{index}.png')
    return root


def test_prepares_and_says_what_came_of_it(tmp_path):
    raw = pictures(tmp_path / 'raw')
    (raw / 'notes.txt').write_text('Notes.')
    flags = [f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}', '--canvas=16']
    done = command('--dataset=brain_mri', *flags, '--workers=2')
    assert done.returncode == 0, done.stderr
    assert '3 images' in done.stdout and '1 left out: not an image' in done.stdout
    assert 'contact_sheet.png' in done.stdout
    again = command('--dataset=brain_mri', *flags)
    assert again.returncode == 0 and 'nothing to do' in again.stdout


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--dataset=brain_mir', '--data_dir=d'], "Did you mean 'brain_mri'"),
        (['--dataset=brain_mri', '--data_dir=d', '--canvs=3'], 'canvas'),
        (['--data_dir=d'], '--dataset is missing'),
        (['--dataset=demo'], '--data_dir is missing'),
    ],
)
def test_mistakes_are_plain_lines(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    done = command(*flags)
    assert done.returncode != 0
    assert words in done.stderr + done.stdout
    assert 'Traceback' not in done.stderr


def test_missing_folders_are_told_where_to_get_them(tmp_path):
    for raw_dirs, words in (
        ([], '--raw_dir is missing'),
        ([tmp_path / 'x'], 'not exist'),
    ):
        with pytest.raises(UserError, match=words) as error:
            prepare_dataset('brain_mri', raw_dirs, tmp_path / 'data', canvas=16)
        for part in ('Kaggle', 'command: ' if not raw_dirs else 'Then: '):
            assert part in str(error.value)


def test_help_has_examples():
    done = command('--help')
    assert done.returncode == 0
    assert '--raw_dir=' in done.stdout and '--canvas' in done.stdout


SPEC = catalog.DATASETS['alzheimer_mri']


def test_right_folders_are_taken(tmp_path):
    check_folder(SPEC, alzheimer_tree(tmp_path / 'set'))
    check_folder(SPEC, alzheimer_tree(tmp_path / 'other', ('x',)) / 'x')


@pytest.mark.parametrize('inside', ['train', 'train/NonDemented', 'test'])
def test_a_folder_too_deep_is_recognised(tmp_path, inside):
    root = alzheimer_tree(tmp_path / 'set')
    with pytest.raises(UserError, match='too deep') as error:
        check_folder(SPEC, root / inside)
    assert f'--raw_dir="{root}"' in str(error.value)


def test_a_class_folder_of_a_set_without_splits_is_too_deep(tmp_path):
    root = alzheimer_tree(tmp_path, ('set',)) / 'set'
    with pytest.raises(UserError, match='too deep') as error:
        check_folder(SPEC, root / 'MildDemented')
    assert f'--raw_dir="{root}"' in str(error.value)


@pytest.mark.parametrize('above', ['.', '..'])
def test_a_folder_too_high_is_recognised(tmp_path, above):
    root = alzheimer_tree(tmp_path / 'archive' / 'set')
    with pytest.raises(UserError, match='too high') as error:
        check_folder(SPEC, (root.parent / above).resolve())
    assert f'--raw_dir="{root}"' in str(error.value)


def test_another_folder_is_told_what_is_expected(tmp_path):
    pictures(tmp_path / 'other')
    with pytest.raises(UserError, match='none of the class folders') as error:
        check_folder(SPEC, tmp_path / 'other')
    for part in ('kaggle.com', 'ODbL', 'train/NonDemented', '--dataset=alzheimer_mri'):
        assert part in str(error.value)


def test_an_empty_folder_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match='no files'):
        list_files(catalog.DATASETS['brain_mri'], [tmp_path])


def test_links_in_a_circle_end(tmp_path):
    root = pictures(tmp_path / 'raw')
    (root / 'loop').symlink_to(root)
    assert len(list_files(catalog.DATASETS['brain_mri'], [root])) == 3


def test_merged_folders_are_named_and_none_twice(tmp_path):
    spec = catalog.DATASETS['brain_mri']
    a, b = pictures(tmp_path / 'a'), pictures(tmp_path / 'b')
    assert {f.source for f in list_files(spec, [a, b])} == {'a', 'b'}
    with pytest.raises(UserError, match='twice'):
        list_files(spec, [a, Path(f'{a}/.')])
    with pytest.raises(UserError, match='inside'):
        list_files(spec, [a, tmp_path])


def test_smoke_is_made_and_prepared(tmp_path):
    pytest.importorskip('nilearn')
    card = prepare_dataset('smoke', [], tmp_path, canvas=16, workers=1).card
    assert card['simulated'] and 'SIMULATED' in card['title']
    assert set(card['counts']['splits']) == {'pretrain', 'labelled'}
    assert card['counts']['splits']['pretrain']['classes'].keys() == {'unlabelled'}


def test_nothing_is_read_while_modules_load(tmp_path, monkeypatch):
    # While TFDS loads, relative imports fail in all threads: good files, "damaged".
    loading = threading.Event()

    def load():
        loading.set()
        time.sleep(0.2)
        loading.clear()

    def watched(path):
        assert not loading.is_set()
        time.sleep(0.02)
        return read(path)

    monkeypatch.setattr(publication, 'load', load)
    monkeypatch.setattr(scan, 'read', watched)
    pictures(tmp_path / 'raw')
    data = tmp_path / 'data'
    done = prepare_dataset('brain_mri', [tmp_path / 'raw'], data, canvas=16, workers=1)
    assert done.card['counts']['images'] == 3
