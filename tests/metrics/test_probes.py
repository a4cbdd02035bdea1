import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.metrics import probes
from jax_mrissl.metrics.probes import knn_accuracy, knn_predict, linear_accuracy


def clouds(count, *, signal=4.0, classes=3, width=8, seed=0):
    """Features around one direction a class, on unequal scales, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.normal(size=(count, width)) + signal * np.eye(classes, width)[labels]
    return rows, labels


def votes_by_loop(bank, labels, query, *, classes, neighbours, temperature):
    """The protocol for one query, word by word."""
    cosines = [
        float(row @ query / (np.linalg.norm(row) * np.linalg.norm(query)))
        for row in bank
    ]
    nearest = sorted(range(len(bank)), key=lambda i: -cosines[i])[:neighbours]
    votes = np.zeros(classes)
    for i in nearest:
        votes[labels[i]] += np.exp(cosines[i] / temperature)
    return votes / votes.sum()


@pytest.mark.parametrize(
    ('neighbours', 'temperature'), [(1, 0.1), (5, 0.1), (20, 1.0), (500, 0.05)]
)
def test_knn_equals_a_plain_loop(neighbours, temperature):
    bank, labels = clouds(40, signal=1.0)
    queries, _ = clouds(11, signal=1.0, seed=1)
    settings = dict(classes=3, neighbours=neighbours, temperature=temperature)
    shares = knn_predict(bank, labels, queries, **settings)
    expected = [votes_by_loop(bank, labels, query, **settings) for query in queries]
    # Both in float64: largest error seen 1e-15.
    np.testing.assert_allclose(shares, expected, atol=1e-12)


@pytest.mark.parametrize('at_once', [1, 90, 10**6])
def test_blocks_change_nothing(monkeypatch, at_once):
    bank, labels = clouds(40, signal=1.0)
    queries, _ = clouds(11, signal=1.0, seed=1)
    whole = knn_predict(bank, labels, queries, classes=3)
    monkeypatch.setattr(probes, '_SIMILARITIES_AT_ONCE', at_once)
    blocks = knn_predict(bank, labels, queries, classes=3)
    np.testing.assert_allclose(blocks, whole, atol=1e-12)


def test_knn_looks_at_directions_alone():
    bank, labels = clouds(30)
    queries, _ = clouds(9, seed=1)
    lengths = np.geomspace(1e-3, 1e3, 30)[:, None]
    scaled = knn_predict(bank * lengths, labels, 7 * queries, classes=3)
    expected = knn_predict(bank, labels, queries, classes=3)
    np.testing.assert_allclose(scaled, expected, atol=1e-12)


def test_a_class_without_rows_gets_no_vote():
    bank, labels = clouds(30)
    shares = knn_predict(bank, labels, bank, classes=5)
    assert shares.shape == (30, 5)
    assert not shares[:, 3:].any()


def test_a_low_temperature_does_not_overflow():
    bank, labels = clouds(30)
    shares = knn_predict(bank, labels, bank, classes=3, temperature=1e-4)
    # Each row's nearest neighbour is itself.
    np.testing.assert_allclose(shares, np.eye(3)[labels], atol=1e-12)


@pytest.mark.parametrize(
    'settings', [dict(neighbours=0), dict(temperature=0.0), dict(rows=0)]
)
def test_knn_refuses_what_cannot_vote(settings):
    rows = settings.pop('rows', 6)
    bank, labels = clouds(6)
    with pytest.raises(ValueError, match='at least one'):
        knn_predict(bank[:rows], labels[:rows], bank, classes=3, **settings)


def test_separable_classes_are_told_apart():
    train, held = clouds(90), clouds(60, seed=1)
    assert knn_accuracy(*train, *held, classes=3) > 0.95
    assert linear_accuracy(*train, *held, classes=3) > 0.95


def test_noise_is_told_apart_by_chance():
    train, held = clouds(300, signal=0.0), clouds(600, signal=0.0, seed=1)
    # One third, give or take three standard errors of 0.02.
    assert knn_accuracy(*train, *held, classes=3) == pytest.approx(1 / 3, abs=0.06)
    assert linear_accuracy(*train, *held, classes=3) == pytest.approx(1 / 3, abs=0.06)


def test_the_linear_probe_finds_what_neighbours_miss():
    """One small feature tells the class; large ones hide it from the cosine."""
    rng = np.random.default_rng(0)

    def draw(count):
        labels = np.arange(count) % 2
        rows = 100 * rng.normal(size=(count, 6))
        rows[:, 0] = labels + 0.1 * rng.normal(size=count)
        return rows, labels

    train, held = draw(200), draw(200)
    assert linear_accuracy(*train, *held, classes=2) > 0.98
    assert knn_accuracy(*train, *held, classes=2) < 0.65


def test_the_linear_probe_needs_two_classes():
    rows, labels = clouds(12)
    with pytest.raises(UserError, match='two classes'):
        linear_accuracy(rows, 0 * labels, rows, labels, classes=3)
