"""JPEG and PNG: files to pixels, and pixels to the canvas."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.slice import Slice


def read(path: Path, frame: int | None = None) -> Iterator[Slice]:
    """Reads a JPEG or PNG file.

    The EXIF orientation is applied, palettes and CMYK become RGB, what is transparent
    becomes black, and a colour image whose channels are equal becomes gray. 16-bit gray
    keeps its depth; 16-bit colour keeps the upper eight bits.

    Yields:
        One slice: pixels uint8 or uint16 [H, W], or uint8 [H, W, 3].

    Raises:
        UnreadableFile: 'image too large', 'truncated' or 'damaged'.
    """
    if frame:
        raise UnreadableFile(path, 'damaged', f'a picture has no frame {frame}')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            # Pillow's own bound, 89 million pixels, as an error instead of a warning.
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            with Image.open(path, formats=('JPEG', 'PNG')) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                pixels = _pixels(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableFile(path, 'image too large', str(error)) from error
    except OSError as error:
        cut = any(word in str(error) for word in ('truncated', 'unexpected end'))
        raise UnreadableFile(path, 'truncated' if cut else 'damaged', str(error)) from (
            error
        )
    yield Slice(pixels=pixels)


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    if image.mode in ('1', 'L'):
        return np.asarray(image if image.mode == 'L' else image.convert('L'))
    if image.has_transparency_data:
        black = Image.new('RGBA', image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert('RGBA'))
    return gray_if_equal(np.asarray(image.convert('RGB')))


def gray_if_equal(pixels: np.ndarray) -> np.ndarray:
    """Gives [H, W] for a colour image [H, W, 3] whose channels are equal."""
    first = pixels[:, :, :1]
    return pixels[:, :, 0] if (pixels == first).all() else pixels


def luma(pixels: np.ndarray) -> np.ndarray:
    """Converts uint8 [H, W, 3] to gray, uint8 [H, W], with the weights of ITU-R 601."""
    return np.asarray(Image.fromarray(pixels).convert('L'))


def resize(
    pixels: np.ndarray, height: int, width: int, *, highest: int = 255
) -> np.ndarray:
    """Resizes with a bicubic filter, widened where it shrinks (antialiasing).

    Args:
        pixels: uint8 [H, W] or [H, W, 3], or float32 [H, W] in [0, highest].
        height: rows of the result.
        width: columns of the result.
        highest: 255 or 65535.

    Returns:
        uint8 [height, width] or [height, width, 3]; uint16 of floats up to 65535.
    """
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(resized)
    if values.dtype == np.uint8:
        return values
    dtype = np.uint8 if highest == 255 else np.uint16
    return np.clip(np.rint(values), 0, highest).astype(dtype)


def thumbnail(pixels: np.ndarray, size: int) -> np.ndarray:
    """Makes a small square gray picture, uint8 [size, size], of uint8 [H, W(, C)]."""
    if pixels.ndim == 3:
        pixels = luma(pixels) if pixels.shape[2] == 3 else pixels[:, :, 0]
    return resize(np.ascontiguousarray(pixels), size, size)


def decode_png(data: bytes) -> np.ndarray:
    """Decodes a PNG of a record: uint8 or uint16 [H, W, C]."""
    with Image.open(io.BytesIO(data), formats=('PNG',)) as image:
        pixels = np.asarray(image)
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = pixels.astype(np.uint16)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
