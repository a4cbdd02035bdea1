"""From a finished run to answers about raw files, at smoke scale."""

import csv
import shutil

import numpy as np
import pytest
from conftest import dicom_of, run_module, smoke_config, write_pngs

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.opened_run import OpenedRun, open_run
from jax_mrissl.tasks.predict import predict, write_tables
from jax_mrissl.tasks.prediction_text import prediction_text


@pytest.fixture(scope='module')
def finished(cohort, stock, tmp_path_factory):
    workdir = stock(tmp_path_factory.mktemp('run'))
    experiment = read_experiment(smoke_config(cohort))
    run_experiment(experiment, workdir)
    return open_run(workdir)


@pytest.fixture(scope='module')
def strangers(tmp_path_factory):
    """New subjects like those of the cohort, one unlike them, and what is no image."""
    folder = tmp_path_factory.mktemp('given')
    rng = np.random.default_rng(7)
    for subject in (1, 2):
        for k in range(3):
            pixels = rng.integers(0, 120, (28, 24)).astype(np.uint8)
            pixels[8:20, 6:18] = 60 * subject + rng.integers(0, 40, (12, 12))
            write_pngs(folder, {f'new/sub-200{subject}_slice-0{k}.png': pixels})
    # By content, not by suffix.
    write_pngs(folder, {'odd/white': np.full((20, 60), 250, np.uint8)})
    wide = rng.integers(200, 255, (20, 60)).astype(np.uint8)
    write_pngs(folder, {'odd/wide': wide})
    (folder / 'odd/notes.txt').write_text('patient')
    return folder


def labelled_folder(cohort):
    return cohort / 'raw' / 'smoke' / 'labelled'


@pytest.mark.parametrize('mode', ['linear', 'full'])
@pytest.mark.parametrize('arm', ['barlow_brain', 'untrained'])
def test_labelled_files_are_told_what_the_table_counted(finished, cohort, arm, mode):
    """The raw files of tested subjects get the probabilities of their test fold."""
    found = predict(finished, [labelled_folder(cohort)], arm=arm, mode=mode, workers=1)
    prepared = open_prepared(cohort, 'smoke', 'labelled')
    [opened] = [a for a in finished.arms if (a.name, a.mode) == (arm, mode)]
    expected, groups = {}, {}
    for file in opened.folder.glob('fold-*/predictions.npz'):
        with np.load(file) as stored:
            expected |= dict(
                zip(stored['file_ids'], stored['probabilities'], strict=True)
            )
    assert len(found.images) == len(expected) == 48
    # The order of paths is no order of ids: rows are matched by their numbers.
    theirs = np.stack([expected[file_id] for file_id in prepared.file_ids])
    ours = np.array([image.answer for image in found.images])
    # Sizes of batches differ; largest difference seen: 5e-7.
    order = [np.lexsort(np.round(rows, 5).T) for rows in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-5)
    # Each was trained or validated on by all folds but one.
    assert {image.trained_on for image in found.images} == {2}
    assert len(found.subjects) == 16 and {s.images for s in found.subjects} == {3}
    assert not any(subject.trained_on for subject in found.subjects)
    subjects = {}
    for file_id, group in zip(prepared.file_ids, prepared.groups, strict=True):
        subjects.setdefault(group, []).append(expected[file_id])
        groups[group] = np.mean(subjects[group], axis=0)
    like = [s for s in found.subjects if not s.unlike]
    causes = [image.cause for image in found.images]
    # The share that strangers are held against, of images that set no threshold.
    shares = [network.unlike_share for network in finished.networks(opened)]
    assert found.unlike_share == pytest.approx(np.mean(shares))
    sizes = []
    for fold in range(3):
        with np.load(opened.folder / f'fold-{fold}/predictions.npz') as stored:
            sizes.append(len(stored['labels']))
    assert np.dot(shares, sizes) == pytest.approx(sum(map(bool, causes)))
    for subject in like:
        assert min(abs(subject.answer - p).max() for p in groups.values()) < 1e-5


def test_new_files_are_averaged_over_folds(finished, strangers, monkeypatch):
    given = [strangers / 'new']
    found = predict(finished, given, mode='linear', workers=1)
    assert len(found.images) == 6 and len(found.subjects) == 2 and found.folds == 3
    assert {image.trained_on for image in found.images} == {0}
    alone = []
    for network in finished.networks(finished.choose(mode='linear')):
        monkeypatch.setattr(OpenedRun, 'networks', lambda *_, one=network: [one])
        answers = predict(finished, given, mode='linear', workers=1).images
        alone.append([image.answer for image in answers])
    assert np.ptp(alone, axis=0).max() > 1e-3
    np.testing.assert_allclose(
        [image.answer for image in found.images], np.mean(alone, axis=0), atol=1e-9
    )
    for subject in found.subjects:
        own = [i for i in found.images if i.subject == subject.subject]
        like = [i for i in own if not i.cause] or own
        np.testing.assert_allclose(
            subject.answer, np.mean([i.answer for i in like], axis=0)
        )
        assert sum(subject.answer) == pytest.approx(1)


def test_blocks_change_nothing(finished, strangers, monkeypatch):
    whole = predict(finished, [strangers], mode='full', workers=1)
    monkeypatch.setattr('jax_mrissl.tasks.predict._BLOCK', 4)
    parts = predict(finished, [strangers], mode='full', workers=1)
    assert [i.path for i in whole.images] == [i.path for i in parts.images]
    np.testing.assert_allclose(
        [i.answer for i in whole.images], [i.answer for i in parts.images], atol=1e-5
    )


