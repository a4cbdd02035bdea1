"""Counts and corners against hand-made cases and the area that they must have."""

import numpy as np
import pytest

from jax_mrissl.metrics.classification import auroc
from jax_mrissl.metrics.curves import confusion, roc_points, share_interval


def test_confusion_counts_true_classes_in_rows():
    told = np.array([0, 1, 1, 0])
    probabilities = np.eye(3)[told]
    labels = np.array([0, 0, 1, 2])
    found = confusion(probabilities, labels)
    np.testing.assert_array_equal(found, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize('ties', [1000, 4])
def test_the_area_under_the_corners_is_auroc(ties):
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(60) * ties) / ties
    positive = rng.random(60) < 0.4
    x, y = roc_points(scores, positive)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(auroc(scores, positive))


def test_the_interval_of_a_share_is_wilsons():
    """By the formula: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    p, n, z = 0.25, 8, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = share_interval(np.array([p, 1.0]), np.array([n, 1]))
    assert low[0] == pytest.approx((middle - half) / (1 + z**2 / n))
    assert high[0] == pytest.approx((middle + half) / (1 + z**2 / n))
    assert high[1] == pytest.approx(1)
