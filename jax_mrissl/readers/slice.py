"""What every reader gives: one image, with what its file says about it."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

UNKNOWN = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One image of a file; a picture, or one frame of a scan.

    Attributes:
        pixels: a picture as it is stored, uint8 or uint16 [H, W] or uint8 [H, W, 3];
            or float32 [H, W] in the scan's own unit, larger is brighter, NaN where
            the file says that nothing was measured.
        frame: its index in the file, from 0.
        spacing_mm: row and column spacing; NaN where unknown.
        position: place within the series, in mm, or its number there; NaN: unknown.
        window: lower and upper end of the display range that the file proposes, in
            the unit of `pixels`, or None.
        modality: 'MR', 'CT', ... as DICOM has it; '' for a picture.
        series: identity of the series; '' for a picture.
        localizer: it only shows where the slices of a scan are: scout, topogram.
        burnt_in: it may show words, such as the patient's name, as its header says.
        subject: identity of the patient; '' where the file does not say it.
    """

    pixels: np.ndarray
    frame: int = 0
    spacing_mm: tuple[float, float] = (UNKNOWN, UNKNOWN)
    position: float = UNKNOWN
    window: tuple[float, float] | None = None
    modality: str = ''
    series: str = ''
    subject: str = ''
    localizer: bool = False
    burnt_in: bool = False


# Yields the slices of a file, or only one frame of it where a frame is given.
Reader = Callable[[Path, int | None], Iterator[Slice]]


def pixel_sha256(pixels: np.ndarray) -> str:
    """Gives the identity of an image by its decoded pixels, 64 hex digits.

    SHA-256 over shape, dtype and bytes, as in '208x176 uint8 ' and the rows. It does
    not depend on the file's name, format or compression.
    """
    shape = 'x'.join(map(str, pixels.shape))
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder('<'))
    digest = hashlib.sha256(f'{shape} {pixels.dtype.name} '.encode())
    digest.update(pixels.data)
    return digest.hexdigest()
