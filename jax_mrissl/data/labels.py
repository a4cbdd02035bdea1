"""What is to be told: classes of a dataset, some of them joined, or a number."""

import dataclasses
from typing import Literal

import numpy as np

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data.prepared import PreparedSet

# By more levels than these, a number is no grade.
_MOST_LEVELS = 12
# Subjects are shared out over folds by fifths of a number.
_STRATA = ('lowest fifth', 'second fifth', 'middle fifth', 'fourth fifth', 'top fifth')


@dataclasses.dataclass(frozen=True)
class LabelTask:
    """What is told of each image.

    Attributes:
        name: a key of `TASKS`.
        classes: the names of the classes, in order of their numbers; of a number that
            is regressed, the bands by which subjects are shared out over folds.
        kind: 'classes': told apart. 'ordinal': ordered grades, told by one score and
            thresholds. 'regression': a number, by squared error.
        values: the number that each class stands for, where there is one; else ().
    """

    name: str
    classes: tuple[str, ...]
    kind: Literal['classes', 'ordinal', 'regression'] = 'classes'
    values: tuple[float, ...] = ()


# Joined classes of the Clinical Dementia Rating: names, and joined[stored label].
_SEVERITY = {
    # Moderate has two subjects in the Kaggle set: too few to be split over folds.
    'severity3': (
        ('NonDemented', 'VeryMildDemented', 'MildOrModerate'),
        (0, 1, 2, 2),
    ),
    'severity4': (
        ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented'),
        (0, 1, 2, 3),
    ),
    'demented': (('NonDemented', 'Demented'), (0, 1, 1, 1)),
}

TASKS = (*_SEVERITY, 'classes', 'regression', 'ordinal')


def is_of_dementia(prepared: PreparedSet) -> bool:
    """Says whether a dataset's classes are the grades of dementia, none the first.

    Of these it is known beforehand what goes with more disease; classes of one's own
    may begin with the sick, and numbers may grow with health.
    """
    return tuple(prepared.card['classes']) == _SEVERITY['severity4'][0]


def label_rows(name: str, prepared: PreparedSet) -> tuple[LabelTask, np.ndarray]:
    """Gives the task `name` on a dataset, and the class of each of its images.

    Args:
        name: 'severity3', 'severity4' or 'demented' for dementia by severity;
            'classes' for the dataset's own classes; 'regression' for its number, such
            as the CDR or its sum of boxes; 'ordinal' for the levels of that number.
        prepared: the dataset.

    Returns:
        The task; int32 [n], class numbers, -1 where unknown. Of 'regression' they are
        the band of the subject's mean, and only share subjects out over folds.

    Raises:
        UserError: an unknown task, or one that this dataset does not allow.
    """
    expect_known(name, TASKS, 'finetune.task')
    if name == 'regression':
        return _regression(prepared)
    if name == 'ordinal':
        return _ordinal(prepared)
    stored = tuple(prepared.card['classes'])
    if name == 'classes':
        if len(stored) < 2:
            raise UserError(
                'This dataset has fewer than two classes to tell apart.'
                + (
                    ' It has numbers: --config.finetune.task=regression.'
                    if np.isfinite(prepared.targets).any()
                    else ''
                )
            )
        return LabelTask(name, stored), prepared.labels.astype(np.int32)
    classes, joined = _SEVERITY[name]
    if not is_of_dementia(prepared):
        raise UserError(
            f'finetune.task={name!r} needs the four classes of dementia; this '
            f'dataset has {", ".join(stored) or "none"}. '
            '--config.finetune.task=classes uses its own, =regression its number.'
        )
    # The last is for the label -1.
    return LabelTask(name, classes), np.array([*joined, -1], np.int32)[prepared.labels]


def _numbers(prepared: PreparedSet) -> np.ndarray:
    """Gives the known targets, sorted; refuses a dataset that has none."""
    known = np.isfinite(prepared.targets)
    if not known.any():
        raise UserError(
            f'{prepared.name} has no number to regress. A table with a column `target` '
            'brings one: python -m jax_mrissl.prepare --help.'
        )
    return np.unique(prepared.targets[known])


def _ordinal(prepared: PreparedSet) -> tuple[LabelTask, np.ndarray]:
    levels = _numbers(prepared)
    if not 2 <= len(levels) <= _MOST_LEVELS:
        raise UserError(
            f'finetune.task=ordinal needs 2 to {_MOST_LEVELS} levels; the number of '
            f'{prepared.name} has {len(levels)}. =regression takes any.'
        )
    labels = np.searchsorted(levels, prepared.targets).astype(np.int32)
    labels[~np.isfinite(prepared.targets)] = -1
    names = tuple(f'{level:g}' for level in levels)
    values = tuple(float(level) for level in levels)
    return LabelTask('ordinal', names, 'ordinal', values), labels


def _regression(prepared: PreparedSet) -> tuple[LabelTask, np.ndarray]:
    if len(_numbers(prepared)) < 2:
        raise UserError(f'The number of {prepared.name} is the same for all images.')
    known = np.flatnonzero(np.isfinite(prepared.targets))
    _, member = np.unique(prepared.groups[known], return_inverse=True)
    means = np.bincount(member, prepared.targets[known]) / np.bincount(member)
    cuts = np.unique(np.quantile(means, [0.2, 0.4, 0.6, 0.8]))
    bands = np.searchsorted(cuts, means, side='left')
    # Where many share one number, some bands are empty, and are left out.
    used, number = np.unique(bands, return_inverse=True)
    labels = np.full(len(prepared), -1, np.int32)
    labels[known] = number[member]
    names = tuple(_STRATA[band] for band in used)
    return LabelTask('regression', names, 'regression'), labels
