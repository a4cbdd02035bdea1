"""What a picture of results is drawn from: confusion, and points of ROC curves."""

import numpy as np
from scipy import stats
from sklearn import metrics

from jax_mrissl.metrics.classification import checked

Array = np.ndarray


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
