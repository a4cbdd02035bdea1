import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.labels import label_rows

FOUR = ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented')


class Rows:
    """As much of a prepared set as labels need."""

    name = 'a_set'

    def __init__(self, classes, labels, targets=None, groups=None):
        self.card = {'classes': list(classes)}
        self.labels = np.array(labels, np.int32)
        nothing = np.full(len(self.labels), np.nan)
        self.targets = np.array(nothing if targets is None else targets, np.float32)
        alone = np.arange(len(self.labels)).astype(str)
        self.groups = alone if groups is None else np.array(groups)

    def __len__(self):
        return len(self.labels)


SEVERITIES = Rows(FOUR, [0, 1, 2, 3, -1], [0, 0.5, 1, 2, np.nan])


@pytest.mark.parametrize(
    ('name', 'expected', 'count'),
    [
        ('severity3', [0, 1, 2, 2, -1], 3),
        ('severity4', [0, 1, 2, 3, -1], 4),
        ('classes', [0, 1, 2, 3, -1], 4),
        ('demented', [0, 1, 1, 1, -1], 2),
        ('ordinal', [0, 1, 2, 3, -1], 4),
    ],
)
def test_classes_are_joined_and_unknown_stays_unknown(name, expected, count):
    task, labels = label_rows(name, SEVERITIES)
    np.testing.assert_array_equal(labels, expected)
    assert len(task.classes) == count


def test_levels_of_a_number_stand_for_it():
    task, _ = label_rows('ordinal', SEVERITIES)
    assert task.kind == 'ordinal'
    assert task.values == (0, 0.5, 1, 2)
    assert task.classes == ('0', '0.5', '1', '2')


def test_a_number_is_banded_by_subject_for_the_folds():
    # Ten subjects of two images each; the images of one differ, their mean counts.
    numbers = np.repeat(np.arange(10.0), 2) + np.tile([-3, 3], 10)
    rows = Rows((), [-1] * 21, [*numbers, np.nan], [*np.repeat(np.arange(10), 2), 99])
    task, bands = label_rows('regression', rows)
    assert task.kind == 'regression' and len(task.classes) == 5
    np.testing.assert_array_equal(bands[:-1:2], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    np.testing.assert_array_equal(bands[:-1:2], bands[1:-1:2])
    assert bands[-1] == -1


def test_where_most_have_one_number_empty_bands_are_left_out():
    rows = Rows((), [-1] * 10, [0] * 8 + [1, 2])
    task, bands = label_rows('regression', rows)
    assert sorted(set(bands)) == list(range(len(task.classes)))
    assert (bands[:8] == 0).all() and bands[9] > 0


def test_a_task_that_does_not_fit_is_answered_in_words():
    with pytest.raises(UserError, match="mean 'severity3'"):
        label_rows('severity_3', SEVERITIES)
    with pytest.raises(UserError, match='task=classes uses its own'):
        label_rows('severity3', Rows(('no', 'yes'), [0, 1]))
    with pytest.raises(UserError, match='fewer than two classes'):
        label_rows('classes', Rows(('one',), [0]))
    with pytest.raises(UserError, match='It has numbers'):
        label_rows('classes', Rows((), [-1, -1], [1, 2]))
    with pytest.raises(UserError, match='has no number'):
        label_rows('regression', Rows(('no', 'yes'), [0, 1]))
    with pytest.raises(UserError, match='has 20'):
        label_rows('ordinal', Rows((), [-1] * 20, np.arange(20)))
    with pytest.raises(UserError, match='the same for all'):
        label_rows('regression', Rows((), [-1, -1], [3, 3]))
