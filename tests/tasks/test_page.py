"""A finished run's page: what it says is what the run directory holds."""

import dataclasses
import json
import re

import numpy as np
import pytest
from conftest import smoke_config

from jax_mrissl.core.run_dir import read_json
from jax_mrissl.data.covariates import Covariates
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.report.run_page import run_page
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks import page as page_module
from jax_mrissl.tasks.closer_look import look_closer, worst_mistakes
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import label_data
from jax_mrissl.tasks.page import PAGE, gather
from jax_mrissl.tasks.pooling import Arm
from jax_mrissl.tasks.statements import background, by_age, difference

COMMAND = 'python -m jax_mrissl.main --config=configs/barlow_brain.py:smoke'


def config_of(cohort, **changes):
    return smoke_config(cohort, finetune__modes=('linear', 'full'), **changes)


@pytest.fixture(scope='module')
def run(cohort, stock, tmp_path_factory):
    """A run directory, and what its page was made from."""
    workdir = stock(tmp_path_factory.mktemp('paged'))
    experiment = read_experiment(config_of(cohort))
    made = []
    write = page_module.write_page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'jax_mrissl.stages.run.write_page',
            lambda run, folder: (made.append(run), write(run, folder)),
        )
        run_experiment(experiment, workdir, command=COMMAND)
    return workdir, made[0]


def test_the_page_shows_the_runs_numbers(run):
    workdir, _ = run
    text = (workdir / PAGE).read_text()
    for row in read_json(workdir / 'metrics.json')['results']:
        if 'log_loss' in row and 'under-trained' not in row['notes']:
            assert f'>{row["log_loss"]["value"]:.3f}' in text
    assert COMMAND in text and 'SIMULATED' in text
    assert 'Research use; not a medical device.' in text
    stages = [read_json(p) for p in workdir.glob('stages/*/stage.json')]
    own = [s['address'] for s in stages if s['params'].get('mode') != 'knn']
    assert len(own) == 6 and all(address in text for address in own)


def test_the_page_says_nothing_of_files(run, cohort):
    workdir, _ = run
    texts = [(workdir / PAGE).read_text()]
    texts += [p.read_text() for p in workdir.glob('stages/*/README.md')]
    for text in texts:
        assert 'sub-1' not in text and str(cohort) not in text


def test_each_finetuned_network_has_a_card(run):
    workdir, _ = run
    cards = {p.parent.name: p.read_text() for p in workdir.glob('stages/*/README.md')}
    assert len(cards) == 4
    for folder, card in cards.items():
        stage = read_json(workdir / 'stages' / folder / 'stage.json')
        assert stage['address'] in card
        assert ('Pretraining' in card) == bool(stage['parents'])


def test_written_again_it_is_the_same_and_pictures_can_be_left_out(run, cohort):
    workdir, _ = run
    before = (workdir / PAGE).read_bytes()
    stages = sorted(p.name for p in workdir.glob('stages/*'))
    config = config_of(cohort)
    run_experiment(read_experiment(config), workdir, command=COMMAND)
    assert (workdir / PAGE).read_bytes() == before and b'<img' in before
    config.report.pictures = False
    run_experiment(read_experiment(config), workdir, command=COMMAND)
    without = (workdir / PAGE).read_text()
    assert '<img' not in without and 'are left out of this page' in without
    assert sorted(p.name for p in workdir.glob('stages/*')) == stages


def test_the_close_look_is_at_the_subjects(run):
    """Against sums over the predictions, subject by subject."""
    workdir, made = run
    arm = next(arm for arm in made.arms if arm.mode == 'linear')
    found = look_closer(arm, made.data, read_json(workdir / 'metrics.json'))
    sums, labels, counts = {}, {}, {}
    for path in arm.folder.glob('fold-*/predictions.npz'):
        with np.load(path) as stored:
            columns = (stored[n] for n in ('groups', 'labels', 'probabilities'))
            for group, label, row in zip(*columns, strict=True):
                sums[group] = sums.get(group, 0) + row
                counts[group] = counts.get(group, 0) + 1
                labels[group] = label
    ids = sorted(sums)
    means = np.array([sums[i] / counts[i] for i in ids])
    np.testing.assert_allclose(found.probabilities, means, atol=1e-9)
    table = np.zeros((3, 3), int)
    for i, mean in zip(ids, means, strict=True):
        table[labels[i], mean.argmax()] += 1
    np.testing.assert_array_equal(found.confusion, table)
    wrong = {i for i, m in zip(ids, means, strict=True) if m.argmax() != labels[i]}
    pictures = worst_mistakes(arm, made.data)
    shown = [picture.caption[-1].removeprefix('subject ') for picture in pictures]
    assert len(pictures) == min(8, len(wrong))
    assert set(shown) <= {i[:8] for i in wrong}
    sure = [float(re.search(r'([\d.]+)\)$', p.caption[1])[1]) for p in pictures]
    assert sure == sorted(sure, reverse=True)


