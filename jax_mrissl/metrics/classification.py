"""How good class probabilities are, and what they are for subjects.

A few numbers that training and checks need at once; `panel` has all that are reported,
with intervals.
"""

import dataclasses
import math

import numpy as np
from sklearn import metrics

Array = np.ndarray

# A probability of zero for what then happens would cost infinitely much.
SMALLEST_PROBABILITY = 1e-7
# Rows that miss a sum of one by more are no probabilities; float16 misses by 1e-3.
_SUM_TOLERANCE = 5e-3


def log_loss(probabilities: Array, labels: Array) -> float:
    """Mean of -ln(probability of the true class), clipped at 1e-7; lower is better."""
    probabilities, labels = checked(probabilities, labels)
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0)).mean())


def accuracy(probabilities: Array, labels: Array) -> float:
    """Share of rows whose most probable class is the true one (ties: the first)."""
    probabilities, labels = checked(probabilities, labels)
    return float((probabilities.argmax(1) == labels).mean())


def auroc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve of two classes, ties counting one half.

    Args:
        scores: float [n], higher for the positive class.
        positive: bool [n].

    Returns: NaN where one of the classes does not occur.
    """
    if positive.all() or not positive.any():
        return math.nan
    return float(metrics.roc_auc_score(positive, scores))


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
