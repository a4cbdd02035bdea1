import numpy as np
import pytest
from scipy import optimize, stats

from jax_mrissl.metrics.adjustment import adjusted, independent


def cohort(seed=0, n=150, gain=1.0):
    rng = np.random.default_rng(seed)
    covariates = np.column_stack([rng.normal(70, 9, n), rng.integers(0, 2, n)])
    score = 0.05 * covariates[:, 0] + rng.normal(size=n)
    logit = 0.08 * (covariates[:, 0] - 70) + gain * (score - score.mean())
    return score, covariates, rng.random(n) < 1 / (1 + np.exp(-logit))


def likelihood(columns, positive):
    """Maximised by a simplex, which knows nothing of gradients."""
    design = np.column_stack([np.ones(len(columns)), columns])

    def loss(beta):
        return np.logaddexp(0, np.where(positive, -1, 1) * (design @ beta)).sum()

    options = {'xatol': 1e-9, 'fatol': 1e-11, 'maxiter': 50_000, 'maxfev': 50_000}
    start = np.zeros(design.shape[1])
    found = optimize.minimize(loss, start, method='Nelder-Mead', options=options)
    return -found.fun, found.x


def test_equals_maximum_likelihood_by_another_way():
    score, covariates, positive = cohort()
    found = adjusted(score, covariates, positive)
    z = [(c - c.mean()) / c.std() for c in (*covariates.T, score)]
    less, _ = likelihood(np.column_stack(z[:2]), positive)
    more, beta = likelihood(np.column_stack(z), positive)
    assert found.odds_ratio.value == pytest.approx(np.exp(beta[-1]), rel=1e-3)
    assert found.p == pytest.approx(stats.chi2.sf(2 * (more - less), 1), rel=1e-2)
    assert found.odds_ratio.low < found.odds_ratio.value < found.odds_ratio.high
    # Wald's interval and the likelihood ratio tell the same where there is enough.
    assert (found.odds_ratio.low > 1) == (found.p < 0.05)


def test_the_units_of_score_and_covariates_change_nothing():
    score, covariates, positive = cohort()
    first = adjusted(score, covariates, positive)
    second = adjusted(3 + 7 * score, covariates * [365.0, 2.0] - 5, positive)
    assert second.odds_ratio.value == pytest.approx(first.odds_ratio.value, rel=1e-5)
    assert second.p == pytest.approx(first.p, rel=1e-4)


def test_a_score_without_knowledge_is_found_one_time_in_twenty():
    p = [adjusted(*cohort(seed, n=100, gain=0.0)).p for seed in range(250)]
    # The standard error is 1.4 %.
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.085


def test_columns_that_say_nothing_new_are_left_out():
    _, covariates, _ = cohort()
    age, other = covariates.T
    constant = np.full(len(age), 3.0)
    columns = np.column_stack([constant, age, 365 * age + 1, other, age - 2 * other])
    assert independent(columns) == [1, 3]
    assert independent(constant[:, None]) == []


def test_what_cannot_be_told_is_undefined():
    score, covariates, positive = cohort(n=60)
    apart = adjusted(positive + 0.001 * score, covariates, positive)
    assert apart.odds_ratio.value is None and apart.p is None
    # Age again tells nothing beside age.
    assert adjusted(covariates[:, 0], covariates, positive).p is None