def test_what_is_unlike_or_unreadable_is_said_and_nobody_is_named(
    finished, strangers, tmp_path
):
    rng = np.random.default_rng(0)
    scan = rng.integers(0, 900, (28, 24)).astype('<u2')
    dicom_of(scan, PatientID='Doe^Jane').save_as(
        tmp_path / 'scan', enforce_file_format=True
    )
    found = predict(finished, [strangers, tmp_path / 'scan'], workers=1)
    odd = next(i for i in found.images if i.path.endswith('odd/wide'))
    assert odd.cause and max(odd.unlikeness) > 1.5
    own = next(s for s in found.subjects if s.subject == odd.subject)
    assert own.is_unlike
    reasons = {path.split('/')[-1]: why for path, why in found.unreadable}
    assert reasons['white'] == 'blank image' and 'notes.txt' in reasons
    write_tables(found, tmp_path / 'out')
    with open(tmp_path / 'out/files.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.images) == 8
    told = {row['path']: row for row in rows}[odd.path]
    assert told['unlike'] == '1'
    assert float(told[f'unlikeness_of_{odd.cause}']) > 1
    three = [float(told[name]) for name in finished.task.classes]
    assert sum(three) == pytest.approx(1, abs=1e-5)
    assert told['told'] == finished.task.classes[int(np.argmax(three))]
    with open(tmp_path / 'out/subjects.csv') as file:
        assert len(list(csv.DictReader(file))) == len(found.subjects) == 4
    text = prediction_text(found)
    for words in (
        'the mean of 3 networks',
        'SIMULATED',
        'By subject (n = 4)',
        'UNLIKE',
        'blank image',
    ):
        assert words in text
    assert 'UNDER-TRAINED' in text or 'over 16 subjects: log loss' in text
    everything = text + ''.join(p.read_text() for p in (tmp_path / 'out').iterdir())
    assert 'Doe' not in everything


def test_the_command(finished, strangers, tmp_path):
    given = [str(strangers), f'--out={tmp_path}/out', '--workers=1']
    done = run_module('predict', f'--workdir={finished.workdir}', *given)
    assert done.returncode == 0, done.stderr
    assert 'not a medical device' in done.stdout and 'By subject (n = 3)' in done.stdout
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'files.csv', 'subjects.csv', 'unreadable.csv'}
    for flags, words in (
        (['x.png'], '--workdir is missing'),
        ([f'--workdir={finished.workdir}'], 'Name files or folders'),
        ([f'--workdir={tmp_path}/none', 'x.png'], 'There is no folder'),
    ):
        failed = run_module('predict', *flags)
        assert failed.returncode == 1 and words in failed.stderr
        assert 'Traceback' not in failed.stderr


def test_what_the_run_measured_of_an_arm_is_said(finished, tmp_path):
    arm = finished.choose(mode='linear')
    copy = type(finished)(tmp_path, finished.told)
    measured = read_json(finished.workdir / 'metrics.json')
    [row] = [
        row
        for row in measured['results']
        if (row['arm'], row['mode'], row['unit']) == (arm.name, 'linear', 'subject')
    ]
    row |= {
        'log_loss': {'value': 0.9, 'low': 0.85, 'high': 0.97, 'undefined': 0},
        'prior_log_loss': 1.05,
        'notes': [],
    }
    write_json(tmp_path / 'metrics.json', measured)
    [told] = copy.standing(arm)
    assert told.endswith(
        'over 16 subjects: log loss 0.900 [0.850, 0.970]; a constant guess 1.050.'
    )
    row['notes'] = ['under-trained']
    write_json(tmp_path / 'metrics.json', measured)
    [told] = copy.standing(arm)
    assert told.startswith('UNDER-TRAINED')


def test_the_run_tells_what_it_was_pretrained_on(finished, cohort):
    prepared = open_prepared(cohort, 'smoke')
    told = {'name': 'smoke', 'split': 'pretrain', 'fingerprint': prepared.fingerprint}
    assert finished.told['pretrained_on'] == [told | {'left_out': []}]


def test_arms_are_chosen_without_a_look_at_results(finished, tmp_path):
    assert finished.choose().label == 'barlow_brain, full'
    assert finished.choose(mode='linear').label == 'barlow_brain, linear'
    assert finished.choose('untrained').label == 'untrained, full'
    with pytest.raises(UserError, match=r"no arm 'simclr'\. It has: barlow"):
        finished.choose('simclr')
    with pytest.raises(UserError, match='knn keeps no network'):
        finished.choose(mode='knn')


def test_runs_that_are_not_finished_say_what_to_do(finished, tmp_path):
    with pytest.raises(UserError, match='is no run'):
        open_run(tmp_path)
    write_json(tmp_path / 'config.json', {})
    with pytest.raises(UserError, match='is not finished'):
        open_run(tmp_path)
    write_json(tmp_path / 'metrics.json', {})
    with pytest.raises(UserError, match='by an earlier version'):
        open_run(tmp_path)
    copy = tmp_path / 'copy'  # a run can be moved, but not without its networks
    shutil.copytree(finished.workdir, copy)
    run = open_run(copy)
    assert len(run.networks(run.choose())) == 3
    shutil.rmtree(run.choose().folder / 'fold-1/best')
    with pytest.raises(UserError, match='run the same `main` again'):
        run.networks(run.choose())
    assert read_json(copy / 'arms.json') == finished.told


def test_a_lost_file_of_training_facts_is_written_again(finished, cohort):
    path = finished.choose(mode='linear').folder / 'fold-0/training.npz'
    with np.load(path) as stored:
        before = {name: stored[name] for name in stored.files}
    path.unlink()
    run_experiment(read_experiment(smoke_config(cohort)), finished.workdir)
    with np.load(path) as stored:
        assert set(stored.files) == set(before)
        for name, value in before.items():
            np.testing.assert_array_equal(stored[name], value)
