import dataclasses
import functools
import json
import re
import shutil
import types

import numpy as np
import pytest
from sklearn.metrics import r2_score

from jax_mrissl.audit.overlap import Overlap
from jax_mrissl.configs.base import get_config
from jax_mrissl.data.covariates import Covariates
from jax_mrissl.data.labels import LabelTask
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.splits import Fold, folds
from jax_mrissl.metrics.bootstrap import bootstrap, difference
from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.classification import auroc, by_subject, log_loss
from jax_mrissl.metrics.panel import class_panel
from jax_mrissl.tasks import external
from jax_mrissl.tasks.evaluate import evaluate
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import judge, panel
from jax_mrissl.tasks.pooling import UNTRAINED, Arm, Pooled
from jax_mrissl.tasks.predictions import PREDICTIONS

SIZES = (12, 9, 6)
RESAMPLES = 100
CARD = {'title': 'A set', 'simulated': False, 'fingerprint': 'f' * 64}


@functools.cache
def experiment():
    read = read_experiment(get_config('smoke'))
    plan = dataclasses.replace(read.finetune, bootstrap_resamples=RESAMPLES, folds=5)
    return dataclasses.replace(read, name='pretrained', finetune=plan)


def labelled(simulated=False, sizes=SIZES):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.repeat(np.arange(len(classes)), 2 + np.arange(len(classes)) % 3)
    rows = np.random.default_rng(0).permutation(rows)
    labels = classes[rows].astype(np.int32)
    groups = np.array([f'g{i:02d}' for i in rows])
    ids = np.array([f'file-{i}' for i in range(len(rows))])
    names = ('none', 'mild', 'severe')[: len(sizes)]
    made, warnings = folds(groups, labels, ids, classes=names)
    prepared = PreparedSet(
        name='a_set',
        card=CARD | {'simulated': simulated},
        boxes=np.zeros((len(rows), 4), np.int32),
        labels=labels,
        targets=np.full(len(rows), np.nan, np.float32),
        groups=groups,
        positions=np.zeros(len(rows), np.float32),
        sites=np.full(len(rows), ''),
        splits=np.full(len(rows), 'train'),
        file_ids=ids,
        pixel_sha256=ids,
        windows=None,
        _sources=(),
        _places=np.zeros((len(rows), 2), np.int32),
    )
    task = LabelTask('classes', names)
    return LabelledData(prepared, task, labels, made, tuple(warnings))


def write_arm(arm, data, *, signal, seed=0, ranked=False):
    """Writes predictions, rows of a fold in any order; gives the pooled [n, K]."""
    rng = np.random.default_rng(seed)
    classes = len(data.task.classes)
    logits = rng.normal(size=(len(data.labels), classes))
    logits += signal * np.eye(classes)[data.labels]
    pooled = np.full_like(logits, np.nan)
    for index, fold in enumerate(data.folds):
        rows, held = (
            rng.permutation(data.rows(part)) for part in (fold.test, fold.validation)
        )
        temperature = 1.0 + 0.1 * index
        pooled[rows] = softmax(logits[rows] / temperature)
        write_fold(
            arm.folder / f'fold-{index}',
            data,
            rows,
            held,
            logits=logits[rows],
            validation_logits=logits[held],
            temperature=temperature,
            probabilities=pooled[rows],
            **({'scores': -logits[rows, 0]} if ranked else {}),
        )
    return pooled


def write_fold(folder, data, rows, held, **columns):
    folder.mkdir(parents=True)
    np.savez(
        folder / PREDICTIONS,
        file_ids=data.prepared.file_ids[rows],
        groups=data.prepared.groups[rows],
        labels=data.labels[rows],
        validation_file_ids=data.prepared.file_ids[held],
        validation_groups=data.prepared.groups[held],
        validation_labels=data.labels[held],
        **columns,
    )


NONE = Overlap()


