"""Baselines and the leak witness: nothing of the tested part is in them."""

import dataclasses

import numpy as np
import pytest
from conftest import smoke_config
from PIL import Image
from sklearn.linear_model import LogisticRegression

from jax_mrissl.core.run_dir import read_json
from jax_mrissl.data.covariates import Covariates
from jax_mrissl.data.labels import LabelTask
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.metrics.classification import auroc
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.controls import (
    baseline_arms,
    controls_identity,
    look,
    run_controls,
)
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import label_data
from jax_mrissl.tasks.measured import measure
from jax_mrissl.tasks.pooling import pool


@pytest.fixture(scope='module')
def plan(cohort):
    return read_experiment(smoke_config(cohort)).finetune


@pytest.fixture(scope='module')
def data(cohort, plan):
    """With a table: age of all, sex of all, nWBV not of all, and a score."""
    found = label_data(plan, open_prepared(cohort, 'smoke', 'labelled'))
    _, member = np.unique(found.prepared.groups, return_inverse=True)
    rng = np.random.default_rng(0)
    values = {
        'age': rng.integers(60, 90, 16).astype(float)[member],
        'sex': rng.integers(0, 2, 16).astype(float)[member],
        'nwbv': np.where(member == 3, np.nan, 0.7),
        'mmse': 30.0 - found.labels,
    }
    covariates = Covariates(values, {'sex': ('F', 'M')}, 'id', 48)
    return dataclasses.replace(found, covariates=covariates)


@pytest.fixture(scope='module')
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('controls')
    run_controls(data, data, folder)
    return folder


def test_small_pictures_are_the_box_resized_as_pillow_does(data):
    dark, small = look(data.prepared)
    for row in (0, 17):
        top, left, height, width = data.prepared.boxes[row]
        own = data.prepared.shown_image(row)[top : top + height, left : left + width, 0]
        expected = Image.fromarray(own).resize((44, 52), Image.Resampling.BILINEAR)
        told = small[row].reshape(52, 44).astype(int)
        # Pillow rounds after each axis.
        assert np.abs(told - np.asarray(expected).astype(int)).max() <= 1
        middle = own[
            round(height * 40 / 208) : round(height * 170 / 208),
            round(width * 40 / 176) : round(width * 140 / 176),
        ]
        assert dark[row] == pytest.approx((middle < 60).mean())


def test_what_may_be_a_baseline(data, folder):
    """Not what is unknown of some, nor what the diagnosis may be made from."""
    arms = baseline_arms(data, folder)
    assert [(arm.name, arm.role) for arm in arms] == [
        ('dark pixels', 'baseline'),
        ('PCA of pixels', 'baseline'),
        ('age', 'baseline'),
        ('sex', 'baseline'),
        ('leak witness', 'control'),
    ]
    without = dataclasses.replace(data, covariates=None)
    assert len(baseline_arms(without, folder)) == 3


def test_one_number_is_a_regression_of_the_training_part_alone(data, folder, plan):
    arm = baseline_arms(data, folder)[2]
    pooled = pool(arm, data)
    assert pooled.temperatures == (1.0,) * len(data.folds)
    ages = data.covariates.values['age']
    for fold in data.folds:
        train, test = data.rows(fold.train), data.rows(fold.test)
        x = (ages - ages[train].mean()) / ages[train].std()
        model = LogisticRegression(tol=1e-8).fit(x[train, None], data.labels[train])
        expected = model.predict_proba(x[test, None])
        at = np.searchsorted(pooled.rows, test)
        found = pooled.columns['probabilities'][at][:, model.classes_]
        np.testing.assert_allclose(found, expected, atol=2e-3)
    # Ranked by the number itself, whatever the folds made of it.
    found = measure(arm, (), data, plan, seed=0)
    _, first = np.unique(data.prepared.groups, return_index=True)
    expected = auroc(ages[first], data.labels[first] > 0)
    assert found.found.values['subject', 'binary_auroc'] == pytest.approx(expected)


