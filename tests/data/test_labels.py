import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.labels import label_task

FOUR = ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented')


def test_three_classes_join_moderate_to_mild_and_keep_unknown():
    task = label_task('severity3', FOUR)
    stored = np.array([0, 1, 2, 3, -1])
    np.testing.assert_array_equal(task.labels(stored), [0, 1, 2, 2, -1])
    assert len(task.classes) == 3


def test_four_classes_and_a_sets_own_stay_as_they_are():
    stored = np.array([0, 1, 2, 3, -1])
    for task in (label_task('severity4', FOUR), label_task('classes', FOUR)):
        np.testing.assert_array_equal(task.labels(stored), stored)
        assert task.classes == FOUR


def test_a_task_that_does_not_fit_is_answered_in_words():
    with pytest.raises(UserError, match="mean 'severity3'"):
        label_task('severity_3', FOUR)
    with pytest.raises(UserError, match='task=classes uses its own'):
        label_task('severity3', ('no', 'yes'))
    with pytest.raises(UserError, match='fewer than two classes'):
        label_task('classes', ('one',))