class Study:
    """Two arms of two modes on disk, and what they hold."""

    def __init__(self, folder, *, data=None, losses=(0.5,) * 5, modes=('linear',)):
        self.folder, self.data = folder, data or labelled()
        self.arms = [
            Arm(name, mode, folder / name / mode)
            for name in ('pretrained', UNTRAINED)
            for mode in modes
        ]
        self.pooled = {
            arm: write_arm(
                arm, self.data, signal=2.0 if arm.name != UNTRAINED else 0.5, seed=i
            )
            for i, arm in enumerate(self.arms)
        }
        self.facts = {
            arm.folder: [{'training_log_loss': loss} for loss in losses]
            for arm in self.arms
        }

    def run(self, *, overlap=NONE, **changes):
        self.text = evaluate(
            self.arms,
            self.facts,
            self.data,
            self.folder,
            experiment=dataclasses.replace(experiment(), **changes),
            overlap=overlap,
            pretrained_on=[CARD | {'title': 'Another set'}],
        )
        self.stored = json.loads((self.folder / 'metrics.json').read_text())
        return ' '.join(self.text.split())

    def result(self, arm, unit):
        [found] = [
            r
            for r in self.stored['results']
            if (r['arm'], r['mode'], r['unit']) == (arm.name, arm.mode, unit)
        ]
        return found


def test_pools_the_folds_by_image(tmp_path):
    study = Study(tmp_path)
    study.run()
    data = study.data
    for arm, p in study.pooled.items():
        subjects = by_subject(p, data.labels, data.prepared.groups)
        for unit, q, labels in [
            ('subject', subjects.probabilities, subjects.labels),
            ('slice', p, data.labels),
        ]:
            found = study.result(arm, unit)
            assert found['log_loss']['value'] == pytest.approx(log_loss(q, labels))
            assert found['macro_auroc']['value'] == pytest.approx(
                np.mean([auroc(q[:, k], labels == k) for k in range(3)])
            )
            assert found['log_loss']['low'] < found['log_loss']['high']
            assert (found['subjects'], found['slices']) == (27, len(data.labels))


@pytest.mark.parametrize('leaky', [False, True])
def test_shuffled_labels_are_put_among_permutations(tmp_path, leaky):
    plain = Study(tmp_path / 'plain')
    plain.run()
    assert plain.stored['shuffled_labels'] == []
    data = labelled()
    if leaky:
        data = dataclasses.replace(data, division='image')
    study = Study(tmp_path, data=data)
    mixed = dataclasses.replace(experiment().finetune, shuffle_labels=True)
    text = study.run(finetune=mixed)
    strong, _ = study.stored['shuffled_labels']
    assert (strong['arm'], strong['metric']) == ('pretrained', 'macro_auroc')
    arm = study.arms[0]
    own = study.result(arm, 'subject')['macro_auroc']['value']
    assert strong['value'] == pytest.approx(own)
    assert strong['value'] > strong['high'] and not strong['is_inside']
    assert f'pretrained, linear {own:.3f}, OUTSIDE' in text
    assert ('other images of tested subjects were trained on' in text) == leaky
    assert ('subjects leak' in text) != leaky


def test_the_class_prior_comes_first_in_both_units(tmp_path):
    study = Study(tmp_path)
    study.run()
    shares = np.array(SIZES) / sum(SIZES)
    prior = study.stored['results'][0]
    assert (prior['arm'], prior['unit']) == ('class prior', 'subject')
    assert prior['log_loss']['value'] == pytest.approx(-(shares * np.log(shares)).sum())
    by_subject_part, by_slice_part = study.text.split('By slice')
    for part in (by_subject_part, by_slice_part):
        assert part.index('class prior') < part.index('pretrained, linear')
        assert part.index('pretrained, linear') < part.index('untrained, linear')


