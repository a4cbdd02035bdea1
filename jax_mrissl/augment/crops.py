"""Where a view looks: crops of a canvas, resized to squares. One image at a time.

Images are float32 [H, W, C] in [0, 1], and so are the results.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_mrissl.augment.resampling import (
    INTERPOLATIONS,
    Interpolation,
    crop_and_resize,
)

Box = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
_DRAWS = 10  # of torchvision's, before it settles for a central crop


def draw_crop(
    key: jax.Array,
    height: jax.Array,
    width: jax.Array,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Draws the box of a random resized crop within `height` x `width` pixels.

    Args:
        key: of this draw.
        height, width: of the part to crop from; int32 scalars.
        scale: lowest and highest share of the area.
        ratio: lowest and highest width over height; drawn log-uniformly.

    Returns: top, left, height, width; int32 scalars.

    Source: torchvision.transforms.RandomResizedCrop.get_params: the first of ten
    draws that fits, else a central crop of the nearest allowed shape.
    """
    size_key, place_key = jax.random.split(key)
    heights, widths, fits = _draw_shapes(size_key, height, width, scale, ratio)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    v, u = jax.random.uniform(place_key, (2,))
    box = (_place(v, height - h), _place(u, width - w), h, w)
    return _or_central(jnp.any(fits), box, height, width, ratio)


def draw_foreground_crop(
    key: jax.Array,
    foreground: jax.Array,
    box: jax.Array,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    share: float,
) -> Box:
    """Draws a crop that shows more than background, where there is one.

    Args:
        key: of this draw.
        foreground: bool [H, W], True where a pixel of the canvas is not background.
        box: int32 [4], the part to crop from: top, left, height, width.
        scale, ratio: as of `draw_crop`.
        share: the least share of a crop's pixels that are to be foreground.

    Returns: top, left, height, width within `box`; int32 scalars. It is the first of
    ten draws that fits and holds `share`; else, of those that fit, the one that holds
    most; else `draw_crop`'s central crop.

    Source: ours. A skull-stripped brain fills less than half of its slice, and two
    views of the black around it teach that nothing equals nothing.
    """
    size_key, place_key = jax.random.split(key)
    height, width = box[2], box[3]
    heights, widths, fits = _draw_shapes(size_key, height, width, scale, ratio)
    v, u = jax.random.uniform(place_key, (2, _DRAWS))
    tops, lefts = _place(v, height - heights), _place(u, width - widths)
    shares = _foreground_shares(
        foreground, box[0] + tops, box[1] + lefts, heights, widths
    )
    enough = fits & (shares >= share)
    most = jnp.argmax(jnp.where(fits, shares, -1.0))
    taken = jnp.where(jnp.any(enough), jnp.argmax(enough), most)
    chosen = (tops[taken], lefts[taken], heights[taken], widths[taken])
    return _or_central(jnp.any(fits), chosen, height, width, ratio)


