import dataclasses
import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import demo

pytest.importorskip('nilearn')


@pytest.fixture(scope='module')
def atlas():
    return demo.load_atlas()


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return demo.write_raw(tmp_path_factory.mktemp('demo') / 'raw', small=True)


def contents(folder):
    paths = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@dataclasses.dataclass
class Cohort:
    images: np.ndarray  # uint8 [B, H, W]
    labels: np.ndarray  # [B]; Moderate joined to Mild
    subjects: np.ndarray  # [B]


def simulate(atlas, scale, *, seed=0, decoy=True):
    jobs = [(c, i) for c, count in enumerate(scale.subjects) for i in range(count)]

    def images(job):
        label, index = job
        return demo.labelled_images(
            atlas, scale, seed=seed, label=label, index=index, decoy=decoy
        )

    with ThreadPoolExecutor(2) as pool:
        stacks = list(pool.map(images, jobs))
    return Cohort(
        images=np.concatenate(stacks),
        labels=np.repeat([min(label, 2) for label, _ in jobs], scale.slices),
        subjects=np.repeat(np.arange(len(jobs)), scale.slices),
    )


def scores_by_subject(model, features, cohort):
    """Macro AUROC and log loss of 5 grouped, stratified folds, per subject."""
    probabilities = np.zeros((len(features), 3))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in folds.split(features, cohort.labels, cohort.subjects):
        model.fit(features[train], cohort.labels[train])
        probabilities[test] = model.predict_proba(features[test])
    _, first, counts = np.unique(cohort.subjects, return_index=True, return_counts=True)
    means = np.add.reduceat(probabilities, first) / counts[:, None]
    means /= means.sum(axis=1, keepdims=True)  # one again, but for rounding
    labels = cohort.labels[first]
    return roc_auc_score(labels, means, multi_class='ovr'), log_loss(labels, means)


def log_loss_of_prior(cohort):
    shares = np.bincount(cohort.labels) / len(cohort.labels)
    return -np.sum(shares * np.log(shares))


def intensity_features(images):
    """Mean, variance and histogram of each image: blind to where a pixel lies."""
    rows = images.reshape(len(images), -1)
    counts = [np.bincount(row // 8, minlength=32) for row in rows]
    return np.column_stack([rows.mean(axis=1), rows.var(axis=1), counts])


def pixel_features(images, size=44):
    """Bilinear size x size pixels, blurred before so that none is skipped."""
    zoom = size / images.shape[1]
    blurred = ndimage.gaussian_filter(
        images.astype(np.float32), (0, 0.3 / zoom, 0.3 / zoom)
    )
    return ndimage.zoom(blurred, (1, zoom, zoom), order=1).reshape(len(images), -1)


def linear():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def pca_linear():
    return make_pipeline(PCA(40, random_state=0), linear())


# More subjects than the demo has, since AUROCs of few scatter; few and small images.
MANY = dataclasses.replace(
    demo.DEMO, size=48, subjects=(50, 35, 14, 1), slices=3, spacing_mm=10.0
)


@pytest.fixture(scope='module')
def many(atlas):
    return simulate(atlas, MANY)


def test_layout_is_what_the_catalog_expects(small):
    files = contents(small)
    labelled = {name for name in files if name.startswith('labelled/')}
    scale = demo.SMALL
    assert len(labelled) == sum(scale.subjects) * scale.slices
    assert len(files) - len(labelled) == scale.series * scale.series_slices
    for label, count in zip(demo.SEVERITIES, scale.subjects, strict=True):
        names = [name for name in labelled if name.split('/')[1] == label]
        assert len({name.split('_')[0] for name in names}) == count
    for name, content in files.items():
        assert re.fullmatch(r'.*/sub-\d{4}_slice-\d\d\.png', name)
        image = Image.open(io.BytesIO(content))
        assert (image.mode, image.size) == ('L', (scale.size, scale.size))
        assert 'imulated' in image.info['Description']


def test_no_subject_is_in_both_parts_or_in_two_classes(small):
    folders: dict[str, set] = {}
    for path in small.rglob('*.png'):
        folders.setdefault(path.name[:8], set()).add(path.parent.name)
    assert all(len(names) == 1 for names in folders.values())


@pytest.mark.parametrize('scale', [demo.SMALL, demo.DEMO])
def test_three_classes_fill_five_folds(scale):
    none, very_mild, mild, moderate = scale.subjects
    assert min(none, very_mild, mild + moderate) >= 5


def test_same_seed_same_bytes_and_another_seed_other_images(small, tmp_path):
    first = contents(small)
    assert contents(demo.write_raw(tmp_path / 'again', small=True)) == first
    other = contents(demo.write_raw(tmp_path / 'other', seed=1, small=True))
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


def test_a_subject_does_not_depend_on_the_others(atlas, small):
    """More subjects of every class leave those who were there as they were."""
    scale = dataclasses.replace(demo.SMALL, subjects=(100, 90, 80, 70), series=200)
    images = demo.labelled_images(atlas, scale, seed=0, label=1, index=2)
    for number, image in enumerate(images, start=1):
        path = small / f'labelled/VeryMildDemented/sub-2003_slice-{number:02d}.png'
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))


