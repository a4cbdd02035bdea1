import numpy as np
import pytest

from jax_mrissl.metrics.spread import effective_rank, embedding_std


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


def test_nothing_but_zeros_is_a_collapse():
    assert embedding_std(np.zeros((4, 3))) == 0
    assert effective_rank(np.zeros((4, 3))) == 1
