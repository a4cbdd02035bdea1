"""What every op has in common, and policies over batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from jax_mrissl.augment import CROPS, OPS, build_policy
from jax_mrissl.augment.policy import make_views
from jax_mrissl.augment.recipes import (
    barlow_views,
    evaluation_view,
    finetune_views,
    swav_views,
)
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.errors import UserError

ALWAYS = {
    name: kind(probability=1.0) if name != 'normalize' else kind()
    for name, kind in OPS.items()
}


def image(channels=3, size=24):
    rng = np.random.default_rng(0)
    pixels = ndimage.gaussian_filter(rng.random((size, size, channels)), (1, 1, 0))
    return jnp.float32((pixels - pixels.min()) / np.ptp(pixels))


# Compiled once for each number of channels, whatever is asked of them.
COMPILED = {name: jax.jit(op) for name, op in ALWAYS.items()}
# On gray images there is nothing for it to change.
COLOUR_ALONE = ('random_grayscale',)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', OPS)
def test_op_keeps_its_contract(name, channels):
    pixels, key = image(channels), jax.random.key(1)
    op = COMPILED[name]
    found = op(key, pixels)
    assert found.dtype == jnp.float32
    assert found.shape[:2] == pixels.shape[:2]
    if name != 'normalize':
        assert found.shape == pixels.shape
        assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_array_equal(found, op(key, pixels))
    if not (name in COLOUR_ALONE and channels == 1):
        assert np.abs(found - pixels).max() > 0.01


@pytest.mark.parametrize('name', OPS)
def test_op_is_the_same_compiled_or_not(name):
    op, pixels, key = ALWAYS[name], image(), jax.random.key(1)
    np.testing.assert_allclose(op(key, pixels), COMPILED[name](key, pixels), atol=1e-5)


@pytest.mark.parametrize('name', sorted(set(OPS) - {'normalize'}))
def test_op_of_probability_zero_changes_nothing(name):
    op, pixels = jax.jit(OPS[name](probability=0.0)), image()
    np.testing.assert_allclose(op(jax.random.key(0), pixels), pixels, atol=1e-6)


@pytest.mark.parametrize('name', sorted(set(OPS) - {'normalize', 'horizontal_flip'}))
def test_op_of_a_gray_image_in_three_channels_stays_gray(name):
    pixels = jnp.repeat(image(1), 3, axis=-1)
    found = COMPILED[name](jax.random.key(2), pixels)
    np.testing.assert_allclose(np.ptp(found, axis=-1), 0.0, atol=1e-5)


ALL_VIEWS = [
    *barlow_views(),
    *swav_views('mri', foreground=0.3),
    *finetune_views(),
    evaluation_view(),
]


def policies(views, size=16):
    return tuple(
        build_policy([_sized(crop, size), *ops], where='views') for crop, *ops in views
    )


def _sized(crop, size):
    return {'size': size} | {k: v for k, v in crop.items() if k != 'size_fraction'}


def batch(rows=8, channels=1):
    rng = np.random.default_rng(0)
    return Batch(
        image=rng.integers(0, 256, (rows, 32, 32, channels), np.uint8),
        box=np.tile(np.int32([4, 0, 24, 32]), (rows, 1)),
        label=np.arange(rows, dtype=np.int32),
        mask=np.ones(rows, np.float32),
        group=np.arange(rows, dtype=np.int32),
    )


@pytest.mark.parametrize(
    'views',
    [barlow_views()[1:], barlow_views('mri', foreground=0.3)[1:]],
    ids=['natural', 'mri'],
)
def test_views_are_the_same_on_any_layout_of_devices(views):
    ops, images, key = policies(views), batch(), jax.random.key(3)

    def draw(key, images, axis=WHOLE_BATCH):
        return make_views(key, images, ops, axis.row_ids(len(images.image)))

    whole = jax.jit(draw)(key, images)
    mesh = jax.make_mesh((4,), ('batch',), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P('batch'))
    over_mesh = jax.jit(draw)(key, jax.device_put(images, rows))
    folded = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), images)
    mapped = jax.pmap(
        lambda key, images: draw(key, images, BatchAxis('batch')),
        axis_name='batch',
        in_axes=(None, 0),
    )(key, folded)
    for one, two, three in zip(whole, over_mesh, mapped, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
        np.testing.assert_allclose(one, three.reshape(one.shape), atol=1e-5)


def test_views_differ_between_rows_steps_and_views():
    ops = policies([barlow_views()[0]] * 2)
    images = batch()
    same = images.replace(image=np.repeat(images.image[:1], 8, axis=0))
    draw = jax.jit(lambda key: make_views(key, same, ops, jnp.arange(8)))
    one, two = draw(jax.random.key(0))
    later, _ = draw(jax.random.key(1))
    for a, b in ((one[0], one[1]), (one, two), (one, later)):
        assert np.abs(a - b).max() > 0.1


def test_sixteen_bit_images_use_their_full_range():
    [policy] = policies([evaluation_view()[:1]])
    levels = np.full((1, 32, 32, 1), 65535, np.uint16)
    box = np.int32([[0, 0, 32, 32]])
    views = policy(jax.random.key(0), jnp.asarray(levels), box, jnp.arange(1))
    np.testing.assert_allclose(views, 1.0, atol=1e-6)


def test_padding_never_shows():
    """Background set to a value that no op may let through."""
    images = batch()
    poisoned = images.image.copy()
    poisoned[:, :4] = poisoned[:, 28:] = 255
    clean = images.image.copy()
    clean[:, :4] = clean[:, 28:] = 0
    # Without ops: what a crop reads, all that follow work on.
    crops = policies([[view[0]] for view in ALL_VIEWS])

    @jax.jit
    def draw(pixels):
        batch = images.replace(image=pixels)
        return make_views(jax.random.key(0), batch, crops, jnp.arange(8))

    views = [draw(pixels) for pixels in (poisoned, clean)]
    for one, two in zip(*views, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ('view', 'message'),
    [
        ([], 'must start with a crop'),
        ([dict(name='solarize')], 'must start with a crop'),
        ([dict(name='resise', size=8)], "Did you mean 'resize'"),
        ([dict(name='resize', size=8), dict(name='solarise')], "mean 'solarize'"),
        ([dict(name='resize', size=0)], 'at least 1 pixel'),
        (
            [
                dict(name='resize', size=8),
                dict(name='normalize'),
                dict(name='solarize'),
            ],
            'normalize must stand last',
        ),
    ],
)
def test_a_wrong_list_is_answered_in_words(view, message):
    with pytest.raises(UserError, match=message):
        build_policy(view, where='config.pretrain.views[0]')


def test_policies_are_hashable_and_equal_by_value():
    [one], [two] = policies([barlow_views()[0]]), policies([barlow_views()[0]])
    assert hash(one) == hash(two) and one == two
    assert set(CROPS) == {'center_crop', 'random_resized_crop', 'resize'}


def test_every_second_view_is_of_the_partner():
    images = batch()
    other = images.image[::-1].copy()
    paired = images.replace(partner_image=other, partner_box=images.box)
    ops = policies([evaluation_view()] * 4)
    views = jax.jit(lambda b: make_views(jax.random.key(0), b, ops, jnp.arange(8)))(
        paired
    )
    for one, two in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(views[one], views[two])
    np.testing.assert_allclose(views[1], views[0][::-1], atol=1e-6)
    assert np.abs(views[0] - views[1]).max() > 0.1
