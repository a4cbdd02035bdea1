import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.objectives.vicreg import vicreg_loss


def vicreg_by_hand(z1, z2):
    """Eq. 1-6 of the paper as scalar loops, averaged over views as the code does."""
    rows, width = z1.shape
    invariance = sum(
        (z1[i, j] - z2[i, j]) ** 2 for i in range(rows) for j in range(width)
    ) / (rows * width)
    variance = covariance = 0.0
    for z in (z1, z2):
        means = [sum(z[:, j]) / rows for j in range(width)]
        for j in range(width):
            for k in range(width):
                c = sum(
                    (z[i, j] - means[j]) * (z[i, k] - means[k]) for i in range(rows)
                ) / (rows - 1)
                if j == k:
                    variance += max(0.0, 1 - (c + 1e-4) ** 0.5) / width / 2
                else:
                    covariance += c**2 / width
    return invariance, variance, covariance


@jax.jit
def value(z1, z2, weights=(25.0, 25.0, 1.0)):
    names = ('invariance_weight', 'variance_weight', 'covariance_weight')
    return vicreg_loss(z1, z2, **dict(zip(names, weights, strict=True)))


def views(rows=6, width=4):
    rng = np.random.default_rng(0)
    z1 = 0.8 * rng.normal(size=(rows, width))
    return z1, z1 + 0.3 * rng.normal(size=(rows, width))


@pytest.mark.parametrize(('rows', 'width'), [(2, 1), (6, 4), (9, 2)])
def test_equals_the_paper_by_hand(float64, rows, width):
    z1, z2 = views(rows, width)
    loss, parts = value(z1, z2)
    expected = vicreg_by_hand(z1, z2)
    names = ('invariance', 'variance', 'covariance')
    np.testing.assert_allclose([parts[n] for n in names], expected, rtol=1e-10)
    weighted = 25 * expected[0] + 25 * expected[1] + expected[2]
    np.testing.assert_allclose(loss, weighted, rtol=1e-10)


def test_a_collapsed_output_costs_its_variance_alone(float64):
    loss, parts = value(np.ones((8, 3)), np.ones((8, 3)))
    np.testing.assert_allclose(loss, 25 * 0.99, rtol=1e-12)
    assert parts['invariance'] == parts['covariance'] == 0


def test_swapping_views_and_permuting_images_change_nothing(float64):
    z1, z2 = views()
    order = np.random.default_rng(2).permutation(6)
    for one, two in ((z2, z1), (z1[order], z2[order])):
        np.testing.assert_allclose(value(one, two)[0], value(z1, z2)[0], rtol=1e-12)


def test_gradient_equals_finite_differences(float64):
    z1, z2 = views()
    chex.assert_numerical_grads(
        lambda a, b: value(a, b)[0], (jnp.array(z1), jnp.array(z2)), order=1
    )


def test_gradient_is_finite_where_a_feature_is_dead():
    ones = jnp.ones((8, 3))
    chex.assert_tree_all_finite(jax.grad(lambda z: value(z, ones)[0])(ones))
