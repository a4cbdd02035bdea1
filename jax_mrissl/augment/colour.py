"""Colour: hue, saturation, jitter of all four, grayscale. One image at a time.

Of a gray image, C = 1, hue and saturation are undefined and stay as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_mrissl.augment.intensity import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    draw_factor,
    to_gray,
)


def adjust_hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue by `shift` of a full circle, through HSV.

    Args:
        image: float32 [H, W, C] in [0, 1].
        shift: a scalar in [-0.5, 0.5].

    Source: torchvision's `adjust_hue` on tensors; HSV as in Python's `colorsys`.
    """
    if image.shape[-1] == 1:
        return image
    r, g, b = (image[..., i] for i in range(3))
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    gray = chroma == 0
    safe = jnp.where(gray, 1.0, chroma)
    rc, gc, bc = ((value - channel) / safe for channel in (r, g, b))
    # Not `r == value`: where XLA computes a channel twice, their last bits may differ.
    is_red, is_green = (r >= g) & (r >= b), g >= b
    sector = jnp.where(is_red, bc - gc, jnp.where(is_green, 2 + rc - bc, 4 + gc - rc))
    hue = jnp.where(gray, 0.0, sector / 6)
    # Not `%`: XLA's CPU backend computes it by a call for each pixel.
    turned = hue + shift
    turned = turned - jnp.floor(turned)

    def channel(offset: float) -> jax.Array:
        # value * (1 - saturation * clip(min(k, 4 - k), 0, 1)), with value * saturation
        # = chroma: the closed form of the six sectors.
        k = offset + turned * 6  # below 11
        k = jnp.where(k >= 6, k - 6, k)
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    return jnp.clip(jnp.stack([channel(5), channel(3), channel(1)], -1), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, in a fresh random order.

    Attributes:
        brightness, contrast, saturation: x for a factor drawn from [max(0, 1 - x),
            1 + x].
        hue: x for a shift drawn from [-x, x], of a full circle.
        probability: per image.

    Source: torchvision.transforms.ColorJitter: each op clips to [0, 1].
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    probability: float = 0.8

    def __post_init__(self):
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f'hue is {self.hue}; from 0 to 0.5.')
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError('brightness, contrast and saturation are at least 0.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        order_key, apply_key, *keys = jax.random.split(key, 6)
        factors = [
            draw_factor(keys[0], self.brightness),
            draw_factor(keys[1], self.contrast),
            draw_factor(keys[2], self.saturation),
            jax.random.uniform(keys[3], minval=-self.hue, maxval=self.hue),
        ]
        ops = [adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue]
        if image.shape[-1] == 1:  # the other two would do nothing
            ops, factors = ops[:2], factors[:2]
        order = jax.random.permutation(order_key, len(ops))
        jittered = image
        for place in range(len(ops)):
            # Under vmap a `lax.switch` computes every branch as well.
            choices = [
                jnp.where(order[place] == i, op(jittered, factor), 0.0)
                for i, (op, factor) in enumerate(zip(ops, factors, strict=True))
            ]
            jittered = sum(choices[1:], choices[0])
        apply = jax.random.bernoulli(apply_key, self.probability)
        return jnp.where(apply, jittered, image)


@dataclasses.dataclass(frozen=True)
class RandomGrayscale:
    """Now and then, the gray version in all channels."""

    probability: float = 0.2

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        apply = jax.random.bernoulli(key, self.probability)
        return jnp.where(apply, to_gray(image), image)
