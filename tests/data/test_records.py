import csv
import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import records, workers
from jax_mrissl.data.canvas import place
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.data.spec import FolderLevel, NeighbouringSlices, PathPattern
from jax_mrissl.data.splits import group_labels
from jax_mrissl.readers.image import decode_png
from jax_mrissl.readers.slice import Slice, pixel_sha256

PATIENT = 'Mustermann-4711'


def draw(seed, height=24, width=20):
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def write_set(root, count=12, *, reverse=False):
    """Writes two classes in two splits, three slices of each subject."""
    names = [
        (f'{split}/{label}/sub-{subject:02d}_{index}.png', seed)
        for seed, (split, label, subject, index) in enumerate(
            ('train' if i % 4 else 'test', 'ill' if i % 2 else 'well', i // 3, i % 3)
            for i in range(count)
        )
    ]
    for name, seed in reversed(names) if reverse else names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(seed)).save(path)
    return root


OWN = OwnFolder(
    name='mine', classes=('well', 'ill'), subject=PathPattern(r'(sub-\d+)_')
)


def prepare(raw, data, own=OWN, **options):
    raws = raw if isinstance(raw, list) else [raw]
    options = {'canvas': 32, 'workers': 1, **options}
    return prepare_dataset('folder', raws, data, own=own, **options)


