"""What is found out of each raw file before it is decided what becomes of it."""

import base64
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.likeness.filters import PIXELS
from jax_mrissl.readers.image import thumbnail
from jax_mrissl.readers.read import read
from jax_mrissl.readers.slice import Slice, pixel_sha256

# Quantiles that stand for a slice's values in those of its series. With 512, the
# half percent at either end of a single slice is still two of them.
_QUANTILES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class SliceFacts:
    """One image of a raw file, without its pixels.

    Attributes:
        frame: its index in the file.
        pixel_sha256: its identity by pixels.
        height: rows.
        width: columns.
        picture: it is stored with 8 bits, which stay as they are.
        colour: the greatest difference between its channels; 0: gray.
        blank: all its pixels are equal.
        quantiles: of a scan's values, float32 [512] in its unit; of a picture, [0].
        lowest, highest: of a scan's values; of a picture or a blank image, 0.
        integral: all its values are whole numbers.
        window: as in `Slice`, or None.
        position, modality, series, subject, localizer: as in `Slice`.
        small: the picture that `likeness` compares, uint8 [64, 64]; None unless asked.
    """

    frame: int
    pixel_sha256: str
    height: int
    width: int
    picture: bool
    colour: int
    blank: bool
    quantiles: np.ndarray
    lowest: float
    highest: float
    integral: bool
    window: tuple[float, float] | None
    position: float
    modality: str
    series: str
    subject: str
    localizer: bool
    small: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class FileFacts:
    """What one raw file holds.

    Attributes:
        slices: its images; () if it cannot be read.
        reason: why it cannot be read, without names; '' if it can.
        detail: more on that, for the private manifest.
    """

    slices: tuple[SliceFacts, ...]
    reason: str = ''
    detail: str = ''


def scan_files(paths: list[str], small: bool) -> Iterator[dict[str, Any]]:
    """Reads files; yields one JSON object for each, in their order.

    Args:
        paths: the files.
        small: whether small pictures of their images are made, too.
    """
    for path in paths:
        try:
            slices = [_facts(image, small) for image in read(Path(path))]
            if not slices:
                raise UnreadableFile(Path(path), 'damaged', 'it has no frames')
        except UnreadableFile as error:
            yield {'slices': [], 'reason': error.reason, 'detail': error.detail}
        else:
            yield {'slices': slices, 'reason': '', 'detail': ''}


def from_json(answer: dict[str, Any]) -> FileFacts:
    """Makes the facts of one answer of `scan_files`."""
    slices = []
    for fields in answer['slices']:
        quantiles = np.frombuffer(base64.b64decode(fields['quantiles']), np.float32)
        small = fields['small'] and base64.b64decode(fields['small'])
        window = tuple(fields['window']) if fields['window'] else None
        position = math.nan if fields['position'] is None else fields['position']
        slices.append(
            SliceFacts(
                **{
                    **fields,
                    'quantiles': quantiles,
                    'window': window,
                    'position': position,
                    'small': np.frombuffer(small, np.uint8).reshape(PIXELS, PIXELS)
                    if small
                    else None,
                }
            )
        )
    return FileFacts(tuple(slices), answer['reason'], answer['detail'])


def _facts(image: Slice, small: bool) -> dict[str, Any]:
    pixels = image.pixels
    colour = pixels.ndim == 3
    known = pixels[~np.isnan(pixels)] if pixels.dtype == np.float32 else pixels
    blank = known.size == 0 or bool(known.min() == known.max())
    picture = pixels.dtype == np.uint8
    quantiles = np.zeros(0, np.float32)
    ends, integral = (0.0, 0.0), True
    if not picture and not blank:
        ends = float(known.min()), float(known.max())
        integral = bool((known == np.rint(known)).all())
        middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        quantiles = np.quantile(known, middles).astype(np.float32)
    spread = pixels.max(axis=2).astype(int) - pixels.min(axis=2) if colour else 0
    return {
        'frame': image.frame,
        'pixel_sha256': pixel_sha256(pixels),
        'height': pixels.shape[0],
        'width': pixels.shape[1],
        'picture': picture,
        'colour': int(np.max(spread)),
        'blank': blank,
        'quantiles': base64.b64encode(quantiles.tobytes()).decode(),
        'lowest': ends[0],
        'highest': ends[1],
        'integral': integral,
        'window': image.window,
        'position': None if math.isnan(image.position) else image.position,
        'modality': image.modality,
        'series': image.series,
        'subject': image.subject,
        'localizer': image.localizer,
        'small': base64.b64encode(_small(image).tobytes()).decode()
        if small and not blank
        else None,
    }


def _small(image: Slice) -> np.ndarray:
    """Makes a small picture; a scan's values are seen through its own percentiles."""
    pixels = image.pixels
    if pixels.dtype != np.uint8:
        low, high = np.nanpercentile(pixels, (0.5, 99.5))
        scaled = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
        pixels = np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8)
    return thumbnail(pixels, PIXELS)
