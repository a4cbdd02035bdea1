import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from jax_mrissl.models.heads import OrdinalHead, ordinal_log_probabilities


def test_levels_by_thresholds_equal_the_definition():
    odds = np.array([[-2.0, 0.3, 1.0], [0.5, 0.6, 4.0]])
    below = np.pad(expit(odds), ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    found = ordinal_log_probabilities(jnp.asarray(odds))
    np.testing.assert_allclose(np.exp(found), np.diff(below), rtol=1e-6)


def test_far_out_nothing_is_lost():
    # Both sigmoids round to one in float32; their difference is exp(-40) - exp(-41).
    found = ordinal_log_probabilities(jnp.array([[40.0, 41.0]]))
    np.testing.assert_allclose(
        found[0, 1], np.log(np.exp(-40) - np.exp(-41)), rtol=1e-5
    )


@pytest.mark.parametrize('levels', [2, 4])
def test_begins_with_all_levels_equally_likely_and_stays_in_order(levels):
    head = OrdinalHead(levels)
    h = jnp.zeros((3, 5))
    params = head.init(jax.random.key(0), h)['params']
    params['score']['linear']['bias'] *= 0
    found = head.apply({'params': params}, h)
    np.testing.assert_allclose(np.exp(found), 1 / levels, rtol=1e-5)
    # Whatever a step does to its parameters, a higher score means higher levels.
    moved = jax.tree.map(lambda leaf: leaf - 3.0, params)
    x = jnp.linspace(-2, 2, 7)[:, None] * jnp.ones((7, 5))
    probabilities = np.exp(head.apply({'params': moved}, x))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    score = np.asarray(x @ moved['score']['linear']['kernel'])[:, 0]
    mean = probabilities @ np.arange(levels)
    assert (np.diff(mean[np.argsort(score)]) >= -1e-6).all()
