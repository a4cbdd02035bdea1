import random
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.subjects import (
    groups_by_pixels,
    same_partition,
    slices_by_name,
)
from jax_mrissl.readers.read import read

SAMPLES = Path(__file__).parents[2].parent / 'shared' / 'data'


def kaggle_names(subjects, held_out_of_26):
    """Names slices as the publisher did: renamed in train, original in test."""

    def original(slice_, subject):
        return f'{slice_}.jpg' if subject == 1 else f'{slice_} ({subject}).jpg'

    truth, train = {}, []
    for slice_ in range(1, 33):
        # The publisher's tool listed files by name, as text.
        for name, subject in sorted((original(slice_, s), s) for s in subjects):
            if slice_ > 26 or (slice_ == 26 and subject in held_out_of_26):
                truth[name] = subject, slice_
            else:
                train.append((subject, slice_))
    truth |= {f'mildDem{j}.jpg': place for j, place in enumerate(train)}
    return truth


def test_names_are_read_as_they_were_given():
    truth = kaggle_names(range(1, 29), held_out_of_26={2, 11, 28})
    assert len(truth) == 28 * 32
    assert slices_by_name(truth) == truth


@pytest.mark.parametrize('lost', ['mildDem3.jpg', '30 (2).jpg', '32.jpg'])
def test_names_with_a_hole_do_not_fit(lost):
    truth = kaggle_names(range(1, 5), held_out_of_26={2})
    del truth[lost]
    assert slices_by_name(truth) == {}


def test_other_names_do_not_fit():
    assert slices_by_name(f'{i:05x}.jpg' for i in range(64)) == {}
    assert slices_by_name(f'image{i}.jpg' for i in range(64)) == {}


def volumes(count, slices, seed=0):
    """Draws smooth volumes around a common head; neighbouring slices are alike."""
    rng = np.random.default_rng(seed)
    head = ndimage.gaussian_filter(rng.normal(size=(slices, 32, 24)), (6, 4, 4))
    images, who, where = [], [], []
    for subject in range(count):
        own = ndimage.gaussian_filter(rng.normal(size=(slices, 32, 24)), (6, 2, 2))
        volume = head / head.std() + own / own.std()
        images += list(volume.astype(np.float32))
        who += [subject] * slices
        where += range(slices)
    return images, np.array(who), np.array(where)


def test_volumes_are_found_whatever_their_order():
    images, who, where = volumes(12, 20)
    kinds = (who % 2).tolist()
    order = np.random.default_rng(1).permutation(len(images))
    found = groups_by_pixels([images[i] for i in order], [kinds[i] for i in order])
    assert found.count == 12
    assert same_partition(who[order].tolist(), found.groups.tolist())
    assert found.within > found.between
    for subject in range(12):
        mine = who[order] == subject
        along = np.corrcoef(found.ranks[mine], where[order][mine])[0, 1]
        assert abs(along) > 0.999  # in order, from either end


def test_an_outlier_is_not_taken_for_a_subject_of_two():
    images, who, _ = volumes(6, 20)
    images.append(np.random.default_rng(2).normal(size=(32, 24)).astype(np.float32))
    found = groups_by_pixels(images, [0] * len(images))
    assert found.count == 7
    assert same_partition([*who.tolist(), 99], found.groups.tolist())


def test_images_without_neighbours_are_refused_with_the_histogram():
    rng = np.random.default_rng(0)
    images = list(rng.normal(size=(60, 16, 16)))
    with pytest.raises(UserError, match='cannot be told by pixels') as error:
        groups_by_pixels(images, [0] * 60)
    assert '#' in str(error.value) and '--group' in str(error.value)


def test_one_volume_alone_is_refused():
    images, _, _ = volumes(1, 40)
    with pytest.raises(UserError, match='cannot be told'):
        groups_by_pixels(images, [0] * 40)


def test_a_single_image_is_refused():
    with pytest.raises(UserError, match='no two slices'):
        groups_by_pixels([np.eye(8)], [0])


def test_sizes_are_never_joined():
    images, who, _ = volumes(6, 20)
    images = [
        image[:, :20] if w < 3 else image for image, w in zip(images, who, strict=True)
    ]
    found = groups_by_pixels(images, [0] * len(images))
    assert same_partition(who.tolist(), found.groups.tolist())


@pytest.mark.slow
def test_the_kaggle_set_has_200_subjects_by_pixels_and_by_names():
    root = SAMPLES / 'alzheimer_mri'
    if not root.exists():
        pytest.skip(f'no sample data at {root}')
    files = list(root.glob('*/*/*.jpg'))
    random.Random(0).shuffle(files)
    kinds = [file.parent.name for file in files]
    found = groups_by_pixels([next(read(file)).pixels for file in files], kinds)
    assert found.count == 200
    assert set(np.bincount(found.groups)) == {32}
    assert found.within - found.between > 0.02
    named = {
        (kind, name): place
        for kind in set(kinds)
        for name, place in slices_by_name(
            f.name for f in files if f.parent.name == kind
        ).items()
    }
    who = [(kind, named[kind, f.name][0]) for kind, f in zip(kinds, files, strict=True)]
    assert same_partition(who, found.groups.tolist())


@pytest.mark.slow
def test_slices_far_apart_are_refused():
    """4 mm apart, a slice is less like its neighbour than like another head's."""
    nibabel = pytest.importorskip('nibabel')
    root = SAMPLES / 'oasis1' / 'volumes'
    if not root.exists():
        pytest.skip(f'no sample data at {root}')
    images = []
    for file in sorted(root.glob('*.nii.gz'))[:40]:
        volume = np.asarray(nibabel.load(file).dataobj, np.float32)
        images += list(np.moveaxis(volume, 2, 0))
    with pytest.raises(UserError, match='cannot be told'):
        groups_by_pixels(images, [0] * len(images))