def test_neighbouring_slices_are_alike_and_subjects_differ(atlas):
    scale = dataclasses.replace(demo.DEMO, subjects=(6, 4, 2, 0), slices=8)
    cohort = simulate(atlas, scale)
    likeness = np.corrcoef(cohort.images.reshape(len(cohort.images), -1))
    same = cohort.subjects[:, None] == cohort.subjects
    neighbours = np.diagonal(likeness, 1)[np.diagonal(same, 1)]
    assert neighbours.min() > likeness[~same].max()


@pytest.fixture
def person(atlas, monkeypatch):
    """The same person with any atrophy: uint8 [slices, size, size]."""

    def images(index, *, atrophy, decoy):
        monkeypatch.setattr(demo, 'SEVERITIES', {'NonDemented': atrophy})
        return demo.labelled_images(
            atlas, demo.SMALL, seed=0, label=0, index=index, decoy=decoy
        )

    return images


@pytest.mark.parametrize('decoy', [True, False])
@pytest.mark.parametrize('index', range(3))
def test_ventricles_grow_with_atrophy(person, index, decoy):
    """Dark pixels in a box of 34 mm by 51 mm around the lateral ventricles."""

    def dark_in_the_middle(atrophy):
        images = person(index, atrophy=atrophy, decoy=decoy)
        dark = images < 0.4 * np.percentile(images, 99)
        return dark[:, 16:28, 20:28].mean()

    shares = [dark_in_the_middle(atrophy) for atrophy in (0.0, 1.5, 3.0, 4.5)]
    assert shares == sorted(shares)
    assert shares[-1] > 1.25 * shares[0]


@pytest.mark.parametrize('index', range(3))
def test_gray_values_are_the_decoys(person, index):
    """Healthy or demented, one person has one histogram, but two images.

    The noise alone falls on other pixels. Largest distance seen 0.003 with decoys,
    smallest 0.068 without.
    """

    def distance(first, second):
        """Of the cumulative histograms, as Kolmogorov and Smirnov measure it."""
        cumulative = [
            np.bincount(images.ravel(), minlength=256).cumsum() / images.size
            for images in (first, second)
        ]
        return np.abs(cumulative[0] - cumulative[1]).max()

    healthy, demented = (person(index, atrophy=a, decoy=True) for a in (0.0, 4.0))
    assert distance(healthy, demented) < 0.01
    assert np.mean(np.abs(healthy.astype(int) - demented) > 40) > 0.02
    healthy, demented = (person(index, atrophy=a, decoy=False) for a in (0.0, 4.0))
    assert distance(healthy, demented) > 0.03


def test_intensities_do_not_tell_the_class(atlas, many):
    """The second half shows that the first can fail: without decoys it would."""
    aurocs = []
    for cohort in (many, *(simulate(atlas, MANY, seed=seed) for seed in (1, 2))):
        features = intensity_features(cohort.images)
        aurocs.append(scores_by_subject(linear(), features, cohort)[0])
    # One cohort's AUROC scatters by 0.06 around that of all people: hence the mean.
    assert abs(np.mean(aurocs) - 0.5) < 0.05, aurocs
    naive = simulate(atlas, MANY, decoy=False)
    auroc, _ = scores_by_subject(linear(), intensity_features(naive.images), naive)
    assert auroc > 0.65


def test_shapes_tell_the_class_but_not_perfectly(many):
    auroc, loss = scores_by_subject(pca_linear(), pixel_features(many.images), many)
    assert 0.75 < auroc < 0.92
    assert loss < log_loss_of_prior(many)


@pytest.mark.slow
def test_the_demo_is_neither_trivial_nor_hopeless(atlas):
    """At full size, over seeds; pooled folds of few subjects scatter around 0.5."""
    by_intensity, by_trees, by_shape = [], [], []
    for seed in range(5):
        scale = dataclasses.replace(demo.DEMO, slices=8, spacing_mm=5.0)
        cohort = simulate(atlas, scale, seed=seed)
        counted = intensity_features(cohort.images)
        trees = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
        by_intensity.append(scores_by_subject(linear(), counted, cohort)[0])
        by_trees.append(scores_by_subject(trees, counted, cohort)[0])
        pixels = pixel_features(cohort.images)
        by_shape.append(scores_by_subject(pca_linear(), pixels, cohort)[0])
    assert abs(np.mean(by_intensity) - 0.5) < 0.05
    assert abs(np.mean(by_trees) - 0.5) < 0.05
    assert 0.75 < np.mean(by_shape) < 0.92


def test_progress_counts_every_subject(tmp_path):
    seen = []
    demo.write_raw(
        tmp_path / 'raw',
        small=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = sum(demo.SMALL.subjects) + demo.SMALL.series
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_an_interrupted_run_leaves_no_folder_and_can_be_repeated(small, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.write_raw(tmp_path / 'raw', small=True, progress=stop)
    assert not (tmp_path / 'raw').exists()
    assert contents(demo.write_raw(tmp_path / 'raw', small=True)) == contents(small)


def test_leaves_a_folder_with_files_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('precious')
    with pytest.raises(UserError, match='is not empty'):
        demo.write_raw(tmp_path, small=True)
    assert contents(tmp_path) == {'mine.txt': b'precious'}


def test_says_what_to_install_without_nilearn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nilearn', None)
    with pytest.raises(UserError, match=r"pip install 'jax_mrissl\[demo\]'"):
        demo.write_raw(tmp_path / 'raw', small=True)
    assert not (tmp_path / 'raw').exists()
