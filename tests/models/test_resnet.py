from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.build import build
from jax_mrissl.core.errors import UserError
from jax_mrissl.models import ENCODERS, convolution
from jax_mrissl.models.normalization import BatchNorm


def encoder(name='resnet_tiny', dtype=jnp.float32, **fields):
    declared = build(ENCODERS, dict(name=name, **fields), where='config.encoder')
    return declared.module(dtype, jnp.promote_types(dtype, jnp.float32)), declared


def initial(module, images):
    return jax.jit(lambda x: module.init(jax.random.key(0), x, train=True))(images)


def shapes(name, size=64, **fields):
    module, _ = encoder(name, **fields)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=True), images
    )


@pytest.mark.parametrize(
    ('name', 'fields', 'count'),
    [
        # torchvision's, without the 1000-way layer.
        ('resnet18', {}, 11_176_512),
        ('resnet34', {}, 21_284_672),
        ('resnet50', {}, 23_508_032),
        ('resnet18', {'stem': 'small'}, 11_168_832),
    ],
)
def test_parameter_counts_are_torchvisions(name, fields, count):
    params = shapes(name, **fields)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_names_map_to_torchvisions():
    params = shapes('resnet18')['params']
    assert {'conv1', 'bn1', 'layer1_0', 'layer4_1'} <= set(params)
    assert set(params['layer2_0']) == {
        'conv1',
        'bn1',
        'conv2',
        'bn2',
        'downsample_conv',
        'downsample_bn',
    }
    assert 'downsample_conv' not in params['layer1_0']
    assert 'downsample_conv' in shapes('resnet50')['params']['layer1_0']


@pytest.mark.parametrize(
    ('name', 'stem', 'size', 'sizes', 'widths'),
    [
        ('resnet18', 'imagenet', 64, (16, 8, 4, 2), (64, 128, 256, 512)),
        ('resnet18', 'imagenet', 65, (17, 9, 5, 3), (64, 128, 256, 512)),
        ('resnet34', 'small', 32, (32, 16, 8, 4), (64, 128, 256, 512)),
        ('resnet50', 'imagenet', 224, (56, 28, 14, 7), (256, 512, 1024, 2048)),
    ],
)
def test_each_stage_halves_the_image(name, stem, size, sizes, widths):
    module, declared = encoder(name, stem=stem)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)

    def run(images):
        return module.init_with_output(
            jax.random.key(0), images, train=True, capture_intermediates=True
        )

    embedding, variables = jax.eval_shape(run, images)
    assert embedding.shape == (2, declared.features)
    stages = variables['intermediates']
    for stage, (side, width) in enumerate(zip(sizes, widths, strict=True), start=1):
        for index in (0, 1):
            (found,) = stages[f'layer{stage}_{index}']['__call__']
            assert found.shape == (2, side, side, width)


def test_layers_start_as_torchvisions():
    module, _ = encoder('resnet_tiny', zero_init_residual=True)
    variables = initial(module, jnp.zeros((1, 16, 16, 3)))
    kernel = variables['params']['layer2_0']['conv2']['kernel']
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 16)), rtol=0.1)
    assert (variables['params']['layer1_0']['bn2']['scale'] == 0).all()
    assert (variables['params']['layer1_0']['bn1']['scale'] == 1).all()


def loss_and_gradient(module, variables, images):
    def loss(params):
        embedding, state = module.apply(
            {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
        )
        return (embedding**2).mean(), state

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


def assert_trees_close(one, two, tolerance):
    for path, leaf in jax.tree_util.tree_leaves_with_path(two):
        other = one
        for key in path:
            other = other[key.key]
        scale = max(float(np.abs(leaf).max()), 1e-12)
        np.testing.assert_allclose(
            np.asarray(other) / scale,
            np.asarray(leaf) / scale,
            atol=tolerance,
            err_msg=jax.tree_util.keystr(path),
        )


@pytest.mark.parametrize(
    ('name', 'size'),
    [('resnet_tiny', 20), pytest.param('resnet18', 32, marks=pytest.mark.slow)],
)
def test_network_equals_itself_over_plain_convolutions(float64, name, size):
    module, _ = encoder(name, dtype=jnp.float64)
    images = jnp.array(np.random.default_rng(0).normal(size=(3, size, size, 3)))
    variables = initial(module, images)
    (loss, state), gradient = loss_and_gradient(module, variables, images)
    with (
        mock.patch.object(convolution, '_conv_by_products', convolution._conv_native),
        mock.patch.object(
            convolution, '_max_pool_by_comparison', convolution._pool_native
        ),
    ):
        (plain_loss, plain_state), plain = loss_and_gradient(module, variables, images)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-9)
    assert_trees_close(gradient, plain, 1e-9)
    assert_trees_close(state, plain_state, 1e-9)


