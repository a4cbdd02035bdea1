import numpy as np
import pytest
from scipy import special

from jax_mrissl.metrics.calibration import (
    TEMPERATURE_BOUNDS,
    fit_temperature,
    reliability,
    softmax,
)
from jax_mrissl.metrics.classification import log_loss


def drawn(rows, temperature, seed=0):
    """Logits that are right when divided by `temperature`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, 3))
    p = softmax(logits)
    labels = (rng.random((rows, 1)) > p.cumsum(1)).sum(1)
    return logits * temperature, labels


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
def test_finds_the_temperature_that_was_put_in(temperature):
    logits, labels = drawn(20_000, temperature)
    # The standard error at 20,000 rows is 1 %.
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.04)


def test_no_temperature_on_a_grid_is_better():
    logits, labels = drawn(100, 2.5, seed=1)
    best = fit_temperature(logits, labels)
    grid = np.geomspace(*TEMPERATURE_BOUNDS, 400)
    losses = [log_loss(softmax(logits, temperature=t), labels) for t in grid]
    assert log_loss(softmax(logits, temperature=best), labels) <= min(losses) + 1e-9


def test_perfect_logits_end_at_the_lower_bound():
    labels = np.array([0, 1, 2])
    assert fit_temperature(np.eye(3), labels) == pytest.approx(
        TEMPERATURE_BOUNDS[0], rel=1e-3
    )


def test_worthless_logits_are_flattened():
    logits = 50 * np.eye(3)
    found = fit_temperature(logits, np.array([1, 2, 0]))
    assert found == pytest.approx(TEMPERATURE_BOUNDS[1], rel=1e-3)


def test_logits_that_say_nothing_are_left_as_they_are():
    assert fit_temperature(np.zeros((4, 3)), np.array([0, 1, 2, 2])) == 1.0


def test_scaling_the_logits_scales_the_temperature():
    logits, labels = drawn(300, 1.0, seed=2)
    assert fit_temperature(3 * logits, labels) == pytest.approx(
        3 * fit_temperature(logits, labels), rel=1e-4
    )


def test_softmax_of_large_and_single_precision_logits():
    logits = np.array([[1e4, 0.0], [-1e4, 1.0]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[1, 0], [0, 1]])
    np.testing.assert_allclose(
        softmax(np.array([[1.0, 3.0]]), temperature=2.0), special.softmax([[0.5, 1.5]])
    )


def test_calibration_error_by_hand():
    confidence = np.array([0.6, 0.7, 0.8, 0.9])
    p = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([0, 1, 0, 0])
    found = reliability(p, labels, bins=2)
    np.testing.assert_allclose(found.confidence, [0.65, 0.85])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0])
    assert found.count.tolist() == [2, 2]
    assert found.calibration_error == pytest.approx((0.15 + 0.15) / 2)


def test_a_constant_guess_of_the_shares_is_calibrated():
    p = np.tile([0.75, 0.25], (8, 1))
    labels = np.array([0, 0, 0, 1] * 2)
    assert reliability(p, labels).count.tolist() == [8]
    assert reliability(p, labels).calibration_error == pytest.approx(0.0)


def test_bins_hold_equal_numbers_whatever_the_order():
    logits, labels = drawn(300, 1.0, seed=3)
    p = softmax(logits)
    assert set(reliability(p, labels, bins=10).count) == {30}
    order = np.random.default_rng(0).permutation(300)
    assert reliability(p[order], labels[order]).calibration_error == pytest.approx(
        reliability(p, labels).calibration_error
    )


def test_overconfidence_shows_and_temperature_mends_it():
    logits, labels = drawn(20_000, 3.0, seed=4)
    assert reliability(softmax(logits), labels).calibration_error > 0.1
    mended = softmax(logits, temperature=fit_temperature(logits, labels))
    # What 15 bins of 1,333 rows show by chance is about 0.01.
    assert reliability(mended, labels).calibration_error < 0.02