def test_pretrained_arms_are_compared_in_pairs_with_their_untrained_twin(tmp_path):
    study = Study(tmp_path, modes=('linear', 'full'))
    words = study.run()
    data = study.data
    found = study.stored['comparisons']
    assert [(c['arm'], c['mode'], c['metric']) for c in found] == [
        ('pretrained', mode, metric)
        for metric in ('log_loss', 'macro_auroc')
        for mode in ('linear', 'full')
    ]
    for comparison in found:
        first, second = (
            bootstrap(
                class_panel(study.pooled[arm], data.labels, data.prepared.groups),
                resamples=RESAMPLES,
                seed=experiment().common.seed,
            )
            for arm in study.arms
            if arm.mode == comparison['mode']
        )
        metric = comparison['metric']
        expected = difference(first, second, unit='subject', metric=metric)
        assert comparison['value'] == pytest.approx(expected.estimate.value)
        # The better arm minus the worse.
        assert (comparison['value'] < 0) == (metric == 'log_loss')
        assert comparison['p'] == pytest.approx(expected.p)
        assert comparison['holm_p'] >= comparison['p']
    assert 'pretrained, full minus untrained, full' in words


@pytest.mark.parametrize(
    ('losses', 'failed'),
    [
        ((0.5, 0.5, 0.5, 0.5, 2.0), False),  # the mean counts
        ((1.2,) * 5, True),
        ((float('nan'), 0.5, 0.5, 0.5, 0.5), True),
        ((None, 0.5, 0.5, 0.5, 0.5), True),
    ],
)
def test_an_arm_that_did_not_learn_its_training_set_is_no_result(
    tmp_path, losses, failed
):
    study = Study(tmp_path, losses=losses)
    words = study.run()
    assert ('under-trained' in words) == failed
    assert ('not compared' in words) == failed
    found = study.result(study.arms[0], 'subject')
    assert ('under-trained' in found['notes']) == failed
    # The numbers are kept for who wants to know why.
    assert found['log_loss']['value'] is not None


def test_the_foot_says_what_a_reader_must_know(tmp_path):
    words = Study(tmp_path).run()
    for phrase in (
        'Tested on A set.',
        'Pretrained on Another set.',
        'n = 27 subjects',
        'divided by subject',
        'With 27 subjects the intervals are somewhat too narrow',
        'No labelled image was seen in pretraining, nor a twin of one',
        '95 % interval, BCa, from 100 bootstrap resamples of subjects',
    ):
        assert phrase in words
    assert 'SIMULATED' not in words
    assert (tmp_path / 'folds.json').exists()
    markdown = (tmp_path / 'results.md').read_text()
    assert 'Tested on A set.' in markdown and '| class prior |' in markdown


def test_simulated_data_is_called_so_on_every_line_of_numbers(tmp_path):
    study = Study(tmp_path, data=labelled(simulated=True))
    words = study.run()
    assert 'SIMULATED DATA' in words
    for line in study.text.splitlines():
        if line.startswith(('class prior  ', 'pretrained, ', 'untrained, ')):
            assert 'simulated' in line, line
    assert 'by subject (SIMULATED): pretrained, linear 0.' in words


def test_an_overlap_is_shouted(tmp_path):
    overlap = Overlap(3, 2, 5, (('exact', 1), ('twin', 2)), 40, 10)
    words = Study(tmp_path).run(overlap=overlap)
    assert (
        'OVERLAP ALLOWED: pretraining has seen 3 labelled images of 2 subjects '
        '(1 pixel by pixel, 2 as twins'
    ) in words


def test_without_pretraining_there_is_no_word_of_overlap(tmp_path):
    assert 'pretraining' not in Study(tmp_path).run(chain=()).replace(
        'pretraining helped', ''
    )


def test_a_second_run_writes_the_same_bytes(tmp_path):
    study = Study(tmp_path)
    names = ('folds.json', 'metrics.json', 'results.md')
    study.run()
    first = [(tmp_path / name).read_bytes() for name in names]
    study.run()
    assert [(tmp_path / name).read_bytes() for name in names] == first


def test_predictions_of_other_folds_are_refused(tmp_path):
    study = Study(tmp_path)
    other = study.data.folds[1:] + study.data.folds[:1]
    study.data = dataclasses.replace(study.data, folds=other)
    with pytest.raises(ValueError, match='made with other folds'):
        study.run()


