import numpy as np
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA

from jax_mrissl.metrics.novelty import Cloud, Novelty, looks_of


def subjects(count, slices, seed, *, features=40, shift=0.0):
    """Rows that correlate within a subject, of unequal spread, near a few axes."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(99).normal(size=(6, features))
    who = np.repeat(rng.normal(size=(count, 6)), slices, axis=0)
    rows = (who + 0.5 * rng.normal(size=who.shape)) @ axes
    return rows + 0.3 * rng.normal(size=rows.shape) + shift


def test_distance_is_that_of_the_probabilistic_pca_covariance():
    """Scikit-learn's covariance with as many components, written out in full."""
    rows, others = subjects(50, 4, 0), subjects(5, 4, 1, shift=0.5)
    # So that no direction is so thin that it is widened.
    rows += np.random.default_rng(5).normal(size=rows.shape)
    cloud = Cloud.fit(rows, least_scale=1e-3)
    count = cloud.directions.shape[1]
    assert count == 20  # of 200 rows
    standard = (rows - rows.mean(0)) / rows.std(0)
    fitted = PCA(count).fit(standard)
    # Scikit-learn divides by n - 1.
    covariance = fitted.get_covariance() * (len(rows) - 1) / len(rows)
    inverse = np.linalg.inv(covariance)
    expected = [
        mahalanobis((x - rows.mean(0)) / rows.std(0), np.zeros(40), inverse) / 40**0.5
        for x in others
    ]
    np.testing.assert_allclose(cloud.distances(others), expected, rtol=1e-6)


def looks(rows):
    return 0.1 * rows[:, :5] / np.abs(rows).max() + 0.5


def test_other_subjects_pass_and_strangers_do_not(tmp_path):
    train, held = subjects(60, 8, 0), subjects(40, 8, 1)
    fitted = Novelty.fit(train, looks(train), held, looks(held))
    np.savez(tmp_path / 'x.npz', **fitted.to_arrays())
    loaded = Novelty.load(tmp_path / 'x.npz')
    own = loaded.scores(held, looks(held)).max(1)
    # Of each distance at most two in a hundred of those that set the thresholds.
    assert (own > 1).mean() <= 0.04
    np.testing.assert_allclose(
        loaded.scores(held, looks(held)),
        fitted.scores(held, looks(held)),
        rtol=1e-4,
    )
    new = subjects(200, 8, 2)
    assert (loaded.scores(new, looks(new)).max(1) <= 1).mean() > 0.95
    # Off the axes that training rows lie on, though each number alone is ordinary.
    rng = np.random.default_rng(3)
    alone = np.stack([rng.permutation(column) for column in train.T], axis=1)
    assert (loaded.scores(alone, looks(train))[:, 0] > 1).all()
    # Ordinary features, another look; and the other way round.
    other = looks(train) + 0.4
    assert (loaded.scores(train, other)[:, 1] > 1).all()
    assert (loaded.scores(train, other)[:, 0] <= 1).mean() > 0.9


def test_features_that_never_vary_blow_nothing_up():
    train, held = subjects(30, 4, 0), subjects(30, 4, 1)
    train[:, 7] = held[:, 7] = 0.0
    fitted = Novelty.fit(train, looks(train), held, looks(held))
    nudged = held.copy()
    nudged[:, 7] += 1e-6
    np.testing.assert_allclose(
        fitted.scores(nudged, looks(held)), fitted.scores(held, looks(held)), rtol=1e-3
    )
    dead = np.zeros((10, 40))
    assert np.isfinite(Novelty.fit(dead, dead, dead, dead).scores(dead, dead)).all()


def test_looks_by_hand():
    image = np.zeros((40, 40, 1), np.uint8)
    image[10:30, 5:35] = 102  # the box: 20 high, 30 wide, gray 0.4
    image[10:30, 5:20] = 0  # its left half
    found = looks_of(image, np.array([10, 5, 20, 30]))
    assert found.shape == (20,)
    np.testing.assert_allclose(
        found[:9],
        [np.log(1.5), 0.2, 0.2, 0, 0, 0.2, 0.4, 0.4, 0.5],
        atol=1e-12,
    )
    # Border: top and bottom half dark, left dark, right bright.
    np.testing.assert_allclose(found[9:15], [0.2, 0.2, 0.2, 0.0, 0.4, 0.2], atol=1e-12)
    # One step of 0.4 in each row of 29; none along columns.
    np.testing.assert_allclose(found[15:17], [0, 0.4 / 29 * 30 / 100], atol=1e-12)
    np.testing.assert_allclose(found[17:], [0.4, 0, 0], atol=1e-12)


def test_looks_of_a_pixel_are_finite():
    image = np.full((8, 8, 3), 9, np.uint8)
    assert np.isfinite(looks_of(image, np.array([3, 3, 1, 1]))).all()
