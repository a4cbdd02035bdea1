"""A search chooses in every fold by its own validation; a study runs with that."""

import json
import signal
import time

import numpy as np
import pytest
from conftest import stages, start_worker

from jax_mrissl.configs import study
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.pipeline import resident
from jax_mrissl.stages.forecast import forecast_text
from jax_mrissl.stages.search import run_search
from jax_mrissl.stages.search_trials import ArmTrials
from jax_mrissl.stages.study import Study
from jax_mrissl.stages.tuned import read_tuned
from jax_mrissl.tasks.opened_run import open_run
from jax_mrissl.tasks.predictions import PREDICTIONS


def small(cohort, **changes):
    """Gives a search whose first trial is what `stock` has done."""
    config = study.get_config('smoke')
    config.data_dir = str(cohort)
    config.report.pictures = False
    config.study.update(
        methods=('barlow',), chains=('natural',), targets=('severity3',), finalists=1
    )
    config.finetune.bootstrap_resamples = 50
    # A run of one epoch is over before it can be looked at.
    del config.search.space.barlow.length, config.search.space.barlow.batch_size
    config.search.update({'trials': 2, 'startup_trials': 1, 'looks': 1} | changes)
    return config


@pytest.fixture(scope='module')
def searched(cohort, stock, tmp_path_factory):
    workdir = stock(tmp_path_factory.mktemp('searched'))
    config = small(cohort)
    return config, workdir, run_search(config, workdir)


def test_a_search_trains_by_validation_alone_and_says_what_it_found(searched):
    _, workdir, text = searched
    told = json.loads((workdir / 'search.json').read_text())
    [arm] = told['arms']
    assert (arm['method'], arm['chain']) == ('barlow', 'natural')
    # The first cannot be looked at any more, so there is nothing to give up by.
    assert arm['complete'] == told['trials'] == 2
    assert arm['failed'] == arm['pruned'] == 0 and arm['seconds'] > 0
    for fold, slot in enumerate(arm['chosen']['severity3']['by_fold']):
        losses = {
            trial['slot']: trial['validation_losses']['severity3'][fold]
            for trial in arm['trials']
        }
        assert slot == min(losses, key=losses.get)
    first = arm['trials'][0]
    assert first['settings']['method.redundancy_weight'] == 0.0051
    losses = [
        [fold.get('validation_loss') for fold in json.loads(path.read_text())['folds']]
        for path in workdir.glob('stages/finetune-*/done.json')
    ]
    for trial in arm['trials']:
        assert trial['validation_losses']['severity3'] in losses
    assert 'SIMULATED' in text and '| barlow on natural |' in text
    assert 'chosen in each fold by its own validation subjects' in text
    logs = [
        path.read_text() for path in workdir.glob('stages/pretrain-*/metrics.jsonl')
    ]
    assert sum(log.count('linear_validation_loss') for log in logs) == 1


def test_what_all_folds_give_up_ends_on_the_way(cohort, stock, tmp_path, monkeypatch):
    monkeypatch.setattr(ArmTrials, 'gives_up', lambda *_: True)
    workdir = stock(tmp_path)
    before = stages(workdir)
    text = run_search(small(cohort), workdir)
    told = json.loads((workdir / 'search.json').read_text())
    [arm] = told['arms']
    assert [trial['state'] for trial in arm['trials']] == ['complete', 'pruned']
    assert arm['trials'][1]['given_up_at_look'] == {'severity3': [1, 1, 1]}
    assert arm['trials'][1]['seconds'] > 0
    assert arm['chosen']['severity3']['by_fold'] == [0, 0, 0]
    assert stages(workdir) == before and '| pruned |' in text


def test_a_second_search_does_nothing(searched):
    config, workdir, text = searched
    before = stages(workdir)
    assert run_search(config, workdir) == text
    assert stages(workdir) == before


def test_a_study_runs_with_what_each_fold_chose(searched):
    config, workdir, _ = searched
    # Whatever was found here: each fold another one, of two that came to their end.
    told = json.loads((workdir / 'search.json').read_text())
    [arm] = told['arms']
    ended = [t['slot'] for t in arm['trials'] if t['state'] == 'complete']
    assert len(ended) > 1
    arm['chosen']['severity3']['by_fold'] = [ended[0], ended[1], ended[0]]
    path = workdir / 'changed.json'
    path.write_text(json.dumps(told))
    tuned = Study(config, workdir, tuned=read_tuned(path))
    before = stages(workdir)
    assert forecast_text(tuned).splitlines()[0].endswith(' 1 are left.')
    tuned.do_stages()
    text = tuned.write()
    new = {name.partition('-')[0] for name in stages(workdir).keys() - before.keys()}
    assert new == {'finetune', 'by_fold'}  # and no pretraining
    assert 'Not done' not in text and 'Trials of the search: barlow natural' in text
    folder = workdir / 'tuned' / 'experiments' / 'barlow_natural_severity3_seed0'
    assert 'chosen in each fold' in (folder / 'results.md').read_text()
    run = open_run(folder)
    planned = tuned.planned[-1]
    for mode in ('linear', 'full'):
        [own] = [a for a in run.arms if a.mode == mode and a.name == 'barlow natural']
        assert own.folder.name.startswith('by_fold')
        starts = [start.path for start in own.by_fold]
        assert starts[0] == starts[2] != starts[1]
        # The networks that are opened again are those that predicted.
        source = run.parallel.replicate(resident(planned.data.prepared))
        program = run.features()
        for network in run.networks(own):
            rows = planned.data.rows(planned.data.folds[network.index].test)
            features = program(network.params, network.model_state, source, rows)
            with np.load(network.folder / PREDICTIONS) as stored:
                order = [
                    list(stored['file_ids']).index(i)
                    for i in planned.data.prepared.file_ids[rows]
                ]
                np.testing.assert_allclose(
                    network.outputs(features), stored['logits'][order], atol=1e-4
                )


