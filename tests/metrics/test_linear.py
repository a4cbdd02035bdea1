import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from jax_mrissl.core.errors import UserError
from jax_mrissl.metrics import linear
from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.classification import by_subject, log_loss
from jax_mrissl.metrics.linear import fit_linear_probe

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1e4)


def slices(subjects, width=6, signal=2.0, seed=0, classes=3):
    """Features, labels and groups of 4 slices a subject, on unequal scales."""
    rng = np.random.default_rng(seed)
    labels = np.arange(subjects) % classes
    own = rng.normal(size=(subjects, width)) + signal * np.eye(classes, width)[labels]
    features = np.repeat(own, 4, axis=0) + 0.3 * rng.normal(size=(4 * subjects, width))
    features = features * np.geomspace(0.01, 100, width) + 5
    return features, np.repeat(labels, 4), np.repeat(np.arange(subjects), 4).astype(str)


def fitted(strengths=STRENGTHS, classes=3, **kinds):
    train, train_labels, _ = slices(30, seed=0, classes=classes, **kinds)
    held, held_labels, groups = slices(12, seed=1, classes=classes, **kinds)
    return fit_linear_probe(
        train,
        train_labels,
        held,
        held_labels,
        groups,
        classes=classes,
        l2_strengths=strengths,
    )


def test_minimises_the_stated_loss():
    """The same problem in numpy, handed to a general optimiser."""
    train, labels, _ = slices(30)
    rows = (train - train.mean(0)) / train.std(0)
    truth = np.eye(3)[labels]

    def objective(flat):
        weights, bias = flat[:18].reshape(6, 3), flat[18:]
        p = softmax(rows @ weights + bias)
        value = -np.log((p * truth).sum(1)).sum() + 10.0 / 2 * (weights**2).sum()
        error = p - truth
        slope = rows.T @ error + 10.0 * weights
        return value, np.concatenate([slope.ravel(), error.sum(0)])

    found = optimize.minimize(objective, np.zeros(21), jac=True, tol=1e-12)
    weights, bias = found.x[:18].reshape(6, 3), found.x[18:]
    probe = fitted(strengths=(10.0,))
    assert probe.converged
    # Largest error seen: 2e-4, as the fit ends at a mean gradient of 1e-4.
    np.testing.assert_allclose(
        softmax(probe.logits(train)), softmax(rows @ weights + bias), atol=1e-3
    )


@pytest.mark.parametrize('classes', [2, 3])
def test_warm_starts_change_nothing(classes):
    """A fit at the end of the path is the fit made alone, by scikit-learn."""
    train, labels, _ = slices(30, classes=classes)
    rows = (train - train.mean(0)) / train.std(0)
    probe = fitted(classes=classes)
    alone = LogisticRegression(C=1 / probe.l2_strength, tol=1e-8, max_iter=10_000)
    expected = alone.fit(rows, labels).predict_proba(rows)
    # Largest error seen: 3e-4.
    np.testing.assert_allclose(softmax(probe.logits(train)), expected, atol=1e-3)
    assert probe.training_log_loss == pytest.approx(
        log_loss(expected, labels), abs=1e-3
    )


def test_chooses_by_validation_log_loss_by_subject():
    held, labels, groups = slices(12, seed=1)
    losses = {}
    for strength in STRENGTHS:
        subjects = by_subject(
            softmax(fitted(strengths=(strength,)).logits(held)), labels, groups
        )
        losses[strength] = log_loss(subjects.probabilities, subjects.labels)
    probe = fitted()
    assert probe.l2_strength == min(losses, key=losses.get)
    # Neither of the ends, which could be had without looking.
    assert not probe.at_edge
    assert probe.validation_log_loss == pytest.approx(min(losses.values()), abs=1e-3)


def test_useless_features_end_near_the_class_prior():
    probe = fitted(strengths=(1.0, 1e5), signal=0.0)
    assert probe.l2_strength == 1e5
    assert probe.at_edge
    assert probe.validation_log_loss == pytest.approx(np.log(3), abs=0.01)


def test_the_scale_of_features_changes_nothing():
    train, train_labels, _ = slices(30)
    held, held_labels, groups = slices(12, seed=1)
    rest = (train_labels, held * 1e3 - 7, held_labels, groups)
    scaled = fit_linear_probe(train * 1e3 - 7, *rest, classes=3, l2_strengths=STRENGTHS)
    np.testing.assert_allclose(
        scaled.logits(held * 1e3 - 7), fitted().logits(held), atol=1e-3
    )


def test_a_dead_feature_has_no_say():
    train, train_labels, _ = slices(30)
    held, held_labels, groups = slices(12, seed=1)
    train[:, 2] = held[:, 2] = 3.25
    probe = fit_linear_probe(
        train,
        train_labels,
        held,
        held_labels,
        groups,
        classes=3,
        l2_strengths=(1.0,),
    )
    p = softmax(probe.logits(held))
    held[:, 2] += 0.01
    np.testing.assert_allclose(softmax(probe.logits(held)), p, atol=1e-9)


@pytest.mark.parametrize('learned', [2, 3])
def test_a_class_not_in_training_is_unlikely_but_possible(learned):
    train, train_labels, _ = slices(30, classes=learned)
    held, held_labels, groups = slices(12, seed=1, classes=learned)
    probe = fit_linear_probe(
        train,
        train_labels,
        held,
        held_labels,
        groups,
        classes=learned + 1,
        l2_strengths=(1.0,),
    )
    p = softmax(probe.logits(held))
    assert p.shape[1] == learned + 1
    assert (p[:, learned] < 1e-3).all() and (p[:, learned] > 1e-6).all()


def test_says_when_a_fit_did_not_converge(monkeypatch):
    monkeypatch.setattr(linear, '_MAX_ITERATIONS', 2)
    assert not fitted(strengths=(0.1,)).converged


@pytest.mark.parametrize('part', [0, 2])
def test_refuses_features_of_a_diverged_encoder(part):
    train, train_labels, _ = slices(30)
    held, held_labels, groups = slices(12, seed=1)
    given = [train, train_labels, held, held_labels, groups]
    given[part][0, 0] = np.nan
    with pytest.raises(UserError, match='not finite'):
        fit_linear_probe(*given, classes=3, l2_strengths=(1.0,))


def test_refuses_one_class_alone():
    train, _, _ = slices(30)
    held, held_labels, groups = slices(12, seed=1)
    with pytest.raises(UserError, match='two classes'):
        fit_linear_probe(
            train,
            np.zeros(len(train), int),
            held,
            held_labels,
            groups,
            classes=3,
            l2_strengths=(1.0,),
        )
