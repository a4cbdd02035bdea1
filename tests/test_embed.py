import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest

from jax_mrissl.augment import CROPS
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import write_json
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.models import ENCODERS
from jax_mrissl.tasks import embed
from jax_mrissl.tasks.embed import embed_dataset
from jax_mrissl.tasks.export import export
from jax_mrissl.train.checkpoint import Checkpoints, Lineage

SOME = [0, 31, 32, 47, 63, 64, 87]  # rows of the 88, at the edges of blocks too
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
PARAMS = {
    'encoder': {'name': 'resnet_tiny', 'stem': 'imagenet'},
    'dtype': 'float32',
    'image_size': 24,
    'views': [
        [{'name': 'random_resized_crop'}, dict(name='normalize', mean=MEAN, std=STD)]
    ],
    'data': 'f' * 64,
}


def random_encoder(name='resnet_tiny', channels=3):
    """Variables with numbers of their own everywhere; no training."""
    module = ENCODERS[name]().module()
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    shapes = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False), image
    )
    rng = np.random.default_rng(0)

    def draw(leaf):
        numbers = rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) == 4:  # of both signs, or a dark image is nothing to a ReLU
            numbers = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:3]))
        return numbers.astype(np.float32)

    return module, jax.tree.map(draw, shapes)


def write_checkpoint(folder, variables, params=PARAMS):
    encoder = {'encoder': variables['params'], 'head': {'bias': np.zeros(2)}}
    state = {
        'step': np.int32(3),
        'params': encoder,
        'model_state': {
            'encoder': {'batch_stats': variables['batch_stats']},
            'head': {'batch_stats': {'mean': np.zeros(2)}},
        },
    }
    with Checkpoints(folder, Lineage('a' * 64, params, (), '0.1')) as checkpoints:
        checkpoints.save(3, jax.tree.map(jnp.asarray, state), {})
        checkpoints.wait()


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stages') / 'pretrain-aaaaaaaaaaaa'
    module, variables = random_encoder()
    write_checkpoint(folder / 'checkpoints', variables)
    write_json(folder / 'stage.json', {'kind': 'pretrain', 'params': PARAMS})
    return folder, module, variables


def by_hand(module, variables, prepared, size=24, mean=MEAN, std=STD):
    """Image by image: the valid box alone, resized, normalised, embedded."""
    embedded = []
    for row in SOME:
        top, left, height, width = prepared.boxes[row]
        part = prepared.image(row)[top : top + height, left : left + width]
        image = jnp.float32(part / 255)
        box = jnp.array([0, 0, height, width])
        image = CROPS['resize'](size)(jax.random.key(0), image, box)
        embedded.append((image - np.float32([[mean]])) / np.float32([[std]]))
    apply = jax.jit(lambda v, x: module.apply(v, x, train=False))
    return np.asarray(apply(variables, jnp.stack(embedded)))


def read(path):
    table = pyarrow.parquet.read_table(path)
    about = {
        k.decode(): json.loads(v)
        for k, v in table.schema.metadata.items()
        if k != b'ARROW:schema'
    }
    return table, np.stack(table['embedding'].to_numpy()), about


@pytest.mark.parametrize('block_bytes', [2**28, 1])
def test_embeddings_are_those_of_the_network_by_hand(
    stage, cohort, tmp_path, monkeypatch, block_bytes
):
    """In one block, and in several: 88 images, 32 at a time."""
    monkeypatch.setattr(embed, '_BLOCK_BYTES', block_bytes)
    monkeypatch.setattr(embed, '_BATCH_SIZE', 32)
    folder, module, variables = stage
    out = tmp_path / 'new' / 'features.parquet'
    said = embed_dataset(folder, 'smoke', cohort, out)
    assert '88 embeddings of 16 numbers' in said and said.startswith('SIMULATED')
    prepared = open_prepared(cohort, 'smoke')
    table, found, _ = read(out)
    expected = by_hand(module, variables, prepared)
    assert len(np.unique(found, axis=0)) == len(found) == 88
    # Largest error seen: 8e-8.
    np.testing.assert_allclose(found[SOME], expected, rtol=1e-5, atol=1e-6)
    assert table['file_id'].to_pylist() == list(prepared.file_ids)
    assert table['group'].to_pylist() == list(prepared.groups)
    assert table['label'].to_pylist() == list(prepared.labels)
    np.testing.assert_array_equal(table['position'].to_numpy(), prepared.positions)
    assert table.schema.field('embedding').type == pyarrow.list_(pyarrow.float32(), 16)
    assert [p.name for p in out.parent.iterdir()] == ['features.parquet']


