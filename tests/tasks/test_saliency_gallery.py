"""From a finished run to maps, their numbers and the page's section, at smoke scale."""

import numpy as np
import pytest
from conftest import smoke_config

from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data.pipeline import resident
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.saliency.regions import foreground, share
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import label_data
from jax_mrissl.tasks.opened_run import open_run
from jax_mrissl.tasks.page import PAGE
from jax_mrissl.tasks.saliency_gallery import (
    MAPS,
    METHODS,
    NUMBERS,
    ensure_gallery,
    saliency_gallery,
)
from jax_mrissl.tasks.saliency_section import saliency_section

WORDS = {'simulated': True, 'kind': 'classes', 'told_by': 'networks'}


@pytest.fixture(scope='module')
def finished(cohort, stock, tmp_path_factory):
    workdir = stock(tmp_path_factory.mktemp('run'))
    config = smoke_config(cohort, name='untrained', report__saliency=True)
    config.finetune.modes = ('linear', 'full')
    experiment = read_experiment(config)
    run_experiment(experiment, workdir)
    whole = open_prepared(cohort, 'smoke', 'labelled')
    return experiment, open_run(workdir), label_data(experiment.finetune, whole)


@pytest.mark.parametrize('mode', ['linear', 'full'])
def test_cases_are_the_worst_and_best_told_and_explained_by_their_fold(finished, mode):
    _, run, data = finished
    arm = run.choose(mode=mode)
    gallery = saliency_gallery(run, arm, data, cases=3)
    told = {}
    for fold in range(3):
        with np.load(arm.folder / f'fold-{fold}/predictions.npz') as stored:
            for group in np.unique(stored['groups']):
                own = stored['groups'] == group
                label = stored['labels'][own][0]
                loss = -np.log(stored['probabilities'][own].mean(0)[label])
                told[group[:8]] = loss, fold
    order = sorted(told, key=lambda group: -told[group][0])
    kinds = [case.kind for case in gallery.cases]
    assert kinds == ['worst'] * 3 + ['best'] * 3
    subjects = [case.subject for case in gallery.cases]
    assert subjects == [*order[:3], *order[::-1][:3]]
    for case in gallery.cases:
        assert case.loss == pytest.approx(told[case.subject][0], rel=1e-6)
        assert case.fold == told[case.subject][1]
        group = data.prepared.groups[case.row]
        slices = data.prepared.positions[data.prepared.groups == group]
        assert data.prepared.positions[case.row] == np.median(slices)
    assert gallery.images.shape == (6, 16, 16)
    # What the network is shown, before it is normalised: gray in [0, 1].
    assert 0 <= gallery.images.min() < gallery.images.max() <= 1
    assert set(gallery.maps) == set(METHODS)
    for maps in gallery.maps.values():
        assert maps.shape == (6, 16, 16) and np.isfinite(maps).all()
    assert (gallery.maps['smooth_grad'] >= 0).all()
    assert gallery.groups == data.task.classes
    assert gallery.average_images.shape == (3, 16, 16)
    found = gallery.numbers['completeness']
    assert found['images'] == 6 and found['within'] >= 5
    assert found['median_gap'] <= 0.01
    mine = [
        share(one, foreground(image))
        for one, image in zip(
            gallery.maps['integrated_gradients'], gallery.images, strict=True
        )
    ]
    shares = gallery.numbers['shares']['integrated_gradients']['inside']
    assert shares['attribution'] == pytest.approx(np.mean(mine), abs=1e-5)
    assert gallery.numbers['shares']['grad_cam']['dark']['images'] <= 16


def test_a_probe_is_explained_as_it_predicts(finished):
    """The head that is differentiated holds the standardisation of features, too."""
    _, run, data = finished
    arm = run.choose(mode='linear')
    program = run.features(8)
    source = run.parallel.replicate(resident(data.prepared))
    for network in run.networks(arm):
        with np.load(network.folder / 'predictions.npz') as stored:
            ids, logits = stored['file_ids'][:6], stored['logits'][:6]
        rows = np.array([np.flatnonzero(data.prepared.file_ids == i)[0] for i in ids])
        features = program(network.params, network.model_state, source, rows)
        np.testing.assert_allclose(
            network.head(network.params['head'], features), logits, atol=1e-3
        )


