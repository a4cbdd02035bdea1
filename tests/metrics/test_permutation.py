"""Values among those of permuted labels: against scikit-learn, SciPy and a count."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from jax_mrissl.metrics.permutation import permuted_auroc, permuted_spearman


def told(rng, labels, skill):
    """Draws probabilities of three classes that know the label by some skill."""
    logits = rng.normal(size=(len(labels), 3))
    logits[np.arange(len(labels)), labels] += skill
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True)


def test_the_value_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [20, 15, 5]))
    probabilities = told(rng, labels, 1.0)
    found = permuted_auroc(probabilities, labels, permutations=10)
    expected = roc_auc_score(labels, probabilities, multi_class='ovr', average='macro')
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_all_permutations_of_a_few_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    p = np.array([0.1, 0.2, 0.6, 0.5, 0.9])
    both = np.stack([1 - p, p], 1)
    every = [
        roc_auc_score(order, p)
        for order in set(itertools.permutations(labels.tolist()))
    ]
    found = permuted_auroc(both, labels, permutations=20_000)
    assert found.value == pytest.approx(5 / 6)
    assert found.p == pytest.approx(np.mean(np.array(every) >= 5 / 6 - 1e-9), abs=0.01)


def test_numbers_are_ranked_as_scipy_does():
    rng = np.random.default_rng(1)
    truth = np.round(rng.gamma(1.0, 2.0, 60))  # with ties
    value = truth + rng.normal(0, 3, 60)
    found = permuted_spearman(value, truth)
    expected = stats.spearmanr(value, truth)
    assert found.value == pytest.approx(expected.statistic, abs=1e-12)
    assert found.low < -0.2 and found.high > 0.2 and not found.is_inside
    assert found.p < 0.01


def test_without_skill_nineteen_of_twenty_are_inside():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [30, 15, 15])
    inside = [
        permuted_auroc(told(rng, labels, 0.0), labels, permutations=400).is_inside
        for _ in range(400)
    ]
    assert 0.92 < np.mean(inside) < 0.98


def test_one_class_has_no_ranking():
    with pytest.raises(ValueError, match='one class alone'):
        permuted_auroc(np.full((3, 2), 0.5), np.zeros(3, int))
