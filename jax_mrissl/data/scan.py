"""What is found out of each raw file before it is decided what becomes of it."""

import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.data.canvas import Encoded, encode, place
from jax_mrissl.data.inventory import file_sha256
from jax_mrissl.data.spec import Intensity
from jax_mrissl.data.spool import SpoolWriter
from jax_mrissl.likeness.filters import PIXELS
from jax_mrissl.readers.image import thumbnail
from jax_mrissl.readers.read import read
from jax_mrissl.readers.slice import UNKNOWN, Slice, pixel_sha256

# Quantiles that stand for a slice's values in those of its series. With 512, the
# half percent at either end of a single slice is still two of them.
_QUANTILES = 512
# Whole numbers of so many values are counted rather than sorted: twice as fast.
_MOST_COUNTS = 1 << 16
# Files that are told of in one answer, since one that listens costs its time, too; or
# fewer, after so many seconds.
_TOGETHER, _SOON_S = 8, 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """How images are to be stored, as far as it is known before any is read.

    Attributes:
        canvas, bits: of the stored images.
        channels: of the stored images; 'as found': 3 if any is in colour.
        intensity: how the values of scans become gray.
        small: small pictures of the images are wanted, too.
        keep_free: bytes of the disk that are not for the spool.
    """

    canvas: int
    bits: int
    channels: Literal[1, 3, 'as found']
    intensity: Intensity
    small: bool
    keep_free: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class SliceFacts:
    """One image of a raw file, without its pixels.

    Attributes:
        frame: its index in the file.
        pixels: the hash that is its identity by pixels.
        height: rows.
        width: columns.
        picture: it is stored with 8 bits, which stay as they are.
        colour: the greatest difference between its channels; 0: gray.
        blank: all its pixels are equal.
        lowest, highest: of a scan's values; of a picture or a blank image, 0.
        integral: all its values are whole numbers.
        window: as in `Slice`, or None.
        position, modality, series, subject, localizer, burnt_in: as in `Slice`.
        place: in the spool: of its quantiles, float32 [512] in the unit of a scan,
            none of a picture; of its small picture, where one is wanted; and of itself.
    """

    frame: int
    pixels: bytes
    height: int
    width: int
    picture: bool
    colour: int
    blank: bool
    lowest: float
    highest: float
    integral: bool
    window: tuple[float, float] | None
    position: float
    modality: str
    series: str
    subject: str
    localizer: bool
    burnt_in: bool
    place: int

    @property
    def pixel_sha256(self) -> str:
        """Its identity by pixels, in words: twice as long."""
        return self.pixels.hex()


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class FileFacts:
    """What one raw file holds.

    Attributes:
        digest: the SHA-256 of its bytes; b'' if there are none to be had.
        slices: its images; () if it cannot be read.
        reason: why it cannot be read, without names; '' if it can.
        detail: more on that, for the private manifest.
    """

    digest: bytes
    slices: tuple[SliceFacts, ...]
    reason: str = ''
    detail: str = ''

    @property
    def sha256(self) -> str:
        """The hash of its bytes in words; '' if there are none."""
        return self.digest.hex()


def scan_files(
    paths: list[str], spool: str, storage: dict[str, Any], together: int = _TOGETHER
) -> Iterator[list[dict[str, Any]]]:
    """Reads files; yields lists of JSON objects, one for each file, in their order.

    Args:
        paths: the files.
        spool: the file to which goes what is too large for an answer.
        storage: fields of `Storage`.
        together: the most files of a list.
    """
    intensity = Intensity(**storage['intensity'])
    stored = Storage(**{**storage, 'intensity': intensity})
    told: list[dict[str, Any]] = []
    since = time.monotonic()
    with SpoolWriter(Path(spool), keep_free=stored.keep_free) as writer:
        for path in map(Path, paths):
            told.append(_scan(path, stored, writer))
            if len(told) >= together or time.monotonic() - since > _SOON_S:
                yield told
                told, since = [], time.monotonic()
    if told:
        yield told


def _scan(path: Path, stored: Storage, writer: SpoolWriter) -> dict[str, Any]:
    sha256 = file_sha256(path)
    try:
        slices = [_facts(image, stored, writer) for image in read(path)]
        if not slices:
            raise UnreadableFile(path, 'damaged', 'it has no frames')
    except UnreadableFile as error:
        why = {'reason': error.reason, 'detail': error.detail}
        return {'sha256': sha256, 'slices': [], **why}
    return {'sha256': sha256, 'slices': slices, 'reason': '', 'detail': ''}


