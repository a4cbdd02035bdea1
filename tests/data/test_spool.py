"""What is decoded once: the same records with it, without it, and with too little."""

import dataclasses
import os
import stat

import numpy as np
import pytest
from conftest import dicom_of, write_ct
from PIL import Image

from jax_mrissl.data import catalog, making
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.scan import Storage, _quantiles, from_json, scan_files
from jax_mrissl.data.spec import DatasetSpec, Intensity
from jax_mrissl.data.spool import Spool, SpoolWriter, read_image
from jax_mrissl.readers.slice import Slice

SPEC = DatasetSpec(
    name='trial', title='A trial', source='Made here.', terms='None.', layout='Any.'
)
NONE = np.zeros(0, np.float32)


def write_mixture(raw):
    """Writes pictures in gray and colour, CT, and MR whose series tells the range."""
    rng = np.random.default_rng(0)
    raw.mkdir()
    for number in range(5):
        shape = (20, 24, 3) if number == 4 else (20, 24)
        pixels = rng.integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(raw / f'{number}.png')
    deep = rng.integers(0, 1 << 16, (20, 20), np.uint16)
    Image.fromarray(deep).save(raw / 'deep.png')
    for number in range(3):
        values = rng.integers(-1000, 1000, (16, 18)).astype(float)
        write_ct(raw / f'ct{number}.dcm', values)
        series = {'Modality': 'MR', 'SeriesInstanceUID': '1.2.3'}
        mr = dicom_of((values + 1000 + 100 * number).astype('<u2'), **series)
        mr.save_as(raw / f'mr{number}.dcm', enforce_file_format=True)
    return raw


def prepare(monkeypatch, raw, data, **fields):
    spec = dataclasses.replace(SPEC, **fields)
    monkeypatch.setitem(catalog.DATASETS, 'trial', spec)
    return prepare_dataset('trial', [raw], data, canvas=16, workers=1)


@pytest.mark.parametrize('channels', [1, 3, 'as found'])
@pytest.mark.parametrize('windows', [('soft',), ('lung', 'soft', 'bone')])
def test_records_are_the_same_with_and_without(
    monkeypatch, tmp_path, channels, windows
):
    if channels == 1 and len(windows) > 1:
        pytest.skip('refused by the declaration')
    raw = write_mixture(tmp_path / 'raw')
    fields = {'channels': channels, 'intensity': Intensity(hounsfield=windows)}
    spooled = prepare(monkeypatch, raw, tmp_path / 'a', **fields)
    decoded_again = []
    again = making.records._read_again

    def count(row):
        decoded_again.append(row)
        return again(row)

    monkeypatch.setattr(making.records, '_read_again', count)
    assert prepare(monkeypatch, raw, tmp_path / 'c', **fields) and not decoded_again
    monkeypatch.setattr(making, '_BYTES_PER_PIXEL', 1e15)  # no room for a spool
    monkeypatch.setattr(making, 'free_mb', lambda home: 1e30)
    plain = prepare(monkeypatch, raw, tmp_path / 'b', **fields)
    assert len(decoded_again) == plain.card['counts']['images'] == 12
    assert plain.card == spooled.card  # the fingerprint is of all records


def test_where_room_is_short_the_spool_goes_first(monkeypatch, tmp_path):
    raw = write_mixture(tmp_path / 'raw')
    expected = prepare(monkeypatch, raw, tmp_path / 'a').card['fingerprint']

    def free_mb(home):
        return 0.0 if list(home.glob('spool-*/*')) else 1e6

    monkeypatch.setattr(making, 'free_mb', free_mb)
    made = prepare(monkeypatch, raw, tmp_path / 'b')
    assert made.card['fingerprint'] == expected


