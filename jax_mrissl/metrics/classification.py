"""How good class probabilities are: one value, or one for each of many resamples.

Every metric takes probabilities, float [n, K], labels, int [n] in 0 … K-1, and
optionally weights of the rows: float or int [n], or [R, n] for R values at once, as a
bootstrap needs them. Without weights each row counts once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray

# A probability of zero for what then happens would cost infinitely much.
SMALLEST_PROBABILITY = 1e-7
# Rows that miss a sum of one by more are no probabilities; float16 misses by 1e-3.
_SUM_TOLERANCE = 5e-3


def log_loss(
    probabilities: Array, labels: Array, *, weights: Array | None = None
) -> Any:
    """Mean of -ln(probability of the true class), clipped at 1e-7; lower is better.

    Returns:
        float without weights or with weights [n]; float64 [R] with [R, n].
    """
    probabilities, labels = checked(probabilities, labels)
    true = probabilities[np.arange(len(labels)), labels]
    return _mean(-np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0)), weights)


def accuracy(
    probabilities: Array, labels: Array, *, weights: Array | None = None
) -> Any:
    """Share of rows whose most probable class is the true one (ties: the first)."""
    probabilities, labels = checked(probabilities, labels)
    right = probabilities.argmax(1) == labels
    return _mean(right.astype(np.float64), weights)


def balanced_accuracy(
    probabilities: Array, labels: Array, *, weights: Array | None = None
) -> Any:
    """Mean over the classes that occur of the share found of each."""
    confusion = _confusion(probabilities, labels, weights)
    size = confusion.sum(axis=-1)
    found = np.diagonal(confusion, axis1=-2, axis2=-1)
    occurs = size > 0
    recall = np.divide(found, size, out=np.zeros_like(size), where=occurs)
    return _plain(recall.sum(-1) / occurs.sum(-1))


def brier(probabilities: Array, labels: Array, *, weights: Array | None = None) -> Any:
    """Mean squared distance to the truth, summed over the classes: from 0 to 2.

    Brier's own definition; for two classes it is twice the binary score.
    """
    probabilities, labels = checked(probabilities, labels)
    truth = np.eye(probabilities.shape[1])[labels]
    return _mean(((probabilities - truth) ** 2).sum(1), weights)


def macro_auroc(
    probabilities: Array, labels: Array, *, weights: Array | None = None
) -> Any:
    """Mean over the K classes of the area under the one-versus-rest ROC curve.

    The area is the probability that a row of the class scores higher than a row of
    the rest, ties counting one half. NaN where a class, or its rest, has no weight.
    """
    probabilities, labels = checked(probabilities, labels)
    weights = None if weights is None else _weights(weights, len(labels))
    areas = [
        auroc(probabilities[:, k], labels == k, weights=weights)
        for k in range(probabilities.shape[1])
    ]
    return _plain(np.mean(areas, axis=0))


def auroc(scores: Array, positive: Array, *, weights: Array | None = None) -> Any:
    """Area under the ROC curve of two classes, ties counting one half.

    Args:
        scores: float [n], higher for the positive class.
        positive: bool [n].
        weights: of the rows, [n] or [R, n].

    Returns:
        float or float64 [R]; NaN where one of the classes has no weight.
    """
    w = _weights(weights, len(scores))
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind='stable')]
    positives = np.flatnonzero(positive)
    # below[..., j] is the weight of the j lowest negatives.
    below = np.zeros((*w.shape[:-1], len(negatives) + 1))
    np.cumsum(w[..., negatives], axis=-1, out=below[..., 1:])
    ranked = scores[negatives]
    lower = below[..., np.searchsorted(ranked, scores[positives], side='left')]
    lower += below[..., np.searchsorted(ranked, scores[positives], side='right')]
    w_positive = w[..., positives]
    concordant = np.einsum('...i,...i->...', w_positive, lower) / 2
    pairs = w_positive.sum(-1) * below[..., -1]
    undefined = np.full_like(concordant, np.nan)
    return _plain(np.divide(concordant, pairs, out=undefined, where=pairs > 0))


def quadratic_kappa(
    probabilities: Array, labels: Array, *, weights: Array | None = None
) -> Any:
    """Cohen's kappa with quadratic weights: for classes that are steps of a scale.

    1 is perfect, 0 is what the margins give by chance. NaN where one class is all
    that occurs and all that is predicted.
    """
    observed = _confusion(probabilities, labels, weights)
    steps = np.arange(observed.shape[-1])
    distance = np.subtract.outer(steps, steps) ** 2.0
    total = observed.sum((-1, -2))
    expected = observed.sum(-1)[..., :, None] * observed.sum(-2)[..., None, :]
    seen = (observed * distance).sum((-1, -2)) * total
    chance = (expected * distance).sum((-1, -2))
    undefined = np.full_like(seen, np.nan)
    return _plain(1 - np.divide(seen, chance, out=undefined, where=chance > 0))


Metric = Callable[..., Any]
METRICS: Mapping[str, Metric] = {
    'log_loss': log_loss,
    'accuracy': accuracy,
    'balanced_accuracy': balanced_accuracy,
    'macro_auroc': macro_auroc,
    'brier': brier,
    'quadratic_kappa': quadratic_kappa,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subjects:
    """Predictions for N subjects, in the order of their ids.

    Attributes:
        ids: text [N], sorted.
        probabilities: float64 [N, K].
        labels: int [N].
        rows: int [n], the subject, 0 … N-1, of each slice.
    """

    ids: Array
    probabilities: Array
    labels: Array
    rows: Array


def by_subject(probabilities: Array, labels: Array, groups: Array) -> Subjects:
    """Averages the class probabilities of each subject's slices.

    Args:
        probabilities: float [n, K], calibrated, of the slices.
        labels: int [n].
        groups: text [n], the subject of each slice.

    Raises:
        ValueError: slices of one subject differ in their labels.
    """
    probabilities, labels = checked(probabilities, labels)
    ids, first, rows, sizes = np.unique(
        np.asarray(groups), return_index=True, return_inverse=True, return_counts=True
    )
    if len(rows) != len(labels):
        raise ValueError(f'{len(labels)} labels, but {len(rows)} groups.')
    torn = rows[labels != labels[first][rows]]
    if len(torn):
        raise ValueError(f'Subject {ids[torn[0]]} has slices with different labels.')
    sums = np.zeros((len(ids), probabilities.shape[1]))
    np.add.at(sums, rows, probabilities)
    # Sums of equal numbers differ in their last digits with how many there are; without
    # the rounding a constant guess would rank the subjects by their number of slices.
    means = np.round(sums / sizes[:, None], 12)
    return Subjects(ids, means, labels[first], rows)


def checked(probabilities: Array, labels: Array) -> tuple[Array, Array]:
    """Gives float64 [n, K] and int64 [n], or raises ValueError saying what is wrong."""
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            'Expected probabilities [n, K] and labels [n]; found '
            f'{probabilities.shape} and {labels.shape}.'
        )
    if not len(labels):
        raise ValueError('There is no row to measure.')
    classes = probabilities.shape[1]
    if labels.dtype.kind not in 'iu' or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f'Labels must be whole numbers in 0 … {classes - 1}; found '
            f'{labels.dtype} {labels.min()} … {labels.max()}.'
        )
    off = np.abs(probabilities.sum(1) - 1).max()
    # Written so that NaN fails too.
    if not (off <= _SUM_TOLERANCE and probabilities.min() >= 0):
        raise ValueError(
            f'Rows of probabilities must be at least 0 and add up to 1; found one that '
            f'misses it by {off:.2g}, and a lowest of {probabilities.min():.2g}.'
        )
    return probabilities, labels.astype(np.int64)


def _weights(weights: Array | None, rows: int) -> Array:
    if weights is None:
        return np.ones(rows)
    weights = np.asarray(weights, np.float64)
    if weights.ndim not in (1, 2) or weights.shape[-1] != rows:
        raise ValueError(
            f'Expected weights [{rows}] or [R, {rows}]; found {weights.shape}.'
        )
    return weights


def _mean(values: Array, weights: Array | None) -> Any:
    w = _weights(weights, len(values))
    return _plain(w @ values / w.sum(-1))


def _confusion(probabilities: Array, labels: Array, weights: Array | None) -> Array:
    """Weight of each (true, predicted) pair of classes, [..., K, K]."""
    probabilities, labels = checked(probabilities, labels)
    classes = probabilities.shape[1]
    cell = labels * classes + probabilities.argmax(1)
    w = _weights(weights, len(labels))
    counts = w @ np.eye(classes**2)[cell]
    return counts.reshape(*w.shape[:-1], classes, classes)


def _plain(value: Any) -> Any:
    """Makes a Python float of a single number."""
    return float(value) if np.ndim(value) == 0 else value
