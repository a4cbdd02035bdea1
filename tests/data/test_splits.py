import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.splits import (
    Fold,
    folds,
    group_keys,
    group_labels,
    missing_classes,
    write_folds,
)

CLASSES = ('non', 'very mild', 'mild', 'moderate')


def dataset(sizes, slices=3, name='s'):
    """Groups, labels and pixel hashes of subjects with `slices` images each."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    groups = np.repeat([f'{name}{i:03d}' for i in range(len(labels))], slices)
    pixels = [
        hashlib.sha256(f'{subject}/{position}'.encode()).hexdigest()
        for subject in range(len(labels))
        for position in range(slices)
    ]
    return groups, np.repeat(labels, slices), np.array(pixels)


def made(sizes, **options):
    groups, labels, pixels = dataset(sizes)
    parts, warnings = folds(
        groups, labels, pixels, classes=CLASSES[: len(sizes)], **options
    )
    return parts, warnings, group_labels(groups, labels)


def assert_sound(parts, labels, count):
    """What holds of all folds, whatever the classes."""
    everyone = set(labels)
    tested = Counter(group for fold in parts for group in fold.test)
    assert tested == Counter(everyone)
    sizes = [len(fold.test) for fold in parts]
    assert len(parts) == count and max(sizes) - min(sizes) <= 1
    for fold in parts:
        assert fold.train | fold.validation | fold.test == everyone
        assert not fold.train & fold.validation
        assert not (fold.train | fold.validation) & fold.test
        assert fold.train and fold.validation
    for label in set(labels.values()):
        own = {group for group in labels if labels[group] == label}
        in_test = [len(own & fold.test) for fold in parts]
        assert max(in_test) - min(in_test) <= 1
        for fold in parts:
            rest = own - fold.test
            in_validation = len(rest & fold.validation)
            # Within one of its share, and never all that could be learned from.
            assert abs(in_validation - len(rest) / count) <= 1
            if rest:
                assert rest & fold.train


def test_the_kaggle_set_in_three_classes():
    parts, warnings, labels = made((100, 70, 30))
    assert warnings == []
    assert_sound(parts, labels, 5)
    for fold in parts:
        assert [len(fold.train), len(fold.validation), len(fold.test)] == [128, 32, 40]
        for part, sizes in ((fold.test, (20, 14, 6)), (fold.validation, (16, 11, 5))):
            assert tuple(Counter(labels[g] for g in part)[k] for k in range(3)) == sizes


def test_two_subjects_of_a_class_are_spread_and_told_of():
    parts, warnings, labels = made((100, 70, 28, 2))
    assert_sound(parts, labels, 5)
    moderate = {group for group in labels if labels[group] == 3}
    for fold in parts:
        assert fold.train & moderate  # training comes before validation
        assert len(fold.test & moderate) <= 1
    assert len(warnings) == 2
    assert 'Class moderate (2 subjects) is not in the test part of folds' in warnings[1]
    assert 'validation part' in warnings[0]


def test_one_subject_of_a_class_cannot_be_learned_where_it_is_tested():
    parts, warnings, labels = made((20, 1))
    assert_sound(parts, labels, 5)
    [alone] = [group for group in labels if labels[group] == 1]
    [where] = [index for index, fold in enumerate(parts) if alone in fold.test]
    assert any(f'train part of fold {where + 1}: it cannot' in w for w in warnings)


@pytest.mark.parametrize('seed', range(25))
def test_holds_for_any_sizes(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    sizes = tuple(rng.integers(1, 40, rng.integers(2, 5)).tolist())
    sizes = (sizes[0] + count + 3, *sizes[1:])
    parts, _, labels = made(sizes, count=count, seed=seed)
    assert_sound(parts, labels, count)


@pytest.mark.parametrize('seed', range(3))
def test_a_copy_with_other_names_and_order_has_the_same_folds(seed):
    groups, labels, pixels = dataset((17, 9, 6))
    expected, _ = folds(groups, labels, pixels, classes=CLASSES[:3])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    names = dict(
        zip(np.unique(groups), rng.permutation(900)[:32].astype(str), strict=True)
    )
    renamed = np.array([names[g] for g in groups])
    found, _ = folds(renamed[order], labels[order], pixels[order], classes=CLASSES[:3])
    for ours, theirs in zip(expected, found, strict=True):
        for part in ('train', 'validation', 'test'):
            assert {names[g] for g in getattr(ours, part)} == getattr(theirs, part)


def test_a_file_kept_twice_changes_nothing():
    groups, labels, pixels = dataset((8, 8))
    expected, _ = folds(groups, labels, pixels, classes=CLASSES[:2])
    twice = [np.append(part, part[:5]) for part in (groups, labels, pixels)]
    assert folds(*twice, classes=CLASSES[:2])[0] == expected


def test_another_image_gives_another_key():
    groups, _, pixels = dataset((2,))
    changed = pixels.copy()
    changed[0] = 'f' * 64
    first, second = group_keys(groups, pixels), group_keys(groups, changed)
    assert first['s000'] != second['s000']
    assert first['s001'] == second['s001']


def test_seeds_give_other_folds_and_repeat():
    first, again, other = (made((30, 20), seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_validation_subjects_differ_between_folds():
    parts, _, _ = made((50, 50))
    assert len({fold.validation for fold in parts}) == 5


def test_unlabelled_images_are_left_out():
    groups, labels, pixels = dataset((10, 10))
    labels[groups == 's003'] = -1
    labels[0] = -1  # one of three of its subject
    parts, _ = folds(groups, labels, pixels, classes=CLASSES[:2])
    tested = set().union(*(fold.test for fold in parts))
    assert 's003' not in tested and 's000' in tested


class TestErrors:
    def test_a_subject_with_two_labels(self):
        groups, labels, pixels = dataset((6, 6))
        labels[0] = 1
        with pytest.raises(UserError, match=r'1 of 12 subjects .* different labels'):
            folds(groups, labels, pixels, classes=CLASSES[:2])

    def test_two_subjects_with_the_same_images(self):
        groups, labels, pixels = dataset((6, 6))
        pixels[3:6] = pixels[:3][::-1]
        with pytest.raises(UserError, match='1 of 12 subjects have exactly the images'):
            folds(groups, labels, pixels, classes=CLASSES[:2])

    def test_a_class_without_subjects(self):
        groups, labels, pixels = dataset((6, 6))
        with pytest.raises(UserError, match='of class mild'):
            folds(groups, labels, pixels, classes=CLASSES[:3])

    @pytest.mark.parametrize(
        ('sizes', 'count', 'message'),
        [
            ((2, 2), 5, '5 folds need at least 5 labelled subjects; found 4'),
            ((1, 1), 2, 'at least 3 labelled subjects; found 2'),
            ((1, 1, 1), 2, 'none is left to choose by'),
            ((9, 9), 1, 'At least 2 folds'),
        ],
    )
    def test_too_few(self, sizes, count, message):
        with pytest.raises(UserError, match=message):
            made(sizes, count=count)

    def test_a_fold_with_a_subject_on_both_sides(self):
        with pytest.raises(ValueError, match='two parts'):
            Fold(frozenset('ab'), frozenset('c'), frozenset('a'))


def test_missing_classes_of_full_folds_are_none():
    parts, _, labels = made((20, 10))
    assert missing_classes(parts, labels, CLASSES) == []


def test_written_folds_are_the_same_bytes_in_any_order(tmp_path):
    groups, labels, pixels = dataset((9, 7))
    texts = []
    for order in (slice(None), slice(None, None, -1)):
        parts, _ = folds(
            groups[order], labels[order], pixels[order], classes=CLASSES[:2]
        )
        write_folds(tmp_path / 'folds.json', parts)
        texts.append((tmp_path / 'folds.json').read_bytes())
    assert texts[0] == texts[1]
    stored = json.loads(texts[0])['folds']
    assert [set(row['test']) for row in stored] == [set(fold.test) for fold in parts]
