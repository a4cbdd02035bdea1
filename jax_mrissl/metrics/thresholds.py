"""Where a score becomes a decision: a threshold that validation fixes."""

import numpy as np

Array = np.ndarray

# Where validation cannot say: neither class is favoured.
NEUTRAL = 0.5


def youden_threshold(scores: Array, positive: Array) -> float:
    """Finds the threshold of the largest sensitivity + specificity.

    Between two neighbouring scores it lies half-way, so that it favours neither. Of
    equally good ones the median is taken.

    Args:
        scores: float [n] in [0, 1], the probability of the positive class.
        positive: bool [n].

    Returns:
        Scores of at least it are told positive. `NEUTRAL` where one of the classes
        does not occur.

    Source: Youden 1950, Index for rating diagnostic tests.
    """
    if positive.all() or not positive.any():
        return NEUTRAL
    levels = np.unique(scores)
    candidates = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    told = scores[None, :] >= candidates[:, None]
    index = told[:, positive].mean(1) - told[:, ~positive].mean(1)
    best = np.flatnonzero(index >= index.max() - 1e-12)
    return float(candidates[best[(len(best) - 1) // 2]])
