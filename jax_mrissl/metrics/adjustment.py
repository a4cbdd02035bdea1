"""Whether a score tells more than what is known anyway, such as age and sex."""

import dataclasses
import warnings

import numpy as np
from scipy import special, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from jax_mrissl.core.results import Estimate

Array = np.ndarray

# A coefficient of a standardised column, or its error, beyond which classes are as good
# as apart and the likelihood has no maximum.
_APART = 15.0
# Deviations of a standardised column, beyond those before it, that are rounding.
_SAME = 1e-6
# Of a normal distribution, for 95 % intervals.
_QUANTILE = float(stats.norm.ppf(0.975))


@dataclasses.dataclass(frozen=True)
class Adjusted:
    """What a score adds to a logistic regression on covariates.

    Attributes:
        odds_ratio: of the positive class, for a score one standard deviation higher
            and the same covariates; Wald's 95 % interval. Undefined where covariates
            and score tell the classes apart without error.
        p: of the likelihood ratio of the models with and without the score, one degree
            of freedom; None where undefined.
    """

    odds_ratio: Estimate
    p: float | None


def adjusted(scores: Array, covariates: Array, positive: Array) -> Adjusted:
    """Fits the positive class to covariates, with the score and without it.

    The score must be of subjects that the arm was not trained on, so that it is worth
    no more than it is for new ones. No penalty.

    Args:
        scores: float [N], of the subjects.
        covariates: float [N, C], none a combination of the others: `independent`.
        positive: bool [N], both of which occur.

    Source: Vickers, Cronin & Begg 2011 (BMC Med Res Methodol 11:13): one test, the
    likelihood ratio, says whether a new marker adds to known ones; a difference of
    AUROC would test the same with less power.
    """
    known = _standardised(covariates)
    whole = np.column_stack([known, _standardised(scores[:, None])])
    # Threads of so small matrix products wait for each other on a busy machine.
    with threadpool_limits(1):
        less, _ = _fit(known, positive)
        more, (coefficient, error) = _fit(whole, positive)
    if not max(abs(coefficient), error) < _APART:
        return Adjusted(Estimate(None), None)
    low, high = coefficient - _QUANTILE * error, coefficient + _QUANTILE * error
    ratio, low, high = (float(np.exp(c)) for c in (coefficient, low, high))
    return Adjusted(
        Estimate(ratio, low, high), float(stats.chi2.sf(2 * max(0.0, more - less), 1))
    )


def independent(columns: Array) -> list[int]:
    """Says which columns are no combination of those before them, nor constant.

    Args:
        columns: float [N, C].

    Returns: their indices, in order.
    """
    kept: list[int] = []
    basis = np.zeros((len(columns), 0))
    for index, column in enumerate(_standardised(columns).T):
        rest = column - basis @ (basis.T @ column)
        length = float(np.linalg.norm(rest))
        if length > _SAME * len(columns) ** 0.5:
            kept.append(index)
            basis = np.column_stack([basis, rest / length])
    return kept


def _standardised(columns: Array) -> Array:
    return (columns - columns.mean(0)) / np.maximum(columns.std(0), 1e-12)


def _fit(columns: Array, positive: Array) -> tuple[float, tuple[float, float]]:
    """Gives the log likelihood, and the last column's coefficient and its error."""
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    with warnings.catch_warnings():
        # Of classes that are apart; the caller sees it by the coefficient.
        warnings.simplefilter('ignore', ConvergenceWarning)
        model.fit(columns, positive)
    design = np.column_stack([np.ones(len(columns)), columns])
    logits = model.decision_function(columns)
    signed = np.where(positive, logits, -logits)
    likelihood = float(special.log_expit(signed).sum())
    spread = special.expit(logits) * special.expit(-logits)
    information = design.T @ (spread[:, None] * design)
    # Columns that are combinations of others leave no own coefficient.
    if np.linalg.cond(information) > 1e10:
        return likelihood, (float(model.coef_[0, -1]), np.inf)
    error = np.sqrt(np.linalg.inv(information)[-1, -1])
    return likelihood, (float(model.coef_[0, -1]), float(error))
