import numpy as np
import pytest
from conftest import smoke_config

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import central_slices, label_data


@pytest.fixture(scope='module')
def labelled(cohort):
    return open_prepared(cohort, 'smoke', 'labelled')


def plan(cohort, **changes):
    return read_experiment(smoke_config(cohort, **changes)).finetune


def test_central_slices_are_the_middle_ones_of_each_subject(labelled):
    rows = central_slices(labelled, 1)
    assert len(rows) == len(set(labelled.groups)) == 16
    assert set(labelled.positions[rows]) == {2.0}  # of 1, 2, 3
    np.testing.assert_array_equal(central_slices(labelled, 0), np.arange(len(labelled)))
    assert len(central_slices(labelled, 99)) == len(labelled)


def test_folds_do_not_change_with_the_slices_that_are_used(cohort, labelled):
    whole = label_data(plan(cohort), labelled)
    few = label_data(plan(cohort, finetune__slices_per_group=1), labelled)
    assert few.folds == whole.folds
    assert len(few.labels) == 16 and len(whole.labels) == 48
    for fold in whole.folds:
        rows = [whole.rows(part) for part in (fold.train, fold.validation, fold.test)]
        assert sorted(np.concatenate(rows)) == list(range(48))


def test_three_classes_are_made_of_four(cohort, labelled):
    data = label_data(plan(cohort), labelled)
    assert set(data.labels) == {0, 1, 2}
    assert (np.bincount(data.labels) == [18, 15, 15]).all()


def test_images_without_labels_cannot_be_finetuned_on(cohort):
    unlabelled = open_prepared(cohort, 'smoke', 'pretrain')
    with pytest.raises(UserError, match='No image of smoke has a label'):
        label_data(plan(cohort), unlabelled)