def from_json(answer: dict[str, Any]) -> FileFacts:
    """Makes the facts of one file from what `scan_files` told of it."""
    slices = tuple(
        SliceFacts(frame, bytes.fromhex(pixels), *_shared(rest))
        for frame, pixels, *rest in answer['slices']
    )
    digest = bytes.fromhex(answer['sha256'])
    return FileFacts(digest, slices, answer['reason'], answer['detail'])


def _shared(fields: list[Any]) -> Iterator[Any]:
    """Lets equal texts and common numbers of all images be one object in memory."""
    for value in fields:
        if isinstance(value, list):
            yield tuple(value)
        elif isinstance(value, float):
            yield UNKNOWN if value != value else 0.0 if value == 0 else value
        elif isinstance(value, str):
            yield sys.intern(value)
        else:
            yield value


def _facts(image: Slice, stored: Storage, writer: SpoolWriter) -> list[Any]:
    """Gives the fields of `SliceFacts`, in their order."""
    pixels = image.pixels
    picture = pixels.dtype == np.uint8
    lowest, highest = pixels.min(), pixels.max()
    known = pixels
    if np.isnan(lowest):
        known = pixels[~np.isnan(pixels)]
        lowest, highest = (known.min(), known.max()) if known.size else (0, 0)
    blank = bool(lowest == highest)
    quantiles = np.zeros(0, np.float32)
    ends, integral = (0.0, 0.0), True
    if not picture and not blank:
        ends = float(lowest), float(highest)
        integral = bool((known == np.rint(known)).all())
        quantiles = _quantiles(known, integral=integral)
    spooled_at = -1
    if not blank:
        small = _small(image) if stored.small else None
        image_or_values = _as_stored(image, stored) or image
        spooled_at = writer.add(image_or_values, quantiles=quantiles, small=small)
    colour = 0
    if pixels.ndim == 3:
        red, green, blue = np.moveaxis(pixels, 2, 0)
        greatest = np.maximum(np.maximum(red, green), blue)
        least = np.minimum(np.minimum(red, green), blue)
        colour = int((greatest - least).max())
    return [
        image.frame,
        pixel_sha256(pixels),
        *pixels.shape[:2],
        picture,
        colour,
        blank,
        *ends,
        integral,
        image.window,
        image.position,
        image.modality,
        image.series,
        image.subject,
        image.localizer,
        image.burnt_in,
        spooled_at,
    ]


def _as_stored(image: Slice, stored: Storage) -> Encoded | None:
    """Encodes an image whose gray values its own header decides; else None."""
    windows: tuple[tuple[float, float], ...] = ()
    if image.pixels.dtype != np.uint8:
        told = stored.intensity.told_windows(image.modality, image.window)
        if not told or stored.bits == 16:
            return None
        windows = told
    channels = stored.channels
    if channels == 'as found':
        channels = 3 if image.pixels.ndim == 3 or len(windows) > 1 else 1
    if channels == 3 and stored.bits == 16:
        return None  # such a set will be refused, in words
    placed = place(
        image,
        windows=windows,
        canvas=stored.canvas,
        channels=channels,
        bits=stored.bits,
    )
    return encode(placed, windows)


def _quantiles(values: np.ndarray, *, integral: bool) -> np.ndarray:
    """Gives quantiles, float32 [512]: those of `np.quantile`, ten times as fast.

    Args:
        values: numbers, none of them NaN.
        integral: they are whole.
    """
    places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES * (values.size - 1)
    below = places.astype(np.int64)
    above = np.minimum(below + 1, values.size - 1)
    lowest = values.min()
    if integral and values.max() - lowest < _MOST_COUNTS:
        counts = np.bincount((values.ravel() - lowest).astype(np.int64))
        ends = counts.cumsum()
        low, high = (
            (np.searchsorted(ends, rank, side='right') + lowest).astype(values.dtype)
            for rank in (below, above)
        )
    else:
        ordered = np.sort(values, axis=None)
        low, high = ordered[below], ordered[above]
    share = places - below
    # From the nearer side, and the difference in the values' own type, as numpy does.
    near = np.where(share < 0.5, low + (high - low) * share, 0)
    far = np.where(share < 0.5, 0, high - (high - low) * (1 - share))
    return (near + far).astype(np.float32)


def _small(image: Slice) -> np.ndarray:
    """Makes a small picture; a scan's values are seen through its own percentiles."""
    pixels = image.pixels
    if pixels.dtype != np.uint8:
        low, high = np.nanpercentile(pixels, (0.5, 99.5))
        scaled = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
        pixels = np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8)
    return thumbnail(pixels, PIXELS)
