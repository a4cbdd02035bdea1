import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jax_mrissl.report.png import encode_png


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('shape', [(1, 1), (5, 7), (7, 5, 3), (64, 48)])
@pytest.mark.parametrize('method', ['small', 'quick'])
def test_pillow_reads_the_same_pixels(dtype, shape, method):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    read = np.asarray(Image.open(io.BytesIO(encode_png(pixels, method=method))))
    if dtype == np.uint16 and len(shape) == 3:
        # Pillow keeps the high byte of 16-bit RGB; the low one is tested below.
        pixels = (pixels >> 8).astype(np.uint8)
    np.testing.assert_array_equal(read, pixels)


def test_16_bit_rgb_keeps_both_bytes():
    pixels = np.array([[[1, 256, 65535], [258, 3, 0]]], dtype=np.uint16)
    content = encode_png(pixels)
    start = content.index(b'IDAT')
    (length,) = struct.unpack('>I', content[start - 4 : start])
    scanline = zlib.decompress(content[start + 4 : start + 4 + length])
    assert scanline == bytes.fromhex('00 0001 0100 ffff 0102 0003 0000')


def test_memory_layout_does_not_matter():
    pixels = np.arange(60, dtype=np.uint16).reshape(6, 10)
    expected = encode_png(pixels)
    assert encode_png(np.asfortranarray(pixels)) == expected
    assert encode_png(np.repeat(pixels, 2, axis=1)[:, ::2]) == expected


def test_text_is_readable():
    content = encode_png(np.zeros((2, 2), np.uint8), text={'Source': 'simulated'})
    assert Image.open(io.BytesIO(content)).info['Source'] == 'simulated'


@pytest.mark.parametrize(
    ('pixels', 'found'),
    [
        (np.zeros((2, 2), np.float32), 'float32'),
        (np.zeros((2, 2), np.int16), 'int16'),
        (np.zeros((2, 2, 4), np.uint8), r'\[2, 2, 4\]'),
        (np.zeros(2, np.uint8), r'\[2\]'),
        (np.zeros((0, 2), np.uint8), r'\[0, 2\]'),
    ],
)
def test_refuses_what_png_cannot_hold(pixels, found):
    with pytest.raises(ValueError, match=found):
        encode_png(pixels)