def test_of_other_classes_than_dementia_a_number_may_rank_the_other_way(
    data, plan, tmp_path
):
    """The sick may come first, or be those with fewer dark pixels."""
    dark, _ = look(data.prepared)
    _, member = np.unique(data.prepared.groups, return_inverse=True)
    by_subject = np.bincount(member, dark) / np.bincount(member)
    sick_are_dark = np.where(by_subject > np.median(by_subject), 0, 1)[member]
    card = {**data.prepared.card, 'classes': ['AD', 'CN']}
    own = dataclasses.replace(
        data,
        prepared=dataclasses.replace(data.prepared, card=card),
        labels=sick_are_dark,
        task=LabelTask('classes', ('AD', 'CN')),
        covariates=None,
    )
    run_controls(own, own, tmp_path)
    found = measure(baseline_arms(own, tmp_path)[0], (), own, plan, seed=0)
    assert found.found.values['subject', 'binary_auroc'] > 0.9
    # One question, one number.
    assert 'binary_auroc' not in found.headlines('subject')
    assert controls_identity(plan, own)['ranked_by'] == 'regression'
    assert 'ranked_by' not in controls_identity(plan, data)


def test_the_witness_names_the_nearest_of_all_that_is_not_tested(data, folder, plan):
    arm = baseline_arms(data, folder)[-1]
    _, small = look(data.prepared)
    small = small.astype(float)
    right = 0
    for fold in data.folds:
        test = data.rows(fold.test)
        rest = np.setdiff1d(np.arange(len(small)), test)
        for row in test:
            nearest = rest[((small[rest] - small[row]) ** 2).sum(1).argmin()]
            right += data.labels[nearest] == data.labels[row]
    found = measure(arm, (), data, plan, seed=0)
    shown = found.headlines('slice')
    assert list(shown) == ['accuracy']
    assert shown['accuracy'].value == pytest.approx(right / len(small))


def test_pixels_learn_from_all_slices_also_where_arms_have_few(cohort, plan, tmp_path):
    prepared = open_prepared(cohort, 'smoke', 'labelled')
    whole = label_data(plan, prepared)
    few = label_data(dataclasses.replace(plan, slices_per_group=1), prepared)
    run_controls(whole, whole, tmp_path / 'whole')
    run_controls(few, whole, tmp_path / 'few')
    for name in (1, 2):  # pixels, witness
        all_told = pool(baseline_arms(whole, tmp_path / 'whole')[name], whole)
        told = pool(baseline_arms(few, tmp_path / 'few')[name], few)
        places = np.isin(whole.prepared.file_ids, few.prepared.file_ids)
        assert len(told.rows) == 16
        np.testing.assert_allclose(
            told.columns['logits'], all_told.columns['logits'][places]
        )


def test_what_decides_their_numbers_is_in_their_address(data, plan):
    first = controls_identity(plan, data)
    other = dataclasses.replace(plan, fold_seed=plan.fold_seed + 1)
    assert controls_identity(other, data) != first
    values = {**data.covariates.values, 'age': data.covariates.values['age'] + 1}
    changed = dataclasses.replace(data.covariates, values=values)
    aged = dataclasses.replace(data, covariates=changed)
    assert controls_identity(plan, aged) != first
    # A column that is no baseline does not count.
    values = {**data.covariates.values, 'mmse': data.covariates.values['mmse'] + 1}
    changed = dataclasses.replace(data.covariates, values=values)
    assert controls_identity(plan, dataclasses.replace(data, covariates=changed)) == (
        first
    )


@pytest.mark.parametrize('task', ['severity3', 'regression'])
def test_every_table_has_them_and_a_second_run_leaves_them(cohort, tmp_path, task):
    config = smoke_config(
        cohort, 'untrained', finetune__modes=('linear',), finetune__task=task
    )
    table = run_experiment(read_experiment(config), tmp_path)
    for name in ('dark pixels', 'PCA of pixels', 'leak witness'):
        assert table.count(f'{name}  ') >= 2
    rows = read_json(tmp_path / 'metrics.json')['results']
    roles = {row['arm']: row['role'] for row in rows}
    assert roles['dark pixels'] == 'baseline' and roles['leak witness'] == 'control'
    files = sorted(tmp_path.glob('stages/controls-*/**/predictions.npz'))
    assert len(files) == 9
    before = [file.stat().st_mtime_ns for file in files]
    assert run_experiment(read_experiment(config), tmp_path) == table
    assert [file.stat().st_mtime_ns for file in files] == before
