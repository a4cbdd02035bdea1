import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from orbax import checkpoint as ocp

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import read_json
from jax_mrissl.models import ENCODERS
from jax_mrissl.models.torchvision import from_torchvision
from jax_mrissl.tasks.embed import embed_dataset
from jax_mrissl.tasks.export import export
from jax_mrissl.tasks.trained import read_trained
from jax_mrissl.train.checkpoint import Checkpoints, Lineage
from jax_mrissl.train.start import checkpoint_folder


@pytest.fixture(scope='module')
def workdir(stock, tmp_path_factory):
    """The folder of a run whose stages are done."""
    return stock(tmp_path_factory.mktemp('run'))


def saved_encoder(checkpoints):
    [step] = checkpoints.glob('[0-9]*')
    state = ocp.PyTreeCheckpointer().restore(step / 'state')
    return {
        'params': state['params']['encoder'],
        'model_state': state['model_state']['encoder'],
    }


def stage_of(workdir, kind, mode=None):
    for about in sorted(workdir.glob(f'stages/{kind}-*/stage.json')):
        if mode is None or read_json(about)['params']['mode'] == mode:
            return about.parent
    raise AssertionError(f'{kind} {mode}')


def metadata(path):
    with safetensors.safe_open(path, framework='np') as file:
        return file.metadata()


@pytest.mark.parametrize('place', ['stage', 'checkpoints', 'best', 'fold'])
def test_what_is_exported_is_what_was_saved(workdir, tmp_path, place):
    if place in ('best', 'fold'):
        fold = stage_of(workdir, 'finetune', 'full') / 'fold-1'
        checkpoints = fold / 'best'
        given = fold if place == 'fold' else checkpoints
    else:
        given = stage_of(workdir, 'pretrain')
        checkpoints = given / 'checkpoints'
        given = checkpoints if place == 'checkpoints' else given
    out = tmp_path / 'new' / 'encoder.safetensors'
    said = export(given, out)
    assert 'resnet_tiny (36 tensors, 6,056 parameters)' in said
    assert 'torchvision has no network like this one' in said
    tensors = safetensors.numpy.load_file(out)
    assert tensors['layer2.0.downsample.0.weight'].shape == (16, 8, 1, 1)
    saved = saved_encoder(checkpoints)
    found = from_torchvision(tensors, saved)
    jax.tree.map(np.testing.assert_array_equal, found, saved)

    about = metadata(out)
    stage = read_json(next(p for p in out_of(given) if p.is_file()))
    assert about['format'] == 'pt'
    assert json.loads(about['encoder']) == stage['params']['encoder']
    assert about['image_size'] == '16'
    assert json.loads(about['lineage'])['address'] == stage['address']
    # The configs leave the moments to the op: ImageNet's.
    assert json.loads(about['mean']) == [0.485, 0.456, 0.406]
    assert json.loads(about['std']) == [0.229, 0.224, 0.225]
    assert [p.name for p in out.parent.iterdir()] == ['encoder.safetensors']
    again = tmp_path / 'again.safetensors'
    export(given, again)
    assert again.read_bytes() == out.read_bytes()


def out_of(folder):
    return [parent / 'stage.json' for parent in (folder, *folder.parents)]


def test_a_checkpoint_that_was_copied_alone_still_tells_its_network(workdir, tmp_path):
    checkpoints = stage_of(workdir, 'pretrain') / 'checkpoints'
    copy = tmp_path / 'copy'
    copy.symlink_to(checkpoints)
    assert read_trained(copy).section['name'] == 'resnet_tiny'


def test_a_finetuned_encoder_embeds(workdir, cohort, tmp_path):
    fold = stage_of(workdir, 'finetune', 'full') / 'fold-0' / 'best'
    said = embed_dataset(fold, 'smoke', cohort, tmp_path / 'features.parquet')
    assert '88 embeddings of 16 numbers' in said


def test_a_torchvision_network_comes_with_its_three_lines(tmp_path):
    module = ENCODERS['resnet18']().module()
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), np.zeros((1, 64, 64, 3)), train=False)
    )
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    params = {
        'encoder': {'name': 'resnet18'},
        'image_size': 128,
        'views': [[{'name': 'random_resized_crop'}, {'name': 'normalize'}]],
    }
    lineage = Lineage('a' * 64, params, (), '0.1')
    state = {
        'params': {'encoder': variables['params']},
        'model_state': {'encoder': {'batch_stats': variables['batch_stats']}},
    }
    with Checkpoints(tmp_path / 'checkpoints', lineage) as checkpoints:
        checkpoints.save(1, jax.tree.map(jax.numpy.asarray, state), {})
    out = tmp_path / 'encoder.safetensors'
    said = export(tmp_path, out)
    assert 'resnet18 (120 tensors, 11,176,512 parameters), from stage aaaa' in said
    assert 'model = torchvision.models.resnet18()' in said
    assert f"model.load_state_dict(load_file('{out}'), strict=False)" in said
    assert 'Images: 128 x 128 pixels in [0, 1], less mean [0.485' in said


def test_folders_without_one_encoder_are_answered_in_words(workdir, tmp_path):
    out = tmp_path / 'encoder.safetensors'
    full = stage_of(workdir, 'finetune', 'full')
    with pytest.raises(UserError, match=r'Choose one.*\n.*fold-0\n.*fold-1'):
        export(full, out)
    with pytest.raises(UserError, match='linear probe trains no encoder'):
        export(stage_of(workdir, 'finetune', 'linear'), out)
    with pytest.raises(UserError, match=r'Choose one.*(\n.*/fold-\d){6}\n.*/pretrain-'):
        export(workdir, out)
    with pytest.raises(UserError, match='Has its stage been run'):
        export(tmp_path, out)
    with pytest.raises(UserError, match='There is no folder'):
        export(tmp_path / 'none', out)
    with pytest.raises(UserError, match=r'ends with \.safetensors'):
        export(full / 'fold-0' / 'best', tmp_path / 'encoder.pth')
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_stage_is_found(workdir):
    stage = stage_of(workdir, 'pretrain')
    assert checkpoint_folder(stage) == stage / 'checkpoints'
    assert checkpoint_folder(stage / 'checkpoints') == stage / 'checkpoints'


def test_the_command(workdir, tmp_path):
    def command(*given):
        return subprocess.run(
            [sys.executable, '-m', 'jax_mrissl.export', *map(str, given)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {'COLUMNS': '200'},
        )

    out = tmp_path / 'encoder.safetensors'
    done = command(f'--checkpoint={stage_of(workdir, "pretrain")}', f'--out={out}')
    assert done.returncode == 0, done.stderr
    assert f'Written: {out}' in done.stdout and Path(out).is_file()
    wrong = command(f'--out={out}')
    assert wrong.returncode == 1 and '--checkpoint is missing' in wrong.stderr
    helped = command('--help')
    assert helped.returncode == 0 and 'fold-0' in helped.stdout
