"""Twins are left out of a merged set, but never slices of one series."""

import dataclasses

import numpy as np
import pyarrow.parquet
from conftest import textures, write_pngs
from PIL import Image

from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.data.repeats import TWIN, drop_twins
from jax_mrissl.data.scan import Storage, from_json, scan_files
from jax_mrissl.data.spec import Intensity
from jax_mrissl.data.spool import Spool


def scan(paths, spool, *, small):
    """Gives the arguments of `scan_files` for a spool's first job."""
    intensity = Intensity()
    stored = Storage(80, 8, 1, intensity, small=small, keep_free=0)
    return list(map(str, paths)), str(spool.path(0)), dataclasses.asdict(stored)


def test_a_merged_set_keeps_one_of_each_twin(tmp_path):
    pictures = textures(12, seed=3)
    one, two = tmp_path / 'one', tmp_path / 'two'
    write_pngs(one, {f'no/{i}.png': pictures[i] for i in range(8)})
    small = Image.fromarray(np.rot90(pictures[0]).copy()).resize((64, 64))
    (two / 'glioma_tumor').mkdir(parents=True)
    small.save(two / 'glioma_tumor' / 'a.jpg', quality=95)  # another label
    brighter = np.clip(pictures[1].astype(int) + 15, 0, 255).astype(np.uint8)
    write_pngs(two, {'no/b.png': brighter[:, ::-1], 'no/c.png': pictures[9]})
    made = prepare_dataset('brain_mri', [one, two], tmp_path / 'data', canvas=80)
    counts = made.card['counts']
    assert counts['images'] == 9 and counts['rejected'] == {TWIN: 2}
    assert counts['duplicates'] == 0
    manifest = pyarrow.parquet.read_table(made.folder / 'private' / 'manifest.parquet')
    told = {row['path']: row for row in manifest.to_pylist()}
    assert told['glioma_tumor/a.jpg']['reason'] == TWIN  # the smaller of the two
    assert told['no/0.png']['kept'] and told['no/0.png']['label'] == -1
    # Of equal size, the first by collection and path.
    assert told['no/b.png']['reason'] == TWIN and told['no/1.png']['label'] == 0
    assert len(open_prepared(tmp_path / 'data', 'brain_mri')) == 9


def test_slices_of_one_series_are_never_twins(tmp_path):
    picture = textures(1, seed=0)[0]
    write_pngs(tmp_path, {'a.png': picture, 'b.png': picture + 1, 'c.png': picture + 2})
    paths = [tmp_path / f'{name}.png' for name in 'abc']
    files = [RawFile(source='s', path=path.name, folder=tmp_path) for path in paths]
    spool = Spool(tmp_path / 'spool')
    answers = scan_files(*scan(paths, spool, small=True))
    scanned = [from_json(told) for answer in answers for told in answer]

    def reasons(series):
        items = [
            Item(str(i), i, dataclasses.replace(file.slices[0], series=name))
            for i, (file, name) in enumerate(zip(scanned, series, strict=True))
        ]
        return [item.reason for item in drop_twins(items, files, spool)]

    assert reasons(['', '', '']) == ['', TWIN, TWIN]
    assert reasons(['1', '1', '1']) == ['', '', '']
    assert reasons(['1', '2', '']) == ['', TWIN, TWIN]


def test_small_pictures_are_made_only_where_they_are_asked_for(tmp_path):
    write_pngs(tmp_path, {'a.png': textures(1, seed=0)[0]})
    for small in (False, True):
        spool = Spool(tmp_path / f'spool {small}')
        [[told]] = scan_files(*scan([tmp_path / 'a.png'], spool, small=small))
        [facts] = from_json(told).slices
        found = spool.small_pictures([(0, facts.place)])
        assert found.shape == (int(small), 64, 64)
