"""How much frozen features tell: multinomial logistic regression, fitted to its end."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from scipy import special
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from jax_mrissl.core.errors import UserError
from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.classification import by_subject, log_loss

Array = np.ndarray

# Of the gradient of the mean loss. Ten times less took three times as long at
# 4,096 x 512 and moved no training log loss by more than 3e-4.
_TOLERANCE = 1e-4
_MAX_ITERATIONS = 5000
# A class that training never showed: unlikely, about 1 in 10,000, but not impossible.
_LOGIT_OF_UNSEEN = -9.0


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted probe.

    Attributes:
        l2_strength: the one of the grid that was chosen.
        training_log_loss: mean over the training rows, without the penalty.
        validation_log_loss: by subject, what the strength was chosen by.
        converged: whether every fit of the grid ended within its iterations.
        at_edge: whether the strength is the grid's first or last, so that a wider
            grid might do better.
        model: its weights.
    """

    l2_strength: float
    training_log_loss: float
    validation_log_loss: float
    converged: bool
    at_edge: bool
    model: 'LinearModel'

    def logits(self, features: Array) -> Array:
        """Gives float64 [n, K] for features, float [n, F]."""
        return self.model.logits(features)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    """The numbers of a fitted probe: enough to predict again.

    Attributes:
        mean, scale: float64 [F], of the training rows; features are standardised.
        weights: float64 [F, K].
        bias: float64 [K].
        unseen: bool [K], the classes that training never showed.
    """

    mean: Array
    scale: Array
    weights: Array
    bias: Array
    unseen: Array

    def logits(self, features: Array) -> Array:
        """Gives float64 [n, K] for features, float [n, F]."""
        rows = (np.asarray(features, np.float64) - self.mean) / self.scale
        return _logits(rows, self.weights, self.bias, self.unseen)

    def save(self, path: Path) -> None:
        """Writes the numbers as NumPy's `.npz`."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> 'LinearModel':
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in stored.files})


def fit_linear_probe(
    train: Array,
    train_labels: Array,
    held: Array,
    held_labels: Array,
    held_groups: Array,
    *,
    classes: int,
    l2_strengths: Sequence[float],
) -> LinearProbe:
    """Fits a probe for each strength; keeps the best by validation log loss.

    Features are standardised by the training rows. The penalty is strength / 2 times
    the squared weights (not the biases), beside the SUM of the log losses over rows:
    strength is 1 / C of scikit-learn. Fits go from strong to weak, each from the one
    before. Validation is by subject: the mean of its slices' probabilities.

    Args:
        train: float [n, F].
        train_labels: int [n], in 0 … K-1. A class that does not occur gets a
            very low logit.
        held: float [m, F], the validation rows.
        held_labels: int [m].
        held_groups: text [m], the subject of each validation row.
        classes: K.
        l2_strengths: the grid.

    Raises:
        UserError: features that are not finite, or fewer than two classes in
            training.
    """
    train = np.asarray(train, np.float64)
    held = np.asarray(held, np.float64)
    _expect_finite(train, held)
    seen, targets = np.unique(train_labels, return_inverse=True)
    if len(seen) < 2:
        raise UserError(
            f'A probe needs two classes in training; found {len(seen)} in '
            f'{len(train)} rows. Take fewer folds: --config.finetune.folds.'
        )
    mean, scale = _standard(train)
    rows, held_rows = (train - mean) / scale, (held - mean) / scale
    strengths = sorted(set(map(float, l2_strengths)), reverse=True)
    unseen = ~np.isin(np.arange(classes), seen)
    model = LogisticRegression(
        tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True
    )
    best: LinearProbe | None = None
    converged = True
    for strength in strengths:
        model.set_params(C=1 / strength)
        # The threads of so small a matrix product wait for each other on a busy
        # machine: up to 0.2 s an iteration instead of 3 ms, at 4,096 x 512 on 2 cores.
        with threadpool_limits(1), warnings.catch_warnings():
            # Told by the log below, and kept in `converged`.
            warnings.simplefilter('ignore', ConvergenceWarning)
            model.fit(rows, targets)
        if model.n_iter_.max() >= _MAX_ITERATIONS:
            converged = False
            logging.warning(
                'The linear probe with L2 strength %g did not converge in %d '
                'iterations.',
                strength,
                _MAX_ITERATIONS,
            )
        weights, bias = _spread(model, seen, classes)
        held_subjects = by_subject(
            softmax(_logits(held_rows, weights, bias, unseen)), held_labels, held_groups
        )
        held_loss = log_loss(held_subjects.probabilities, held_subjects.labels)
        # On a tie the stronger penalty stays.
        if best is None or held_loss < best.validation_log_loss:
            own = softmax(_logits(rows, weights, bias, unseen))
            best = LinearProbe(
                l2_strength=strength,
                training_log_loss=log_loss(own, train_labels),
                validation_log_loss=held_loss,
                converged=True,
                at_edge=strength in (strengths[0], strengths[-1]),
                model=LinearModel(mean, scale, weights, bias, unseen),
            )
    if best is None:
        raise ValueError('The grid of L2 strengths is empty.')
    return dataclasses.replace(best, converged=converged)


def fit_ridge(train: Array, targets: Array, *, l2_strength: float) -> LinearModel:
    """Fits ridge regression of one number, in closed form.

    Features are standardised by the training rows. The penalty is strength times the
    squared weights (not the bias), beside the sum of the squared errors over rows.

    Args:
        train: float [n, F].
        targets: float [n].
        l2_strength: above 0.

    Returns: a model whose `logits`, [n, 1], are the number.

    Raises:
        UserError: features that are not finite.
    """
    train = np.asarray(train, np.float64)
    _expect_finite(train)
    mean, scale = _standard(train)
    model = Ridge(alpha=l2_strength).fit((train - mean) / scale, targets)
    return LinearModel(
        mean,
        scale,
        model.coef_[:, None],
        np.array([model.intercept_]),
        np.zeros(1, bool),
    )


def _expect_finite(*features: Array) -> None:
    if not all(np.isfinite(rows).all() for rows in features):
        raise UserError(
            'Some features of the encoder are not finite: its training diverged. Train '
            'it with a lower learning rate.'
        )


def _standard(train: Array) -> tuple[Array, Array]:
    """Gives mean and scale of features, [F]."""
    mean, scale = train.mean(0), train.std(0)
    # What varies no more than float32 rounds is dead, and must not be blown up.
    scale[scale <= 1e-6 * (np.abs(mean) + scale.max())] = 1.0
    return mean, scale


def _spread(
    model: LogisticRegression, seen: Array, classes: int
) -> tuple[Array, Array]:
    """Gives weights [F, K] and biases [K], zero for classes that were not seen."""
    coefficients, intercepts = model.coef_, model.intercept_
    if len(seen) == 2:  # one row, for the second class against the first
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weights = np.zeros((coefficients.shape[1], classes))
    bias = np.zeros(classes)
    weights[:, seen], bias[seen] = coefficients.T, intercepts
    return weights, bias


def _logits(rows: Array, weights: Array, bias: Array, unseen: Array) -> Array:
    logits = rows @ weights + bias
    if unseen.any():
        seen = special.logsumexp(logits[:, ~unseen], axis=1, keepdims=True)
        logits[:, unseen] = seen + _LOGIT_OF_UNSEEN
    return logits