def test_main_writes_it_once_and_the_page_shows_it(finished, cohort):
    experiment, run, data = finished
    told = read_json(run.workdir / NUMBERS)
    assert told['arm'] == 'untrained, full' and len(told['cases']) == 8
    assert {'kind', 'subject', 'truth', 'told', 'fold', 'loss'} == set(told['cases'][0])
    before = (run.workdir / MAPS).stat().st_mtime_ns
    ensure_gallery(run, data)
    assert (run.workdir / MAPS).stat().st_mtime_ns == before
    page = (run.workdir / PAGE).read_text()
    for words in (
        'What the network looked at',
        'Grad-CAM',
        'SmoothGrad',
        'add up to the change',
        'random numbers in place of what the network learned',
        'Where saliency lies',
    ):
        assert words in page
    stages = [arm.folder.name for arm in run.arms]
    [gallery] = saliency_section(run.workdir, stages, **WORDS)
    assert len(gallery.pictures) == 9
    assert all(picture.alt and picture.caption for picture in gallery.pictures)
    assert all('simulated' in picture.alt for picture in gallery.pictures)
    # Maps of other networks are not shown.
    assert not saliency_section(run.workdir, ['finetune-other'], **WORDS)
    config = smoke_config(
        cohort, name='untrained', report__saliency=True, report__pictures=False
    )
    config.finetune.modes = ('linear', 'full')
    run_experiment(read_experiment(config), run.workdir)
    assert 'What the network looked at' not in (run.workdir / PAGE).read_text()
    run_experiment(experiment, run.workdir)


def test_the_verdict_on_random_networks_is_in_words(finished):
    _, run, _ = finished
    stages = [arm.folder.name for arm in run.arms]
    told = read_json(run.workdir / NUMBERS)
    for method, value, words in (
        ('grad_cam', 0.9, 'Grad-CAM hardly depends on what was learned'),
        ('grad_cam', 0.1, 'So they depend on what was learned'),
    ):
        for name in METHODS:
            told['random_networks'][name]['rank_correlation'] = 0.2
        told['random_networks'][method]['rank_correlation'] = value
        write_json(run.workdir / NUMBERS, told)
        [gallery] = saliency_section(run.workdir, stages, **WORDS)
        assert words in gallery.notes[2]


def test_nothing_follows_from_maps_that_are_undefined_or_of_no_result(finished):
    _, run, _ = finished
    stages = [arm.folder.name for arm in run.arms]
    told = read_json(run.workdir / NUMBERS)
    for name in METHODS:
        told['random_networks'][name]['rank_correlation'] = None
    write_json(run.workdir / NUMBERS, told)
    [gallery] = saliency_section(run.workdir, stages, **WORDS)
    assert 'it cannot be told' in gallery.notes[2]
    assert 'on what was learned' not in gallery.notes[2]
    failed = WORDS | {'under_trained': [told['arm']]}
    for value in (0.1, 0.9):
        for name in METHODS:
            told['random_networks'][name]['rank_correlation'] = value
        write_json(run.workdir / NUMBERS, told)
        [gallery] = saliency_section(run.workdir, stages, **failed)
        assert 'on what was learned' not in ' '.join(gallery.notes)


def test_of_numbers_and_of_leaky_divisions_the_words_are_theirs(finished):
    _, run, _ = finished
    stages = [arm.folder.name for arm in run.arms]
    of = WORDS | {'kind': 'regression', 'told_by': 'networks that knew it'}
    [gallery] = saliency_section(run.workdir, stages, **of)
    texts = [*gallery.notes, *(line for p in gallery.pictures for line in p.caption)]
    assert 'networks that knew it' in texts[0]
    assert not [text for text in texts if 'class' in text]
