"""Cutting a box out of an image and resizing it, with antialiasing.

It is two products with small weight matrices: what they read is fixed by the box, so
that no pixel outside enters a view, and an accelerator does it at the speed of its
matrix unit.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Interpolation = Literal['bilinear', 'bicubic']
INTERPOLATIONS = ('bilinear', 'bicubic')


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
        interpolation: 'bilinear' or 'bicubic', both antialiased; a cubic overshoots
            at edges.
    """
    rows = resize_weights(top, height, image.shape[0], size, interpolation, image.dtype)
    columns = resize_weights(
        left, width, image.shape[1], size, interpolation, image.dtype
    )
    # TF32 products would move pixels by half a gray level.
    exact = lax.Precision.HIGHEST
    image = jnp.einsum('yh,hwc->ywc', rows, image, precision=exact)
    return jnp.einsum('xw,ywc->yxc', columns, image, precision=exact)
