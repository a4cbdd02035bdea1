import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jax_mrissl.augment.geometry import Affine, HorizontalFlip, move


def picture(height, width, channels, seed=0):
    pixels = np.random.default_rng(seed).random((height, width, channels))
    pixels = ndimage.gaussian_filter(pixels, (2, 2, 0))
    pixels = (pixels - pixels.min()) / np.ptp(pixels)
    pixels[height // 3 : height // 2, width // 4 :] = 1.0
    return np.float32(pixels)


@pytest.mark.parametrize('degrees', [-10.0, 0.0, 3.5, 90.0])
@pytest.mark.parametrize('shape', [(31, 31, 1), (32, 20, 3)])
def test_turning_equals_scipy(degrees, shape):
    pixels = picture(*shape)
    found = jax.jit(move)(pixels, jnp.float32(degrees), 0.0, 0.0)
    # SciPy's `rotate` with axes (1, 0) turns counter-clockwise as seen, too. Its
    # 'constant' mode does not interpolate beyond the edge; 'grid-constant' does, as
    # JAX does.
    expected = ndimage.rotate(
        pixels, degrees, axes=(1, 0), reshape=False, order=1, mode='grid-constant'
    )
    # Largest error seen: 6e-6, where a coordinate falls on a pixel's edge.
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize('shift', [(3.0, -2.0), (0.5, 1.25), (0.0, 0.0)])
def test_shifting_equals_scipy(shift):
    pixels = picture(21, 30, 1)
    found = jax.jit(move)(pixels, 0.0, *shift)
    expected = ndimage.shift(pixels, (*shift, 0), order=1, mode='grid-constant')
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_move_turns_first_then_shifts():
    pixels = picture(33, 33, 1)
    both = jax.jit(move)(pixels, 90.0, 4.0, -3.0)
    turned = np.rot90(pixels)
    expected = ndimage.shift(turned, (4, -3, 0), order=1, mode='grid-constant')
    np.testing.assert_allclose(both, expected, atol=1e-4)


def test_moves_are_drawn_evenly_within_their_range():
    """A single bright pixel off the centre tells the shift; one image, many keys."""
    op = Affine(degrees=0.0, translate=0.1)
    dot = np.zeros((40, 60, 1), np.float32)
    dot[20, 30] = 1.0
    moved = jax.jit(jax.vmap(lambda key: op(key, jnp.asarray(dot))))(
        jax.random.split(jax.random.key(0), 2000)
    )
    moved = np.asarray(moved)[..., 0]
    y = (moved.sum(2) * np.arange(40)).sum(1) - 20
    x = (moved.sum(1) * np.arange(60)).sum(1) - 30
    for shift, most in ((y, 4.0), (x, 6.0)):
        np.testing.assert_allclose(
            np.quantile(shift, [0, 0.25, 0.5, 0.75, 1]),
            most * np.array([-1, -0.5, 0, 0.5, 1]),
            atol=0.08 * most,
        )


def test_a_flip_exchanges_left_and_right():
    pixels = picture(5, 8, 3)
    found = HorizontalFlip(probability=1.0)(jax.random.key(0), jnp.asarray(pixels))
    np.testing.assert_array_equal(found, pixels[:, ::-1])


@pytest.mark.parametrize('fields', [{'degrees': 200.0}, {'translate': 1.0}])
def test_a_move_out_of_range_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Affine(**fields)