def test_embedding_is_float32_when_computed_in_bfloat16():
    module, declared = encoder(dtype=jnp.bfloat16)
    images = jnp.ones((2, 16, 16, 3))
    variables = initial(module, images)
    embedding = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    assert embedding.dtype == jnp.float32
    assert embedding.shape == (2, declared.features)
    assert variables['params']['conv1']['kernel'].dtype == jnp.float32


def test_unknown_stem_and_encoder_are_answered_in_words():
    with pytest.raises(UserError, match="mean 'imagenet'"):
        encoder(stem='imagenett')
    with pytest.raises(UserError, match="mean 'resnet18'"):
        encoder('resnet_18')


def normalize(x, axis=WHOLE_BATCH):
    module = BatchNorm(dtype=x.dtype, param_dtype=x.dtype)
    variables = module.init(jax.random.key(0), x, train=True)
    return module.apply(variables, x, train=True, axis=axis, mutable=['batch_stats'])


def test_batch_norm_equals_its_definition(float64):
    x = jnp.array(np.random.default_rng(0).normal(3, 2, size=(8, 5, 4)))
    found, state = normalize(x)
    mean, var = x.mean((0, 1), keepdims=True), x.var((0, 1), keepdims=True)
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5), atol=1e-12)
    stats = state['batch_stats']
    np.testing.assert_allclose(stats['mean'], 0.1 * mean.ravel(), rtol=1e-12)
    np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * var.ravel(), rtol=1e-12)


@pytest.mark.parametrize('devices', [2, 4])
def test_batch_norm_is_the_same_over_devices(float64, devices):
    rng = np.random.default_rng(0)
    x, weight = jnp.array(rng.normal(3, 2, size=(2, 8, 5, 4)))

    def run(x, weight, axis=WHOLE_BATCH):
        def loss(x):
            y, state = normalize(x, axis)
            return (weight * y**2).sum(), (y, state)

        gradient, (y, state) = jax.grad(loss, has_aux=True)(x)
        return y, gradient, state

    whole = jax.jit(run)(x, weight)
    mesh = jax.make_mesh(
        (devices,),
        ('batch',),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    rows = NamedSharding(mesh, P('batch'))
    spread = jax.jit(run)(jax.device_put(x, rows), jax.device_put(weight, rows))
    fold = (devices, -1, 5, 4)
    mapped = jax.pmap(
        lambda x, weight: run(x, weight, BatchAxis('batch')),
        axis_name='batch',
        devices=jax.devices()[:devices],
    )(x.reshape(fold), weight.reshape(fold))
    # Largest error seen: 1e-15.
    for found in (spread, mapped):
        for one, two in zip(found[:2], whole[:2], strict=True):
            np.testing.assert_allclose(one.reshape(two.shape), two, atol=1e-9)
    assert_trees_close(spread[2], whole[2], 1e-9)
    assert_trees_close(jax.tree.map(lambda s: s[0], mapped[2]), whole[2], 1e-9)


def test_batch_norm_survives_a_large_mean():
    x = jnp.float32(np.random.default_rng(0).normal(1e4, 1, size=(4096, 1)))
    found, _ = normalize(x)
    # E[x^2] - E[x]^2 would be off by several units of variance here.
    np.testing.assert_allclose(found.std(), 1.0, atol=1e-2)
