"""What a picture of results is drawn from: confusion, and points of ROC curves."""

from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

from jax_mrissl.metrics.calibration import reliability
from jax_mrissl.metrics.classification import checked
from jax_mrissl.metrics.panel import CALIBRATION_BINS

Array = np.ndarray
# Of a point of a plot, in JSON.
_DIGITS = 5


def curves_json(
    probabilities: Array, labels: Array, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Gives the numbers behind all plots of class probabilities, as plain values.

    Args:
        probabilities: float [n, K].
        labels: int [n], in 0 … K-1.
        classes: K names.

    Returns:
        `confusion`, true classes in rows; `reliability`: `confidence`, `accuracy` and
        `count` of bins; `roc` of each class against the rest that can be told:
        `class`, `fall_out`, `sensitivity`.
    """
    bins = reliability(probabilities, labels, bins=CALIBRATION_BINS)
    curves = []
    for index, name in enumerate(classes):
        own = labels == index
        if own.any() and not own.all():
            fall_out, sensitivity = roc_points(probabilities[:, index], own)
            curves.append(
                {
                    'class': name,
                    'fall_out': _listed(fall_out),
                    'sensitivity': _listed(sensitivity),
                }
            )
    return {
        'confusion': confusion(probabilities, labels).tolist(),
        'reliability': {
            'confidence': _listed(bins.confidence),
            'accuracy': _listed(bins.accuracy),
            'count': bins.count.tolist(),
        },
        'roc': curves,
    }


def confusion(probabilities: Array, labels: Array) -> Array:
    """Counts rows by true and by most probable class (ties: the first).

    Args:
        probabilities: float [n, K].
        labels: int [n], in 0 … K-1.

    Returns: int64 [K, K], true classes in rows.
    """
    probabilities, labels = checked(probabilities, labels)
    classes = range(probabilities.shape[1])
    return metrics.confusion_matrix(labels, probabilities.argmax(1), labels=classes)


def roc_points(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Gives the corners of a ROC curve: 1 - specificity and sensitivity, float64 [m].

    Args:
        scores: float [n], higher for the positive class.
        positive: bool [n], both of which occur.
    """
    fall_out, sensitivity, _ = metrics.roc_curve(positive, scores)
    return fall_out, sensitivity


def share_interval(share: Array, count: Array) -> tuple[Array, Array]:
    """Gives the 95 % intervals of shares of counts, by Wilson; float64 [b] each."""
    ends = [
        stats.binomtest(round(s * n), int(n)).proportion_ci(method='wilson')
        for s, n in zip(share, count, strict=True)
    ]
    return np.array([e.low for e in ends]), np.array([e.high for e in ends])


def _listed(values: Array) -> list[float]:
    return np.round(values, _DIGITS).tolist()
