"""Who trains, who chooses and who tests: folds over subjects, fixed by their pixels."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import write_json

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Fold:
    """One division of the subjects, by group id; no subject is in two parts."""

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]

    def __post_init__(self):
        parts = (self.train, self.validation, self.test)
        if len(frozenset().union(*parts)) != sum(map(len, parts)):
            raise ValueError('A subject is in two parts of one fold.')


def group_keys(
    groups: Sequence[str] | np.ndarray, pixel_sha256: Sequence[str] | np.ndarray
) -> dict[str, str]:
    """Names each subject by its images, so that every copy of a set gives that name.

    The key is the SHA-256 of the sorted SHA-256 of the subject's distinct images:
    neither file names nor order nor a file kept twice change it.

    Args:
        groups: text [n], the subject of each image.
        pixel_sha256: text [n], of each image's raw pixels.

    Returns:
        Group id to key, 64 hex digits.

    Raises:
        UserError: two subjects have exactly the same images.
    """
    images: dict[str, set[str]] = defaultdict(set)
    for group, sha256 in zip(groups, pixel_sha256, strict=True):
        images[str(group)].add(str(sha256))
    keys = {group: digest(sorted(own)) for group, own in images.items()}
    twins = len(keys) - len(set(keys.values()))
    if twins:
        raise UserError(
            f'{twins} of {len(keys)} subjects have exactly the images of another '
            'subject and could stand on both sides of a split. Run the audit on this '
            'dataset and prepare it again without them.'
        )
    return keys


def group_labels(
    groups: Sequence[str] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> dict[str, int]:
    """Gives each subject the label that all its images share.

    Args:
        groups: text [n], the subject of each image.
        labels: int [n], -1 where unknown; such images are left out, and a subject
            that has no other is not in the result.

    Raises:
        UserError: images of one subject differ in their labels.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for group, label in zip(groups, labels, strict=True):
        if label >= 0:
            found[str(group)].add(int(label))
    torn = sorted(group for group, own in found.items() if len(own) > 1)
    if torn:
        raise UserError(
            f'{len(torn)} of {len(found)} subjects have images with different labels '
            f'(the first: {torn[0][:12]}, classes {sorted(found[torn[0]])}); a '
            'subject must have one. Correct the labels, or the grouping of images '
            'into subjects, and prepare the dataset again.'
        )
    return {group: own.pop() for group, own in found.items()}


def folds(
    groups: Sequence[str] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    pixel_sha256: Sequence[str] | np.ndarray,
    *,
    classes: Sequence[str],
    count: int = 5,
    seed: int = 0,
) -> tuple[tuple[Fold, ...], list[str]]:
    """Divides the labelled subjects `count` times, each being tested exactly once.

    Within a class the subjects are ordered by a hash of key and seed and dealt out in
    turn, each class beginning where the one before it ended. So the test parts differ
    by at most one subject in every class and as a whole. Of a fold's other subjects
    one in `count` is for validation, by class (largest remainders), and at least one
    of each class that leaves another for training.

    A class with fewer subjects than folds goes as far as it goes: its subjects are
    tested in different folds, training comes before validation, and the warnings say
    what each fold lacks.

    Args:
        groups: text [n], the subject of each image.
        labels: int [n], each image's class number; images of -1 are left out.
        pixel_sha256: text [n], of each image's raw pixels: all images of a subject,
            also those that are not used, so that the folds stay the same.
        classes: the classes' names.
        count: how many folds, from 2.
        seed: another seed gives other folds; studies leave it at 0.

    Returns:
        The folds, and what a reader of their results must know, a sentence each.

    Raises:
        UserError: a class without subjects, fewer subjects than folds, a subject with
            two labels, or two subjects with the same images.
    """
    if count < 2:
        raise UserError(f'At least 2 folds are needed; {count} were asked for.')
    own = group_labels(groups, labels)
    keys = group_keys(groups, pixel_sha256)
    by_class: dict[int, list[str]] = {label: [] for label in range(len(classes))}
    for group, label in own.items():
        by_class[label].append(group)
    absent = [classes[label] for label, members in by_class.items() if not members]
    if absent:
        raise UserError(
            f'No labelled subject is of class {", ".join(absent)}. Leave that class '
            'out of the task, or prepare a dataset that has it.'
        )
    # One to test, one to choose by, one to learn from.
    if len(own) < max(count, 3):
        raise UserError(
            f'{count} folds need at least {max(count, 3)} labelled subjects; found '
            f'{len(own)}. Take fewer folds: --config.finetune.folds.'
        )
    tests: list[set[str]] = [set() for _ in range(count)]
    dealt = 0
    for members in by_class.values():
        for group in _shuffled(members, keys, seed, 'test'):
            tests[dealt % count].add(group)
            dealt += 1
    made = tuple(
        _fold(test, by_class, keys, count=count, salt=(seed, index))
        for index, test in enumerate(tests)
    )
    return made, missing_classes(made, own, classes)


def fold_around(
    test: set[str],
    groups: Sequence[str] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    pixel_sha256: Sequence[str] | np.ndarray,
    *,
    count: int,
    salt: tuple[int, int],
) -> Fold:
    """Makes the fold that tests given subjects; one in `count` of the rest validates.

    Args:
        test: the subjects that are tested.
        groups, labels, pixel_sha256: as in `folds`.
        count: of the others one in so many is for validation, by class.
        salt: numbers that decide which.

    Raises:
        UserError: nobody is left to validate or to train on; or as `folds`.
    """
    own = group_labels(groups, labels)
    by_class: dict[int, list[str]] = defaultdict(list)
    for group, label in own.items():
        by_class[label].append(group)
    keys = group_keys(groups, pixel_sha256)
    return _fold(test & set(own), by_class, keys, count=count, salt=salt)