def contents(folder):
    """Maps every file to its hash, apart from the lock and the manifest's format."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def rows(folder, split):
    decoders = {'image': tfds.decode.SkipDecoding()}
    return list(
        tfds.builder_from_directory(folder).as_data_source(split, decoders=decoders)
    )


def test_tfds_reads_it_and_every_feature_is_right(tmp_path):
    raw = write_set(tmp_path / 'raw')
    prepared = prepare(raw, tmp_path / 'data')
    assert prepared.folder == tmp_path / 'data' / 'mine' / '1.0.0'
    (split,) = tfds.builder_from_directory(prepared.folder).info.splits
    found = rows(prepared.folder, split)
    assert len(found) == 12
    by_pixels = {row['pixel_sha256'].decode(): row for row in found}
    for path in raw.rglob('*.png'):
        pixels = np.asarray(Image.open(path))
        row = by_pixels[pixel_sha256(pixels)]
        image = decode_png(row['image'])
        assert image.shape == (32, 32, 1) and image.dtype == np.uint8
        np.testing.assert_array_equal(row['box'], [0, 2, 32, 27])
        assert row['label'] == ('well', 'ill').index(path.parent.name)
        assert math.isnan(row['target']) and np.isnan(row['spacing']).all()
        assert row['source'] == b'mine' and row['site'] == b''
    assert len({row['group'] for row in found}) == 4
    assert len({row['file_id'] for row in found}) == 12
    ids = [row['file_id'] for row in found]
    assert ids == sorted(ids)


def test_card_counts_and_moments(tmp_path):
    raw = write_set(tmp_path / 'raw')
    card = prepare(raw, tmp_path / 'data').card
    assert card['counts']['images'] == 12 and card['counts']['groups'] == 4
    assert card['counts']['classes'] == {'ill': 6, 'well': 6}
    assert card['canvas'] == 32 and card['channels'] == 1
    assert card['classes'] == ['well', 'ill'] and card['simulated'] is False
    inside = []
    for row in rows(tmp_path / 'data/mine/1.0.0', 'train'):
        top, left, height, width = row['box']
        image = decode_png(row['image'])
        inside.append(image[top : top + height, left : left + width].ravel() / 255)
    assert card['pixels']['mean'] == pytest.approx([np.mean(inside)], abs=1e-6)
    assert card['pixels']['std'] == pytest.approx([np.std(inside)], abs=1e-6)
    written = json.loads((tmp_path / 'data/mine/1.0.0/card.json').read_text())
    assert written == card


def test_same_bytes_whatever_order_and_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'IMAGES_PER_SHARD', 4)
    first = prepare(write_set(tmp_path / 'a'), tmp_path / 'data1')
    second = prepare(
        write_set(tmp_path / 'b', reverse=True), tmp_path / 'data2', workers=2
    )
    assert contents(first.folder) == contents(second.folder)
    assert sum('array_record' in name for name in contents(first.folder)) == 3


def test_moving_files_or_other_options_change_the_fingerprint(tmp_path):
    raw = write_set(tmp_path / 'raw')
    prints = {
        prepare(raw, tmp_path / 'a').card['fingerprint'],
        prepare(raw, tmp_path / 'b', canvas=24).card['fingerprint'],
    }
    (raw / 'train/ill/sub-00_1.png').unlink()
    prints.add(prepare(raw, tmp_path / 'c').card['fingerprint'])
    assert len(prints) == 3


def test_done_is_done_and_other_options_are_refused(tmp_path):
    raw, data = write_set(tmp_path / 'raw'), tmp_path / 'data'
    before = contents(prepare(raw, data).folder)
    assert prepare(raw, data).was_there
    with pytest.raises(UserError, match='--overwrite') as error:
        prepare(raw, data, canvas=24)
    assert 'canvas 32' in str(error.value)
    Image.fromarray(draw(99)).save(raw / 'train/ill/sub-09_1.png')
    with pytest.raises(UserError, match='other raw files'):
        prepare(raw, data)
    assert contents(data / 'mine/1.0.0') == before
    assert prepare(raw, data, version='1.0.1').folder.name == '1.0.1'
    again = prepare(raw, data, overwrite=True)
    assert again.card['counts']['images'] == 13
    left = sorted(p.name for p in (data / 'mine').iterdir() if p.name[0] != '.')
    assert left == ['1.0.0', '1.0.1']


def test_a_failure_while_overwriting_leaves_the_earlier_set(tmp_path, monkeypatch):
    raw, data = write_set(tmp_path / 'raw'), tmp_path / 'data'
    before = contents(prepare(raw, data).folder)

    def full(*args):
        raise OSError(28, 'No space left on device', str(data))

    monkeypatch.setattr('jax_mrissl.data.records.write_json', full)
    with pytest.raises(UserError, match=r'is full .* starts?'):
        prepare(raw, data, canvas=24, overwrite=True)
    assert contents(data / 'mine/1.0.0') == before


def test_a_disk_that_fills_while_writing_is_said(tmp_path, monkeypatch):
    raw, data = write_set(tmp_path / 'raw'), tmp_path / 'data'
    before = contents(prepare(raw, data).folder)

    class Writer:
        def __init__(self, path, options):
            Path(path).write_bytes(b'torn')

        def write(self, record):
            pass

        def close(self):
            # As array_record says it, seen on a real full disk.
            raise RuntimeError('write() failed: No space left on device; writing x')

    monkeypatch.setattr(records.array_record_module, 'ArrayRecordWriter', Writer)
    with pytest.raises(UserError, match=r'is full .* --data_dir'):
        prepare(raw, data, canvas=24, overwrite=True)
    assert contents(data / 'mine/1.0.0') == before
    assert not list((data / 'mine').rglob('*.tmp'))


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr('jax_mrissl.data.making.free_mb', lambda home: 0.001)
    with pytest.raises(UserError, match='is full'):
        prepare(write_set(tmp_path / 'raw'), tmp_path / 'data')
    assert not list((tmp_path / 'data').rglob('*array_record*'))


KILLED = """
import sys, time
from jax_mrissl.data import records, workers
from jax_mrissl.data.canvas import place
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.spec import PathPattern
records.IMAGES_PER_SHARD = 4
write = records.write_shard
def slowly(path, **arguments):
    if '00002-of' in path:
        print('at the last shard', flush=True)
        time.sleep(60)
    yield from write(path, **arguments)
