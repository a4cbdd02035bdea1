"""Where an image comes to lie on its canvas, and how its values become stored ones."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mrissl.readers import image as image_reader
from jax_mrissl.readers.slice import Slice
from jax_mrissl.report.png import encode_png

# Of the stored pixels, by their bits.
DTYPES: dict[int, Any] = {8: np.uint8, 16: np.uint16}


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """An image on its canvas.

    Attributes:
        pixels: uint8 or uint16 [canvas, canvas, C], 0 outside the box.
        window: the values of them that are shown as black and as white.
        box: top, left, height, width of the image, in pixels.
        spacing_mm: of the stored rows and columns; NaN where unknown.
    """

    pixels: np.ndarray
    window: tuple[float, float]
    box: tuple[int, int, int, int]
    spacing_mm: tuple[float, float]


def place(
    image: Slice,
    *,
    windows: Sequence[Sequence[float]],
    canvas: int,
    channels: int,
    bits: int = 8,
    levels: Sequence[float] = (),
) -> Placed:
    """Scales an image to its canvas: longer side to longer side, centred on black.

    Pixels that are not square in mm become so.

    Args:
        image: as read.
        windows: the values that become 0 and 255, one pair for all channels or one
            for each; () for a picture, which stays as it is.
        canvas: height and width of the canvas.
        channels: 1 or 3; colour becomes gray by ITU-R 601.
        bits: of the stored pixels.
        levels: as in `Row`: a scan keeps all of its values, in 16 bits.
    """
    pixels = image.pixels
    if pixels.ndim == 3 and channels == 1:
        pixels = image_reader.luma(pixels)
    row_mm, column_mm = image.spacing_mm
    extent = np.array(pixels.shape[:2], float)
    if row_mm > 0 and column_mm > 0:
        extent *= row_mm, column_mm
    height, width = (
        max(1, round(float(side) * canvas / float(extent.max()))) for side in extent
    )
    if levels:
        (least, step), ends = levels, windows[0]
        window = (ends[0] - least) / step, (ends[1] - least) / step
        stored = np.nan_to_num((pixels.astype(float) - least) / step, nan=0.0)
        layers = [stored.astype(np.float32)]
    else:
        window = 0.0, 255.0
        layers = [_windowed(pixels, *ends) for ends in windows] or [pixels]
    highest = np.iinfo(DTYPES[bits]).max
    top, left = (canvas - height) // 2, (canvas - width) // 2
    whole = np.zeros((canvas, canvas, channels), DTYPES[bits])
    inside = whole[top : top + height, left : left + width]
    for number, one in enumerate(layers):
        resized = image_reader.resize(one, height, width, highest=highest)
        if len(layers) > 1:
            inside[:, :, number] = resized
        else:  # gray fills all channels
            inside[:] = resized if resized.ndim == 3 else resized[:, :, None]
    return Placed(
        pixels=whole,
        window=window,
        box=(top, left, height, width),
        spacing_mm=(
            row_mm * pixels.shape[0] / height,
            column_mm * pixels.shape[1] / width,
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """An image as its record has it.

    Attributes:
        png: the file, of the whole canvas.
        channels: of the file.
        windows: the values that became 0 and 255; () of a picture.
        window, box, spacing_mm: as in `Placed`.
        moments: of the pixels inside the box, as shown, of 255: 'pixels', their
            number; 'sum' and 'sum_of_squares' of each channel.
    """

    png: bytes
    channels: int
    windows: Sequence[Sequence[float]]
    window: Sequence[float]
    box: Sequence[int]
    spacing_mm: Sequence[float]
    moments: Mapping[str, Any]


def encode(placed: Placed, windows: Sequence[Sequence[float]]) -> Encoded:
    """Encodes an image that was placed with these windows."""
    gray_or_colour = placed.pixels
    if gray_or_colour.shape[2] == 1:
        gray_or_colour = gray_or_colour[:, :, 0]
    return Encoded(
        png=encode_png(gray_or_colour, method='quick'),
        channels=placed.pixels.shape[2],
        windows=windows,
        window=placed.window,
        box=placed.box,
        spacing_mm=placed.spacing_mm,
        moments=_moments(placed),
    )


def in_colour(image: Encoded) -> Encoded:
    """Gives a gray image three channels; the same as if it had been placed so."""
    pixels = np.repeat(image_reader.decode_png(image.png), 3, axis=2)
    top, left, height, width = image.box
    low, high = image.window
    row_mm, column_mm = image.spacing_mm
    placed = Placed(
        pixels, (low, high), (top, left, height, width), (row_mm, column_mm)
    )
    return encode(placed, image.windows)


def _moments(placed: Placed) -> dict[str, Any]:
    top, left, height, width = placed.box
    inside = placed.pixels[top : top + height, left : left + width]
    inside = shown(inside, placed.window)
    values = np.arange(256)
    # Counts first: exact, and faster than to square all pixels.
    counts = [
        np.bincount(inside[:, :, channel].ravel(), minlength=256)
        for channel in range(inside.shape[2])
    ]
    return {
        'pixels': height * width,
        'sum': [int(c @ values) for c in counts],
        'sum_of_squares': [int(c @ values**2) for c in counts],
    }


def shown(pixels: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Gives stored pixels as they are shown through their window, uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(_windowed(pixels, *window)).astype(np.uint8)


def _windowed(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps low and high to 0 and 255, float32 [H, W]; NaN becomes 0."""
    scale = np.float32(255 / (high - low))
    scaled = (pixels.astype(np.float32) - np.float32(low)) * scale
    np.clip(scaled, 0, 255, out=scaled)
    scaled[np.isnan(scaled)] = 0
    return scaled