def test_a_missing_image_is_refused(tmp_path):
    study = Study(tmp_path)
    path = study.arms[0].folder / 'fold-0' / PREDICTIONS
    with np.load(path) as stored:
        kept = {k: stored[k] for k in stored.files}
    groups, counts = np.unique(kept['groups'], return_counts=True)
    rows = np.arange(len(kept['groups']))
    drop = np.flatnonzero(kept['groups'] == groups[counts > 1][0])[0]
    for name, values in kept.items():
        if values.ndim and not name.startswith('validation'):
            kept[name] = values[rows != drop]
    np.savez(path, **kept)
    with pytest.raises(ValueError, match='each once'):
        study.run()


def test_neighbours_are_not_judged(tmp_path):
    study = Study(tmp_path, modes=('knn',))
    study.facts = {arm.folder: [{'neighbours': 3}] * 5 for arm in study.arms}
    words = study.run()
    assert 'under-trained' not in words
    assert study.result(study.arms[0], 'subject')['training_log_loss'] is None


def test_sensitivity_is_at_the_threshold_that_validation_fixed(tmp_path):
    """Fold by fold, against thresholds tried by hand."""
    study = Study(tmp_path)
    study.run()
    data, arm = study.data, study.arms[0]
    details = study.stored['details'][0]
    found = missed = right = wrong = 0
    for index, fold in enumerate(data.folds):
        with np.load(arm.folder / f'fold-{index}' / PREDICTIONS) as stored:
            told = softmax(stored['validation_logits'] / stored['temperature'])
            held = by_subject(
                told, stored['validation_labels'], stored['validation_groups']
            )
        best = youden(1 - held.probabilities[:, 0], held.labels > 0)
        threshold = details['thresholds']['subject'][index]
        assert best(threshold) == best.most
        rows = data.rows(fold.test)
        tested = by_subject(
            study.pooled[arm][rows], data.labels[rows], data.prepared.groups[rows]
        )
        says = 1 - tested.probabilities[:, 0] >= threshold
        ill = tested.labels > 0
        found += (says & ill).sum()
        missed += (~says & ill).sum()
        wrong += (says & ~ill).sum()
        right += (~says & ~ill).sum()
    measured = details['subject']
    assert measured['sensitivity']['value'] == pytest.approx(found / (found + missed))
    assert measured['specificity']['value'] == pytest.approx(right / (right + wrong))
    # At the sample's own prevalence these are the plain shares.
    assert measured['ppv']['value'] == pytest.approx(found / (found + wrong))
    assert measured['npv']['value'] == pytest.approx(right / (right + missed))
    plan = dataclasses.replace(experiment().finetune, prevalence=0.1)
    study.run(finetune=plan)
    rare = study.stored['details'][0]['subject']
    sensitivity, specificity = (
        rare[name]['value'] for name in ('sensitivity', 'specificity')
    )
    hits, alarms = 0.1 * sensitivity, 0.9 * (1 - specificity)
    assert rare['ppv']['value'] == pytest.approx(hits / (hits + alarms))


def youden(scores, ill):
    def index(threshold):
        says = scores >= threshold
        return says[ill].mean() - says[~ill].mean()

    index.most = max(index(t) for t in [*scores, 0.0, 2.0])
    return index


def test_folds_of_images_are_pooled_by_image(tmp_path):
    """And by subject, whose slices were then tested in several folds."""
    data = labelled()
    ids = data.prepared.file_ids
    made, _ = folds(ids, data.labels, ids, classes=data.task.classes)
    data = dataclasses.replace(data, folds=made, units=ids, division='image')
    study = Study(tmp_path, data=data)
    words = study.run()
    assert 'divided by IMAGE, not by subject' in words
    assert study.stored['division'] == {'kind': 'image', 'is_leaky': True}
    arm = study.arms[0]
    subjects = by_subject(study.pooled[arm], data.labels, data.prepared.groups)
    assert study.result(arm, 'subject')['log_loss']['value'] == pytest.approx(
        log_loss(subjects.probabilities, subjects.labels)
    )


