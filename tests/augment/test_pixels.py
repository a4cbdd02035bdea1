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
    Gamma,
    GaussianNoise,
    Normalize,
    Solarize,
    add_gaussian_noise,
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
    draw = jax.jit(op)
    # Factors as the op draws them: by the definition, uniform around one.
    seen = set()
    adjusts = [
        jax.jit(adjust)
        for adjust in (
            adjust_brightness,
            adjust_contrast,
            adjust_saturation,
            adjust_hue,
        )
    ]
    for seed in range(60):
        key = jax.random.key(seed)
        _, _, *keys = jax.random.split(key, 6)
        uniform = jax.random.uniform
        parts = [
            (adjusts[0], uniform(keys[0], minval=0.6, maxval=1.4)),
            (adjusts[1], uniform(keys[1], minval=0.6, maxval=1.4)),
            (adjusts[2], uniform(keys[2], minval=0.8, maxval=1.2)),
            (adjusts[3], uniform(keys[3], minval=-0.1, maxval=0.1)),
        ]
        found = np.asarray(draw(key, pixels))
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


def test_gamma_is_drawn_log_uniformly_and_keeps_black_and_white():
    op = Gamma(log_gamma=0.3, probability=1.0)
    pixels = jnp.array([0.0, 0.25, 1.0]).reshape(1, 3, 1)
    draw = jax.jit(jax.vmap(lambda key: op(key, pixels)))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))[:, 0, :, 0]
    np.testing.assert_array_equal(found[:, 0], 0.0)
    np.testing.assert_allclose(found[:, 2], 1.0, atol=1e-6)
    exponent = np.log(np.log(found[:, 1]) / np.log(0.25))
    np.testing.assert_allclose(
        np.quantile(exponent, [0, 0.25, 0.5, 0.75, 1]),
        [-0.3, -0.15, 0, 0.15, 0.3],
        atol=0.015,
    )


def test_gaussian_noise_has_its_deviation_and_one_draw_for_all_channels():
    gray = jnp.full((200, 200, 3), 0.5)
    noise = add_gaussian_noise(jax.random.key(0), gray, jnp.float32(0.1)) - 0.5
    np.testing.assert_allclose(noise.std(), 0.1, rtol=0.02)
    np.testing.assert_allclose(noise.mean(), 0.0, atol=0.002)
    np.testing.assert_array_equal(noise[..., 0], noise[..., 2])
    # Uncorrelated between neighbours: 200 * 199 pairs, so an error of 0.005.
    one = np.asarray(noise[..., 0])
    assert abs(np.corrcoef(one[:, 1:].ravel(), one[:, :-1].ravel())[0, 1]) < 0.02


def test_the_strength_of_noise_is_drawn_evenly():
    op = GaussianNoise(sigma=(0.0, 0.1), probability=1.0)
    gray = jnp.full((40, 40, 1), 0.5)
    draw = jax.jit(jax.vmap(lambda key: op(key, gray).std()))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 1000)))
    np.testing.assert_allclose(
        np.quantile(found, [0.1, 0.5, 0.9]), [0.01, 0.05, 0.09], atol=0.005
    )


@pytest.mark.parametrize(
    ('kind', 'fields'),
    [(Gamma, {'log_gamma': -0.1}), (GaussianNoise, {'sigma': (0.2, 0.1)})],
)
def test_values_out_of_range_are_refused(kind, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        kind(**fields)
