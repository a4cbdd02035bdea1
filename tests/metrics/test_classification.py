import numpy as np
import pytest
from sklearn import metrics as reference

from jax_mrissl.metrics.classification import (
    accuracy,
    auroc,
    by_subject,
    log_loss,
)


def predictions(n=200, classes=3, *, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    p = rng.dirichlet(np.ones(classes), size=n)
    p += 0.3 * np.eye(classes)[labels]
    p /= p.sum(1, keepdims=True)
    if ties:
        p = np.round(p * 4) + 1
        p /= p.sum(1, keepdims=True)
    return p, labels


@pytest.mark.parametrize('classes', [2, 3, 5])
@pytest.mark.parametrize('ties', [False, True])
def test_equals_scikit_learn(classes, ties):
    p, y = predictions(classes=classes, ties=ties)
    assert log_loss(p, y) == pytest.approx(reference.log_loss(y, p))
    assert accuracy(p, y) == reference.accuracy_score(y, p.argmax(1))


def test_auroc_counts_pairs():
    scores = np.array([0.1, 0.4, 0.4, 0.8, 0.4])
    positive = np.array([False, False, True, True, True])
    # Six pairs: 1, ½ | 1, 1 | 1, ½.
    assert auroc(scores, positive) == pytest.approx(5 / 6)


def test_certainty_that_is_wrong_is_clipped():
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(
        -np.log(1e-7)
    )


def test_auroc_of_one_class_is_undefined():
    assert np.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))


def test_by_subject_averages_slices_of_unequal_numbers():
    p = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9]])
    found = by_subject(p, np.array([1, 0, 1, 1]), np.array(['b', 'a', 'b', 'b']))
    assert found.ids.tolist() == ['a', 'b']
    np.testing.assert_allclose(found.probabilities, [[0.6, 0.4], [0.8 / 3, 2.2 / 3]])
    assert found.labels.tolist() == [0, 1]
    assert found.rows.tolist() == [1, 0, 1, 1]


def test_a_constant_guess_ranks_no_subject_by_its_number_of_slices():
    groups = np.repeat(np.arange(40), np.arange(1, 41)).astype(str)
    labels = np.repeat(np.arange(40) > 25, np.arange(1, 41)).astype(int)
    p = np.tile([0.1 + 0.2, 0.7], (len(labels), 1))
    found = by_subject(p, labels, groups)
    assert auroc(found.probabilities[:, 1], found.labels == 1) == 0.5


def test_a_subject_of_two_labels_is_refused():
    with pytest.raises(ValueError, match='Subject a has slices with different labels'):
        by_subject(np.full((2, 2), 0.5), np.array([0, 1]), np.array(['a', 'a']))


@pytest.mark.parametrize(
    ('p', 'y', 'message'),
    [
        ([[0.5, 0.6]], [0], 'add up to 1'),
        ([[np.nan, 0.5]], [0], 'add up to 1'),
        ([[0.5, 0.5]], [2], 'whole numbers in 0 … 1'),
        ([[0.5, 0.5]], [-1], 'whole numbers in 0 … 1'),
        ([[0.5, 0.5]], [0, 1], 'Expected probabilities'),
        (np.zeros((0, 2)), [], 'no row'),
    ],
)
def test_what_is_no_prediction_is_refused(p, y, message):
    with pytest.raises(ValueError, match=message):
        log_loss(np.array(p, float), np.array(y, int))
