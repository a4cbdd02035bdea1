"""Where tissue lies in a view: flips, turns and shifts. One image at a time.

Images are float32 [H, W, C] in [0, 1], and so are the results.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Left and right, exchanged."""

    probability: float = 0.5

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        apply = jax.random.bernoulli(key, self.probability)
        return jnp.where(apply, image[:, ::-1], image)


def move(
    image: jax.Array, degrees: jax.Array, down: jax.Array, right: jax.Array
) -> jax.Array:
    """Turns [H, W, C] about its centre, then shifts it; background 0 comes in.

    Args:
        image: float32 [H, W, C] in [0, 1].
        degrees: counter-clockwise as seen; a scalar.
        down, right: the shift in pixels; scalars, not necessarily whole.

    Returns: the same shape, interpolated bilinearly.

    Source: torchvision's RandomAffine, which rounds shifts to whole pixels; ours are
    read between pixels, as the turn is.
    """
    height, width, _ = image.shape
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = jnp.arange(height, dtype=image.dtype)[:, None] - (height - 1) / 2 - down
    x = jnp.arange(width, dtype=image.dtype)[None, :] - (width - 1) / 2 - right
    from_y = cos * y + sin * x + (height - 1) / 2
    from_x = -sin * y + cos * x + (width - 1) / 2

    def warp(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(
            channel, [from_y, from_x], order=1, mode='constant', cval=0.0
        )

    return jnp.clip(jax.vmap(warp, in_axes=2, out_axes=2)(image), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Affine:
    """A small turn and shift, as of a head that lies otherwise in the scanner.

    Attributes:
        degrees: x for an angle drawn from [-x, x].
        translate: x for shifts drawn from [-x, x] of the height and of the width.
        probability: per image.
    """

    degrees: float = 10.0
    translate: float = 0.0
    probability: float = 1.0

    def __post_init__(self):
        if not 0 <= self.degrees <= 180:
            raise ValueError(f'degrees is {self.degrees}; from 0 to 180.')
        if not 0 <= self.translate < 1:
            raise ValueError(
                f'translate is {self.translate}; a share of the side, at least 0 and '
                'below 1.'
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        angle_key, apply_key, shift_key = jax.random.split(key, 3)
        angle = jax.random.uniform(angle_key, minval=-self.degrees, maxval=self.degrees)
        down, right = jax.random.uniform(
            shift_key, (2,), minval=-self.translate, maxval=self.translate
        )
        apply = jax.random.bernoulli(apply_key, self.probability)
        # A move by nothing reads every pixel where it is.
        return move(
            image,
            jnp.where(apply, angle, 0.0),
            jnp.where(apply, down * image.shape[0], 0.0),
            jnp.where(apply, right * image.shape[1], 0.0),
        )