def test_the_file_tells_where_it_comes_from(stage, cohort, tmp_path):
    folder, _, _ = stage
    out = tmp_path / 'features.parquet'
    embed_dataset(folder, 'smoke', cohort, out, split='labelled', image_size=16)
    prepared = open_prepared(cohort, 'smoke', 'labelled')
    table, found, about = read(out)
    assert len(table) == len(prepared) == len(found) == 48
    assert about['checkpoint']['address'] == 'a' * 64
    assert about['dataset']['fingerprint'] == prepared.fingerprint
    assert about['dataset']['split'] == 'labelled'
    assert about['view'] == [
        {'name': 'resize', 'size': 16},
        {'name': 'normalize', 'mean': MEAN, 'std': STD},
    ]
    assert b'sub-1' not in out.read_bytes()


def test_an_exported_file_embeds_as_its_checkpoint(stage, cohort, tmp_path):
    folder, _, _ = stage
    weights = tmp_path / 'encoder.safetensors'
    export(folder, weights)
    outs = tmp_path / 'one.parquet', tmp_path / 'two.parquet'
    embed_dataset(folder, 'smoke', cohort, outs[0])
    embed_dataset(weights, 'smoke', cohort, outs[1])
    one, two = map(read, outs)
    np.testing.assert_array_equal(one[1], two[1])
    assert one[2]['view'] == two[2]['view']
    assert two[2]['checkpoint']['address'].startswith('sha256:')
    assert two[2]['checkpoint']['lineage'] == one[2]['checkpoint']


def test_a_foreign_file_is_read_by_the_flags(stage, cohort, tmp_path):
    from jax_mrissl.models.torchvision import to_torchvision
    from jax_mrissl.train.weights import encode_safetensors

    _, module, variables = stage
    weights = tmp_path / 'theirs.pth'
    weights.write_bytes(encode_safetensors(to_torchvision(variables), {'a': 'b'}))
    out = tmp_path / 'features.parquet'
    embed_dataset(weights, 'smoke', cohort, out, image_size=20, encoder='resnet_tiny')
    prepared = open_prepared(cohort, 'smoke')
    imagenet = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    expected = by_hand(module, variables, prepared, size=20, **imagenet)
    np.testing.assert_allclose(read(out)[1][SOME], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r'theirs\.pth: .*Missing: layer1\.1'):
        embed_dataset(weights, 'smoke', cohort, out)  # as a resnet18
    with pytest.raises(UserError, match="mean 'resnet18'"):
        embed_dataset(weights, 'smoke', cohort, out, encoder='resnet_18')


def test_gray_networks_get_gray_images(cohort, tmp_path):
    module, variables = random_encoder(channels=1)
    params = PARAMS | {'views': [[{'name': 'random_resized_crop'}]]}
    write_checkpoint(tmp_path / 'checkpoints', variables, params)
    out = tmp_path / 'features.parquet'
    embed_dataset(tmp_path, 'smoke', cohort, out)
    prepared = open_prepared(cohort, 'smoke')
    expected = by_hand(module, variables, prepared, mean=[0.0], std=[1.0])
    np.testing.assert_allclose(read(out)[1][SOME], expected, rtol=1e-5, atol=1e-6)


def test_a_colour_network_refuses_gray_images_that_nothing_widens(cohort, tmp_path):
    _, variables = random_encoder()
    params = PARAMS | {'views': [[{'name': 'random_resized_crop'}]]}
    write_checkpoint(tmp_path / 'checkpoints', variables, params)
    with pytest.raises(UserError, match=r'3 channel\(s\); those of smoke have 1'):
        embed_dataset(tmp_path, 'smoke', cohort, tmp_path / 'features.parquet')
    assert not list(tmp_path.glob('*parquet*'))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(checkpoint='none'), 'There is no folder .*none'),
        (dict(dataset='smokes'), "'smokes' is not prepared"),
        (dict(split='tests'), 'Unknown split'),
        (dict(out='features.csv'), 'ends with .parquet'),
        (dict(encoder='resnet18'), 'for a file of weights'),
    ],
)
def test_mistakes_are_answered_in_words(stage, cohort, tmp_path, change, words):
    given = dict(
        checkpoint=stage[0],
        dataset='smoke',
        data_dir=cohort,
        out=tmp_path / 'x.parquet',
    )
    given |= change
    for name in ('checkpoint', 'out'):
        given[name] = tmp_path / given[name]
    with pytest.raises(UserError, match=words):
        embed_dataset(**given)


def test_the_command(stage, cohort, tmp_path):
    def command(*given):
        return subprocess.run(
            [sys.executable, '-m', 'jax_mrissl.embed', *map(str, given)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {'COLUMNS': '200'},
        )

    out = tmp_path / 'features.parquet'
    given = [f'--checkpoint={stage[0]}', f'--data_dir={cohort}', f'--out={out}']
    done = command(*given, '--dataset=smoke')
    assert done.returncode == 0, done.stderr
    assert f'Written: {out}, 88 embeddings' in done.stdout
    missing = command(*given)
    assert missing.returncode == 1 and '--dataset is missing' in missing.stderr
    assert 'Traceback' not in missing.stderr
