import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import smoke_config

from jax_mrissl.configs.base import SCALES
from jax_mrissl.core.errors import UserError
from jax_mrissl.tasks.from_config import read_experiment

CONFIGS = sorted(
    p.stem
    for p in (Path(__file__).parents[1] / 'jax_mrissl' / 'configs').glob('*.py')
    # Of a study, tests/stages/test_grid.py.
    if not p.stem.startswith('_') and p.stem != 'study'
)


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_builds_at_every_scale(name, scale):
    config = importlib.import_module(f'jax_mrissl.configs.{name}').get_config(scale)
    experiment = read_experiment(config)
    simulated = scale in ('demo', 'smoke')
    # The whole grid is for accelerators; the report had none.
    assert bool(experiment.finetune.full.grid) == (scale == '')
    assert (experiment.finetune.data.name in ('demo', 'smoke')) == simulated
    for plan in experiment.chain:
        assert (plan.data.name in ('demo', 'smoke')) == simulated


def test_the_untrained_config_has_no_pretraining():
    assert read_experiment(smoke_config('data', 'untrained')).chain == ()


def test_an_unknown_scale_is_answered_in_words():
    with pytest.raises(UserError, match="Did you mean 'demo'"):
        importlib.import_module('jax_mrissl.configs.base').get_config('demmo')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'encoder__name': 'resnet81'}, "Did you mean 'resnet18'"),
        ({'pretrain__method__name': 'barlo'}, "Did you mean 'barlow'"),
        ({'pretrain__epochs': 0}, 'epochs is 0; at least 1'),
        ({'compute': 'float16'}, "Did you mean 'bfloat16'"),
        ({'chain': ('pretrian',)}, "Did you mean 'pretrain'"),
        ({'pretrain__data__placement': 'devise'}, "Did you mean 'device'"),
        ({'finetune__modes': ('linaer',)}, "Did you mean 'linear'"),
        ({'finetune__folds': 2}, 'folds is 2; at least 3'),
        ({'pretrain__method__projector_widths': ()}, 'at least one width'),
    ],
)
def test_a_wrong_value_is_answered_in_words(changes, message):
    with pytest.raises(UserError, match=message):
        read_experiment(smoke_config('data', **changes))


def test_image_size_reaches_every_view():
    experiment = read_experiment(smoke_config('data', pretrain__image_size=24))
    assert [p.crop.size for p in experiment.chain[0].build_policies()] == [24, 24]


def test_a_config_that_was_copied_elsewhere_still_loads(tmp_path):
    source = Path(__file__).parents[1] / 'jax_mrissl' / 'configs' / 'barlow_brain.py'
    shutil.copy(source, tmp_path / 'mine.py')
    found = subprocess.run(
        [
            sys.executable,
            '-c',
            'import runpy; c = runpy.run_path("mine.py")["get_config"]("smoke"); '
            'print(c.name, c.encoder.name)',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ['barlow_brain', 'resnet_tiny']
