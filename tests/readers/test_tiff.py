import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.read import read

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (24, 40), np.uint8)
COLOUR = RNG.integers(0, 256, (24, 40, 3), np.uint8)
SAMPLES = Path(__file__).parents[2].parent / 'shared' / 'data'


def save(tmp_path, pixels, **options):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, pixels, **options)
    return path


def only(path):
    (found,) = read(path)
    return found.pixels


@pytest.mark.parametrize('compression', [None, 'lzw', 'deflate', 'packbits', 'zstd'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_compressions_lose_nothing(tmp_path, compression, dtype):
    pixels = GRAY.astype(dtype) * (257 if dtype == np.uint16 else 1)
    found = only(save(tmp_path, pixels, compression=compression))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)


def test_predictors_tiles_and_big_endian(tmp_path):
    deep = GRAY.astype(np.uint16) * 200
    options = {'predictor': True, 'compression': 'deflate', 'tile': (16, 16)}
    np.testing.assert_array_equal(only(save(tmp_path, deep, **options)), deep)
    np.testing.assert_array_equal(only(save(tmp_path, deep, byteorder='>')), deep)
    np.testing.assert_array_equal(only(save(tmp_path, deep, bigtiff=True)), deep)


def test_jpeg_inside(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    found = only(save(tmp_path, smooth, compression='jpeg'))
    assert abs(found.astype(int) - smooth).max() <= 4
    colour = np.stack([smooth, smooth[::-1], smooth], axis=2)
    found = only(save(tmp_path, colour, photometric='rgb', compression='jpeg'))
    assert abs(found.astype(int) - colour).mean() <= 4


@pytest.mark.parametrize('planar', ['contig', 'separate'])
def test_colour_planes(tmp_path, planar):
    planes = COLOUR if planar == 'contig' else np.moveaxis(COLOUR, 2, 0)
    path = save(tmp_path, planes, photometric='rgb', planarconfig=planar)
    np.testing.assert_array_equal(only(path), COLOUR)


def test_equal_channels_become_gray_and_deep_colour_eight_bits(tmp_path):
    same = np.repeat(GRAY[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(only(save(tmp_path, same, photometric='rgb')), GRAY)
    deep = COLOUR.astype(np.uint16) << 8
    found = only(save(tmp_path, deep, photometric='rgb'))
    np.testing.assert_array_equal(found, COLOUR)


@pytest.mark.parametrize('dtype', ['int16', 'int32', 'uint32', 'float32', 'float64'])
def test_other_values_are_a_scan(tmp_path, dtype):
    values = GRAY.astype(dtype) - (5 if dtype[0] != 'u' else 0)
    found = only(save(tmp_path, values))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_not_finite_is_nan(tmp_path):
    values = GRAY.astype(np.float32)
    values[0, :2] = np.inf, np.nan
    assert np.isnan(only(save(tmp_path, values))[0, :2]).all()


def test_white_is_zero_and_bilevel(tmp_path):
    path = save(tmp_path, GRAY, photometric='miniswhite')
    np.testing.assert_array_equal(only(path), 255 - GRAY)
    found = only(save(tmp_path, GRAY > 99, photometric='minisblack'))
    np.testing.assert_array_equal(found, np.where(GRAY > 99, 255, 0))


def test_palette_and_alpha(tmp_path):
    ramp = np.arange(256, dtype=np.uint16) * 257
    path = save(tmp_path, GRAY, photometric='palette', colormap=np.stack([ramp] * 3))
    np.testing.assert_array_equal(only(path), GRAY)
    alpha = np.where(GRAY > 9, 255, 0).astype(np.uint8)
    pixels = np.concatenate([COLOUR, alpha[:, :, None]], axis=2)
    found = only(save(tmp_path, pixels, photometric='rgb', extrasamples=['unassalpha']))
    np.testing.assert_array_equal(found, np.where(alpha[:, :, None] > 0, COLOUR, 0))


def test_pages_are_frames(tmp_path):
    pages = np.stack([GRAY, 255 - GRAY, GRAY // 2])
    path = save(tmp_path, pages, photometric='minisblack')
    found = list(read(path))
    assert [(s.frame, s.position) for s in found] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    np.testing.assert_array_equal(found[1].pixels, pages[1])
    (third,) = read(path, 2)
    np.testing.assert_array_equal(third.pixels, pages[2])


def test_pages_of_different_sizes_without_their_thumbnails(tmp_path):
    path = tmp_path / 'a.tif'
    with tifffile.TiffWriter(path) as file:
        file.write(GRAY)
        file.write(GRAY[::4, ::4], subfiletype=1)
        file.write(GRAY[:10])
    assert [s.pixels.shape for s in read(path)] == [(24, 40), (10, 40)]


def test_orientation_is_applied(tmp_path):
    for value, expected in ((3, np.rot90(GRAY, 2)), (6, np.rot90(GRAY, -1))):
        path = save(tmp_path, GRAY, extratags=[(274, 'H', 1, value)])
        np.testing.assert_array_equal(only(path), expected)


def reason_of(path):
    with pytest.raises(UnreadableFile) as error:
        list(read(path))
    return error.value.reason


def test_truncated(tmp_path):
    path = save(tmp_path, GRAY)
    path.write_bytes(path.read_bytes()[:-200])
    assert reason_of(path) == 'truncated'


def with_size(path, width, height):
    """Rewrites ImageWidth and ImageLength of a little-endian file."""
    data = bytearray(path.read_bytes())
    (place,) = struct.unpack_from('<I', data, 4)
    (count,) = struct.unpack_from('<H', data, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from('<H', data, entry)
        if tag in (256, 257):
            struct.pack_into('<HI', data, entry + 2, 4, 1)
            struct.pack_into('<I', data, entry + 8, width if tag == 256 else height)
    path.write_bytes(data)


def test_bomb(tmp_path):
    path = save(tmp_path, GRAY, compression='deflate')
    with_size(path, 200_000, 200_000)
    assert reason_of(path) == 'image too large'


def test_complex_numbers(tmp_path):
    path = save(tmp_path, GRAY.astype(np.complex64))
    assert reason_of(path) == 'unsupported format: TIFF of this kind'


def test_garbled_files_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'a.tif'
    read_count = 0
    for options in ({}, {'compression': 'lzw'}, {'tile': (16, 16)}):
        tifffile.imwrite(path, GRAY, **options)
        data = path.read_bytes()
        for round_ in range(30):
            cut = len(data) if round_ % 2 else rng.integers(9, len(data) + 1)
            garbled = bytearray(data[:cut])
            for place in rng.integers(4, len(garbled), 2):
                garbled[place] = rng.integers(256)
            path.write_bytes(garbled)
            try:
                list(read(path))
                read_count += 1
            except UnreadableFile as error:
                assert str(path) not in error.reason
    assert read_count >= 30


def test_real_slices_have_three_channels():
    folder = SAMPLES / 'brain_mri_masked' / 'lgg_kaggle_3m'
    if not folder.is_dir():
        pytest.skip(f'no sample data at {folder}')
    path = next(p for p in sorted(folder.rglob('*.tif')) if 'mask' not in p.name)
    assert only(path).shape == (256, 256, 3)


def test_pages_that_go_round_in_a_circle(tmp_path):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric='minisblack')
    with tifffile.TiffFile(path) as file:
        first, *_, last = (page.offset for page in file.pages)
    data = bytearray(path.read_bytes())
    tags = int.from_bytes(data[last : last + 2], 'little')
    after = last + 2 + 12 * tags
    data[after : after + 4] = first.to_bytes(4, 'little')
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match='in a circle'):
        list(read(path))
