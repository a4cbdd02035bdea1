import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers import image
from jax_mrissl.readers import read as reading
from jax_mrissl.readers.read import read
from jax_mrissl.readers.slice import pixel_sha256
from jax_mrissl.report.png import encode_png

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def only(path):
    (found,) = read(path)
    return found.pixels


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_gray_png_comes_as_it_is(tmp_path):
    np.testing.assert_array_equal(only(save(tmp_path / 'a.png', GRAY)), GRAY)


def test_content_counts_not_the_suffix(tmp_path):
    path = tmp_path / 'a.jpg'
    save(path, GRAY, format='PNG')
    np.testing.assert_array_equal(only(path), GRAY)


def test_colour_with_equal_channels_becomes_gray(tmp_path):
    path = save(tmp_path / 'a.png', np.repeat(GRAY[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(only(path), GRAY)


def test_real_colour_stays(tmp_path):
    colour = np.stack([GRAY, GRAY[::-1], GRAY], axis=2)
    np.testing.assert_array_equal(only(save(tmp_path / 'a.png', colour)), colour)


def test_opaque_alpha_is_dropped_and_what_is_transparent_is_black(tmp_path):
    alpha = np.full_like(GRAY, 255)
    alpha[0, 3] = 0
    path = save(tmp_path / 'a.png', np.stack([GRAY, GRAY, GRAY, alpha], axis=2))
    expected = GRAY.copy()
    expected[0, 3] = 0
    np.testing.assert_array_equal(only(path), expected)


def test_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(GRAY).convert('P')
    assert picture.mode == 'P'
    picture.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(only(tmp_path / 'a.png'), GRAY)


def test_cmyk_jpeg_becomes_gray(tmp_path):
    white = Image.new('RGB', (16, 16), 'white').convert('CMYK')
    white.save(tmp_path / 'a.jpg', quality=95)
    assert only(tmp_path / 'a.jpg').min() > 250


def test_sixteen_bits_are_kept(tmp_path):
    deep = GRAY.astype(np.uint16) * 257
    found = only(save(tmp_path / 'a.png', deep))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, deep)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = save(tmp_path / 'a.png', GRAY, exif=exif)
    np.testing.assert_array_equal(only(path), np.rot90(GRAY, -1))


def png_that_claims(width, height):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

    head = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', head)
        + chunk(b'IDAT', zlib.compress(bytes(1000)))
        + chunk(b'IEND', b'')
    )


def jpeg():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, 'JPEG')
    return file.getvalue()


BAD_FILES = {
    'empty file': b'',
    'not an image': b'Notes of the study.\n' * 20,
    'truncated': jpeg()[:1500],
    'damaged': b'\xff\xd8\xff' + bytes(range(256)),
    'image too large': png_that_claims(30000, 30000),
    'unsupported format: BMP': b'BM' + bytes(200),
    'an archive: unpack it first': b'PK\x03\x04' + bytes(200),
    'a web page instead of the file': b'<!DOCTYPE html><html>Log in</html>',
    'a Git LFS pointer instead of the file': b'version https://git-lfs.github.com/spec',
}


@pytest.mark.parametrize('reason', BAD_FILES)
def test_a_bad_file_gives_its_reason(tmp_path, reason):
    path = tmp_path / 'a.png'
    path.write_bytes(BAD_FILES[reason])
    with pytest.raises(UnreadableFile) as error:
        list(read(path))
    assert error.value.reason == reason


def test_cut_and_garbled_files_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    whole = {'a': jpeg(), 'b': encode_png(np.tile(GRAY, (20, 20)))}
    for name, data in whole.items():
        for _ in range(60):
            garbled = bytearray(data[: rng.integers(1, len(data) + 1)])
            for place in rng.integers(0, len(garbled), 3):
                garbled[place] = rng.integers(256)
            path = tmp_path / name
            path.write_bytes(garbled)
            try:
                list(read(path))
            except UnreadableFile as error:
                assert str(path) not in error.reason


def test_a_pipe_does_not_block(tmp_path):
    import os

    os.mkfifo(tmp_path / 'a.png')
    with pytest.raises(UnreadableFile, match='not a file'):
        list(read(tmp_path / 'a.png'))


def test_identity_by_pixels_is_the_stated_hash():
    import hashlib

    stated = hashlib.sha256(b'3x4 uint8 ' + GRAY.tobytes()).hexdigest()
    assert pixel_sha256(GRAY) == stated
    assert pixel_sha256(GRAY) != pixel_sha256(GRAY.reshape(4, 3))
    assert pixel_sha256(GRAY.T.copy().T) == stated


def test_shrinking_averages_instead_of_picking():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    # Picked pixels would be 0 or 255; a filter gives the mean, apart from the edges.
    assert abs(image.resize(stripes, 8, 8)[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_a_reader_that_cannot_be_loaded_is_no_fault_of_the_file(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    monkeypatch.setitem(reading.KINDS, 'PNG', 'no_such_module')
    with pytest.raises(ImportError, match='no_such_module'):
        list(read(tmp_path / 'a.png'))
