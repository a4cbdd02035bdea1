import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import smoke_config

from jax_mrissl.augment.recipes import finetune_views
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
        ({'pretrain__epochs': 0}, r'config\.pretrain\.epochs is 0; at least 1'),
        ({'finetune__full__epochs': 0}, r'finetune\.full\.epochs is 0; at least 1'),
        ({'pretrain__batch_size': 1}, 'needs at least 2'),
        ({'pretrain__chunks': 16}, r'in 16 chunk\(s\): .* needs at least 2'),
        ({'seed': -1}, r'config\.seed is -1; at least 0'),
        ({'finetune__fold_seed': -1}, 'fold_seed is -1; at least 0'),
        ({'parallel': 'mash'}, "Did you mean 'mesh'"),
        ({'pretrain__optimizer__warmup_epochs': -5.0}, 'warmup_epochs is -5'),
        ({'pretrain__optimizer__final_fraction': 2.0}, 'final_fraction is 2.0'),
        ({'pretrain__optimizer__momentum': 1.5}, 'momentum is 1.5'),
        ({'pretrain__method__redundancy_weight': -1.0}, 'redundancy_weight is -1'),
        ({'finetune__full__optimizer__rate_per_256': 0.0}, 'rate_per_256 is 0.0; ab'),
        ({'finetune__linear__l2_strengths': ()}, 'l2_strengths: numbers of at least'),
        ({'compute': 'float16'}, "Did you mean 'bfloat16'"),
        ({'chain': ('pretrian',)}, "Did you mean 'pretrain'"),
        ({'pretrain__data__placement': 'devise'}, "Did you mean 'device'"),
        ({'finetune__modes': ('linaer',)}, "Did you mean 'linear'"),
        ({'finetune__folds': 2}, 'folds is 2; at least 3'),
        ({'pretrain__method__projector_widths': ()}, 'one or more widths'),
    ],
)
def test_a_wrong_value_is_answered_in_words(changes, message):
    with pytest.raises(UserError, match=message):
        read_experiment(smoke_config('data', **changes))


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('pretrain.views', [[], []], r'views\[0\] must start with a crop'),
        ('pretrain.batch_size', 16.5, 'batch_size is 16.5; a whole number'),
        ('pretrain.optimizer.weight_decay', None, 'weight_decay is None; a number'),
        ('finetune.evaluation_view', [], 'evaluation_view must start with a crop'),
        ('finetune.evaluation_view', finetune_views()[0], 'the same each time'),
        ('finetune.full.views', finetune_views() * 2, 'learns from one of each image'),
        ('finetune.full.grid', {'rate_per_256': 1e-3}, r'such as \(0.001,\)'),
        ('finetune.modes', 'linear', 'values in brackets'),
        ('finetune.full.views.0.1.probability', 50, 'probability is 50.0; from 0 to 1'),
        ('finetune.full.views.0.1.name', 'solarise', "Did you mean 'solarize'"),
    ],
)
def test_what_a_file_may_say_wrong_is_answered_in_words(field, value, message):
    config = smoke_config('data')
    *path, last = field.split('.')
    place = config
    for name in path:
        place = place[int(name) if name.isdigit() else name]
    if isinstance(place, dict):
        place[last] = value
    else:
        with place.unlocked(), place.ignore_type():
            place[last] = value
    with pytest.raises(UserError, match=message):
        read_experiment(config)


def test_a_section_that_lacks_a_field_says_which():
    config = smoke_config('data')
    del config.finetune.folds
    with pytest.raises(UserError, match=r'config\.finetune\.folds is missing'):
        read_experiment(config)


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
