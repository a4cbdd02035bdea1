"""What the training step sends between devices, read from the compiled program."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_mrissl.augment import build_policy
from jax_mrissl.core.batch_axis import WHOLE_BATCH
from jax_mrissl.data.pipeline import Resident, Rows
from jax_mrissl.models.convolution import Conv
from jax_mrissl.models.normalization import BatchNorm
from jax_mrissl.objectives.barlow import BarlowTwins
from jax_mrissl.objectives.simclr import SimCLR
from jax_mrissl.objectives.swav import SwAV
from jax_mrissl.tasks.programs import training_program
from jax_mrissl.train.collectives import read_collectives
from jax_mrissl.train.optimizer import LARS
from jax_mrissl.train.parallel import MeshParallel
from jax_mrissl.train.state import initial_state

# Each is unlike all other lengths, so that a shape tells what it is.
DEVICES, ROWS, WIDTH, PROTOTYPES, QUEUE, SIZE = 4, 20, 12, 7, 40, 16
VIEWS = [
    [dict(name='resize', size=size), dict(name='horizontal_flip')]
    for size in (SIZE, SIZE, SIZE // 2, SIZE // 2)
]


class Encoder(nn.Module):
    """Two layers: it compiles in a second, and has all that sends something."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, axis=WHOLE_BATCH):
        for index, width in enumerate((9, 10)):
            x = Conv(width, 3, strides=2, padding=1, dtype=self.dtype)(x)
            x = BatchNorm(dtype=self.dtype, name=f'bn{index}')(
                x, train=train, axis=axis
            )
            x = nn.relu(x)
        return x.mean(axis=(1, 2))


def simclr(encoder, policies):
    return SimCLR(encoder, policies[:2], width=WIDTH, mask_same_group=True)


def barlow(encoder, policies):
    return BarlowTwins(encoder, policies[:2], (24, WIDTH))


def swav(encoder, policies):
    return SwAV(
        encoder,
        policies,
        prototypes=PROTOTYPES,
        hidden_width=24,
        width=WIDTH,
        queue_length=QUEUE,
        queue_from_epoch=0.0,
        batch_size=ROWS,
        steps_per_epoch=2,
    )


def compile_step(make, *, chunks=1, dtype=jnp.float32):
    objective = make(
        Encoder(dtype), tuple(build_policy(v, where='views') for v in VIEWS)
    )
    optimizer = objective.optimize(LARS(rate_per_256=0.1).transform, lambda _: 0.1)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(
        lambda key: initial_state(objective, optimizer, key, (SIZE, SIZE, 1)), key
    )
    source = Resident(
        image=np.zeros((50, 24, 24, 1), np.uint8),
        box=np.zeros((50, 4), np.int32),
        label=np.zeros(50, np.int32),
        group=np.zeros(50, np.int32),
    )
    feed = Rows(row=np.zeros(ROWS, np.int32), mask=np.ones(ROWS, np.float32))
    step = training_program(
        objective,
        optimizer,
        MeshParallel(tuple(jax.devices()[:DEVICES])),
        chunks=chunks,
    )
    compiled = step.function.lower(state, source, feed, key).compile()
    sizes = [x.size for x in jax.tree.leaves(state.params)]
    return read_collectives(compiled.as_text()), sizes


def parts(collectives, *kinds):
    return [p for c in collectives if c.kind in kinds for p in c.parts]


def longest(found):
    return max((int(np.prod(p.shape)) for p in found), default=0)


def gradients(found):
    """Gives what is summed outside of the differentiated function: no scalars."""
    return [p for p in parts(found, 'all-reduce') if 'jvp' not in p.source and p.shape]


def assert_gradients_are_summed_once(found, sizes):
    sent = gradients(found)
    numbers = sum(int(np.prod(p.shape)) for p in sent)
    # The compiler finds that biases which are added up have one gradient.
    assert 0.95 * sum(sizes) < numbers <= sum(sizes)
    assert sum(p.bytes for p in sent) == 4 * numbers  # in float32
    # All at once, but for some that are joined to what is ready at the same time.
    assert max(len(c.parts) for c in found) > len(sizes) / 2


