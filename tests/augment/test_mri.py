"""Artefacts of scanners against loops written from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.augment.mri import (
    BiasField,
    Ghosting,
    RicianNoise,
    add_rician_noise,
    bias_field,
    ghosted,
)


def image(channels=1, height=18, width=16, seed=0):
    pixels = np.random.default_rng(seed).random((height, width, channels))
    return pixels.astype(np.float32)


@pytest.mark.parametrize('order', [0, 1, 3])
@pytest.mark.parametrize('shape', [(6, 9), (8, 8), (1, 5)])
def test_bias_field_is_its_polynomial(order, shape):
    coefficients = np.random.default_rng(1).uniform(-0.5, 0.5, (order + 1, order + 1))
    found = bias_field(jnp.float32(coefficients), *shape)
    for i, j in np.ndindex(shape):
        y, x = (
            -1 + 2 * at / (side - 1) if side > 1 else -1
            for at, side in zip((i, j), shape, strict=True)
        )
        exponent = sum(
            coefficients[a, b] * y**a * x**b
            for a in range(order + 1)
            for b in range(order + 1 - a)
        )
        np.testing.assert_allclose(found[i, j], np.exp(exponent), rtol=2e-6)


def test_bias_field_is_smooth_and_lies_on_all_channels_alike():
    flat = jnp.full((64, 64, 3), 0.2)
    field = BiasField(probability=1.0)(jax.random.key(0), flat) / 0.2
    assert np.ptp(field) > 0.1
    # The steepest polynomial of coefficients up to 0.3 changes by 30 % over 2 pixels
    # of 64 at its corner; noise would change by as much between neighbours.
    for axis in (0, 1):
        assert np.abs(np.diff(np.log(field), n=2, axis=axis)).max() < 0.02
    np.testing.assert_allclose(np.ptp(field, axis=2), 0, atol=1e-6)


def ghosts_by_hand(pixels, ghosts, axis, intensity):
    """TorchIO's Ghosting: the spectrum with its centre in the middle, sliced."""
    result = np.empty(pixels.shape)
    for channel in range(pixels.shape[-1]):
        spectrum = np.fft.fftshift(np.fft.fftn(np.float64(pixels[..., channel])))
        if axis == 1:
            spectrum = spectrum.T
        middle = len(spectrum) // 2
        centre = spectrum[middle].copy()
        spectrum[::ghosts] *= 1 - intensity
        spectrum[middle] = centre
        if axis == 1:
            spectrum = spectrum.T
        result[..., channel] = np.fft.ifftn(np.fft.ifftshift(spectrum)).real
    return result


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('ghosts', [1, 4, 5, 10])
@pytest.mark.parametrize('shape', [(18, 16, 1), (15, 21, 3)])
def test_ghosts_equal_torchio_by_hand(ghosts, axis, shape):
    height, width, channels = shape
    pixels = image(channels, height, width)
    found = jax.jit(ghosted)(pixels, ghosts, axis, 0.7)
    expected = ghosts_by_hand(pixels, ghosts, axis, 0.7)
    # Largest error seen: 4e-7.
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize('axis', [0, 1])
def test_ghosts_are_copies_at_even_distances(axis):
    """A dot of 4 ghosts on 32 pixels reappears every 8 pixels along its axis."""
    dot = np.zeros((32, 32, 1), np.float32)
    dot[4, 4] = 1.0
    found = np.asarray(jax.jit(ghosted)(dot, 4, axis, 1.0))[..., 0]
    line = found[:, 4] if axis == 0 else found[4]
    # The lines taken away are a quarter of all; the spared centre returns 1 / 32.
    expected = np.full(32, 1 / 32)
    expected[4::8] -= 0.25
    expected[4] += 1.0
    np.testing.assert_allclose(line, expected, atol=1e-6)
    off_line = np.delete(found, 4, axis=1 - axis)
    np.testing.assert_allclose(off_line, 0.0, atol=1e-6)


def test_ghosting_draws_both_axes_and_every_count():
    op = Ghosting(ghosts=(4, 6), intensity=(0.4, 0.4), probability=1.0)
    pixels = image(1, 24, 24)
    drawn = jax.jit(jax.vmap(lambda key: op(key, jnp.asarray(pixels))))(
        jax.random.split(jax.random.key(0), 60)
    )
    kinds = {
        (ghosts, axis): np.clip(ghosts_by_hand(pixels, ghosts, axis, 0.4), 0, 1)
        for ghosts in (4, 5, 6)
        for axis in (0, 1)
    }
    seen = [
        next(k for k, v in kinds.items() if np.abs(v - one).max() < 1e-5)
        for one in np.asarray(drawn)
    ]
    assert set(seen) == set(kinds)


@pytest.mark.parametrize('signal', [0.0, 0.1, 0.6])
def test_rician_noise_has_the_moments_of_its_distribution(signal):
    sigma, n = 0.1, 300
    found = add_rician_noise(
        jax.random.key(0), jnp.full((n, n, 1), signal), jnp.float32(sigma)
    )
    found = np.float64(found)
    # E[m^2] = signal^2 + 2 sigma^2, exactly; a plain Gaussian has one sigma^2.
    second = signal**2 + 2 * sigma**2
    error = found.var() ** 0.5 * 2 * (signal + sigma) / n
    np.testing.assert_allclose((found**2).mean(), second, atol=4 * error)
    assert found.min() >= 0
    if signal == 0:  # Rayleigh
        np.testing.assert_allclose(found.mean(), sigma * np.sqrt(np.pi / 2), rtol=0.01)


def test_rician_noise_is_that_of_its_two_draws():
    pixels, key = image(3), jax.random.key(5)
    found = add_rician_noise(key, jnp.asarray(pixels), jnp.float32(0.2))
    n1, n2 = 0.2 * np.asarray(jax.random.normal(key, (2, 18, 16, 1)))
    np.testing.assert_allclose(found, np.sqrt((pixels + n1) ** 2 + n2**2), atol=1e-6)


@pytest.mark.parametrize(
    ('kind', 'fields'),
    [
        (BiasField, {'coefficient': -0.1}),
        (Ghosting, {'ghosts': (0, 3)}),
        (Ghosting, {'intensity': (0.5, 1.5)}),
        (RicianNoise, {'sigma': (0.2, 0.1)}),
    ],
)
def test_values_out_of_range_are_refused(kind, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        kind(**fields)