workers.JOBS['write'] = slowly
own = OwnFolder('mine', ('well', 'ill'), PathPattern(r'(sub-\\d+)_'))
prepare_dataset('folder', [sys.argv[1]], sys.argv[2], canvas=32, workers=1, own=own)
"""


def test_killed_in_the_middle_and_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'IMAGES_PER_SHARD', 4)
    raw = write_set(tmp_path / 'raw')
    undisturbed = prepare(raw, tmp_path / 'a')
    command = [sys.executable, '-c', KILLED, str(raw), str(tmp_path / 'b')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / 'b/mine/1.0.0').exists()
    shards = list(
        (tmp_path / 'b/mine/incomplete-1_0_0').glob('*.array_record-*of-00003')
    )
    assert len(shards) == 2
    times = {shard.name: shard.stat().st_mtime_ns for shard in shards}
    (shards[0].parent / '.torn.array_record.1.tmp').write_bytes(b'torn')
    resumed = prepare(raw, tmp_path / 'b')
    assert contents(resumed.folder) == contents(undisturbed.folder)
    for name, when in times.items():  # finished shards are kept
        assert (resumed.folder / name).stat().st_mtime_ns == when


def test_a_kill_between_the_two_renames_is_mended(tmp_path):
    raw, data = write_set(tmp_path / 'raw'), tmp_path / 'data'
    folder = prepare(raw, data).folder
    folder.rename(data / 'mine/replaced-1_0_0')
    assert prepare(raw, data).was_there


def test_two_at_once_are_refused(tmp_path):
    import fcntl
    import threading

    raw, data = write_set(tmp_path / 'raw'), tmp_path / 'data'
    prepare(raw, data)
    with open(data / 'mine/.lock-1.0.0', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='Another prepare'):
            prepare(raw, data)
        # Workers of a study, which all find a simulated set missing, wait instead.
        let_go = threading.Timer(0.5, fcntl.flock, (lock, fcntl.LOCK_UN))
        let_go.start()
        assert prepare(raw, data, wait=True).was_there
        assert not let_go.is_alive()


def test_bad_files_are_skipped_counted_and_listed(tmp_path):
    raw = write_set(tmp_path / 'raw')
    (raw / 'train/ill/sub-20_0.png').write_bytes(b'')
    (raw / 'train/ill/sub-20_1.png').write_bytes(b'words')
    repeated = (raw / 'train/ill/sub-00_1.png').read_bytes()
    (raw / 'train/ill/sub-00_9.png').write_bytes(repeated)
    (raw / 'train/ill/nobody.png').write_bytes(repeated)  # not kept in its stead
    Image.fromarray(draw(77)).save(raw / 'train/ill/stranger.png')
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(raw / 'train/ill/sub-20_2.png')
    (raw / '.DS_Store').write_bytes(b'litter')
    prepared = prepare(raw, tmp_path / 'data')
    counts = prepared.card['counts']
    assert counts['images'] == 12 and counts['files'] == 18
    assert counts['duplicates'] == 1
    assert counts['rejected'] == {
        'blank image': 1,
        'empty file': 1,
        'no subject in its path': 2,
        'not an image': 1,
    }
    listed = list(csv.DictReader((prepared.folder / 'rejects.csv').open()))
    assert len(listed) == 6
    manifest = pyarrow.parquet.read_table(prepared.folder / 'private/manifest.parquet')
    by_path = {row['path']: row for row in manifest.to_pylist()}
    assert by_path['train/ill/sub-20_0.png']['reason'] == 'empty file'
    assert by_path['train/ill/sub-20_0.png']['file_id'] in {
        r['file_id'] for r in listed
    }
    assert by_path['train/ill/sub-00_1.png']['subject'] == 'sub-00'


def test_copies_that_contradict_each_other_lose_their_label(tmp_path):
    raw = write_set(tmp_path / 'raw')
    data = (raw / 'train/ill/sub-00_1.png').read_bytes()
    (raw / 'train/well/sub-00_9.png').write_bytes(data)
    card = prepare(raw, tmp_path / 'data').card
    assert card['counts']['classes'] == {'ill': 5, 'unlabelled': 1, 'well': 6}


def test_copies_that_contradict_each_other_lose_their_number(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'raw').mkdir()
    for name in 'abc':
        pixels = rng.integers(0, 255, (20, 20)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'raw/{name}.png')
    shutil.copy(tmp_path / 'raw/a.png', tmp_path / 'raw/d.png')
    shutil.copy(tmp_path / 'raw/b.png', tmp_path / 'raw/e.png')
    table = tmp_path / 'facts.csv'
    table.write_text('file,target\na,0.1\nb,5\nc,7\nd,9.9\ne,5\n')
    own = OwnFolder(name='mine', table=table)
    made = prepare(tmp_path / 'raw', tmp_path / 'data', own=own)
    targets = [float(row['target']) for row in rows(made.folder, 'train')]
    np.testing.assert_array_equal(np.sort(targets), [5, 7, np.nan])


def test_a_class_that_no_file_is_of_is_a_mistake(tmp_path):
    raw = write_set(tmp_path / 'raw')
    for classes, words in (
        (('il', 'well'), 'of the class il: no folder.*Folders are: ill, .*, well'),
        (('ill', 'well', 'other'), 'of the class other'),
    ):
        own = OwnFolder(name='mine', classes=classes)
        with pytest.raises(UserError, match=words):
            prepare(raw, tmp_path / 'data', own=own)


def test_nothing_usable_is_a_mistake_with_reasons(tmp_path):
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw/a.png').write_bytes(b'')
    with pytest.raises(UserError, match=r'No image can be used.* 1 x empty file'):
        prepare(tmp_path / 'raw', tmp_path / 'data', own=OwnFolder(name='mine'))


def write_dicom(path, stored, number):
    from tests_dicom import dataset

    ds = dataset(stored, ExplicitVRLittleEndian, PatientID=PATIENT, PatientName=PATIENT)
    ds.StudyDate, ds.InstanceNumber, ds.PixelSpacing = '19991231', number, [2.0, 1.0]
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture
def dicom(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / 'readers')
    monkeypatch.setitem(sys.modules, 'tests_dicom', __import__('test_dicom'))


def test_scans_share_the_range_of_their_series(tmp_path, dicom):
    rng = np.random.default_rng(0)
    dim = rng.integers(0, 100, (24, 24)).astype(np.uint16)
    bright = rng.integers(0, 1000, (24, 24)).astype(np.uint16)
    write_dicom(tmp_path / 'raw/1.dcm', dim, 1)
    write_dicom(tmp_path / 'raw/2.dcm', bright, 2)
    prepared = prepare(tmp_path / 'raw', tmp_path / 'data', own=OwnFolder(name='mine'))
    found = {int(r['position']): r for r in rows(prepared.folder, 'train')}
    low, high = np.percentile(np.stack([dim, bright]), [0.5, 99.5])
    expected = np.clip((dim.mean() - low) / (high - low), 0, 1)
    image = decode_png(found[1]['image'])
    top, left, height, width = found[1]['box']
    assert (height, width) == (32, 16)  # pixels are twice as high as wide
    inside = image[top : top + height, left : left + width] / 255
    # Quantiles of each slice stand for its values: within one grey level.
    assert inside.mean() == pytest.approx(expected, abs=1 / 255)
    np.testing.assert_allclose(found[1]['spacing'], [24 * 2 / 32, 24 / 16])
    assert found[1]['group'] == found[2]['group']


def test_nothing_but_private_tells_a_patient(tmp_path, dicom):
    raw = tmp_path / 'raw' / 'archive'
    write_dicom(raw / PATIENT / 'a.dcm', draw(0).astype(np.uint16), 1)
    Image.fromarray(draw(1)).save(raw / PATIENT / f'{PATIENT}_1.png')
    (raw / PATIENT / f'{PATIENT}_2.png').write_bytes(b'')
    (tmp_path / 'facts.csv').write_text(
        f'file,group,site\n{PATIENT}_1.png,{PATIENT},{PATIENT}-hospital\n'
    )
    own = OwnFolder(name='mine', table=tmp_path / 'facts.csv')
    prepared = prepare(raw, tmp_path / 'data', own=own)
    assert prepared.card['counts']['groups'] == 1
    secrets = (PATIENT.encode(), b'19991231', b'archive')
    for path in (tmp_path / 'data').rglob('*'):
        assert PATIENT not in str(path)
        if path.is_file() and 'private' not in path.parts:
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets), path
    for row in rows(prepared.folder, 'train'):  # the shards are compressed
        values = b' '.join(v for v in row.values() if isinstance(v, bytes))
        assert not any(secret in values for secret in secrets)
        assert len(row['site']) in (0, 32)
    private = prepared.folder / 'private'
    assert (private / 'key').stat().st_mode & 0o777 == 0o600
    assert (private / 'manifest.parquet').stat().st_mode & 0o777 == 0o600


def test_of_several_raw_folders_no_name_is_told(tmp_path):
    raws = [tmp_path / f'{PATIENT}{c}' for c in 'BA']
    for seed, raw in enumerate(raws):
        raw.mkdir()
        Image.fromarray(draw(seed)).save(raw / '1.png')
    prepared = prepare(raws, tmp_path / 'data', own=OwnFolder(name='mine'))
    found = {
        row['pixel_sha256'].decode(): row for row in rows(prepared.folder, 'train')
    }
    told = [found[pixel_sha256(draw(seed))]['source'] for seed in (0, 1)]
    assert told == [b'folder 2', b'folder 1']
    assert prepared.card['counts']['sources'].keys() == {'folder 1', 'folder 2'}
    for path in prepared.folder.rglob('*'):
        if path.is_file() and 'private' not in path.parts:
            assert PATIENT.encode() not in path.read_bytes(), path
    manifest = prepared.folder / 'private/manifest.parquet'
    sources = pyarrow.parquet.read_table(manifest)['source'].to_pylist()
    assert set(sources) == {raw.name for raw in raws}


def test_prepared_sets_within_the_raw_folder_are_not_read(tmp_path):
    raw = write_set(tmp_path / 'raw')
    first = prepare(raw, raw / 'data')
    assert prepare(raw, raw / 'data').was_there
    other = prepare(raw, raw / 'data', own=dataclasses.replace(OWN, name='other'))
    assert other.card['counts']['files'] == first.card['counts']['files'] == 12
    with pytest.raises(UserError, match='Use another --data_dir'):
        prepare(raw, raw)


def test_private_may_be_left_out_or_removed(tmp_path):
    raw, data = write_set(tmp_path / 'raw'), tmp_path / 'data'
    prepared = prepare(raw, data, keep_private=False)
    private = prepared.folder / 'private'
    assert not private.exists()
    assert prepare(raw, data, keep_private=False).note == ''
    again = prepare(raw, data)
    assert again.was_there and 'no private/' in again.note and not private.exists()
    again = prepare(raw, data, overwrite=True)
    assert not again.was_there and private.exists()
    assert again.card['fingerprint'] == prepared.card['fingerprint']
    assert prepare(raw, data).note == ''
    again = prepare(raw, data, keep_private=False)
    assert again.was_there and 'removed' in again.note and not private.exists()


def test_table_gives_labels_groups_and_targets(tmp_path):
    raw = write_set(tmp_path / 'raw')
    paths = sorted(p.relative_to(raw).as_posix() for p in raw.rglob('*.png'))
    lines = ['file,group,label,target']
    lines += [f'{p},P{i // 6},grade{i % 3},{i}.5' for i, p in enumerate(paths)]
    lines.append('gone.png,P9,grade0,1')
    (tmp_path / 'facts.csv').write_text('\n'.join(lines))
    own = OwnFolder(name='mine', table=tmp_path / 'facts.csv')
    prepared = prepare(raw, tmp_path / 'data', own=own)
    card = prepared.card
    assert card['classes'] == ['grade0', 'grade1', 'grade2']
    assert card['counts']['groups'] == 2
    assert card['notes'] == ['Rows of the table that name no file: 1.']
    found = rows(prepared.folder, 'train')
    assert sorted(float(row['target']) for row in found) == [i + 0.5 for i in range(12)]


def test_a_subject_of_the_table_need_not_be_in_the_path(tmp_path):
    for seed, name in enumerate(('sub-01_a', 'sub-01_b', 'scan7', 'scan8', 'scan9')):
        path = tmp_path / 'raw' / f'{name}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw(seed)).save(path)
    (tmp_path / 'facts.csv').write_text('file,group\nscan7,P2\nscan8,P2\nscan9,\n')
    subject = PathPattern(r'(sub-\d+)')
    own = OwnFolder('mine', subject=subject, table=tmp_path / 'facts.csv')
    counts = prepare(tmp_path / 'raw', tmp_path / 'data', own=own).card['counts']
    assert (counts['images'], counts['groups']) == (4, 2)
    assert counts['rejected'] == {'no subject in its path': 1}


def test_folder_level_and_pixels_as_groups(tmp_path):
    raw = write_set(tmp_path / 'raw')
    by_level = OwnFolder(name='mine', subject=FolderLevel(2))
    card = prepare(raw, tmp_path / 'data', own=by_level).card
    assert card['counts']['groups'] == len(list(raw.glob('*/*')))
    by_pixels = OwnFolder(name='mine', subject=NeighbouringSlices())
    with pytest.raises(UserError, match='cannot be told by pixels'):
        prepare(raw, tmp_path / 'other', own=by_pixels)


def test_pixels_keep_a_volume_whole_that_has_slices_of_two_classes(tmp_path):
    rng = np.random.default_rng(1)
    for subject in range(4):
        volume = ndimage.gaussian_filter(rng.normal(size=(12, 48, 48)), (3, 2, 2))
        volume = np.interp(volume, (volume.min(), volume.max()), (0, 255))
        for index, image in enumerate(volume):
            # Of the last subject some slices have no label.
            kind = 'ill' if index >= 6 else 'well' if subject < 3 else 'other'
            path = tmp_path / 'raw' / kind / f'{subject}_{index:02d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path)
    own = OwnFolder('mine', ('well', 'ill'), NeighbouringSlices())
    card = prepare(tmp_path / 'raw', tmp_path / 'data', own=own).card
    assert card['counts']['groups'] == 4
    prepared = open_prepared(tmp_path / 'data', 'mine')
    with pytest.raises(UserError, match='3 of 4 subjects have images with different'):
        group_labels(prepared.groups, prepared.labels)


@pytest.fixture(scope='module')
def kaggle(tmp_path_factory):
    """An Alzheimer set of two subjects a class, named as the publisher does."""
    root = tmp_path_factory.mktemp('kaggle')
    rng = np.random.default_rng(0)
    for label in (
        'NonDemented',
        'VeryMildDemented',
        'MildDemented',
        'ModerateDemented',
    ):
        for subject in (1, 2):
            noise = rng.normal(size=(32, 26, 22))
            volume = ndimage.gaussian_filter(noise, (8, 1.5, 1.5))
            volume = np.interp(volume, (volume.min(), volume.max()), (0, 255))
            for index, image in enumerate(volume, 1):
                # Subject 2 comes first: its name has a bracket.
                name = f'x{2 * index - subject}.png'
                split = 'train' if index <= 26 else 'test'
                if split == 'test':
                    name = f'{index} (2).png' if subject == 2 else f'{index}.png'
                path = root / split / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.astype(np.uint8)).save(path)
    return root


def test_kaggle_subjects_by_names_and_by_pixels_are_the_same(kaggle, tmp_path):
    renamed = tmp_path / 'renamed'
    for path in kaggle.rglob('*.png'):
        other = renamed / path.parent.relative_to(kaggle)
        other.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(path.name.encode()).hexdigest()[:12]
        shutil.copy(path, other / f'{name}.png')
    parts = []
    texts = []
    for raw, data in ((kaggle, 'a'), (renamed, 'b')):
        prepared = prepare_dataset(
            'alzheimer_mri', [raw], tmp_path / data, canvas=16, workers=1
        )
        texts.append(prepared.card['subjects']['found'])
        assert prepared.card['counts']['groups'] == 8
        assert prepared.card['subjects']['gap']['width'] > 0
        found = [
            row for split in ('train', 'test') for row in rows(prepared.folder, split)
        ]
        assert {(int(r['label']), float(r['target'])) for r in found} == {
            (0, 0.0),
            (1, 0.5),
            (2, 1.0),
            (3, 2.0),
        }
        groups = {}
        for row in found:
            groups.setdefault(row['group'], {})[row['pixel_sha256']] = row['position']
        parts.append({frozenset(group): group for group in groups.values()})
    assert parts[0].keys() == parts[1].keys()
    for members, group in parts[0].items():
        other = parts[1][members]
        along = np.corrcoef(
            [(group[m], other[m]) for m in sorted(members)], rowvar=False
        )
        assert abs(along[0, 1]) > 0.999
    assert 'told by file names; the pixels agree' in texts[0]
    assert 'found by pixels' in texts[1]


def test_names_that_contradict_the_pixels_are_not_believed(kaggle, tmp_path):
    raw = tmp_path / 'raw'
    shutil.copytree(kaggle, raw)
    folder = raw / 'train' / 'NonDemented'
    a, b = folder / 'x0.png', folder / 'x1.png'
    a.rename(folder / 'swap'), b.rename(a), (folder / 'swap').rename(b)
    prepared = prepare_dataset(
        'alzheimer_mri', [raw], tmp_path / 'data', canvas=16, workers=1
    )
    assert 'names contradict the pixels' in prepared.card['subjects']['found']
    assert prepared.card['counts']['groups'] == 8


def test_colour_becomes_gray_where_the_set_is_gray(tmp_path):
    raw = write_set(tmp_path / 'raw')
    tinted = np.stack([draw(50), draw(51), draw(52)], axis=2)
    Image.fromarray(tinted).save(raw / 'train/ill/sub-30_0.png')
    gray = prepare_dataset('brain_mri', [raw], tmp_path / 'a', canvas=24, workers=1)
    assert gray.card['channels'] == 1 and gray.card['counts']['turned_gray'] == 1
    colour = prepare(raw, tmp_path / 'b')
    assert colour.card['channels'] == 3
    assert decode_png(rows(colour.folder, 'train')[0]['image']).shape == (32, 32, 3)


def test_place_centres_and_keeps_the_aspect():
    placed = place(
        Slice(pixels=np.full((10, 40), 200, np.uint8)),
        windows=(),
        canvas=20,
        channels=1,
    )
    assert placed.box == (7, 0, 5, 20)  # (20 - 5) // 2
    inside = np.zeros((20, 20), bool)
    inside[7:12] = True
    np.testing.assert_array_equal(placed.pixels[:, :, 0], np.where(inside, 200, 0))


def test_place_makes_a_channel_of_each_window():
    values = np.array([[0, 50], [100, 200]], np.float32)
    windows = [(0, 100), (100, 200), (0, 200)]
    placed = place(Slice(pixels=values), windows=windows, canvas=2, channels=3)
    np.testing.assert_array_equal(placed.pixels[..., 0], [[0, 128], [255, 255]])
    np.testing.assert_array_equal(placed.pixels[..., 1], [[0, 0], [0, 255]])
    np.testing.assert_array_equal(placed.pixels[..., 2], [[0, 64], [128, 255]])


def test_place_maps_the_range_and_nan_to_black():
    values = np.array([[-10, 0], [50, np.nan]], np.float32)
    placed = place(Slice(pixels=values), windows=[(0, 100)], canvas=2, channels=1)
    np.testing.assert_array_equal(placed.pixels[:, :, 0], [[0, 0], [128, 0]])


def test_a_file_that_crashes_its_reader_costs_only_itself(monkeypatch):
    class Fragile:
        """Stands for a process that dies of the files named so."""

        def end(self):
            pass

        def answers(self, job):
            told, count = [], 0
            for path in job[1]['paths']:
                if path == 'deadly':  # what it has not told yet is lost
                    raise workers.WorkerDied(count, 'it ended with code -11')
                told.append({'sha256': '', 'slices': [], 'reason': path, 'detail': ''})
                if len(told) == job[1].get('together', 3):
                    yield told
                    told, count = [], count + len(told)
            if told:
                yield told

    monkeypatch.setattr(workers, 'Worker', Fragile)
    jobs = [
        ('scan', {'paths': [*'efghij', 'a', 'deadly', 'b', *['deadly'] * 2, 'c']}),
        ('scan', {'paths': ['d', 'deadly']}),
    ]
    found = [[], []]
    with workers.Crew(2) as crew:
        crew.perform(
            jobs,
            on_answer=lambda job, told: found[job].extend(t['reason'] for t in told),
            heir=workers.skip_file,
        )
    crash = 'crashes or stalls its reader'
    assert found[0] == [*'efghij', 'a', crash, 'b', crash, crash, 'c']
    assert found[1] == ['d', crash]


def test_a_worker_that_dies_or_stalls_is_noticed():
    with workers.Worker() as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(workers.WorkerDied):
            list(worker.answers(('scan', {'paths': ['a']})))
    with workers.Worker(patience_s=0.2) as worker:
        os.kill(worker._process.pid, signal.SIGSTOP)
        with pytest.raises(workers.WorkerDied, match='silent'):
            list(worker.answers(('scan', {'paths': ['a']})))


def test_a_worker_ends_with_its_caller_and_loads_nothing_heavy(tmp_path):
    script = (
        'import sys\n'
        'import jax_mrissl.data.workers\n'
        'heavy = {"jax", "tensorflow", "tensorflow_datasets", "pydicom", "nibabel"}\n'
        'print(sorted(heavy & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '[]'
    worker = subprocess.Popen(
        [sys.executable, '-m', 'jax_mrissl.data.workers'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    worker.stdin.close()
    start = time.monotonic()
    assert worker.wait(timeout=30) == 0
    worker.stdout.close()
    assert time.monotonic() - start < 30
