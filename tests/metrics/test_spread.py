import numpy as np
import pytest
from scipy import special

from jax_mrissl.metrics import spread
from jax_mrissl.metrics.spread import (
    alignment,
    effective_rank,
    embedding_std,
    uniformity,
)


def test_random_directions_have_spread_one():
    rows = np.random.default_rng(0).normal(size=(4000, 16))
    assert embedding_std(rows) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
def test_one_direction_has_no_spread_whatever_its_length(scale):
    rows = np.outer(np.linspace(1, 2, 10), np.arange(1, 5)) * scale
    assert embedding_std(rows) == pytest.approx(0, abs=1e-12)
    assert effective_rank(rows) == pytest.approx(1)


def test_opposite_directions_by_hand():
    # Unit rows are (1, 0) and (-1, 0): deviations 1 and 0, mean ½, times √2.
    rows = np.array([[3.0, 0.0], [-0.1, 0.0]])
    assert embedding_std(rows) == pytest.approx(np.sqrt(2) / 2)


@pytest.mark.parametrize('rank', [1, 2, 5])
def test_equal_singular_values_count_their_number(rank):
    rows = np.zeros((8, 6))
    rows[np.arange(rank), np.arange(rank)] = 7.0
    assert effective_rank(rows) == pytest.approx(rank)


def test_effective_rank_by_hand():
    # Shares ¾ and ¼.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(expected)


def test_effective_rank_is_that_of_random_directions_by_the_singular_values():
    """RankMe as its Eq. 1 has it, epsilon and all, by the Gram matrix."""
    rows = np.random.default_rng(0).normal(size=(30, 7)) + 2
    sigma = np.sqrt(np.linalg.eigvalsh(rows.T @ rows))
    p = sigma / sigma.sum() + 1e-7
    # The epsilon moves it by 2e-5.
    expected = np.exp(-(p * np.log(p)).sum())
    assert effective_rank(rows) == pytest.approx(expected, rel=1e-4)


def test_nothing_but_zeros_is_a_collapse():
    assert embedding_std(np.zeros((4, 3))) == 0
    assert effective_rank(np.zeros((4, 3))) == 1


def distance(x, y):
    """Squared distance of two rows' directions, feature by feature."""
    x, y = x / np.sqrt((x * x).sum()), y / np.sqrt((y * y).sum())
    return sum((p - q) ** 2 for p, q in zip(x, y, strict=True))


@pytest.mark.parametrize(('count', 'width'), [(2, 1), (5, 3), (17, 8)])
def test_alignment_and_uniformity_equal_scalar_loops(count, width):
    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(2, count, width))
    pairs = [distance(x, y) for x, y in zip(a, b, strict=True)]
    assert alignment(a, b) == pytest.approx(np.mean(pairs), abs=1e-12)
    potentials = [
        np.exp(-2 * distance(a[i], a[j])) for i in range(count) for j in range(i)
    ]
    # Distances by the Gram matrix lose half the digits near 0: seen 1e-15 here.
    assert uniformity(a) == pytest.approx(np.log(np.mean(potentials)), abs=1e-10)


def test_alignment_of_equal_opposite_and_orthogonal_views():
    rows = np.array([[3.0, 0.0], [0.0, 0.2]])
    assert alignment(rows, 5 * rows) == pytest.approx(0)
    assert alignment(rows, -rows) == pytest.approx(4)
    assert alignment(rows, rows[::-1]) == pytest.approx(2)


def test_a_collapse_has_uniformity_zero():
    assert uniformity(np.tile([[0.3, -2.0, 1.0]], (6, 1))) == pytest.approx(0)
    assert uniformity(np.zeros((4, 3))) == 0


def test_uniformity_of_an_even_circle():
    """d² = 2 - 2 cos: the mean of exp(4 cos - 4) over a circle is e⁻⁴ I0(4)."""
    count = 400
    angles = 2 * np.pi * np.arange(count) / count
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The trapezoid rule is exact here, but for the row with itself, exp(0), that the
    # mean over pairs leaves out.
    over_all = np.exp(-4) * special.i0(4)
    expected = np.log((over_all * count - 1) / (count - 1))
    assert uniformity(circle) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize('at_once', [1, 60, 10**6])
def test_uniformity_in_blocks_is_the_same(monkeypatch, at_once):
    rows = np.random.default_rng(0).normal(size=(23, 4))
    whole = uniformity(rows)
    monkeypatch.setattr(spread, '_DISTANCES_AT_ONCE', at_once)
    assert uniformity(rows) == pytest.approx(whole, abs=1e-12)


def test_uniformity_is_of_pairs():
    with pytest.raises(ValueError, match=r'pairs; 1 row'):
        uniformity(np.ones((1, 3)))