def part_of_training(
    fold: Fold,
    groups: Sequence[str] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    pixel_sha256: Sequence[str] | np.ndarray,
    *,
    fraction: float,
    seed: int = 0,
) -> Fold:
    """Leaves a share of the training subjects in, by class, and at least one of each.

    The subjects of a smaller share are among those of a larger one. Validation and
    test stay as they are.

    Args:
        fold: the whole.
        groups, labels, pixel_sha256: as in `folds`.
        fraction: of the training subjects, above 0, at most 1.
        seed: another one gives other subjects.
    """
    own = group_labels(groups, labels)
    keys = group_keys(groups, pixel_sha256)
    kept: set[str] = set()
    for label in sorted(set(own.values())):
        members = [group for group in fold.train if own[group] == label]
        # Rounded half up, so that no class dies out and shares are nested.
        size = max(1, int(fraction * len(members) + 0.5))
        kept.update(_shuffled(members, keys, seed, 'fraction')[:size])
    return dataclasses.replace(fold, train=frozenset(kept))


def share_of_rows(
    groups: Sequence[str] | np.ndarray,
    pixel_sha256: Sequence[str] | np.ndarray,
    fraction: float,
) -> np.ndarray:
    """Gives the rows of a share of the subjects, int [k], in order; at least one's.

    The subjects of a smaller share are among those of a larger one, on every copy of
    the set.

    Args:
        groups, pixel_sha256: as in `group_keys`.
        fraction: of the subjects, above 0, at most 1.
    """
    keys = group_keys(groups, pixel_sha256)
    size = max(1, int(fraction * len(keys) + 0.5))
    kept = _shuffled(keys, keys, 'share')[:size]
    return np.flatnonzero(np.isin(groups, kept))


def missing_classes(
    parts: Sequence[Fold], labels: Mapping[str, int], classes: Sequence[str]
) -> list[str]:
    """Says in a sentence each which classes a fold's parts lack; [] means none.

    Args:
        parts: the folds.
        labels: group id to class number.
        classes: the names by class number.
    """
    sentences = []
    sizes = Counter(labels.values())
    for label, size in sorted(sizes.items()):
        for part, consequence in (
            ('train', 'it cannot be learned there'),
            ('validation', 'nothing is chosen by it there'),
            ('test', 'it is not tested there'),
        ):
            lacking = [
                str(index + 1)
                for index, fold in enumerate(parts)
                if not any(labels.get(group) == label for group in getattr(fold, part))
            ]
            if lacking:
                which = 'fold' if len(lacking) == 1 else 'folds'
                sentences.append(
                    f'Class {classes[label]} ({_subjects(size)}) is '
                    f'not in the {part} part of {which} {", ".join(lacking)}: '
                    f'{consequence}.'
                )
    return sentences


def write_folds(path: Path, parts: Sequence[Fold]) -> None:
    """Writes folds by group or file ids, which are hashes. Same folds, same bytes."""
    rows = [
        {part: sorted(getattr(fold, part)) for part in ('train', 'validation', 'test')}
        for fold in parts
    ]
    write_json(path, {'format': _FORMAT, 'folds': rows})


def _fold(
    test: set[str],
    by_class: Mapping[int, Sequence[str]],
    keys: Mapping[str, str],
    *,
    count: int,
    salt: tuple[int, int],
) -> Fold:
    rest = {
        label: _shuffled(set(members) - test, keys, *salt, 'validation')
        for label, members in sorted(by_class.items())
    }
    sizes = _validation_sizes([len(members) for members in rest.values()], count)
    validation: set[str] = set()
    train: set[str] = set()
    for size, members in zip(sizes, rest.values(), strict=True):
        validation.update(members[:size])
        train.update(members[size:])
    if not validation:
        raise UserError(
            f'{_subjects(len(train) + len(test))} in {len(by_class)} classes are too '
            f'few for {count} folds: none is left to choose by.'
        )
    return Fold(frozenset(train), frozenset(validation), frozenset(test))


def _validation_sizes(available: Sequence[int], count: int) -> list[int]:
    """Shares one in `count` out over the classes, by largest remainders."""
    sizes = [max(n // count, 1 if n > 1 else 0) for n in available]
    # Half is rounded up.
    left = (2 * sum(available) + count) // (2 * count) - sum(sizes)
    by_remainder = sorted(
        range(len(available)), key=lambda i: (-(available[i] % count), i)
    )
    for i in by_remainder:
        if left <= 0:
            break
        # A class that already has its one, more than its share, waits.
        if available[i] > sizes[i] * count and available[i] - sizes[i] > 1:
            sizes[i] += 1
            left -= 1
    return sizes


def _shuffled(
    groups: Iterable[str], keys: Mapping[str, str], *salt: int | str
) -> list[str]:
    """Orders subjects by a hash of key and salt: at random, yet by their pixels."""

    def place(group: str) -> str:
        text = '/'.join([*map(str, salt), keys[group]])
        return hashlib.sha256(text.encode()).hexdigest()

    return sorted(groups, key=place)


def _subjects(count: int) -> str:
    return '1 subject' if count == 1 else f'{count} subjects'
