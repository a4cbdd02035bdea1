"""One device, jit over a mesh, pmap: the same numbers, for every objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mrissl.augment import build_policy
from jax_mrissl.augment.recipes import finetune_views
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.pipeline import Resident, Rows, fetch
from jax_mrissl.models.heads import LinearHead
from jax_mrissl.models.resnet import BasicBlock, ResNet
from jax_mrissl.objectives.barlow import BarlowTwins
from jax_mrissl.objectives.simclr import SimCLR
from jax_mrissl.objectives.supervised import Supervised, cross_entropy
from jax_mrissl.objectives.swav import SwAV
from jax_mrissl.objectives.vicreg import VICReg
from jax_mrissl.tasks.programs import training_program
from jax_mrissl.train.optimizer import LARS, WarmupCosine
from jax_mrissl.train.parallel import MeshParallel, PmapParallel, choose_parallel
from jax_mrissl.train.state import initial_state

SIZE, ROWS, STEPS = 16, 16, 5
SLOW = pytest.mark.slow
CROP = dict(name='random_resized_crop', scale=(0.3, 1.0))
LIGHT = [CROP, dict(name='horizontal_flip'), dict(name='normalize')]
# Large views and small ones; the queue is full, and used, from the third step on.
SWAV = dict(
    prototypes=6,
    hidden_width=16,
    width=8,
    queue_length=2 * ROWS,
    queue_from_epoch=0.0,
    freeze_prototypes_epochs=1.0,
    batch_size=ROWS,
    steps_per_epoch=2,
)


def policies(views):
    return tuple(
        build_policy([{'size': SIZE, **crop}, *ops], where='views')
        for crop, *ops in views
    )


def objective(name, dtype, remat=False):
    """A network of each kind of layer, once; test_ops.py has views with more ops."""
    types = dict(dtype=dtype, param_dtype=dtype)
    encoder = ResNet(BasicBlock, (1,), (8,), **types, remat=remat)
    pair = policies([LIGHT, LIGHT])
    if name == 'barlow':
        return BarlowTwins(encoder, pair, (16, 16), **types)
    if name == 'simclr':
        return SimCLR(encoder, pair, 0.5, width=8, mask_same_group=True, **types)
    if name == 'swav':
        small = policies([[{'size': 8, **CROP}, *LIGHT[1:]]])
        return SwAV(encoder, pair + small * 2, **SWAV, **types)
    if name == 'vicreg':
        return VICReg(encoder, pair, (16, 16), **types)
    if name == 'supervised':
        head = LinearHead(3, dtype)
        return Supervised(encoder, policies(finetune_views()), head, cross_entropy)
    raise ValueError(name)


OBJECTIVES = ['barlow', 'supervised', 'simclr', 'swav', 'vicreg']


def resident_set():
    rng = np.random.default_rng(0)
    return Resident(
        image=rng.integers(0, 256, (40, 24, 24, 1), np.uint8),
        box=np.tile(np.int32([2, 0, 20, 24]), (40, 1)),
        label=rng.integers(0, 3, 40).astype(np.int32),
        group=(np.arange(40) // 3).astype(np.int32),
    )


def feeds():
    rng = np.random.default_rng(1)
    for step in range(STEPS):
        mask = np.ones(ROWS, np.float32)
        if step % 2:  # a last batch that is not full, unevenly over the devices
            mask[11:] = 0
        yield Rows(row=rng.permutation(40)[:ROWS].astype(np.int32), mask=mask)


def keep_gradient():
    """Passes gradients on, and keeps those of the first step in its state."""

    def update(gradient, state, params=None):
        count, kept = state
        kept = jax.tree.map(lambda g, k: jnp.where(count == 0, g, k), gradient, kept)
        return gradient, (count + 1, kept)

    return optax.GradientTransformation(
        lambda params: (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)),
        update,
    )


SCHEDULE = WarmupCosine(peak=0.2, warmup_steps=1, total_steps=STEPS)
RULE = LARS(rate_per_256=0.5, bias_rate_per_256=0.05, weight_decay=1e-4).transform


def optimizer_of(minimised):
    return optax.chain(keep_gradient(), minimised.optimize(RULE, SCHEDULE))


def initial(minimised, dtype):
    optimizer = optimizer_of(minimised)
    state = jax.jit(
        lambda key: initial_state(minimised, optimizer, key, (SIZE, SIZE, 3))
    )(jax.random.key(0))
    widen = functools.partial(jax.tree.map, lambda x: _cast(x, dtype))
    return state.replace(params=widen(state.params), opt_state=widen(state.opt_state))


def _cast(leaf, dtype):
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def train(parallel, name, dtype, *, chunks=1, remat=False):
    minimised = objective(name, dtype, remat)
    step = training_program(minimised, optimizer_of(minimised), parallel, chunks=chunks)
    state = parallel.replicate(initial(minimised, dtype))
    source = parallel.replicate(resident_set())
    key = parallel.replicate(jax.random.key(7))
    losses, statistics = [], None
    for feed in feeds():
        state, metrics = step(state, source, parallel.place_feed(feed), key)
        losses.append(float(metrics['loss']))
        statistics = statistics or jax.device_get(state.model_state)
    assert step.traces.count == 1
    return jax.device_get(state), losses, statistics


def layout(kind, count):
    return kind(tuple(jax.devices()[:count]))


@functools.cache
def alone(name, dtype, **options):
    return train(layout(MeshParallel, 1), name, dtype, **options)


def assert_close(one, two, tolerance):
    leaves, other = (jax.tree_util.tree_leaves_with_path(t) for t in (one, two))
    largest = max(np.abs(b).max(initial=0) for _, b in other)
    for (path, a), (_, b) in zip(leaves, other, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        # The gradient of a bias before a BatchNorm is nothing but rounding.
        scale = max(np.abs(b).max(initial=0), 1e-6 * largest)
        np.testing.assert_allclose(
            a / scale, b / scale, atol=tolerance, err_msg=jax.tree_util.keystr(path)
        )


# Each compiles a program of its own: by default all objectives on a mesh, and under
# pmap the simplest and the one that has a queue.
@pytest.mark.parametrize(
    ('name', 'kind', 'count'),
    [
        pytest.param(
            name,
            kind,
            count,
            marks=()
            if count == 4 and (kind is MeshParallel or name in ('barlow', 'swav'))
            else SLOW,
        )
        for name in OBJECTIVES
        for kind in (MeshParallel, PmapParallel)
        for count in (2, 4)
    ],
)
def test_numbers_are_those_of_one_device(float64, name, kind, count):
    assert_same_numbers(
        alone(name, jnp.float64), train(layout(kind, count), name, jnp.float64)
    )


def assert_same_numbers(reference, found):
    one, one_losses, one_statistics = reference
    many, losses, statistics = found
    np.testing.assert_allclose(losses[0], one_losses[0], rtol=1e-9)
    (_, one_gradient), (_, gradient) = one.opt_state[0], many.opt_state[0]
    assert_close(gradient, one_gradient, 1e-9)
    assert_close(statistics, one_statistics, 1e-9)
    # After five steps:
    np.testing.assert_allclose(losses, one_losses, rtol=1e-7)
    assert_close(many.params, one.params, 1e-7)
    assert_close(many.model_state, one.model_state, 1e-7)


@pytest.mark.parametrize('kind', [MeshParallel, pytest.param(PmapParallel, marks=SLOW)])
@pytest.mark.parametrize('name', [pytest.param('simclr', marks=SLOW), 'swav'])
def test_chunks_give_the_same_numbers_on_any_layout(float64, name, kind):
    """A chunk is every second row, whatever the devices."""
    assert_same_numbers(
        alone(name, jnp.float64, chunks=2),
        train(layout(kind, 4), name, jnp.float64, chunks=2),
    )


@pytest.mark.parametrize('name', ['barlow', pytest.param('swav', marks=SLOW)])
def test_rematerialisation_changes_no_number(float64, name):
    found = train(layout(MeshParallel, 1), name, jnp.float64, remat=True)
    assert_same_numbers(alone(name, jnp.float64), found)


@pytest.mark.parametrize(
    ('kind', 'count'), [(MeshParallel, 4), pytest.param(PmapParallel, 4, marks=SLOW)]
)
def test_first_loss_in_float32_is_that_of_one_device(kind, count):
    _, one, _ = alone('barlow', jnp.float32)
    _, many, _ = train(layout(kind, count), 'barlow', jnp.float32)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_loss_falls_on_few_images(name):
    minimised = objective(name, jnp.float32)
    optimizer = minimised.optimize(optax.adam, lambda _: 1e-2)
    parallel = layout(MeshParallel, 1)
    step = training_program(minimised, optimizer, parallel)
    state = jax.jit(
        lambda key: initial_state(minimised, optimizer, key, (SIZE, SIZE, 3))
    )(jax.random.key(0))
    assert set(state.params) == set(state.model_state) == {'encoder', 'head'}
    state, source = parallel.replicate(state), parallel.replicate(resident_set())
    feed = parallel.place_feed(Rows(np.arange(16, dtype=np.int32), np.ones(16, 'f')))
    losses = []
    for _ in range(160):
        state, metrics = step(state, source, feed, jax.random.key(0))
        losses.append(float(metrics['loss']))
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:5]), losses[::10]


def test_row_ids_number_the_whole_batch():
    ids = jax.pmap(lambda _: BatchAxis('batch').row_ids(3), axis_name='batch')(
        np.zeros(4)
    )
    np.testing.assert_array_equal(ids.ravel(), WHOLE_BATCH.row_ids(12))


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r'multiple of 4, such as 28 or 32'):
        choose_parallel('mesh', 30)
    with pytest.raises(UserError, match=r'3 chunks each.*multiple of 12.* 24 or 36'):
        choose_parallel('mesh', 32, 3)
    with pytest.raises(UserError, match="Did you mean 'mesh'"):
        choose_parallel('mash', 32)


def test_a_feed_of_images_is_taken_as_it_is():
    batch = Batch(*(np.zeros(1) for _ in range(5)))
    assert fetch((), batch) is batch
