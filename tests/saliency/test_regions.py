import numpy as np
import pytest
from scipy import stats

from jax_mrissl.saliency.regions import (
    blurred,
    dark_inside,
    foreground,
    otsu,
    rank_correlation,
    share,
)


def head():
    """A bright disc with a dark hole, beside a small bright speck, on black."""
    rows, columns = np.mgrid[:64, :64]
    radius = np.hypot(rows - 30, columns - 34)
    image = np.where(radius < 20, 0.6, 0.02)
    hole = radius < 5
    image[hole] = 0.1
    image[60:63, 2:5] = 0.9
    return image, radius < 20, hole


def test_the_head_is_the_largest_bright_region_with_its_holes():
    image, disc, hole = head()
    inside = foreground(image)
    np.testing.assert_array_equal(inside, disc)
    np.testing.assert_array_equal(dark_inside(image, inside), hole)
    assert foreground(np.zeros((8, 8))).all()  # nothing is there: all of it


def test_otsu_maximises_the_variance_between_two_groups():
    rng = np.random.default_rng(0)
    image = np.concatenate([rng.normal(0.2, 0.05, 3000), rng.normal(0.7, 0.1, 1000)])
    image = np.clip(image, 0, 1)

    def between(cut):
        low, high = image[image <= cut], image[image > cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    cuts = np.linspace(0.05, 0.95, 300)
    best = max(map(between, cuts))
    assert between(otsu(image)) > 0.999 * best
    assert 0.3 < otsu(image) < 0.5


def test_shares_and_correlations_by_hand():
    saliency = np.array([[1.0, -3.0], [0.0, 4.0]])
    region = np.array([[True, True], [False, False]])
    assert share(saliency, region) == pytest.approx(0.5)
    assert np.isnan(share(np.zeros((2, 2)), region))
    rng = np.random.default_rng(0)
    one, two, where = rng.normal(size=(3, 20, 20))
    expected = stats.spearmanr(abs(one)[where > 0], abs(two)[where > 0]).statistic
    assert rank_correlation(one, two, where > 0) == pytest.approx(expected)
    assert rank_correlation(one, -one, where > 0) == pytest.approx(1)
    assert np.isnan(rank_correlation(one, np.ones_like(one), where > 0))


def test_a_blurred_baseline_is_as_bright_and_shows_nothing():
    image, _, _ = head()
    images = np.float32(image)[None, :, :, None]
    made = blurred(images)
    assert made.dtype == np.float32 and made.shape == images.shape
    inner = np.hypot(*(np.mgrid[:64, :64] - np.array([30, 34])[:, None, None])) < 8
    assert np.ptp(made[0, :, :, 0][inner]) < 0.1 < np.ptp(image[inner])
    assert made.mean() == pytest.approx(images.mean(), rel=0.1)
