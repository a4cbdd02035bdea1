"""TIFF: each page to a picture or, where its values have no agreed range, a scan."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.image import gray_if_equal
from jax_mrissl.readers.slice import UNKNOWN, Slice

# As for other pictures: Pillow's bound. A file may have many pages, none of them seen
# twice, but not without end.
_MAX_PAGE_PIXELS = 89_478_485
_MAX_FILE_PIXELS = 1 << 31
# Transposes and flips that undo the values 1-8 of the tag Orientation.
_TURNS = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


def read(path: Path, frame: int | None = None) -> Iterator[Slice]:
    """Reads a TIFF file page by page, or one page; thumbnails and masks are no pages.

    8 bits stay a picture, 16 bits without sign keep their depth, all else (sign, 32
    bits, floating point) becomes a scan, float32. Colour of more bits keeps the upper
    eight. WhiteIsZero is inverted, palettes and CMYK become RGB, what is transparent
    becomes black, the orientation is applied.

    Yields:
        One slice for each page: pixels as in `Slice`, position its number.

    Raises:
        UnreadableFile: 'image too large', 'truncated', 'unsupported format: TIFF of
            this kind' or 'damaged'.
    """
    # It logs what it mends; thousands of lines help nobody.
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in _pages(path, file) if _is_image(page)]
            if not pages:
                raise UnreadableFile(path, 'damaged', 'it has no pages')
            if frame is not None and frame >= len(pages):
                raise UnreadableFile(path, 'damaged', f'it has no page {frame}')
            wanted = range(len(pages)) if frame is None else (frame,)
            size = path.stat().st_size
            for index in wanted:
                yield Slice(
                    pixels=_pixels(path, pages[index], size),
                    frame=index,
                    position=float(index) if len(pages) > 1 else UNKNOWN,
                )
    except (UnreadableFile, MemoryError, PermissionError):
        raise
    except Exception as error:  # each codec has errors of its own
        cut = isinstance(error, EOFError) or 'not enough' in str(error)
        raise UnreadableFile(
            path, 'truncated' if cut else 'damaged', repr(error)
        ) from (error)


def _pages(path: Path, file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages, total = [], 0
    places: set[int] = set()
    for page in file.pages:
        if page.offset in places:
            raise UnreadableFile(path, 'damaged', 'its pages go round in a circle')
        places.add(page.offset)
        if not isinstance(page, tifffile.TiffPage):
            page = page.aspage()
        pixels = math.prod(page.shape[:3]) if page.shape else 0
        total += pixels
        if pixels > _MAX_PAGE_PIXELS * 4 or total > _MAX_FILE_PIXELS:
            raise UnreadableFile(path, 'image too large', f'{page.shape}')
        if page.imagewidth * page.imagelength > _MAX_PAGE_PIXELS:
            raise UnreadableFile(path, 'image too large', f'{page.shape}')
        pages.append(page)
    return pages


def _is_image(page: tifffile.TiffPage) -> bool:
    return page.imagewidth > 0 and not page.is_reduced and not page.is_mask


def _pixels(path: Path, page: tifffile.TiffPage, file_size: int) -> np.ndarray:
    ends = (
        start + count
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    )
    if max(ends, default=0) > file_size:
        raise UnreadableFile(path, 'truncated', 'strips beyond the end')
    values = page.asarray()
    if page.axes == 'SYX':  # planes of colour one after the other
        values = np.moveaxis(values, 0, 2)
    elif page.axes not in ('YX', 'YXS') or values.dtype.kind not in 'biuf':
        kind = f'{page.axes} {values.dtype}'
        raise UnreadableFile(path, 'unsupported format: TIFF of this kind', kind)
    photometric = page.photometric
    if photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        # Maps have 16 bits; some writers use eight of them.
        table = np.asarray(page.colormap, np.uint16)
        table >>= 8 if table.max() > 255 else 0
        values = np.moveaxis(table[:, values], 0, -1).astype(np.uint8)
    if values.ndim == 3 and values.shape[2] in (1, 2):  # gray, and how opaque it is
        values = values[:, :, 0]
    colour = values.ndim == 3
    pixels = _colour(path, page, values) if colour else _gray(page, values)
    return np.ascontiguousarray(_upright(page, pixels))


def _gray(page: tifffile.TiffPage, values: np.ndarray) -> np.ndarray:
    inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    bits = page.bitspersample
    if values.dtype.kind in 'bu' and bits < 8:
        values = (values.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)
        bits = 8
    if values.dtype in (np.uint8, np.uint16):
        highest = values.dtype.type((1 << bits) - 1)
        return highest - values if inverted else values
    pixels = values.astype(np.float32)
    pixels[~np.isfinite(pixels)] = np.nan
    return -pixels if inverted else pixels


def _colour(path: Path, page: tifffile.TiffPage, values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint16:
        values = (values >> max(page.bitspersample - 8, 0)).astype(np.uint8)
    if values.dtype != np.uint8:
        kind = f'colour of {values.dtype}'
        raise UnreadableFile(path, 'unsupported format: TIFF of this kind', kind)
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        ink = Image.fromarray(np.ascontiguousarray(values[:, :, :4]), 'CMYK')
        return gray_if_equal(np.asarray(ink.convert('RGB')))
    if (
        values.shape[2] > 3
        and len(page.extrasamples)
        and page.extrasamples[0] in (1, 2)
    ):
        opaque = values[:, :, 3:4].astype(np.float32) / 255
        if page.extrasamples[0] == 1:  # colour was multiplied by it already
            opaque = np.ones_like(opaque)
        values = np.rint(values[:, :, :3] * opaque).astype(np.uint8)
    return gray_if_equal(values[:, :, :3])


def _upright(page: tifffile.TiffPage, pixels: np.ndarray) -> np.ndarray:
    tag = page.tags.get('Orientation')
    transposed, flipped = _TURNS.get(int(tag.value) if tag else 1, (False, ()))
    if transposed:
        pixels = np.swapaxes(pixels, 0, 1)
    return np.flip(pixels, flipped)
