import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.objectives.barlow import barlow_loss


def barlow_by_hand(z1, z2, redundancy_weight):
    """Eq. 1-2 of the paper, as two loops over numpy float64."""
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z1, z2))
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = np.mean(a[:, i] * b[:, j])
            total += (1 - c) ** 2 if i == j else redundancy_weight * c**2
    return total


def views(rows, width, seed=0):
    rng = np.random.default_rng(seed)
    z1 = rng.normal(size=(rows, width))
    return z1, z1 + 0.5 * rng.normal(size=(rows, width))


@jax.jit
def value(z1, z2, redundancy_weight=0.0051):
    return barlow_loss(z1, z2, redundancy_weight=redundancy_weight)[0]


@pytest.mark.parametrize('rows', [2, 32])
@pytest.mark.parametrize('width', [1, 6])
@pytest.mark.parametrize('redundancy_weight', [0.0, 0.0051, 1.0])
def test_equals_the_paper_by_hand(float64, rows, width, redundancy_weight):
    z1, z2 = views(rows, width)
    expected = barlow_by_hand(z1, z2, redundancy_weight)
    np.testing.assert_allclose(value(z1, z2, redundancy_weight), expected, rtol=1e-10)


def test_float32_is_close_to_the_paper():
    z1, z2 = views(32, 6)
    # Largest error seen: 2e-6.
    np.testing.assert_allclose(
        value(jnp.float32(z1), jnp.float32(z2)),
        barlow_by_hand(z1, z2, 0.0051),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ('standardise', 'expected'),
    [
        ('per_view_biased', 0.033510979359),
        ('per_view_unbiased', 0.227671956288),
        ('joint', 0.044744678197),
    ],
)
def test_worked_case_of_four_images(float64, standardise, expected):
    # Computed independently, one for each standardisation that a library had.
    z1 = np.array([[0, 1], [1, 3], [2, 2], [5, 0]], float)
    z2 = np.array([[0, 2], [1, 2.5], [3, 2], [4, -1]], float)
    found, _ = barlow_loss(z1, z2, redundancy_weight=0.005, standardise=standardise)
    # The third was computed in float32.
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize('standardise', ['per_view_unbiased', 'joint'])
def test_other_standardisations_equal_loops(float64, standardise):
    z1, z2 = views(7, 3)
    ddof = 1 if standardise == 'per_view_unbiased' else 0
    total = 0.0
    for i in range(3):
        for j in range(3):
            columns = z1[:, i], z2[:, j]
            whole = columns
            if standardise == 'joint':
                whole = [np.concatenate([z1[:, k], z2[:, k]]) for k in (i, j)]
            a, b = (
                (c - w.mean()) / np.sqrt(w.var(ddof=ddof) + (0 if ddof else 1e-5))
                for c, w in zip(columns, whole, strict=True)
            )
            c = sum(a * b) / 7
            total += (1 - c) ** 2 if i == j else 0.01 * c**2
    found, _ = barlow_loss(z1, z2, redundancy_weight=0.01, standardise=standardise)
    np.testing.assert_allclose(found, total, rtol=1e-10)


def test_joint_standardisation_is_not_invariant_to_a_shift_of_one_view(float64):
    z1, z2 = views(64, 5)
    options = dict(redundancy_weight=0.0051, standardise='joint')
    base, _ = barlow_loss(z1, z2, **options)
    shifted, _ = barlow_loss(z1, z2 + 3, **options)
    assert abs(shifted - base) > 1


@pytest.mark.parametrize('standardise', ['per_view_unbiased', 'joint'])
def test_other_gradients_equal_finite_differences(float64, standardise):
    z1, z2 = views(5, 3)
    chex.assert_numerical_grads(
        lambda a, b: barlow_loss(a, b, redundancy_weight=0.01, standardise=standardise)[
            0
        ],
        (jnp.array(z1), jnp.array(z2)),
        order=1,
    )


def test_constant_output_costs_its_dimension(float64):
    np.testing.assert_allclose(value(np.ones((8, 5)), np.ones((8, 5))), 5.0)


def test_independent_views_cost_as_random_matrix_theory_says():
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 256, 2048)).astype(np.float32)
    d, n = 2048, 256
    expected = d * (1 + 1 / (n - 1)) + 0.005 * d * (d - 1) / (n - 1)
    np.testing.assert_allclose(value(z1, z2, 0.005), expected, rtol=0.02)


def test_each_view_may_be_scaled_and_shifted_by_feature(float64):
    z1, z2 = views(64, 5)
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(1, 3, (1, 5)), rng.normal(size=(1, 5))
    # Epsilon is all that sees the scale.
    np.testing.assert_allclose(value(z1, z2 * scale + shift), value(z1, z2), rtol=1e-3)
    flipped = z2 * np.array([[-1, 1, 1, 1, 1]])
    assert value(z1, flipped) > value(z1, z2) + 1


def test_swapping_views_and_permuting_images_change_nothing(float64):
    z1, z2 = views(16, 4)
    order = np.random.default_rng(2).permutation(16)
    np.testing.assert_allclose(value(z2, z1), value(z1, z2), rtol=1e-12)
    np.testing.assert_allclose(value(z1[order], z2[order]), value(z1, z2), rtol=1e-12)


def test_gradient_equals_finite_differences(float64):
    z1, z2 = views(5, 3)
    chex.assert_numerical_grads(value, (jnp.array(z1), jnp.array(z2)), order=1)


def test_gradient_is_finite_where_a_feature_is_dead():
    z1, z2 = (np.float32(z) for z in views(8, 3))
    z1[:, 0] = z2[:, 0] = 1.0
    gradients = jax.grad(value, argnums=(0, 1))(z1, z2)
    chex.assert_tree_all_finite(gradients)