def test_simclr_gathers_projections_and_scatters_their_gradient():
    found, sizes = compile_step(simclr)
    assert_gradients_are_summed_once(found, sizes)
    # Both views' projections, and each row's subject, twice.
    gathered = sorted(p.shape for p in parts(found, 'all-gather'))
    assert gathered == [(2 * ROWS,), (2 * ROWS, WIDTH)]
    [scattered] = parts(found, 'reduce-scatter')
    assert scattered.shape == (2 * ROWS // DEVICES, WIDTH)
    assert not parts(found, 'all-to-all', 'collective-permute')


def test_barlow_sums_its_correlations_once():
    found, sizes = compile_step(barlow, dtype=jnp.bfloat16)
    assert_gradients_are_summed_once(found, sizes)
    assert {c.kind for c in found} == {'all-reduce'}
    in_loss = [p.shape for p in parts(found, 'all-reduce') if 'jvp' in p.source]
    # D x D; its gradient is the same everywhere, and is not sent.
    assert [shape for shape in in_loss if len(shape) == 2 and min(shape) > 1] == [
        (WIDTH, WIDTH)
    ]


def test_swav_sends_what_enters_the_queue_and_sums_of_prototypes():
    found, sizes = compile_step(swav)
    assert_gradients_are_summed_once(found, sizes)
    # Two views of the batch, for the queue that every device holds. Neither scores of
    # the batch nor of the queue are sent: sums of K numbers are.
    assert [p.shape for p in parts(found, 'all-gather')] == [(ROWS, 2, WIDTH)]
    assert not parts(found, 'all-to-all', 'collective-permute', 'reduce-scatter')
    in_loss = [p for p in parts(found, 'all-reduce') if 'jvp()' in p.source]
    # Maximum and sum, for two views and three iterations each; and the count of usage.
    sums = [p for p in in_loss if int(np.prod(p.shape)) == PROTOTYPES]
    assert len(sums) == 2 * 2 * 3 + 1
    assert longest(in_loss) == PROTOTYPES


def test_chunks_send_gradients_no_more_often():
    found, sizes = compile_step(simclr, chunks=5)
    assert_gradients_are_summed_once(found, sizes)


def test_one_device_sends_nothing(monkeypatch):
    monkeypatch.setattr(f'{__name__}.DEVICES', 1)
    assert compile_step(simclr)[0] == []


def test_the_text_of_a_program_is_read():
    text = """
  %p = f32[3,4]{1,0} parameter(0), metadata={op_name="jit(f)/all-reduce(x)"}
  %a = (f32[8]{0}, bf16[2,3]{1,0}, /*index=2*/pred[]) all-reduce(%x, %y, %z), \
channel_id=1, metadata={op_name="jit(f)/(jvp(Net)/bn1/psum:psum:psum)" stack=3}
  ROOT %g = s32[16]{0} all-gather(%b), dimensions={0}, metadata={op_name="g"}
  %s = (f32[4,8]{1,0:T(8,128)}, f32[16,8]{1,0}, u32[]{:S(2)}) all-gather-start(%b)
  %d = f32[16,8]{1,0} all-gather-done(%s)
  %h = f32[4]{0} reduce-scatter(%b), metadata={op_name="a/(b/(c:d)/e:f)/g"}
"""
    reduced, gathered, started, scattered = read_collectives(text)
    assert [(p.shape, p.bytes, p.source) for p in reduced.parts] == [
        ((8,), 32, 'jit(f)/jvp(Net)/bn1/psum'),
        ((2, 3), 12, 'jit(f)/psum'),
        ((), 1, 'jit(f)/psum'),
    ]
    assert reduced.bytes == 45
    assert (gathered.kind, gathered.bytes) == ('all-gather', 64)
    assert [p.shape for p in started.parts] == [(16, 8)]
    assert scattered.parts[0].source == 'a/(b/(c:d)/e:f)/g'
