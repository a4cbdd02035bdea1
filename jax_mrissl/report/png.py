"""Pixels to PNG, the same bytes for the same pixels."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_COLOUR_TYPES = {1: 0, 3: 2}  # channels: gray, RGB


def encode_png(pixels: np.ndarray, *, text: Mapping[str, str] | None = None) -> bytes:
    """Encodes an image without loss.

    Written here because Pillow has no RGB with 16 bits, and so that a library's
    new default cannot change the bytes.

    Args:
        pixels: uint8 or uint16, [H, W] for gray or [H, W, 3] for RGB.
        text: what the file says of itself: keyword (1 to 79 characters) to Latin-1
            text. None means nothing.

    Raises:
        ValueError: another dtype or shape, or no pixel.

    Source: PNG specification, third edition (W3C 2025), sections 5, 7 and 11.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.ndim not in (2, 3) or channels not in _COLOUR_TYPES or not pixels.size:
        raise ValueError(f'Expected [H, W] or [H, W, 3], found {list(pixels.shape)}.')
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'Expected uint8 or uint16, found {pixels.dtype}.')
    height, width = pixels.shape[:2]
    depth_bits = 8 * pixels.dtype.itemsize
    header = struct.pack(
        '>2I5B', width, height, depth_bits, _COLOUR_TYPES[channels], 0, 0, 0
    )
    # Samples are big-endian; each row begins with its filter: 0, none.
    samples = pixels.astype(pixels.dtype.newbyteorder('>'), order='C')
    rows = samples.reshape(height, -1).view(np.uint8)
    scanlines = np.pad(rows, ((0, 0), (1, 0)))
    notes = [
        _chunk(b'tEXt', keyword.encode('latin-1') + b'\0' + value.encode('latin-1'))
        for keyword, value in (text or {}).items()
    ]
    return b''.join(
        [
            _SIGNATURE,
            _chunk(b'IHDR', header),
            *notes,
            _chunk(b'IDAT', zlib.compress(scanlines.tobytes(), level=6)),
            _chunk(b'IEND', b''),
        ]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', check)
