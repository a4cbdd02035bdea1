import dataclasses

import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.divisions import DIVISIONS, LEAKY, divide
from jax_mrissl.data.prepared import PreparedSet

CLASSES = ('no', 'yes')
SUBJECTS, SLICES = 20, 3


@pytest.fixture
def prepared():
    count = SUBJECTS * SLICES
    subject = np.repeat(np.arange(SUBJECTS), SLICES)
    ids = np.array([f'file-{i}' for i in range(count)])
    return PreparedSet(
        name='a_set',
        card={},
        boxes=np.zeros((count, 4), np.int32),
        labels=(subject % 2).astype(np.int32),
        targets=np.full(count, np.nan, np.float32),
        groups=np.array([f'g{s:02d}' for s in subject]),
        positions=np.zeros(count, np.float32),
        sites=np.array([f'site-{s % 3}' for s in subject]),
        splits=np.where(np.arange(count) % SLICES == 0, 'test', 'train'),
        file_ids=ids,
        pixel_sha256=ids,
        windows=None,
        _sources=(),
        _places=np.zeros((count, 2), np.int32),
    )


def division(kind, prepared):
    return divide(kind, prepared, prepared.labels, CLASSES, count=5, seed=0)


def sides(made, prepared, fold):
    """Gives the subjects on each side, by image."""
    return [
        set(prepared.groups[np.isin(made.units, sorted(part))])
        for part in (fold.train, fold.validation, fold.test)
    ]


@pytest.mark.parametrize('kind', ['subject', 'site'])
def test_no_subject_is_on_two_sides(kind, prepared):
    made = division(kind, prepared)
    tested = []
    for fold in made.folds:
        train, held, test = sides(made, prepared, fold)
        assert not (train & test or train & held or held & test)
        assert train | held | test == set(prepared.groups)
        tested += sorted(test)
    assert sorted(tested) == sorted(set(prepared.groups))


def test_each_site_is_tested_by_the_others(prepared):
    made = division('site', prepared)
    assert len(made.folds) == 3
    site_of = dict(zip(prepared.groups, prepared.sites, strict=True))
    for fold in made.folds:
        [site] = {site_of[group] for group in fold.test}
        assert site not in {site_of[group] for group in fold.train | fold.validation}


@pytest.mark.parametrize('kind', LEAKY)
def test_leaky_divisions_say_so_and_are_so(kind, prepared):
    made = division(kind, prepared)
    assert 'LEAKY' in made.warnings[0]
    train, _, test = sides(made, prepared, made.folds[0])
    assert train & test


@pytest.mark.parametrize('kind', DIVISIONS)
def test_a_subject_of_two_classes_is_a_mistake(kind, prepared):
    labels = prepared.labels.copy()
    labels[0] = 1 - labels[0]
    with pytest.raises(UserError, match='subjects have images with different'):
        divide(kind, prepared, labels, CLASSES, count=5, seed=0)


def test_the_shipped_split_is_tested_once_and_whole(prepared):
    made = division('shipped', prepared)
    [fold] = made.folds
    assert fold.test == set(prepared.file_ids[prepared.splits == 'test'])
    assert len(fold.validation) == 8  # a fifth of the other 40


def test_what_a_set_lacks_is_said(prepared):
    with pytest.raises(UserError, match="mean 'subject'"):
        division('subjects', prepared)
    nowhere = np.where(prepared.groups == 'g00', '', prepared.sites)
    with pytest.raises(UserError, match='1 subjects have no site'):
        division('site', dataclasses.replace(prepared, sites=nowhere))
    one = np.full(len(prepared), 'here')
    with pytest.raises(UserError, match='needs two sites'):
        division('site', dataclasses.replace(prepared, sites=one))
    torn = prepared.sites.copy()
    torn[0] = 'site-2'
    with pytest.raises(UserError, match='seen at two sites'):
        division('site', dataclasses.replace(prepared, sites=torn))
    with pytest.raises(UserError, match='split called test'):
        splits = np.full(len(prepared), 'train')
        division('shipped', dataclasses.replace(prepared, splits=splits))
