"""Folders as people have them: what cannot be read is told, the rest is prepared."""

import builtins
import errno
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import dicom_of
from PIL import Image

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import inventory
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.spec import FolderLevel
from jax_mrissl.data.spool import SpoolWriter


def write_picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(pixels).save(path, 'PNG')


def prepare(raw, data, **options):
    options = {'canvas': 16, 'workers': 1, 'own': OwnFolder(name='own'), **options}
    return prepare_dataset('folder', [raw], data, **options)


def manifest(prepared):
    """Gives the rows of the private manifest, by path."""
    table = pyarrow.parquet.read_table(prepared.folder / 'private/manifest.parquet')
    return {row['path']: row for row in table.to_pylist()}


def test_suffixes_that_lie_and_headers_that_lie(tmp_path):
    rng = np.random.default_rng(0)
    raw = tmp_path / 'raw'
    write_picture(raw / 'picture.dcm', 1)
    (raw / 'words.dcm').write_text('Name: nobody\n' * 40)
    (raw / 'empty.png').write_bytes(b'')

    def write_dicom(name, **tags):
        stored = rng.integers(0, 4096, (20, 20)).astype('<u2')
        dicom_of(stored, **tags).save_as(raw / name, enforce_file_format=True)

    write_dicom('no suffix')  # and it has no window
    write_dicom('no rows.dcm', Rows=0)
    write_dicom('many rows.dcm', Rows=65535, Columns=65535)
    write_dicom('more rows.dcm', Rows=21)
    write_dicom('fewer rows.dcm', Rows=12, WindowCenter='', WindowWidth=0)
    told = {
        path: row['reason'] for path, row in manifest(prepare(raw, tmp_path)).items()
    }
    assert told == {
        'picture.dcm': '',
        'words.dcm': 'not an image',
        'empty.png': 'empty file',
        'no suffix': '',
        'no rows.dcm': 'damaged',
        'many rows.dcm': 'image too large',
        'more rows.dcm': 'truncated',
        'fewer rows.dcm': '',
    }


def test_a_folder_without_any_image_is_told_with_what_is_there(tmp_path):
    raw = tmp_path / 'raw'
    raw.mkdir()
    (raw / 'notes.txt').write_text('Notes.')
    (raw / 'facts.json').write_text('{}')
    (raw / 'set.zip').write_bytes(b'PK\x03\x04 and so on')
    with pytest.raises(UserError, match='No image can be used') as error:
        prepare(raw, tmp_path / 'data')
    assert '2 x not an image' in str(error.value)
    assert '1 x an archive: unpack it first' in str(error.value)
    assert not list((tmp_path / 'data').rglob('1.0.0'))


def test_links_in_circles_to_nowhere_and_to_themselves(tmp_path):
    raw = tmp_path / 'raw'
    write_picture(raw / 'a' / '1.png', 1)
    write_picture(raw / 'b' / '2.png', 2)
    (raw / 'a' / 'up').symlink_to(raw)
    (raw / 'a' / 'over').symlink_to(raw / 'b')
    (raw / 'b' / 'back').symlink_to(raw / 'a')
    (raw / 'nowhere.png').symlink_to(raw / 'gone.png')
    (raw / 'itself.png').symlink_to(raw / 'itself.png')
    write_picture(tmp_path / 'elsewhere' / '3.png', 3)
    (raw / 'c').symlink_to(tmp_path / 'elsewhere')
    prepared = prepare(raw, tmp_path / 'data')
    # Pictures that links lead to again are repeats.
    assert prepared.card['counts']['images'] == 3
    told = manifest(prepared)
    assert told['nowhere.png']['reason'] == told['itself.png']['reason'] == 'not a file'
    assert told['c/3.png']['kept']


NAMES = {
    'accents': 'Jörg_Müller_été.png',
    'another script': '患者/脳の画像 №7.png',
    'as long as may be': 'n' * 251 + '.png',
    'deep': '/'.join(['d' * 200] * 6) + '/x.png',
    'blanks and quotes': ' a "b" \'c\'\n,;.png',
    'not UTF-8': os.fsdecode(b'M\xfcller/\xff.png'),
}


def test_names_of_any_kind(tmp_path):
    raw = tmp_path / 'raw'
    for seed, name in enumerate(NAMES.values()):
        write_picture(raw / name, seed)
    (raw / os.fsdecode(b'bad\xfe.png')).write_bytes(b'')
    own = OwnFolder(name='own', subject=FolderLevel(1))
    # The subject is the folder; where there is none, images are told why.
    prepared = prepare(raw, tmp_path / 'data', own=own, workers=2)
    told = manifest(prepared)
    assert prepared.card['counts']['images'] == 3
    shown = {name.replace('\udcfc', '\\udcfc').replace('\udcff', '\\udcff') for name in
             NAMES.values()}  # fmt: skip
    assert told.keys() == shown | {'bad\\udcfe.png'}
    assert told['患者/脳の画像 №7.png']['subject'] == '患者'
    assert told['M\\udcfcller/\\udcff.png']['subject'] == 'M\\udcfcller'
    assert prepare(raw, tmp_path / 'data', own=own).was_there
    every = prepare(raw, tmp_path / 'every')
    assert every.card['counts']['images'] == len(NAMES)


def test_files_without_permission_are_listed(tmp_path, monkeypatch):
    raw = tmp_path / 'raw'
    for seed in range(3):
        write_picture(raw / f'{seed}.png', seed)

    def refuse(path, *args, **options):
        # As the system does; the tests may run as a user who may read everything.
        if str(path).endswith('1.png'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return plain_open(path, *args, **options)

    plain_open = builtins.open
    monkeypatch.setattr(builtins, 'open', refuse)
    prepared = prepare(raw, tmp_path / 'data')
    assert prepared.card['counts']['images'] == 2
    row = manifest(prepared)['1.png']
    assert row['reason'] == 'no permission to read it' and row['sha256'] == ''


def test_a_folder_without_permission_is_a_mistake(tmp_path, monkeypatch):
    raw = tmp_path / 'raw'
    write_picture(raw / 'a' / '1.png', 1)
    plain_scan = os.scandir

    def refuse(folder):
        if Path(folder).name == 'a':
            raise PermissionError(errno.EACCES, 'Permission denied', str(folder))
        return plain_scan(folder)

    monkeypatch.setattr(inventory.os, 'scandir', refuse)
    with pytest.raises(UserError, match=r'no permission to read the folder .*raw/a'):
        prepare(raw, tmp_path / 'data')


def test_a_disk_that_fills_while_reading_leaves_the_earlier_set(tmp_path, monkeypatch):
    raw, data = tmp_path / 'raw', tmp_path / 'data'
    write_picture(raw / '1.png', 1)
    folder = prepare(raw, data).folder
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    write_picture(raw / '2.png', 2)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, 'No space left on device', 'spool')

    with monkeypatch.context() as context:
        context.setattr(SpoolWriter, 'add', full)
        with pytest.raises(UserError, match=r'is full .* it goes on where it stopped'):
            prepare(raw, data, overwrite=True)
    after = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    assert after == before and not list((data / 'own').glob('spool*'))
    assert prepare(raw, data, overwrite=True).card['counts']['images'] == 2
