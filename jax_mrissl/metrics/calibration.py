"""Whether a probability means what it says, and one number that helps: temperature."""

import dataclasses

import numpy as np
from scipy import optimize, special

from jax_mrissl.metrics.classification import checked

Array = np.ndarray

# Logits are divided by at least the first and at most the second. Where validation
# is told apart perfectly, the best temperature is 0: certainty without limit.
TEMPERATURE_BOUNDS = (0.05, 20.0)


def softmax(logits: Array, *, temperature: float = 1.0) -> Array:
    """Turns logits, float [n, K], divided by `temperature`, into probabilities."""
    return special.softmax(np.asarray(logits, np.float64) / temperature, axis=-1)


def fit_temperature(logits: Array, labels: Array) -> float:
    """Finds the temperature of lowest log loss.

    The log loss is convex in 1 / temperature, so the one minimum within the bounds is
    found; never is the log loss on these rows made worse.

    Args:
        logits: float [n, K], of the validation rows: those of training are too sure.
        labels: int [n], in 0 … K-1.

    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    logits = np.asarray(logits, np.float64)
    _, labels = checked(softmax(logits), labels)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return -special.log_softmax(scaled, axis=-1)[rows, labels].mean()

    found = optimize.minimize_scalar(
        loss,
        bounds=np.log(TEMPERATURE_BOUNDS),
        method='bounded',
        options={'xatol': 1e-6},
    )
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """Bins of predictions by their confidence, from the least to the most.

    Attributes:
        confidence: float64 [b], the mean probability of the predicted class.
        accuracy: float64 [b], the share of right predictions.
        count: int [b], how many predictions are in the bin.
    """

    confidence: Array
    accuracy: Array
    count: Array

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: |accuracy - confidence|, mean over rows."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.average(gaps, weights=self.count))


def reliability(probabilities: Array, labels: Array, *, bins: int = 15) -> Reliability:
    """Compares confidence with accuracy in bins of equal mass.

    Equal confidences share a bin, so the rows' order does not matter, and a constant
    guess has one bin. Few rows make the error look larger than it is: with 200
    subjects take few bins.

    Args:
        probabilities: float [n, K].
        labels: int [n], in 0 … K-1.
        bins: at most so many.

    Source: Nguyen & O'Connor 2015 (arXiv:1508.05154), adaptive binning.
    """
    probabilities, labels = checked(probabilities, labels)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = reliability_bins(probabilities, bins=bins)
    count = np.bincount(place)
    return Reliability(
        confidence=np.bincount(place, weights=confidence) / count,
        accuracy=np.bincount(place, weights=right) / count,
        count=count,
    )


def reliability_bins(probabilities: Array, *, bins: int) -> Array:
    """Gives the bin of each row, int [n]: equal mass, equal confidences together."""
    confidence = probabilities.max(1)
    rank = np.searchsorted(np.sort(confidence), confidence, side='left')
    return np.unique(rank * bins // len(rank), return_inverse=True)[1]