def test_a_choice_of_other_folds_or_arms_is_not_used(searched, cohort):
    _, workdir, _ = searched
    tuned = read_tuned(workdir)
    other = small(cohort)
    other.finetune.fold_seed = 1
    refused = Study(other, workdir, tuned=tuned).refused
    assert 'other folds' in refused['barlow_natural_severity3_seed0']
    other = small(cohort)
    other.study.chains = ('natural', 'ct')
    refused = Study(other, workdir, tuned=tuned).refused
    assert list(refused) == ['barlow_ct_severity3_seed0']
    assert 'search with this config first' in refused['barlow_ct_severity3_seed0']
    with pytest.raises(UserError, match=r'There is no .*nothing'):
        read_tuned(workdir / 'nothing.json')
    with pytest.raises(UserError, match='of this version: search again'):
        read_tuned(next(workdir.glob('stages/*/done.json')))


def test_a_study_says_that_trials_were_trained_otherwise(searched, cohort):
    _, workdir, _ = searched
    words = 'trained, or probed, in another way'
    same, other = small(cohort), small(cohort)
    # Neither the seed nor what trials do not do is another way.
    same.study.seeds = (1,)
    same.finetune.full.epochs += 1
    other.pretrain.image_size += 4
    for config, told in ((same, False), (other, True)):
        tuned = Study(config, workdir, tuned=read_tuned(workdir))
        notes = ' '.join(tuned._content('').notes)
        assert (words in notes) is told
        assert 'chosen in each fold by its own validation subjects' in notes


def test_what_cannot_be_trained_fails_and_the_rest_goes_on(cohort, stock, tmp_path):
    config = small(cohort, looks=0, trials=4)
    config.study.chains = ('natural', 'xray')
    config.domains.xray.data.name = 'not_there'
    del config.search.space.barlow
    config.search.space.barlow = {'batch_size': {'choices': (16, 4000)}}
    text = run_search(config, stock(tmp_path))
    told = json.loads((tmp_path / 'search.json').read_text())
    [arm] = told['arms']
    sizes = [trial['settings']['batch_size'] for trial in arm['trials']]
    assert sizes[0] == 16 and 4000 in sizes
    for size, trial in zip(sizes, arm['trials'], strict=True):
        assert trial['state'] == ('complete' if size == 16 else 'failed')
        assert size == 16 or 'Set it to at most that' in trial['reason']
    assert arm['chosen']['severity3']['by_fold'] == [0] * 3
    assert "'not\\_there' is not prepared" in text


@pytest.mark.slow
def test_two_workers_of_whom_one_is_killed_find_what_one_finds(cohort, tmp_path):
    def start(workdir, *flags):
        return start_worker(
            'search',
            '--config=configs/study.py:smoke',
            f'--config.data_dir={cohort}',
            "--config.study.methods=('barlow',)",
            "--config.study.chains=('brain', 'natural')",
            "--config.study.targets=('severity3',)",
            '--config.search.trials=2',
            # Who ends first decides what is given up; nothing else depends on it.
            '--config.search.pruner=none',
            f'--workdir={workdir}',
            *flags,
        )

    def found(workdir):
        told = json.loads((workdir / 'search.json').read_text())
        for arm in told['arms']:
            del arm['seconds']
            for trial in arm['trials']:
                del trial['seconds']
        return told

    alone, shared = tmp_path / 'alone', tmp_path / 'shared'
    one = start(alone)
    _, err = one.communicate()
    assert one.returncode == 0, err
    storage = f'--storage=sqlite:///{tmp_path / "trials.db"}'
    workers = [start(shared, storage) for _ in range(2)]
    deadline = time.monotonic() + 600
    while not list(shared.glob('stages/pretrain-*/claim-*')):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    logs = [worker.communicate(timeout=1200)[1] for worker in workers]
    assert workers[1].returncode == 0, logs[1]
    assert found(shared) == found(alone)
    assert set(stages(shared)) == set(stages(alone))
