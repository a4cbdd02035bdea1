"""The whole way, at smoke scale: killed, continued, done; the same numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import smoke_config
from PIL import Image

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import read_json
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.train.loop import TrainingDiverged

# Runs the program in a process of its own, and kills it where a test says.
PROGRAM = """
import os, signal, sys
from jax_mrissl.train import checkpoint, loop
from jax_mrissl.core.run_dir import MetricsLog
from jax_mrissl.core import command

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where, step = sys.argv[1], int(sys.argv[2])
part = sys.argv[3]
del sys.argv[1:4]
write, save = MetricsLog.write, checkpoint.Checkpoints.save

def log(self, at, values):
    write(self, at, values)
    if where == 'after_log' and at == step and part in str(self._path):
        die()

def saved(self, at, state, extra):
    before = self.latest()
    save(self, at, state, extra)
    if where == 'in_save' and at == step and part in str(self._manager.directory):
        die()  # the write has begun, in a thread of its own

MetricsLog.write, checkpoint.Checkpoints.save = log, saved
from jax_mrissl import main
command.run_command(main.main, main.__doc__)
"""
# What is killed when; an epoch has 2 steps, of pretraining and of finetuning.
KILLS = [('in_save', 4, 'pretrain')]  # while a checkpoint is written
MORE_KILLS = [
    ('after_log', 1, 'pretrain'),  # before the first checkpoint
    ('after_log', 2, 'pretrain'),  # on the boundary, nothing saved yet
    ('after_log', 3, 'pretrain'),  # after an epoch
    *KILLS,
    ('after_log', 2, 'fold-0/trial-0'),
    ('in_save', 2, 'fold-1/trial-0/last'),
    ('in_save', 2, 'fold-2/trial-0/best'),
]


def run(name, data_dir, workdir, cache, kill=('never', 0, '-')):
    environment = {
        **os.environ,
        'JAX_NUM_CPU_DEVICES': '1',
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    return subprocess.run(
        [
            sys.executable,
            '-c',
            PROGRAM,
            *map(str, kill),
            f'--config=configs/{name}.py:smoke',
            f'--config.data_dir={data_dir}',
            '--config.pretrain.epochs=3',
            "--config.finetune.modes=('full',)",  # the others are done in one breath
            '--config.report.pictures=false',
            f'--workdir={workdir}',
        ],
        env=environment,
        capture_output=True,
        text=True,
    )


def final_arrays(workdir):
    """Reads every array that the run ended with, by file and path."""
    found = {}
    for state in sorted(workdir.glob('stages/**/state')):
        tree = ocp.PyTreeCheckpointer().restore(state)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f'{state.relative_to(workdir)}{jax.tree_util.keystr(path)}'
            found[name] = np.asarray(leaf)
    for file in sorted(workdir.glob('stages/**/predictions.npz')):
        with np.load(file) as stored:
            for name in stored.files:
                found[f'{file.relative_to(workdir)}/{name}'] = stored[name]
    return found


@pytest.mark.parametrize(
    ('name', 'kills'),
    [
        # Its queue is full from the second step on, and in every checkpoint.
        ('swav_brain', KILLS),
        pytest.param('barlow_brain', MORE_KILLS, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_and_started_again_ends_bit_for_bit(
    cohort, tmp_path, name, kills
):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    cache = tmp_path / 'cache'
    undisturbed = run(name, cohort, whole, cache)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for kill in kills:
        died = run(name, cohort, killed, cache, kill)
        assert died.returncode == -signal.SIGKILL, (kill, died.stderr)
    last = run(name, cohort, killed, cache)
    assert last.returncode == 0, last.stderr
    one, two = final_arrays(whole), final_arrays(killed)
    assert set(one) == set(two) and len(one) > 100
    for path, value in one.items():
        np.testing.assert_array_equal(two[path], value, err_msg=path)
    if name == 'swav_brain':
        [queued] = [v for path, v in one.items() if path.endswith("['queued']")]
        assert queued == 16
    logs = [
        [row['step'] for row in map(json.loads, log.read_text().splitlines())]
        for log in sorted(killed.glob('stages/**/metrics.jsonl'))
    ]
    for steps in logs:  # no line twice, none missing at the end
        assert steps == sorted(set(steps))
    assert json.loads((whole / 'metrics.json').read_text()) == json.loads(
        (killed / 'metrics.json').read_text()
    )


@pytest.fixture(scope='module')
def finished(cohort, stock, tmp_path_factory):
    workdir = stock(tmp_path_factory.mktemp('run'))
    experiment = read_experiment(smoke_config(cohort))
    return experiment, workdir, run_experiment(experiment, workdir)


def test_table_has_every_arm_beside_the_prior(finished):
    _, workdir, table = finished
    for words in (
        'class prior',
        'barlow_brain, linear',
        'barlow_brain, full',
        'untrained, linear',
        'untrained, full',
        'SIMULATED',
        'By subject (n = 16)',
    ):
        assert words in table
    metrics = read_json(workdir / 'metrics.json')
    assert 'log_loss' in json.dumps(metrics)
    assert (workdir / 'results.md').read_text().count('|') > 20


def test_pretraining_writes_what_its_reader_needs(finished):
    _, workdir, _ = finished
    [folder] = workdir.glob('stages/pretrain-*')
    rows = [json.loads(x) for x in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows[1:]:
        assert {'loss', 'grad_norm', 'learning_rate', 'images_per_s'} <= set(row)
        assert np.isfinite(list(row.values())).all()
    assert rows[-1]['embedding_std'] > 0 and rows[-1]['effective_rank'] >= 1
    assert (folder / 'samples' / 'views.png').read_bytes()[:4] == b'\x89PNG'


def test_every_image_is_tested_once_and_no_subject_on_both_sides(finished):
    _, workdir, _ = finished
    for arm in workdir.glob('stages/finetune-*'):
        ids, subjects = [], []
        for file in sorted(arm.glob('fold-*/predictions.npz')):
            with np.load(file) as stored:
                ids += list(stored['file_ids'])
                subjects.append(set(stored['groups']))
                np.testing.assert_allclose(stored['probabilities'].sum(1), 1)
        assert len(ids) == len(set(ids)) == 16 * 3
        assert sum(map(len, subjects)) == len(set().union(*subjects))
    folds = read_json(workdir / 'folds.json')
    assert len(json.dumps(folds)) > 100


def test_nothing_in_the_run_says_who_a_subject_is(finished):
    _, workdir, table = finished
    assert 'sub-1' not in table
    for file in workdir.rglob('*'):
        if file.is_file():
            assert b'sub-10' not in file.read_bytes(), file


def test_a_finished_run_says_so_and_does_nothing(finished, caplog):
    experiment, workdir, table = finished
    caplog.set_level('INFO')
    before = {p: p.stat().st_mtime_ns for p in workdir.glob('stages/**/*')}
    assert run_experiment(experiment, workdir) == table
    assert 'are done' in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in workdir.glob('stages/**/*')}


def test_a_changed_finetuning_keeps_the_pretraining(finished, cohort):
    experiment, workdir, _ = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.glob('stages/*/done.json')}
    config = smoke_config(cohort, finetune__linear__l2_strengths=(1.0, 10.0))
    run_experiment(read_experiment(config), workdir)
    after = {p: p.stat().st_mtime_ns for p in workdir.glob('stages/*/done.json')}
    assert before.items() <= after.items()
    new = set(after) - set(before)
    assert len(new) == 2 and all('finetune' in str(p) for p in new)
    assert experiment.finetune.linear.l2_strengths == (1.0, 100.0)


def test_pmap_reaches_the_same_losses(finished, cohort, tmp_path):
    """And so does a stream of images; the store is not asked, folders differ."""
    _, workdir, _ = finished
    config = smoke_config(cohort, parallel='pmap', finetune__modes=('linear',))
    config.pretrain.data.placement = 'stream'
    run_experiment(read_experiment(config), tmp_path)
    losses = []
    for folder in (workdir, tmp_path):
        [log] = folder.glob('stages/pretrain-*/metrics.jsonl')
        rows = map(json.loads, log.read_text().splitlines())
        losses.append([row['loss'] for row in rows if 'loss' in row])
    # Rounding grows from step to step; the first has one rounding behind it.
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)


def test_a_diverging_run_stops_and_names_its_steps(cohort, tmp_path):
    config = smoke_config(cohort)
    config.pretrain.optimizer = dict(name='sgd', rate_per_256=1e30)
    plain = [dict(name='random_resized_crop'), dict(name='normalize')]
    config.pretrain.views = [plain, plain]
    with pytest.raises(TrainingDiverged, match=r'between steps \d+ and \d+'):
        run_experiment(read_experiment(config), tmp_path)


def test_another_encoder_than_the_checkpoints_is_refused(finished):
    from jax_mrissl.models import ENCODERS
    from jax_mrissl.train.checkpoint import read_encoder

    _, workdir, _ = finished
    [folder] = workdir.glob('stages/pretrain-*/checkpoints')
    module = ENCODERS['resnet18']().module()
    variables = jax.eval_shape(
        lambda: module.init(
            jax.random.key(0), np.zeros((1, 16, 16, 3), 'f'), train=True
        )
    )
    like = {
        'params': variables['params'],
        'model_state': {'batch_stats': variables['batch_stats']},
    }
    with pytest.raises(
        UserError, match=r'missing: .*layer1_1.* more.*other shapes: .*bn1'
    ):
        read_encoder(folder, like)
    with pytest.raises(UserError, match='has its stage been run'):
        read_encoder(Path('nowhere'), like)


def test_images_of_the_labelled_set_are_refused_in_pretraining(cohort, tmp_path):
    config = smoke_config(cohort, pretrain__data__split='labelled')
    with pytest.raises(UserError, match='48 of the 48 labelled images'):
        run_experiment(read_experiment(config), tmp_path)


def test_a_twin_of_a_labelled_image_is_refused(cohort, tmp_path):
    """One picture of pretraining is a labelled one, turned and brighter."""
    labelled = sorted((cohort / 'raw' / 'smoke' / 'labelled').rglob('*.png'))
    raw = tmp_path / 'raw'
    shutil.copytree(cohort / 'raw' / 'smoke' / 'pretrain', raw)
    pixels = np.asarray(Image.open(labelled[0]))
    turned = np.clip(np.rot90(pixels).astype(int) + 15, 0, 255).astype(np.uint8)
    Image.fromarray(turned).save(raw / 'sub-7777_slice-01.png')
    shutil.copytree(cohort / 'smoke', tmp_path / 'smoke')
    prepare_dataset(
        'folder', [raw], tmp_path, canvas=48, workers=1, own=OwnFolder('mine')
    )
    config = smoke_config(
        tmp_path,
        pretrain__data__name='mine',
        pretrain__data__split='all',
        finetune__modes=('linear',),
    )
    refusal = (
        r'1 of the 48 labelled images, of 1 of the 16 subjects.* as twins(.|\n)*'
        r'jax_mrissl\.audit .*--dataset=smoke --dataset=mine'
    )
    with pytest.raises(UserError, match=refusal):
        run_experiment(read_experiment(config), tmp_path / 'run')
    assert not list((tmp_path / 'run').glob('stages/*'))


def test_a_batch_larger_than_the_set_is_refused(cohort, tmp_path):
    config = smoke_config(cohort, pretrain__batch_size=400)
    with pytest.raises(UserError, match='only 40 images'):
        run_experiment(read_experiment(config), tmp_path)