def test_what_no_fold_tests_is_not_counted(tmp_path):
    """As in the shipped split, which tests its own part alone."""
    data = labelled()
    data = dataclasses.replace(data, folds=data.folds[:1], division='shipped')
    study = Study(tmp_path, data=data, losses=(0.5,))
    words = study.run()
    rows = data.tested()
    assert 0 < len(rows) < len(data.labels)
    groups, labels = data.prepared.groups[rows], data.labels[rows]
    found = study.result(study.arms[0], 'slice')
    subjects = len(set(groups))
    assert (found['slices'], found['subjects']) == (len(rows), subjects)
    assert found['log_loss']['value'] == pytest.approx(
        log_loss(study.pooled[study.arms[0]][rows], labels)
    )
    assert f'n = {subjects} subjects, {len(rows)} slices. 1 fold,' in words
    shares = np.bincount(labels, minlength=3) / len(labels)
    shares = shares[shares > 0]
    assert found['prior_log_loss'] == pytest.approx(-(shares * np.log(shares)).sum())


class TestNumbers:
    """Regression: a number of each subject, bands in place of classes."""

    def study(self, folder, errors=({'training_squared_error': 0.1},) * 5):
        data = labelled()
        rng = np.random.default_rng(0)
        truth = data.labels + 0.5
        data = dataclasses.replace(
            data,
            task=LabelTask('regression', ('low', 'middle', 'high'), 'regression'),
            prepared=dataclasses.replace(
                data.prepared, targets=truth.astype(np.float32)
            ),
        )
        study = object.__new__(Study)
        study.folder, study.data = folder, data
        study.arms = [
            Arm(name, 'linear', folder / name) for name in ('pretrained', UNTRAINED)
        ]
        study.told = {}
        for arm, noise in zip(study.arms, (0.3, 1.0), strict=True):
            told = truth + noise * rng.normal(size=len(truth))
            study.told[arm] = told
            for index, fold in enumerate(data.folds):
                rows, held = data.rows(fold.test), data.rows(fold.validation)
                write_fold(
                    arm.folder / f'fold-{index}',
                    data,
                    rows,
                    held,
                    targets=truth[rows],
                    predictions=told[rows],
                    validation_targets=truth[held],
                    validation_predictions=told[held],
                )
        study.facts = {arm.folder: errors for arm in study.arms}
        return study

    def test_are_measured_by_slice_and_by_the_subjects_mean(self, tmp_path):
        study = self.study(tmp_path)
        words = study.run()
        data, arm = study.data, study.arms[0]
        told, truth = study.told[arm], data.targets
        means = [
            (
                told[data.prepared.groups == g].mean(),
                truth[data.prepared.groups == g][0],
            )
            for g in set(data.prepared.groups)
        ]
        x, y = np.array(means).T
        for unit, p, t in [('slice', told, truth), ('subject', x, y)]:
            found = study.result(arm, unit)
            assert found['r2']['value'] == pytest.approx(r2_score(t, p))
            assert found['mae']['value'] == pytest.approx(np.abs(t - p).mean())
            assert found['mae']['low'] < found['mae']['high']
        assert {c['metric'] for c in study.stored['comparisons']} == {'mae', 'r2'}
        assert 'in mean absolute error by subject (below 0' in words
        assert 'resamples of subjects; slices' in words
        assert 'class prior' not in words

    @pytest.mark.parametrize('kind', ['training_squared_error', 'training_loss'])
    @pytest.mark.parametrize('share', [0.9, 1.1])
    def test_training_has_to_end_below_the_variance(self, tmp_path, kind, share):
        # Of squared units, or of deviations of the training rows.
        data = labelled()
        facts = [
            {
                kind: share
                if kind == 'training_loss'
                else share * (data.labels[data.rows(fold.train)] + 0.5).var()
            }
            for fold in data.folds
        ]
        study = self.study(tmp_path, facts)
        words = study.run()
        assert ('under-trained' in words) == (share > 1)
        found = study.result(study.arms[0], 'subject')
        assert found['training_error_share'] == pytest.approx(share)


