import numpy as np
import pytest

from jax_mrissl.metrics.baselines import (
    class_prior,
    class_prior_log_loss,
    dark_pixel_share,
    pca_baseline,
    under_trained,
)
from jax_mrissl.metrics.classification import accuracy, log_loss


@pytest.mark.parametrize(
    ('sizes', 'expected'),
    # The Kaggle set by subject, with severity in three and in four classes.
    [((100, 70, 30), 0.9986), ((100, 70, 28, 2), 1.0353), ((5, 5), np.log(2))],
)
def test_prior_of_the_kaggle_set(sizes, expected):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assert class_prior_log_loss(labels) == pytest.approx(expected, abs=5e-5)
    guess = np.tile(class_prior(labels, len(sizes)), (len(labels), 1))
    assert log_loss(guess, labels) == pytest.approx(class_prior_log_loss(labels))


def test_no_other_constant_guess_is_better():
    labels = np.repeat([0, 1, 2], [10, 7, 3])
    guesses = np.random.default_rng(0).dirichlet(np.ones(3), 500)
    losses = [log_loss(np.tile(g, (20, 1)), labels) for g in guesses]
    assert min(losses) >= class_prior_log_loss(labels)


def test_a_class_that_does_not_occur_has_no_share():
    labels = np.array([0, 0, 2])
    np.testing.assert_allclose(class_prior(labels, 4), [2 / 3, 0, 1 / 3, 0])
    assert class_prior_log_loss(labels) == pytest.approx(
        -(2 / 3) * np.log(2 / 3) - np.log(1 / 3) / 3
    )


def test_training_has_to_end_below_the_prior():
    assert not under_trained(1.0352, 1.0353)
    assert under_trained(1.0353, 1.0353)
    assert under_trained(2.329, 1.0353)
    assert under_trained(float('nan'), 1.0353)


def test_dark_pixels_are_counted_inside_the_box():
    images = np.full((2, 208, 176), 60, np.uint8)
    images[1, 40:105, 40:140] = 59  # the upper half of the box
    images[:, :40] = images[:, 170:] = 0
    images[:, :, :40] = images[:, :, 140:] = 0
    np.testing.assert_allclose(dark_pixel_share(images), [0.0, 0.5])


def test_pca_finds_a_pattern_in_pixels():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = 40 * rng.random((120, 12, 10))
    for label in range(3):
        images[labels == label, :, 3 * label] += 60
    p = pca_baseline(images[:60], labels[:60], images[60:], classes=4, components=10)
    np.testing.assert_allclose(p.sum(1), 1.0)
    assert (p[:, 3] == 0).all()  # not in training
    assert accuracy(p, labels[60:]) > 0.95
    shuffled = pca_baseline(
        rng.permutation(images[:60]), labels[:60], images[60:], classes=3
    )
    assert accuracy(shuffled, labels[60:]) < 0.7


def test_pca_of_fewer_rows_than_components():
    rng = np.random.default_rng(0)
    images = rng.random((6, 4, 4))
    p = pca_baseline(images, np.array([0, 1] * 3), images, classes=2)
    assert np.isfinite(p).all()