def test_the_over_sixties_stand_first_where_ages_are_known(run):
    workdir, made = run
    data = made.data
    _, member = np.unique(data.prepared.groups, return_inverse=True)
    # Three of four subjects are old; too few of them are in this cohort by default.
    ages = np.where(member % 4 == 0, 45.0, 75.0)
    old = int((np.unique(member) % 4 != 0).sum())
    aged = dataclasses.replace(data, covariates=Covariates({'age': ages}, {}, 'id', 1))
    arm = next(arm for arm in made.arms if arm.mode == 'linear')
    plan = made.experiment.finetune
    assert by_age(arm, data, plan) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('jax_mrissl.tasks.statements._FEWEST', 5)
        first, second, _ = by_age(arm, aged, plan)
        # Elsewhere age need not tell most.
        card = dataclasses.replace(
            aged.prepared, card=aged.prepared.card | {'classes': ['benign', 'other']}
        )
        assert by_age(arm, dataclasses.replace(aged, prepared=card), plan) == []
    assert f'the {old} subjects aged 60 and over' in first
    details = look_closer(arm, data, read_json(workdir / 'metrics.json'))
    kept = np.arange(len(details.labels)) % 4 != 0
    true = details.probabilities[kept, details.labels[kept]]
    assert f'log loss is {-np.log(true).mean():.3f} [' in second
    # All of one side: nothing to be told apart.
    young = dataclasses.replace(
        data, covariates=Covariates({'age': ages * 0 + 40}, {}, 'id', 1)
    )
    assert by_age(arm, young, plan) == []


def test_what_was_tested_and_by_whom_is_said_as_it_was(run):
    workdir, made = run
    data, part = made.data, made.data.folds[:1]
    shipped = dataclasses.replace(data, division='shipped', folds=part)
    facts = gather(dataclasses.replace(made, data=shipped), workdir)
    tested = len(shipped.tested())
    assert f' {tested} slices.' in facts.subtitle and tested < len(data.labels)
    assert 'not seen' not in facts.told_by and 'not seen' not in run_page(facts)
    said = dict(facts.methods)
    assert f' {tested} slices of ' in said['Data']
    assert said['Split'].startswith("One division, the dataset's own split (leaky")
    assert 'one in 3 of the rest' in said['Split']  # smoke scale has 3 folds


def test_the_arm_to_look_at_is_not_chosen_by_its_result(run):
    _, made = run
    arms = tuple(
        Arm(name, mode, made.arms[0].folder)
        for name in ('barlow_brain', 'untrained')
        for mode in ('linear', 'knn', 'full')
    )
    chosen = page_module._chosen(arms, set())
    assert (chosen.name, chosen.mode) == ('barlow_brain', 'full')
    failed = {('barlow_brain', 'full')}
    assert page_module._chosen(arms, failed).mode == 'linear'
    assert page_module._chosen(arms, {(a.name, a.mode) for a in arms}) is None


def test_a_run_without_a_result_says_so(run, tmp_path):
    workdir, made = run
    measured = read_json(workdir / 'metrics.json')
    for row in measured['results']:
        if row['mode']:
            row['notes'] = ['under-trained', 'simulated']
    (tmp_path / 'metrics.json').write_text(json.dumps(measured))
    facts = gather(made, tmp_path)
    assert facts.lead == 'No result: every network is under-trained.'
    assert facts.details is None and 'under-trained' in facts.details_absent


@pytest.mark.parametrize(
    ('low', 'high', 'p', 'metric', 'said'),
    [
        (-0.2, -0.1, 0.01, 'log_loss', 'Pretraining helped'),
        (0.1, 0.2, 0.01, 'log_loss', 'Pretraining harmed'),
        (0.1, 0.2, 0.01, 'macro_auroc', 'Pretraining helped'),
        (-0.1, 0.2, 0.4, 'log_loss', 'No difference is shown:'),
        (0.1, 0.2, 0.09, 'log_loss', 'No difference is shown after correction'),
        (None, None, None, 'log_loss', 'Undefined'),
    ],
)
def test_differences_are_said_as_what_they_are(low, high, p, metric, said):
    compared = {
        'arm': 'a',
        'reference': 'untrained',
        'mode': 'linear',
        'metric': metric,
        'unit': 'subject',
        'value': low and (low + high) / 2,
        'low': low,
        'high': high,
        'holm_p': p,
    }
    assert difference(compared, set(), False).startswith(said)
    lacking = difference(compared, {('untrained', 'linear')}, True)
    assert 'not compared' in lacking and 'SIMULATED' in lacking


def test_what_is_known_of_the_kaggle_set_is_said_of_it_alone(cohort):
    experiment = read_experiment(config_of(cohort))
    plan = experiment.finetune
    data = label_data(plan, open_prepared(cohort, 'smoke', 'labelled'))
    assert background(data, plan) == []
    named = dataclasses.replace(data.prepared, name='alzheimer_mri')
    told = background(dataclasses.replace(data, prepared=named), plan)
    assert 'OASIS-1' in told[0] and '0.691' in told[1] and 'covariates' in told[2]