def test_subgroups_are_measured_alone_or_said_to_be_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr('jax_mrissl.tasks.subgroups.FEWEST', 8)
    monkeypatch.setattr('jax_mrissl.tasks.adjustments.FEWEST', 8)
    data = labelled()
    _, first, member = np.unique(
        data.prepared.groups, return_index=True, return_inverse=True
    )
    labels = data.labels[first]
    # The young are all of the first class; four subjects are very old; one unknown.
    ages = np.where(labels == 0, 50.0, 65.0)
    ages[np.flatnonzero(labels == 0)[5:]] = 62
    ages[np.flatnonzero(labels == 2)[:4]] = 85
    ages[-1] = np.nan
    sex = np.arange(27) % 2
    values = {'age': ages[member], 'sex': sex[member].astype(float)}
    covariates = Covariates(values, {'sex': ('F', 'M')}, 'id', len(member))
    study = Study(tmp_path, data=dataclasses.replace(data, covariates=covariates))
    words = study.run()
    found = {group['name']: group for group in study.stored['subgroups']}
    ages = ['under 60', '60 and over', '60 to 69', '80 and over']
    assert list(found) == [*ages, 'F', 'M']
    assert found['under 60']['absent'] == 'fewer than 8 subjects'
    assert found['80 and over']['subjects'] == 4 and not found['80 and over']['arms']
    women = sex[member] == 0
    arm = study.arms[0]
    subjects = by_subject(
        study.pooled[arm][women], data.labels[women], data.prepared.groups[women]
    )
    own = found['F']['arms'][0]
    assert (own['arm'], found['F']['subjects']) == ('pretrained', len(subjects.ids))
    assert own['log_loss']['value'] == pytest.approx(
        log_loss(subjects.probabilities, subjects.labels)
    )
    assert own['binary_auroc']['low'] <= own['binary_auroc']['high']
    # Whose age is unknown is left out of the adjustment.
    adjusted = study.stored['adjustments']
    assert [(a['arm'], a['subjects']) for a in adjusted] == [
        ('pretrained', 26),
        (UNTRAINED, 26),
    ]
    assert 'linear, beyond age and sex: odds ratio' in words


def test_an_adjustment_is_for_what_says_something(tmp_path, monkeypatch):
    """All of one sex, and brain volume that is age again: age is what is left."""
    monkeypatch.setattr('jax_mrissl.tasks.subgroups.FEWEST', 8)
    monkeypatch.setattr('jax_mrissl.tasks.adjustments.FEWEST', 8)
    data = labelled()
    _, member = np.unique(data.prepared.groups, return_inverse=True)
    age = np.random.default_rng(1).normal(70, 8, 27)[member]
    values = {'age': age, 'sex': np.zeros(len(age)), 'nwbv': 0.9 - age / 500}
    covariates = Covariates(values, {'sex': ('F',)}, 'id', len(age))
    study = Study(tmp_path, data=dataclasses.replace(data, covariates=covariates))
    words = study.run()
    told = study.stored['adjustments']
    assert [(a['arm'], a['given']) for a in told] == [
        ('pretrained', ['age']),
        (UNTRAINED, ['age']),
    ]
    assert told[1]['p'] is not None  # the other tells them apart without error
    assert 'linear, beyond age: odds ratio' in words


def test_a_group_of_one_class_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr('jax_mrissl.tasks.subgroups.FEWEST', 8)
    data = labelled()
    ages = np.where(data.labels == 0, 50.0, 65.0)
    covariates = Covariates({'age': ages}, {}, 'id', len(ages))
    study = Study(tmp_path, data=dataclasses.replace(data, covariates=covariates))
    study.run()
    [young] = [g for g in study.stored['subgroups'] if g['name'] == 'under 60']
    assert young['absent'] == 'all of one class: none' and young['subjects'] == 12


