"""Full finetuning tries a grid in every fold and keeps the best by validation."""

import shutil

import numpy as np
import pytest
from conftest import smoke_config

from jax_mrissl.core.run_dir import read_json
from jax_mrissl.tasks.finetune import Finetuner
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.labelled import label_data
from jax_mrissl.tasks.pretrain import open_data
from jax_mrissl.train.checkpoint import Lineage
from jax_mrissl.train.loop import TrainingDiverged

LINEAGE = Lineage('a' * 64, {}, (), '0.1')


@pytest.fixture(scope='module')
def finetuner(cohort):
    def make(*rates):
        config = smoke_config(cohort, 'untrained')
        config.finetune.slices_per_group = 2
        config.finetune.full.grid = dict(rate_per_256=rates, weight_decay=(0.01,))
        experiment = read_experiment(config)
        common, plan = experiment.common, experiment.finetune
        data = label_data(plan, open_data(plan.data, common.data_dir), common)
        return Finetuner(plan, common, data)

    return make


def run(finetuner, folder):
    return finetuner.run('full', None, folder, LINEAGE, what='Trials')['folds']


def predictions(folder, fold=0):
    with np.load(folder / f'fold-{fold}' / 'predictions.npz') as stored:
        return {name: stored[name] for name in stored.files}


def test_the_best_by_validation_is_kept_and_one_that_diverges_is_out(
    finetuner, tmp_path, caplog
):
    caplog.set_level('WARNING')
    both, alone = tmp_path / 'both', tmp_path / 'alone'
    # The first never learns, the second does, the third overflows at once.
    facts = run(finetuner(1e-9, 3e-2, 1e30), both)
    for fold in facts:
        losses = [trial['validation_loss'] for trial in fold['trials']]
        assert losses[2] is None
        assert fold['trial'] == int(np.argmin(losses[:2]))
        assert fold['rate_per_256'] == (1e-9, 3e-2)[fold['trial']]
        assert fold['validation_loss'] == min(losses[:2])
    assert 'trial 3 of 3 diverged, and is out' in caplog.text
    assert {fold['trial'] for fold in facts} == {1}
    # What is kept is what that setting alone would have given, to the last bit.
    run(finetuner(3e-2), alone)
    for fold in range(3):
        one, two = predictions(both, fold), predictions(alone, fold)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    left = sorted(p.name for p in (both / 'fold-0').iterdir())
    assert left == [
        'best',
        'done.json',
        'predictions.npz',
        'trial-0',
        'trial-1',
        'trial-2',
    ]
    assert not list(both.glob('fold-*/trial-*/*/'))


def test_a_fold_goes_on_where_it_was_stopped(finetuner, tmp_path):
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    made = finetuner(1e-3, 3e-2)
    facts = run(made, whole)
    shutil.copytree(whole, stopped)
    # Killed after the best network was moved, before the fold was done.
    (stopped / 'fold-1' / 'done.json').unlink()
    (stopped / 'fold-1' / 'predictions.npz').unlink()
    shutil.rmtree(stopped / 'fold-2')
    assert run(made, stopped) == facts
    for fold in range(3):
        one, two = predictions(whole, fold), predictions(stopped, fold)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert read_json(stopped / 'fold-1' / 'done.json') == facts[1]


def test_where_all_diverge_the_run_says_so(finetuner, tmp_path):
    with pytest.raises(TrainingDiverged, match=r'every trial .* diverged in fold 1'):
        run(finetuner(1e30, 1e31), tmp_path)
