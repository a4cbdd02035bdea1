"""Where a view looks: crops, flips, rotations. One image at a time.

Images are float32 [H, W, C] in [0, 1], and so are the results. A crop is two products
with small weight matrices: what it reads is fixed by its box, so that no pixel outside
enters a view, and an accelerator does it at the speed of its matrix unit.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Interpolation = Literal['bilinear', 'bicubic']
_INTERPOLATIONS = ('bilinear', 'bicubic')


def _kernel(x: jax.Array, interpolation: Interpolation) -> jax.Array:
    """Evaluates the interpolation kernel; Keys' cubic with a = -0.5, as Pillow's."""
    x = jnp.abs(x)
    if interpolation == 'bilinear':
        return jnp.maximum(1 - x, 0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def resize_weights(
    start: jax.Array,
    length: jax.Array,
    stored: int,
    size: int,
    interpolation: Interpolation,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Gives the matrix that resizes one axis of a crop, [size, stored] in `dtype`.

    Args:
        start, length: of the crop along this axis, in stored pixels; scalars.
        stored: pixels of the stored image along this axis.
        size: pixels of the result.
        interpolation: 'bilinear' or 'bicubic'.
        dtype: of the result.

    Rows sum to one over the pixels of the crop; all others have no weight. Shrinking
    widens the kernel, so that every pixel counts (no aliasing).

    Source: Pillow's Resample.c, `precompute_coeffs`.
    """
    start, length = jnp.asarray(start, dtype), jnp.asarray(length, dtype)
    scale = length / size
    widened = jnp.maximum(scale, 1.0)
    centres = (jnp.arange(size, dtype=dtype) + 0.5) * scale
    pixels = jnp.arange(stored, dtype=dtype) - start
    distance = (pixels[None, :] + 0.5 - centres[:, None]) / widened
    inside = (pixels >= 0) & (pixels < length)
    weights = _kernel(distance, interpolation) * inside[None, :]
    return weights / weights.sum(axis=1, keepdims=True)


def crop_and_resize(
    image: jax.Array,
    top: jax.Array,
    left: jax.Array,
    height: jax.Array,
    width: jax.Array,
    *,
    size: int,
    interpolation: Interpolation,
) -> jax.Array:
    """Cuts a box out of [H, W, C] and resizes it to [size, size, C].

    Args:
        image: float32, the stored canvas.
        top, left, height, width: of the box, whole pixels; scalars.
        size: of the result.
        interpolation: 'bilinear' or 'bicubic', both antialiased.
    """
    rows = resize_weights(top, height, image.shape[0], size, interpolation, image.dtype)
    columns = resize_weights(
        left, width, image.shape[1], size, interpolation, image.dtype
    )
    # TF32 products would move pixels by half a gray level.
    exact = lax.Precision.HIGHEST
    image = jnp.einsum('yh,hwc->ywc', rows, image, precision=exact)
    image = jnp.einsum('xw,ywc->yxc', columns, image, precision=exact)
    return jnp.clip(image, 0.0, 1.0)  # a cubic overshoots at edges


def draw_crop(
    key: jax.Array,
    height: jax.Array,
    width: jax.Array,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
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
    area_draws, ratio_draws = jax.random.uniform(size_key, (2, 10))
    image_area = (height * width).astype(area_draws.dtype)
    area = image_area * (scale[0] + (scale[1] - scale[0]) * area_draws)
    low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
    shape = jnp.exp(low + (high - low) * ratio_draws)
    widths = jnp.round(jnp.sqrt(area * shape)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / shape)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    image_ratio = width / height
    central_width = jnp.where(
        image_ratio > ratio[1],
        jnp.round(height * ratio[1]).astype(jnp.int32),
        width,
    )
    central_height = jnp.where(
        image_ratio < ratio[0],
        jnp.round(width / ratio[0]).astype(jnp.int32),
        height,
    )
    first, any_fits = jnp.argmax(fits), jnp.any(fits)
    h = jnp.where(any_fits, heights[first], central_height)
    w = jnp.where(any_fits, widths[first], central_width)
    v, u = jax.random.uniform(place_key, (2,))
    # min: u can round up to 1 in float32 when multiplied.
    top = jnp.minimum((v * (height - h + 1)).astype(jnp.int32), height - h)
    left = jnp.minimum((u * (width - w + 1)).astype(jnp.int32), width - w)
    top = jnp.where(any_fits, top, (height - h) // 2)
    left = jnp.where(any_fits, left, (width - w) // 2)
    return top, left, h, w


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, at a random shape, resized to a square.

    Attributes:
        size: height and width of the view, in pixels.
        scale: lowest and highest share of the area.
        ratio: lowest and highest width over height.
        interpolation: 'bilinear' or 'bicubic'.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = 'bicubic'

    def __post_init__(self):
        _check_crop(self.size, self.interpolation)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f'scale is {self.scale}; 0 < lowest <= highest <= 1.')
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f'ratio is {self.ratio}; 0 < lowest <= highest.')

    def __call__(self, key: jax.Array, image: jax.Array, box: jax.Array) -> jax.Array:
        """Maps a canvas, [H, W, C], and its valid box, int32 [4], to a view."""
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
class HorizontalFlip:
    """Left and right, exchanged."""

    probability: float = 0.5

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        apply = jax.random.bernoulli(key, self.probability)
        return jnp.where(apply, image[:, ::-1], image)


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
    """Turns [H, W, C] about its centre, bilinear, with background 0 around.

    Args:
        image: float32 [H, W, C] in [0, 1].
        degrees: counter-clockwise as seen; a scalar.
    """
    height, width, _ = image.shape
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = jnp.arange(height, dtype=image.dtype)[:, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=image.dtype)[None, :] - (width - 1) / 2
    from_y = cos * y + sin * x + (height - 1) / 2
    from_x = -sin * y + cos * x + (width - 1) / 2

    def warp(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(
            channel, [from_y, from_x], order=1, mode='constant', cval=0.0
        )

    return jnp.clip(jax.vmap(warp, in_axes=2, out_axes=2)(image), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Rotate:
    """A turn by an angle drawn from [-degrees, degrees], background 0 around."""

    degrees: float = 10.0
    probability: float = 1.0

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        angle_key, apply_key = jax.random.split(key)
        angle = jax.random.uniform(angle_key, minval=-self.degrees, maxval=self.degrees)
        apply = jax.random.bernoulli(apply_key, self.probability)
        # An angle of zero reads every pixel where it is.
        return rotate(image, jnp.where(apply, angle, 0.0))


def _check_crop(size: int, interpolation: str) -> None:
    if size < 1:
        raise ValueError(f'size is {size}; at least 1 pixel.')
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(
            f"interpolation is {interpolation!r}; 'bilinear' or 'bicubic'."
        )