def test_networks_are_compared_with_baselines_in_pairs(tmp_path):
    study = Study(tmp_path)
    dark = Arm('dark pixels', '', tmp_path / 'dark', 'baseline')
    study.pooled[dark] = write_arm(dark, study.data, signal=0.8, seed=9)
    study.arms.append(dark)
    words = study.run()
    data = study.data
    found = study.stored['against_baselines']
    assert [(c['arm'], c['reference']) for c in found] == [
        ('pretrained', 'dark pixels'),
        (UNTRAINED, 'dark pixels'),
    ]
    areas = []
    for arm in (study.arms[0], dark):
        p, labels, groups = study.pooled[arm], data.labels, data.prepared.groups
        own = by_subject(p, labels, groups)
        areas.append(auroc(1 - own.probabilities[:, 0], own.labels > 0))
    assert found[0]['value'] == pytest.approx(areas[0] - areas[1])
    assert found[0]['low'] < found[0]['value'] < found[0]['high']
    assert 'pretrained, linear minus dark pixels: ' in words
    # Baselines stand first, and are no arms to be compared with the untrained one.
    rows = [r['arm'] for r in study.stored['results'] if r['unit'] == 'subject']
    assert rows == ['class prior', 'dark pixels', 'pretrained', UNTRAINED]
    assert {c['reference'] for c in study.stored['comparisons']} == {UNTRAINED}


@pytest.mark.parametrize('seed', range(4))
def test_of_two_classes_no_network_is_left_out_by_rounding(tmp_path, seed):
    """Both areas are one number, to the last digit or not."""
    study = Study(tmp_path, data=labelled(sizes=(15, 12)))
    dark = Arm('dark pixels', '', tmp_path / 'dark', 'baseline')
    write_arm(dark, study.data, signal=0.8, seed=seed, ranked=True)
    study.arms.insert(0, dark)
    for arm in study.arms[1:]:
        shutil.rmtree(arm.folder)
        write_arm(arm, study.data, signal=1.0, seed=seed + 10)
    words = study.run()
    # Beside each other in one sentence.
    area = r'\d\.\d{3} \[[^]]*\]'
    assert re.search(
        f'AUROC of none or not, by subject: dark pixels {area}; pretrained, linear '
        f'{area}; untrained, linear {area}',
        words,
    )
    found = [(c['arm'], c['metric']) for c in study.stored['against_baselines']]
    assert found == [('pretrained', 'binary_auroc'), (UNTRAINED, 'binary_auroc')]
    shown = {r['arm']: 'binary_auroc' in r for r in study.stored['results']}
    assert shown == {
        'class prior': False,
        'dark pixels': True,  # ranked as it is, so another number
        'pretrained': False,
        UNTRAINED: False,
    }


def test_training_is_judged_by_the_shares_that_it_saw():
    """Sites may differ: a constant guess there is worth more than among all."""
    data = labelled()
    by_class = [data.prepared.groups[data.labels == k] for k in range(3)]
    parts = [frozenset(by_class[0]), frozenset(np.concatenate(by_class[1:]))]
    made = tuple(
        Fold(train=one, validation=frozenset(), test=other)
        for one, other in (parts, parts[::-1])
    )
    data = dataclasses.replace(data, folds=made)
    later = data.labels[data.labels > 0]
    shares = np.bincount(later)[1:] / len(later)
    prior = -(shares * np.log(shares)).sum() / 2  # of the first class alone it is 0
    for loss, failed in ((prior - 1e-6, False), (prior + 1e-6, True)):
        assert judge([{'training_log_loss': loss}] * 2, data).failed == failed


def test_elsewhere_numbers_are_drawn_as_in_the_run(tmp_path):
    """Their bands are no strata: an interval within them would be too narrow."""
    study = TestNumbers().study(tmp_path)
    data, told = study.data, study.told[study.arms[0]]
    verdict = types.SimpleNamespace(answers=told[:, None])
    everyone = np.arange(len(told))
    columns = {'predictions': told, 'targets': data.targets}
    arm = Pooled(everyone, columns, {}, {}, ())
    theirs = panel(arm, everyone, data, experiment().finetune)
    found = [
        bootstrap(one, resamples=50, seed=0).estimate('subject', 'r2')
        for one in (external._panel(data, verdict, ()), theirs)
    ]
    assert found[0] == found[1] and found[0].low < found[0].high
