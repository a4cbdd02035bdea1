"""Intensity and colour ops against independent implementations."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from jax_mrissl.augment.colour import ColorJitter, adjust_hue
from jax_mrissl.augment.intensity import (
    Normalize,
    Solarize,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    gaussian_blur,
    to_gray,
)


def image(channels=3, seed=0, height=9, width=8):
    rng = np.random.default_rng(seed)
    return rng.random((height, width, channels)).astype(np.float32)


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.3, 2.0])
@pytest.mark.parametrize('shape', [(16, 16), (9, 24), (5, 3)])
def test_blur_equals_scipy(sigma, shape):
    pixels = image(3, 0, *shape)
    found = gaussian_blur(jnp.asarray(pixels), jnp.float32(sigma), radius=6)
    expected = ndimage.gaussian_filter(
        np.float64(pixels), (sigma, sigma, 0), mode='nearest', radius=(6, 6, 0)
    )
    # Largest error seen: 2e-7.
    np.testing.assert_allclose(found, expected, atol=1e-6)


def gray_by_hand(pixels):
    r, g, b = (pixels[..., i].astype(np.float64) for i in range(3))
    return (0.299 * r + 0.587 * g + 0.114 * b)[..., None]


def blend_by_hand(pixels, other, factor):
    return np.clip(factor * pixels.astype(np.float64) + (1 - factor) * other, 0, 1)


@pytest.mark.parametrize('factor', [0.0, 0.4, 1.0, 1.6])
def test_blends_equal_their_definition(factor):
    pixels = image()
    gray = gray_by_hand(pixels)
    cases = [
        (adjust_brightness, 0.0),
        (adjust_contrast, gray.mean()),
        (adjust_saturation, gray),
    ]
    for adjust, other in cases:
        np.testing.assert_allclose(
            adjust(jnp.asarray(pixels), jnp.float32(factor)),
            blend_by_hand(pixels, other, factor),
            atol=1e-6,
        )


def test_gray_equals_pillow():
    levels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    expected = np.asarray(Image.fromarray(levels).convert('L'))
    found = to_gray(jnp.float32(levels) / 255)[..., 0] * 255
    # Pillow works in whole levels.
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize('shift', [-0.5, -0.1, 0.0, 0.07, 0.33])
def test_hue_equals_colorsys(shift):
    pixels = image()
    pixels[0, 0] = 0.5  # gray: no hue
    pixels[0, 1] = [1, 0, 0]
    pixels[0, 2] = [0, 0, 0]
    found = np.asarray(adjust_hue(jnp.asarray(pixels), jnp.float32(shift)))
    for y, x in np.ndindex(pixels.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*pixels[y, x].astype(float))
        expected = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
        np.testing.assert_allclose(found[y, x], expected, atol=5e-6)


def test_solarize_equals_pillow():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(levels), threshold=128))
    op = Solarize(probability=1.0)
    found = op(jax.random.key(0), jnp.float32(levels)[..., None] / 255)
    np.testing.assert_allclose(found[..., 0] * 255, expected, atol=1e-3)


def test_normalisation_makes_three_channels_of_a_gray_one():
    gray = image(1)
    found = Normalize()(jax.random.key(0), jnp.asarray(gray))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found, (gray - mean) / std, atol=1e-5)


def test_jitter_is_some_order_of_its_four_parts():
    """Every draw equals one of the 24 orders; over many draws all orders occur."""
    pixels = jnp.asarray(image())
    op = ColorJitter(0.4, 0.4, 0.2, 0.1, probability=1.0)
    # Factors as the op draws them: by the definition, uniform around one.
    seen = set()
    for seed in range(60):
        key = jax.random.key(seed)
        _, _, *keys = jax.random.split(key, 6)
        uniform = jax.random.uniform
        parts = [
            (adjust_brightness, uniform(keys[0], minval=0.6, maxval=1.4)),
            (adjust_contrast, uniform(keys[1], minval=0.6, maxval=1.4)),
            (adjust_saturation, uniform(keys[2], minval=0.8, maxval=1.2)),
            (adjust_hue, uniform(keys[3], minval=-0.1, maxval=0.1)),
        ]
        found = np.asarray(op(key, pixels))
        matches = []
        for order in itertools.permutations(range(4)):
            expected = pixels
            for i in order:
                adjust, factor = parts[i]
                expected = adjust(expected, factor)
            if np.abs(found - expected).max() < 1e-5:
                matches.append(order)
        assert matches, seed
        seen.add(matches[0])
    assert len(seen) > 12
