"""Every config, run to its table at smoke scale; chains, weights, lineage."""

import json
import shutil

import numpy as np
import pytest
from conftest import smoke_config
from test_configs import CONFIGS

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.pipeline import resident
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks import pretrain
from jax_mrissl.tasks.export import export
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.opened_run import open_run
from jax_mrissl.tasks.predictions import PREDICTIONS
from jax_mrissl.train.checkpoint import read_lineage

LINEAR = dict(finetune__modes=('linear',))
# The others differ in the names of datasets alone from this and those that run below.
FEW = ('simclr_natural_brain',)
MANY = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.slow)
    for name in CONFIGS
    if name != 'imagenet'  # needs a file of weights: below
]


@pytest.fixture(scope='module')
def workdir(stock, tmp_path_factory):
    """One store for all: what stages have in common is run once."""
    return stock(tmp_path_factory.mktemp('experiments'))


def run(name, cohort, workdir, **changes):
    config = smoke_config(cohort, name, **LINEAR | changes)
    return run_experiment(read_experiment(config), workdir, config=config.to_dict())


def stage_of(workdir, kind, **params):
    found = []
    for about in workdir.glob(f'stages/{kind}-*/stage.json'):
        stage = json.loads(about.read_text())
        if all(stage['params'].get(k) == v for k, v in params.items()):
            found.append((about.parent, stage))
    [one] = found
    return one


@pytest.mark.parametrize('name', MANY)
def test_config_runs_to_its_table(cohort, workdir, name):
    table = run(name, cohort, workdir)
    assert 'untrained, linear' in table and 'SIMULATED' in table
    assert (f'{name}, linear' in table) == (name != 'untrained')
    assert json.loads((workdir / 'config.json').read_text())['name'] == name


def test_a_chain_starts_each_stage_from_the_one_before(cohort, workdir):
    run('simclr_natural_brain', cohort, workdir)
    stages = {}
    for about in workdir.glob('stages/pretrain-*/stage.json'):
        stage = json.loads(about.read_text())
        if stage['params']['method']['name'] == 'simclr':
            stages[len(stage['parents'])] = about.parent, stage
    (_, first), (folder, second) = stages[0], stages[1]
    assert second['parents'] == [first]
    lineage = read_lineage(folder / 'checkpoints')
    assert lineage['address'] == second['address']
    assert lineage['params'] == second['params']
    [parent] = lineage['parents']
    assert parent['params']['data'] == first['params']['data']
    # The second begins where the first ended: its fresh encoder is spread as that was.
    logs = [
        [json.loads(x) for x in (f / 'metrics.jsonl').read_text().splitlines()]
        for f, _ in (stages[0], stages[1])
    ]
    for field in ('embedding_std', 'effective_rank'):
        np.testing.assert_allclose(logs[1][0][field], logs[0][-1][field], rtol=1e-5)


def test_weights_of_a_file_are_finetuned_and_pretrained_further(
    cohort, workdir, tmp_path
):
    run('simclr_natural_brain', cohort, workdir)
    about = next(workdir.glob('stages/pretrain-*/stage.json'))
    weights = tmp_path / 'weights.safetensors'
    export(about.parent, weights)
    table = run('imagenet', cohort, workdir, init_from=str(weights))
    assert 'imagenet, linear' in table
    assert 'Started from weights.safetensors (sha256:' in ' '.join(table.split())
    # The same weights from the stage's own folder give the same features.
    again = run('imagenet', cohort, workdir, init_from=str(about.parent))
    lines = [
        next(line for line in t.splitlines() if line.startswith('imagenet, linear'))
        for t in (table, again)
    ]
    assert lines[0] == lines[1]
    run('barlow_brain', cohort, workdir, init_from=str(weights))
    _, stage = stage_of(
        workdir,
        'pretrain',
        init_from=json.loads((workdir / 'metrics.json').read_text())[
            'started_from'
        ].split('(')[1][:-1],
    )
    assert stage['params']['method']['name'] == 'barlow'


def test_positives_of_one_subject_and_chunks_are_other_stages(cohort, stock, tmp_path):
    changes = dict(
        pretrain__positives='subject',
        pretrain__chunks=2,
        pretrain__method__mask_same_group=True,
        # The only images here of which a subject has several.
        pretrain__data__split='labelled',
        overlap='allow',
    )
    config = smoke_config(cohort, 'simclr_brain', **LINEAR)
    plain = read_experiment(config).chain[0].identity()
    config = smoke_config(cohort, 'simclr_brain', **LINEAR, **changes)
    assert read_experiment(config).chain[0].identity() != plain
    table = run_experiment(read_experiment(config), stock(tmp_path))
    assert 'simclr_brain, linear' in table
    assert 'OVERLAP ALLOWED: pretraining has seen 48 labelled images of 16 sub' in table


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('imagenet', {}, 'resnet18-f37072fd.pth, and nothing is there'),
        ('barlow_brain', dict(pretrain__chunks=3), 'in 3 chunks each'),
        (
            'barlow_brain',
            dict(finetune__full__batch_size=1000, finetune__modes=('full',)),
            r'finetune\.full\.batch_size is 1000, but a fold has only',
        ),
        (
            'barlow_brain',
            dict(finetune__full__batch_size=6, finetune__modes=('full',)),
            r'finetune\.full\.batch_size .* multiple of 4',
        ),
        ('swav_brain', dict(pretrain__method__queue_length=20), 'no multiple'),
        ('simclr_brain', dict(pretrain__positives='patient'), 'Known: image, subject'),
        (
            'barlow_brain',
            dict(pretrain__watch__on_collapse='halt'),
            'Known: stop, warn',
        ),
        ('barlow_brain', dict(pretrain__method__standardise='both'), 'per_view_biased'),
        (
            'simclr_brain',
            dict(pretrain__method__projector='v3'),
            'Known: lightly, plain, v1, v2',
        ),
    ],
)
def test_a_wrong_setting_is_answered_before_any_work(
    cohort, tmp_path, name, changes, message
):
    with pytest.raises(UserError, match=message):
        run(name, cohort, tmp_path, **changes)
    assert not list(tmp_path.glob('stages/*/checkpoints'))
    # A finished run keeps the config that its results are of.
    assert not (tmp_path / 'config.json').exists()