def _draw_shapes(
    key: jax.Array,
    height: jax.Array,
    width: jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws ten shapes: heights and widths, int32 [10], and which of them fit."""
    area_draws, ratio_draws = jax.random.uniform(key, (2, _DRAWS))
    image_area = (height * width).astype(area_draws.dtype)
    area = image_area * (scale[0] + (scale[1] - scale[0]) * area_draws)
    low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
    shape = jnp.exp(low + (high - low) * ratio_draws)
    widths = jnp.round(jnp.sqrt(area * shape)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / shape)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    return heights, widths, fits


def _place(draw: jax.Array, free: jax.Array) -> jax.Array:
    """Turns a draw from [0, 1) into a whole number from 0 to `free`."""
    # min: the draw can round up to 1 in float32 when multiplied.
    return jnp.minimum((draw * (free + 1)).astype(jnp.int32), free)


def _or_central(
    fits: jax.Array,
    box: Box,
    height: jax.Array,
    width: jax.Array,
    ratio: tuple[float, float],
) -> Box:
    """Gives `box` where it fits, else the largest central box of an allowed shape."""
    image_ratio = width / height
    w = jnp.where(
        image_ratio > ratio[1],
        jnp.round(height * ratio[1]).astype(jnp.int32),
        width,
    )
    h = jnp.where(
        image_ratio < ratio[0],
        jnp.round(width / ratio[0]).astype(jnp.int32),
        height,
    )
    central = ((height - h) // 2, (width - w) // 2, h, w)
    top, left, h, w = (jnp.where(fits, a, b) for a, b in zip(box, central, strict=True))
    return top, left, h, w


def _foreground_shares(
    foreground: jax.Array,
    tops: jax.Array,
    lefts: jax.Array,
    heights: jax.Array,
    widths: jax.Array,
) -> jax.Array:
    """Counts the foreground of boxes, as a share of their pixels.

    Args:
        foreground: bool [H, W].
        tops, lefts, heights, widths: int32 [n]; a box that does not fit gives nonsense.

    Returns: float32 [n] in [0, 1].
    """
    # The integral image: entry (y, x) counts what lies above y and left of x.
    counts = jnp.cumsum(jnp.cumsum(foreground.astype(jnp.int32), axis=0), axis=1)
    counts = jnp.pad(counts, ((1, 0), (1, 0)))
    bottoms, rights = tops + heights, lefts + widths
    inside = (
        counts[bottoms, rights]
        - counts[tops, rights]
        - counts[bottoms, lefts]
        + counts[tops, lefts]
    )
    return inside / jnp.maximum(heights * widths, 1)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, at a random shape, resized to a square.

    Attributes:
        size: height and width of the view, in pixels.
        scale: lowest and highest share of the area.
        ratio: lowest and highest width over height.
        interpolation: 'bilinear' or 'bicubic'.
        foreground: the least share of the view's pixels that are not background, that
            is above 0, where the image has such a part; 0 asks nothing and costs
            nothing. For skull-stripped images.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = 'bicubic'
    foreground: float = 0.0

    def __post_init__(self):
        _check_crop(self.size, self.interpolation)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f'scale is {self.scale}; 0 < lowest <= highest <= 1.')
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f'ratio is {self.ratio}; 0 < lowest <= highest.')
        if not 0 <= self.foreground <= 1:
            raise ValueError(f'foreground is {self.foreground}; from 0 to 1.')

    def __call__(self, key: jax.Array, image: jax.Array, box: jax.Array) -> jax.Array:
        """Maps a canvas, [H, W, C], and its valid box, int32 [4], to a view."""
        if self.foreground:
            top, left, height, width = draw_foreground_crop(
                key,
                jnp.any(image > 0, axis=-1),
                box,
                scale=self.scale,
                ratio=self.ratio,
                share=self.foreground,
            )
        else:
            top, left, height, width = draw_crop(
                key, box[2], box[3], scale=self.scale, ratio=self.ratio
            )
        return crop_and_resize(
            image,
            box[0] + top,
            box[1] + left,
            height,
            width,
            size=self.size,
            interpolation=self.interpolation,
        )


@dataclasses.dataclass(frozen=True)
class Resize:
    """The whole valid box, resized to a square; what evaluation looks at."""

    size: int
    interpolation: Interpolation = 'bilinear'

    def __post_init__(self):
        _check_crop(self.size, self.interpolation)

    def __call__(self, key: jax.Array, image: jax.Array, box: jax.Array) -> jax.Array:
        """Maps a canvas, [H, W, C], and its valid box, int32 [4], to a view."""
        del key
        return crop_and_resize(
            image, *box, size=self.size, interpolation=self.interpolation
        )


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle of the valid box, pixel by pixel; black where it is smaller."""

    size: int

    def __post_init__(self):
        _check_crop(self.size, 'bilinear')

    def __call__(self, key: jax.Array, image: jax.Array, box: jax.Array) -> jax.Array:
        """Maps a canvas, [H, W, C], and its valid box, int32 [4], to a view."""
        del key
        top, left, height, width = box
        rows, columns = jnp.arange(image.shape[0]), jnp.arange(image.shape[1])
        inside = ((rows >= top) & (rows < top + height))[:, None] & (
            (columns >= left) & (columns < left + width)
        )[None]
        image = jnp.where(inside[:, :, None], image, 0)
        padded = jnp.pad(
            image, ((self.size, self.size), (self.size, self.size), (0, 0))
        )
        # Rounded down. Where the difference is odd torchvision may be a pixel off: it
        # pads the upper and left side less, and rounds halves of a cut to even ones.
        start = (
            self.size + top + (height - self.size) // 2,
            self.size + left + (width - self.size) // 2,
            0,
        )
        return jax.lax.dynamic_slice(
            padded, start, (self.size, self.size, image.shape[2])
        )


def _check_crop(size: int, interpolation: str) -> None:
    if size < 1:
        raise ValueError(f'size is {size}; at least 1 pixel.')
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation is {interpolation!r}; 'bilinear' or 'bicubic'."
        )
