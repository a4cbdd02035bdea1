"""Who speaks for an image, by hand; and numbers and grades, from a run's raw files."""

import types

import numpy as np
import pytest
from conftest import smoke_config

from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.ensemble import ask
from jax_mrissl.tasks.external import evaluate_elsewhere
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import label_data
from jax_mrissl.tasks.opened_run import open_run
from jax_mrissl.tasks.predict import predict, write_tables
from jax_mrissl.tasks.prediction_text import prediction_text
from jax_mrissl.tasks.saliency_gallery import saliency_gallery


def fold(answer, seen, encoder=None):
    """A network that says one thing of all images, and knows some."""
    return types.SimpleNamespace(
        params={'encoder': encoder or [answer]},
        model_state=None,
        seen=np.array(seen),
        answers=lambda features: np.outer(features, [answer, 1 - answer]),
        novelty=types.SimpleNamespace(
            scores=lambda features, looks: (
                np.stack([features, looks[:, 0]], axis=1) * answer
            )
        ),
    )


def test_only_folds_speak_that_did_not_train_on_an_image():
    networks = [fold(0.1, ['a', 'c']), fold(0.5, ['a', 'b']), fold(0.9, ['a'])]
    verdict = ask(
        networks,
        lambda params, state, source, rows: np.ones(len(rows)),
        None,
        np.arange(4),
        looks=np.full((4, 1), 2.0),
        pixel_sha256=np.array(['a', 'b', 'c', 'new']),
    )
    # All were trained on 'a': then all speak, and the count tells it.
    expected = [0.5, (0.1 + 0.9) / 2, (0.5 + 0.9) / 2, 0.5]
    np.testing.assert_allclose(verdict.answers[:, 0], expected)
    np.testing.assert_allclose(verdict.answers.sum(1), 1)
    np.testing.assert_allclose(verdict.unlikeness[:, 1], 2 * np.array(expected))
    assert verdict.trained_on.tolist() == [3, 1, 1, 0]


def test_an_encoder_that_folds_share_is_asked_once():
    asked = []

    def program(params, state, source, rows):
        asked.append(*params['encoder'])
        return np.ones(len(rows))

    given = dict(looks=np.ones((1, 1)), pixel_sha256=np.array(['x']))
    frozen = ['frozen']
    probes = [fold(0.1, ['a'], frozen), fold(0.5, ['a'], frozen)]
    ask(probes, program, None, np.arange(1), **given)
    assert asked == ['frozen']
    ask([fold(0.1, ['a']), fold(0.5, ['a'])], program, None, np.arange(1), **given)
    assert asked == ['frozen', 0.1, 0.5]


@pytest.mark.parametrize('task', ['regression', 'ordinal'])
def test_numbers_and_grades_are_told_as_the_table_counted_them(cohort, tmp_path, task):
    config = smoke_config(cohort, name='untrained', finetune__task=task)
    config.finetune.modes = ('linear', 'full')
    experiment = read_experiment(config)
    run_experiment(experiment, tmp_path / 'run')
    run = open_run(tmp_path / 'run')
    column = 'predictions' if task == 'regression' else 'probabilities'
    for mode in ('linear', 'full'):
        arm = run.choose(mode=mode)
        found = predict(run, [cohort / 'raw/smoke/labelled'], mode=mode, workers=1)
        told = []
        for path in arm.folder.glob('fold-*/predictions.npz'):
            with np.load(path) as stored:
                told.append(stored[column].reshape(len(stored['labels']), -1))
        theirs = np.concatenate(told)
        ours = np.array([image.answer for image in found.images])
        order = [np.lexsort(np.round(rows, 4).T) for rows in (ours, theirs)]
        # Ridge on few rows has large weights: largest difference seen 2e-5.
        np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-4)
    write_tables(found, tmp_path / 'out')
    heads = (tmp_path / 'out/files.csv').read_text().splitlines()[0]
    text = prediction_text(found)
    if task == 'regression':
        assert 'number' in heads and 'told' not in heads
        assert 'most probable' not in text
        table = evaluate_elsewhere(
            run, 'smoke', cohort, split='labelled', allow_overlap=True
        )
        assert 'R²' in table and 'class prior' not in table
    else:
        assert ',0,0.5,1' in heads and 'told' in heads


@pytest.mark.slow
def test_what_speaks_for_a_number_is_shown(cohort, tmp_path):
    config = smoke_config(cohort, name='untrained', finetune__task='regression')
    config.finetune.modes = ('linear',)
    experiment = read_experiment(config)
    run_experiment(experiment, tmp_path)
    run = open_run(tmp_path)
    whole = open_prepared(cohort, 'smoke', 'labelled')
    data = label_data(experiment.finetune, whole)
    gallery = saliency_gallery(run, run.choose(), data, cases=2)
    assert [case.kind for case in gallery.cases] == ['worst'] * 2 + ['best'] * 2
    errors = [abs(float(c.truth) - float(c.told)) for c in gallery.cases]
    np.testing.assert_allclose([c.loss for c in gallery.cases], errors, atol=0.01)
    # Where the blurred slice gets nearly the same number, a gap is no share of it.
    assert gallery.numbers['completeness']['within'] >= 3
    assert gallery.groups == data.task.classes