def one_channel(view):
    return [
        dict(op, mean=(0.2,), std=(0.2,)) if op['name'] == 'normalize' else op
        for op in view
    ]


def test_networks_of_one_channel_are_pretrained_finetuned_and_asked(cohort, tmp_path):
    config = smoke_config(cohort, **LINEAR)
    view = one_channel([dict(name='resize'), dict(name='normalize')])
    config.pretrain.views = [view, view]
    with pytest.raises(UserError, match=r'evaluation_view 3.* pretrain\.views 1'):
        run_experiment(read_experiment(config), tmp_path)
    # A batch that these devices do not divide is no matter to a probe.
    config.finetune.full.batch_size = 6
    finetune = config.finetune
    finetune.evaluation_view = one_channel(finetune.evaluation_view)
    finetune.full.views = [one_channel(view) for view in finetune.full.views]
    run_experiment(read_experiment(config), tmp_path)
    done = open_run(tmp_path)
    prepared = open_prepared(cohort, 'smoke', 'labelled')
    source = done.parallel.replicate(resident(prepared))
    rows = np.arange(len(prepared))
    for arm in done.arms:
        networks = done.networks(arm)
        stem = networks[0].params['encoder']['conv1']['kernel']
        assert stem.shape[2] == 1
        for network in networks:
            features = done.features()(
                network.params, network.model_state, source, rows
            )
            with np.load(network.folder / PREDICTIONS) as stored:
                order = [list(prepared.file_ids).index(i) for i in stored['file_ids']]
                np.testing.assert_allclose(
                    network.outputs(features)[order], stored['logits'], atol=1e-4
                )


def test_a_view_that_does_not_fit_the_images_is_refused(cohort, tmp_path):
    config = smoke_config(cohort, 'untrained', **LINEAR)
    two = dict(name='normalize', mean=(0.2, 0.2), std=(0.2, 0.2))
    config.finetune.evaluation_view = [dict(name='resize'), two]
    with pytest.raises(UserError, match='channels are not as many'):
        run_experiment(read_experiment(config), tmp_path)


def test_weights_of_the_labelled_set_and_of_unfinished_runs_are_refused(
    cohort, workdir, tmp_path
):
    tuned = next(iter(workdir.glob('stages/finetune-*/fold-0/best')))
    with pytest.raises(UserError, match='trained on smoke, which they are to be tes'):
        run('imagenet', cohort, tmp_path, init_from=str(tuned))
    export(tuned, tmp_path / 'tuned.safetensors')  # and its file tells as much
    with pytest.raises(UserError, match='trained on smoke, which they are to be tes'):
        run('imagenet', cohort, tmp_path, init_from=str(tmp_path / 'tuned.safetensors'))
    about = next(workdir.glob('stages/pretrain-*/stage.json'))
    shutil.copytree(about.parent, tmp_path / 'half')
    (tmp_path / 'half' / 'done.json').unlink()
    with pytest.raises(UserError, match='has not been finished'):
        run('imagenet', cohort, tmp_path, init_from=str(tmp_path / 'half'))


def test_advice_gray_images_and_a_collapse_are_spoken_of(cohort, workdir, caplog):
    caplog.set_level('INFO')
    pretrain._tell_once.cache_clear()  # of the runs before
    table = run(
        'swav_masked_brain',
        cohort,
        workdir,
        pretrain__method__prototypes=64,
        pretrain__method__temperature=1e4,  # predictions are even: nothing to learn
    )
    assert 'swav_masked_brain, linear' in table
    told = ' '.join(table.split())
    assert (
        'ended with signs of a collapse. The loss, 4.159, is what a collapsed' in told
    )
    assert 'nothing has been learned' in caplog.text  # also while it ran, if short
    metrics = json.loads((workdir / 'metrics.json').read_text())
    assert metrics['warnings'][0].startswith('COLLAPSED: pretraining on ')
    assert 'COLLAPSED' in (workdir / 'report/index.html').read_text()
    done = open_run(workdir)  # what `predict` and `evaluate` say of its networks
    assert done.standing(done.choose())[0] == metrics['warnings'][0]
    assert not any(
        'COLLAPSED' in text for text in done.standing(done.choose('untrained'))
    )
    assert '64 prototypes are shared out over 32 images at a time' in caplog.text
    assert 'smoke is gray: saturation, hue, random grayscale would do' in caplog.text
