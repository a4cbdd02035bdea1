import dataclasses

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


def test_a_share_of_labels_is_nested_and_leaves_validation_and_test(cohort, labelled):
    parts = [
        label_data(plan(cohort, finetune__label_fraction=share), labelled).folds
        for share in (0.2, 0.5, 1.0)
    ]
    for few, half, whole in zip(*parts, strict=True):
        assert few.train < half.train < whole.train
        assert few.test == whole.test and few.validation == whole.validation


def test_shuffled_labels_stay_with_subjects_and_keep_their_counts(cohort, labelled):
    true = label_data(plan(cohort), labelled)
    mixed = label_data(plan(cohort, finetune__shuffle_labels=True), labelled)
    assert any('CONTROL' in warning for warning in mixed.warnings)
    assert (mixed.labels != true.labels).any()
    # Subjects of this cohort have equally many slices.
    assert (np.bincount(mixed.labels) == np.bincount(true.labels)).all()
    for group in set(labelled.groups):
        assert len(set(mixed.labels[mixed.prepared.groups == group])) == 1
    again = label_data(plan(cohort, finetune__shuffle_labels=True), labelled)
    np.testing.assert_array_equal(mixed.labels, again.labels)


def test_a_condition_needs_a_table_and_chooses_rows(cohort, labelled, tmp_path):
    with pytest.raises(UserError, match='where needs a table'):
        label_data(plan(cohort, finetune__where='age>=60'), labelled)
    table = tmp_path / 'ages.csv'
    subjects = [f'sub-{1001 + i}' for i in range(16)]
    ages = [50 + 7 * i % 16 for i in range(16)]  # of all classes, young and old
    table.write_text(
        'subject,age\n'
        + ''.join(f'{s},{a}\n' for s, a in zip(subjects, ages, strict=True))
    )
    asked = dict(finetune__covariates=str(table), finetune__where='age>=56')
    read = read_experiment(smoke_config(cohort, **asked))
    data = label_data(read.finetune, labelled, read.common)
    assert len(set(data.prepared.groups)) == 10
    assert data.covariates.values['age'].min() == 56
    assert len(data.covariates.values['age']) == len(data.labels) == 30
    assert 'rows' in data.identity()
    with pytest.raises(UserError, match='no image has age>=99'):
        asked['finetune__where'] = 'age>=99'
        read = read_experiment(smoke_config(cohort, **asked))
        label_data(read.finetune, labelled, read.common)


def test_it_is_said_of_how_many_subjects_a_table_speaks(cohort, labelled, tmp_path):
    table = tmp_path / 'ages.csv'
    # Ids without their zeros are not taken for others.
    people = [f'sub-{1001 + i},60\n' for i in range(14)] + ['1015,61\n', '16,62\n']
    table.write_text('subject,age\n' + ''.join(people))
    read = read_experiment(smoke_config(cohort, finetune__covariates=str(table)))
    data = label_data(read.finetune, labelled, read.common)
    told = 'The table of covariates speaks of 14 of 16 labelled subjects.'
    assert data.warnings == (told,)
    with table.open('a') as file:
        file.write('sub-1015,61\nsub-1016,62\n')
    assert label_data(read.finetune, labelled, read.common).warnings == ()


def test_numbers_are_regressed_on_the_same_folds_machinery(cohort, labelled):
    data = label_data(plan(cohort, finetune__task='regression'), labelled)
    assert data.task.kind == 'regression'
    assert set(data.targets) == {0.0, 0.5, 1.0, 2.0}
    assert sorted(data.tested()) == list(range(48))


def test_of_a_shipped_split_each_side_has_central_slices(cohort, labelled):
    ends = labelled.positions != 2.0
    shipped = dataclasses.replace(labelled, splits=np.where(ends, 'test', 'train'))
    changes = dict(finetune__division='shipped', finetune__slices_per_group=1)
    data = label_data(plan(cohort, **changes), shipped)
    assert len(data.tested()) == 16  # of 2 slices of each subject that are tested
    (fold,) = data.folds
    assert len(data.rows(fold.train | fold.validation)) == 16


def test_a_division_with_nothing_left_to_learn_from_is_refused(cohort, labelled):
    groups = [labelled.groups[labelled.labels == label][0] for label in range(3)]
    three = labelled.select(np.flatnonzero(np.isin(labelled.groups, groups)))
    changes = dict(finetune__division='image', finetune__slices_per_group=1)
    with pytest.raises(UserError, match=r'None of .* part of fold \d'):
        label_data(plan(cohort, **changes), three)
