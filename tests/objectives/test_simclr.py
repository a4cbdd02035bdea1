import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mrissl.objectives.simclr import ntxent_loss


def ntxent_by_hand(z1, z2, temperature, groups=None):
    """Eq. 1 of the paper, averaged over all 2N views, as loops over scalars."""
    views = [*z1, *z2]
    count, half = len(views), len(z1)

    def cosine(x, y):
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        lengths = [math.sqrt(sum(a * a for a in v)) for v in (x, y)]
        return dot / (lengths[0] * lengths[1])

    total = 0.0
    for i in range(count):
        j = (i + half) % count
        denominator = 0.0
        for k in range(count):
            if k == i:
                continue
            twin = groups is not None and groups[k % half] == groups[i % half]
            if twin and k != j:
                continue
            denominator += math.exp(cosine(views[i], views[k]) / temperature)
        total -= cosine(views[i], views[j]) / temperature - math.log(denominator)
    return total / count


def views(rows, width, seed=0):
    rng = np.random.default_rng(seed)
    z1 = rng.normal(size=(rows, width))
    return z1, z1 + 0.7 * rng.normal(size=(rows, width))


@functools.partial(jax.jit, static_argnames='temperature')
def value(z1, z2, temperature=0.5, groups=None):
    return ntxent_loss(z1, z2, temperature=temperature, groups=groups)[0]


@pytest.mark.parametrize('rows', [1, 2, 7])
@pytest.mark.parametrize('width', [1, 5])
@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_equals_the_paper_by_hand(float64, rows, width, temperature):
    z1, z2 = views(rows, width)
    expected = ntxent_by_hand(z1, z2, temperature)
    np.testing.assert_allclose(value(z1, z2, temperature), expected, rtol=1e-10)


def test_worked_case_of_two_images(float64):
    # u: (1,0), (0,1) and views that equal them: the positive's cosine is 1, the two
    # negatives' are 0, so each view costs log(e^2 + 2) - 2 at temperature 1/2.
    z1 = np.eye(2) * [[3.0], [0.5]]
    expected = math.log(math.exp(2) + 2) - 2
    np.testing.assert_allclose(value(z1, np.eye(2)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ('temperature', 'expected'), [(0.5, 1.013043545898), (0.1, 0.210264703702)]
)
def test_fixture_computed_independently(float64, temperature, expected):
    z1 = np.array([[1, 0], [0, 1], [1, 1]], float)
    z2 = np.array([[1, 0.2], [-0.1, 1], [0.8, 1.1]])
    np.testing.assert_allclose(value(z1, z2, temperature), expected, rtol=1e-10)


@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_equals_optax(temperature):
    z1, z2 = (np.float32(z) for z in views(16, 8))
    labels = jnp.tile(jnp.arange(16), 2)

    def reference(z1, z2):
        return optax.ntxent(jnp.concatenate([z1, z2]), labels, temperature)

    def ours(z1, z2):
        return value(z1, z2, temperature)

    np.testing.assert_allclose(ours(z1, z2), jax.jit(reference)(z1, z2), rtol=1e-5)
    gradients = [jax.jit(jax.grad(loss, (0, 1)))(z1, z2) for loss in (ours, reference)]
    for one, two in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_equal_projections_cost_the_logarithm_of_the_choices(float64):
    for rows, expected in ((128, 5.541263545), (256, 6.236369590)):
        ones = np.ones((rows, 4))
        np.testing.assert_allclose(value(ones, ones, 0.1), expected, rtol=1e-9)


def test_perfect_positives_in_random_directions():
    z = np.random.default_rng(0).normal(size=(256, 128)).astype(np.float32)
    for temperature, expected in ((0.5, 4.264), (0.2, 1.564), (0.1, 0.0336)):
        found = value(z, z, temperature)
        np.testing.assert_allclose(found, expected, rtol=0.03)


def test_what_may_change_without_changing_the_loss(float64):
    z1, z2 = views(9, 4)
    rng = np.random.default_rng(1)
    base = value(z1, z2)
    stretched = z1 * rng.uniform(0.1, 5, (9, 1))
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    order = rng.permutation(9)
    for one, two in (
        (stretched, z2),
        (z1 @ rotation, z2 @ rotation),
        (z2, z1),
        (z1[order], z2[order]),
    ):
        np.testing.assert_allclose(value(one, two), base, rtol=1e-12)
    assert abs(value(z1 + 1, z2 + 1) - base) > 0.01


def test_images_of_one_subject_are_no_negatives(float64):
    z1, z2 = views(6, 4)
    groups = np.array([0, 0, 1, 2, 2, 2])
    expected = ntxent_by_hand(z1, z2, 0.5, groups)
    np.testing.assert_allclose(value(z1, z2, groups=groups), expected, rtol=1e-10)
    assert value(z1, z2, groups=groups) < value(z1, z2)
    # Of a batch of one subject nothing is left but the partner.
    np.testing.assert_allclose(value(z1, z2, groups=np.zeros(6, int)), 0, atol=1e-12)
    alone = value(z1, z2, groups=np.arange(6))
    np.testing.assert_allclose(alone, value(z1, z2), rtol=1e-12)


@pytest.mark.parametrize('groups', [None, np.array([0, 0, 1, 2, 2])])
def test_gradient_equals_finite_differences(float64, groups):
    z1, z2 = views(5, 3)
    chex.assert_numerical_grads(
        lambda a, b: value(a, b, groups=groups), (jnp.array(z1), jnp.array(z2)), order=1
    )


def test_gradient_is_orthogonal_to_its_projection(float64):
    z1, z2 = views(6, 5)
    gradient = jax.grad(value)(jnp.array(z1), z2)
    np.testing.assert_allclose(np.sum(gradient * z1, axis=1), 0, atol=1e-12)


def test_gradient_is_finite_where_a_projection_is_zero():
    z1, z2 = (np.float32(z) for z in views(4, 3))
    z1[0] = 0
    gradients = jax.grad(value, argnums=(0, 1))(z1, z2)
    chex.assert_tree_all_finite(gradients)


def test_accuracy_counts_partners_found():
    z = np.float32(np.eye(4))
    _, metrics = ntxent_loss(z, z, temperature=0.5)
    assert float(metrics['accuracy']) == 1.0
    _, metrics = ntxent_loss(z, z[::-1], temperature=0.5)
    assert float(metrics['accuracy']) == 0.0
