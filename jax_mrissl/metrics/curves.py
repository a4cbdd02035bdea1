"""What a picture of results is drawn from: confusion, and points of ROC curves."""

import numpy as np
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
