"""What a reader does to a scan: looks at it through another window.

Ops take one image, float32 [H, W, C], C 1 or 3, and keep its shape.
"""

import dataclasses

import jax
import jax.numpy as jnp


def through_window(image: jax.Array, level: jax.Array, width: jax.Array) -> jax.Array:
    """Shows an image through a window: its lower end black, its upper end white.

    Args:
        image: float32, in any unit.
        level: the window's middle, in that unit; a scalar.
        width: from the lower to the upper end, above 0; a scalar.

    Returns: the same shape, in [0, 1].

    Source: DICOM PS3.3 C.11.2.1.3.2, the exact linear function.
    """
    return jnp.clip((image - level) / width + 0.5, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class WindowJitter:
    """Another window than the one that the image was stored through.

    The image's own window is [0, 1] whatever the bits of its record, so that the same
    numbers serve 8 and 16 bits. A record of 8 bits has lost what its window cut off:
    where the new one reaches beyond it, air and bone are flat gray instead of black and
    white. One of 16 bits has kept it, below 0 and above 1, until this op, which
    therefore stands first after the crop.

    Attributes:
        width: lowest and highest factor on the window's width.
        level: x for a shift of the middle drawn from [-x, x] of the stored width.
        probability: per image.

    Source: after the random windowing of agnalt/random-windowing (liver: widths of
    119 to 279 around 199 HU, levels of 62 +- 60 HU); these ranges are our proposal.
    """

    width: tuple[float, float] = (0.7, 1.3)
    level: float = 0.15
    probability: float = 0.8

    def __post_init__(self):
        if not 0 < self.width[0] <= self.width[1]:
            raise ValueError(f'width is {self.width}; 0 < lowest <= highest.')
        if self.level < 0:
            raise ValueError(f'level is {self.level}; at least 0.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape, in [0, 1]."""
        width_key, level_key, apply_key = jax.random.split(key, 3)
        low, high = self.width
        width = jax.random.uniform(width_key, minval=low, maxval=high)
        shift = jax.random.uniform(level_key, minval=-self.level, maxval=self.level)
        apply = jax.random.bernoulli(apply_key, self.probability)
        other = through_window(image, 0.5 + shift, width)
        return jnp.where(apply, other, jnp.clip(image, 0.0, 1.0))
