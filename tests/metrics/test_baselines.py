import numpy as np
import pytest

from jax_mrissl.metrics.baselines import (
    class_prior,
    class_prior_log_loss,
    dark_pixel_share,
    nearest_row,
    pixel_components,
    under_trained,
)
from jax_mrissl.metrics.classification import log_loss


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


def test_dark_pixels_are_counted_inside_the_middle_of_the_box():
    """On the Kaggle set's 208 x 176 pixels: rows 40-169, columns 40-139."""
    images = np.full((2, 208, 176), 60, np.uint8)
    images[1, 40:105, 40:140] = 59  # the upper half of the middle
    images[:, :40] = images[:, 170:] = 0
    images[:, :, :40] = images[:, :, 140:] = 0
    boxes = np.array([[0, 0, 208, 176]] * 2)
    np.testing.assert_allclose(dark_pixel_share(images, boxes), [0.0, 0.5])
    # The same in a corner of a larger canvas.
    larger = np.zeros((2, 230, 200), np.uint8)
    larger[:, 22:, 24:] = images
    boxes = np.array([[22, 24, 208, 176]] * 2)
    np.testing.assert_allclose(dark_pixel_share(larger, boxes), [0.0, 0.5])


def test_components_are_those_of_the_training_rows():
    """Against an exact decomposition; directions have no sign."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(50, 12)) * np.arange(12, 0, -1) ** 2
    train = np.arange(30)
    found = pixel_components(pixels, train, components=3)
    mean = pixels[train].mean(0)
    _, _, axes = np.linalg.svd(pixels[train] - mean, full_matrices=False)
    expected = (pixels - mean) @ axes[:3].T
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, atol=1e-6)


def test_components_of_fewer_rows_than_asked_for():
    pixels = np.random.default_rng(0).random((9, 16))
    assert pixel_components(pixels, np.arange(6)).shape == (9, 6)


def test_the_nearest_row_is_a_training_row():
    pixels = np.array([[0, 0], [9, 9], [1, 1], [8, 8], [0, 1]], np.uint8)
    found = nearest_row(pixels, np.array([1, 2]), np.array([0, 3, 4]))
    assert found.tolist() == [2, 1, 2]
