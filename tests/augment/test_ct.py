import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.augment import build_policy
from jax_mrissl.augment.ct import WindowJitter, through_window
from jax_mrissl.core.errors import UserError

# Hounsfield units from -1024 on, as stored; a soft-tissue window on them.
UNITS = np.linspace(-1000, 1000, 16, dtype=np.float32)
STORED = np.broadcast_to(np.rint(UNITS + 1024), (1, 16, 16))[..., None]
WINDOW = np.float32([[-160 + 1024, 240 + 1024]])
BOX = np.int32([[0, 0, 16, 16]])
ROW = np.arange(1)


def look(*ops, window=WINDOW):
    policy = build_policy([dict(name='resize', size=16), *ops], where='view')
    pixels = STORED.astype(np.uint16)
    return np.asarray(policy(jax.random.key(0), pixels, BOX, ROW, window))[0, 0, :, 0]


def test_sixteen_bits_are_seen_through_their_window():
    shown = np.clip((np.rint(UNITS) + 160) / 400, 0, 1)
    np.testing.assert_allclose(look(), shown, atol=1e-5)
    whole = look(window=None)
    np.testing.assert_allclose(whole, (np.rint(UNITS) + 1024) / 65535, atol=1e-6)


def test_another_window_shows_what_the_first_had_cut_off():
    wide = dict(name='window_jitter', width=(4.0, 4.0), level=0.0, probability=1.0)
    shown = np.clip((np.rint(UNITS) + 760) / 1600, 0, 1)
    np.testing.assert_allclose(look(wide), shown, atol=1e-5)
    assert len(np.unique(look(wide))) > len(np.unique(look())) + 5
    np.testing.assert_allclose(look({**wide, 'probability': 0.0}), look(), atol=1e-6)


def test_a_window_is_chosen_before_anything_else_is_done():
    with pytest.raises(UserError, match='right after the crop'):
        look(dict(name='horizontal_flip'), dict(name='window_jitter'))


def test_a_window_of_hounsfield_units_by_hand():
    units = jnp.float32([-1000, -100, 0, 40, 100, 240, 2000]).reshape(1, -1, 1)
    found = through_window(units, jnp.float32(40), jnp.float32(400))
    expected = [0, 0.15, 0.4, 0.5, 0.65, 1, 1]
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-6)


def test_the_stored_window_changes_nothing():
    pixels = jnp.linspace(0, 1, 50).reshape(5, 10, 1)
    found = through_window(pixels, jnp.float32(0.5), jnp.float32(1.0))
    np.testing.assert_allclose(found, pixels, atol=1e-6)


def test_widths_and_levels_are_drawn_evenly():
    """Two values in the window's middle tell level and width of each draw."""
    op = WindowJitter(probability=1.0)
    pixels = jnp.array([0.45, 0.55]).reshape(1, 2, 1)
    draw = jax.jit(jax.vmap(lambda key: op(key, pixels)))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))[:, 0, :, 0]
    width = 0.1 / (found[:, 1] - found[:, 0])
    level = 0.5 - (found.mean(1) - 0.5) * width
    quantiles = [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(
        np.quantile(width, quantiles), [0.7, 0.85, 1, 1.15, 1.3], atol=0.02
    )
    np.testing.assert_allclose(
        np.quantile(level, quantiles), [0.35, 0.425, 0.5, 0.575, 0.65], atol=0.01
    )


@pytest.mark.parametrize('fields', [{'width': (0.0, 1.0)}, {'level': -0.1}])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        WindowJitter(**fields)