def test_nothing_of_it_is_left_and_nobody_else_may_read_it(monkeypatch, tmp_path):
    raw = write_mixture(tmp_path / 'raw')
    seen = []
    plan = making.make_plan

    def look(*args, **options):
        (folder,) = (tmp_path / 'data' / 'trial').glob('spool-*')
        seen.append(stat.S_IMODE(folder.stat().st_mode))
        return plan(*args, **options)

    monkeypatch.setattr(making, 'make_plan', look)
    prepare(monkeypatch, raw, tmp_path / 'data')
    assert seen == [0o700]
    assert not list((tmp_path / 'data' / 'trial').glob('spool-*'))
    # Nor of a start that was killed, nor of one that failed.
    left = tmp_path / 'data' / 'trial' / 'spool-1_0_0'
    left.mkdir()
    (left / '000000').write_bytes(b'torn')
    monkeypatch.setattr(making, 'make_plan', lambda *a, **o: 1 / 0)
    (raw / '0.png').unlink()
    with pytest.raises(ZeroDivisionError):
        prepare_dataset(
            'trial', [raw], tmp_path / 'data', canvas=16, workers=1, overwrite=True
        )
    assert not left.exists()


@pytest.mark.parametrize(
    ('values', 'bytes_each'),
    [
        (np.array([[0, 4095]], np.float32), 2),
        (np.array([[-2000, 3000]], np.float32), 2),
        (np.array([[0.5, 1]], np.float32), 4),
        (np.array([[np.nan, 1]], np.float32), 4),
        (np.array([[-5, 65535]], np.float32), 4),
        (np.array([[np.inf, 1]], np.float32), 4),
        (np.array([[7, 9]], np.uint16), 2),
    ],
)
def test_values_come_back_as_they_were(tmp_path, values, bytes_each):
    path = tmp_path / 'job'
    image = Slice(pixels=values, spacing_mm=(0.5, float('nan')))
    path.write_bytes(b'of a process that died')
    with SpoolWriter(path, keep_free=0) as writer:
        writer.add(None, quantiles=NONE, small=None)
        place = writer.add(image, quantiles=NONE, small=None)
    found = read_image(path, place)
    assert found.pixels.dtype == values.dtype
    np.testing.assert_array_equal(found.pixels, values)
    np.testing.assert_array_equal(found.spacing_mm, image.spacing_mm)
    assert path.read_bytes().endswith(found.pixels.tobytes()) == (
        bytes_each == values.itemsize
    )


def test_a_disk_without_room_holds_facts_but_no_images(tmp_path):
    picture = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    spool = Spool(tmp_path / 'spool')
    with SpoolWriter(spool.path(0), keep_free=1 << 62) as writer:
        place = writer.add(
            Slice(pixels=picture),
            quantiles=np.arange(5, dtype=np.float32),
            small=picture,
        )
    assert read_image(spool.path(0), place) is None
    np.testing.assert_array_equal(spool.quantiles(0, place), np.arange(5))
    np.testing.assert_array_equal(spool.small_pictures([(0, place)] * 2), [picture] * 2)


def test_quantiles_are_those_of_numpy():
    rng = np.random.default_rng(0)
    middles = (np.arange(512) + 0.5) / 512
    for size in (2, 3, 700, 5000):
        for values in (
            rng.normal(size=size).astype(np.float32),
            rng.integers(-1000, 3000, size).astype(np.float32),
            rng.integers(0, 65536, size).astype(np.uint16),
        ):
            expected = np.quantile(values, middles).astype(np.float32)
            for integral in {False, bool((values == np.rint(values)).all())}:
                found = _quantiles(values, integral=integral)
                np.testing.assert_array_equal(found, expected)


def test_a_file_that_cannot_be_read_is_told_with_the_hash_of_its_bytes(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n and no more')
    storage = Storage(16, 8, 1, Intensity(), small=False, keep_free=0)
    os.mkfifo(tmp_path / 'pipe')
    paths = [str(tmp_path / name) for name in ('a.png', 'none.png', 'pipe')]
    answers = scan_files(paths, str(tmp_path / 'spool'), dataclasses.asdict(storage))
    [told] = answers
    cut, gone, pipe = map(from_json, told)
    assert len(cut.sha256) == 64 and cut.reason == 'damaged'
    assert gone.sha256 == pipe.sha256 == '' and pipe.reason == 'not a file'
