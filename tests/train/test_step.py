"""Chunks: the gradient is that of the whole batch's loss; averages would be wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parallel import ROWS, SIZE, assert_close, objective, resident_set

from jax_mrissl.augment.policy import make_views
from jax_mrissl.core.batch_axis import WHOLE_BATCH
from jax_mrissl.data.pipeline import Rows, fetch
from jax_mrissl.models import ENCODERS
from jax_mrissl.train.step import _all_finite, in_chunks

CHUNKS = 2


def part(tree, chunk):
    return jax.tree.map(lambda x: x[chunk::CHUNKS], tree)


def put_back(parts):
    """Interleaves the chunks' rows again."""
    return jax.tree.map(lambda *x: np.stack(x, 1).reshape(-1, *x[0].shape[1:]), *parts)


@pytest.mark.parametrize(
    'name',
    ['simclr', *(pytest.param(n, marks=pytest.mark.slow) for n in ('barlow', 'swav'))],
)
def test_chunked_gradient_is_that_of_the_loss_over_chunked_statistics(float64, name):
    minimised = objective(name, jnp.float64)
    draw = jax.jit(minimised.init, static_argnums=1)
    params, state = draw(jax.random.key(0), (SIZE, SIZE, 3))
    widen = functools.partial(
        jax.tree.map,
        lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    )
    params, state = widen(params), widen(state)
    rows = Rows(np.arange(ROWS, dtype=np.int32), np.ones(ROWS, np.float32))
    batch = fetch(resident_set(), rows)
    ids, key = jnp.arange(ROWS), jax.random.key(5)

    def project(params, model_state, rows):
        batch, ids = rows
        views = make_views(key, batch, minimised.policies, ids)
        return minimised.project(params, model_state, views, axis=WHOLE_BATCH)

    def criterion(params, model_state, projections, batch):
        found = minimised.criterion(
            params, model_state, projections, batch, axis=WHOLE_BATCH
        )
        return found[0]

    @jax.jit
    @jax.value_and_grad
    def chunked(params):
        projections, after = in_chunks(
            functools.partial(project, params), state, (batch, ids), CHUNKS
        )
        return criterion(params, after, projections, batch)

    @jax.jit
    @jax.value_and_grad
    def by_definition(params):
        """The same networks on each chunk in turn; one loss over all that came out."""
        after, parts = state, []
        for chunk in range(CHUNKS):
            z, after = project(params, after, part((batch, ids), chunk))
            parts.append(z)
        together = jax.tree.map(
            lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *parts
        )
        return criterion(params, after, together, batch)

    @jax.jit
    @jax.value_and_grad
    def averaged(params):
        """What accumulating the chunks' own losses would give."""
        total, after = 0.0, state
        for chunk in range(CHUNKS):
            rows = part((batch, ids), chunk)
            z, after = project(params, after, rows)
            total += criterion(params, after, z, rows[0]) / CHUNKS
        return total

    loss, gradient = chunked(params)
    expected, reference = by_definition(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    assert_close(gradient, reference, 1e-9)
    _, wrong = averaged(params)
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
        for tree in (reference, wrong)
    ]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine < 0.99, cosine


def test_rows_keep_their_order_and_states_go_on():
    rows = {'x': np.arange(12.0).reshape(12, 1)}

    def project(count, rows):
        return rows['x'] * 2 + count, count + 1

    out, count = in_chunks(project, jnp.float32(0), rows, 3)
    # Chunk c holds rows c, c + 3, ...; it comes when the count is c.
    np.testing.assert_array_equal(out[:, 0], np.arange(12) * 2 + np.arange(12) % 3)
    assert count == 3


@pytest.mark.parametrize('way', ['remat', 'chunks'])
def test_a_gradient_keeps_less_in_memory(way):
    """Counted by what the backward pass is handed: the arrays of JAX's `vjp`."""

    def kept_bytes(*, remat=False, chunks=1):
        encoder = ENCODERS['resnet18'](stem='small').module(remat=remat)
        images = jnp.zeros((16, 32, 32, 3))
        variables = jax.eval_shape(
            lambda: encoder.init(jax.random.key(0), images[:1], train=True)
        )
        params = variables.pop('params')

        def pullback(params, stats):
            def loss(params):
                h, _ = in_chunks(
                    lambda stats, images: encoder.apply(
                        {'params': params, **stats},
                        images,
                        train=True,
                        mutable=list(stats),
                    ),
                    stats,
                    images,
                    chunks,
                )
                return jnp.sum(h**2)

            return jax.vjp(loss, params)[1]

        kept = jax.tree.leaves(jax.eval_shape(pullback, params, variables))
        return sum(x.size * x.dtype.itemsize for x in kept)

    less = kept_bytes(remat=True) if way == 'remat' else kept_bytes(chunks=4)
    assert less < 0.5 * kept_bytes()


def test_counters_are_no_reason_for_alarm():
    """A square of 50,000 is more than an int32 holds."""
    counters = {'step': jnp.int32(50_000), 'mean': jnp.ones(3)}
    assert _all_finite(counters)
    assert not _all_finite(counters | {'mean': jnp.array([1.0, jnp.nan])})
    assert not _all_finite(counters | {'mean': jnp.array([1.0, jnp.inf])})
