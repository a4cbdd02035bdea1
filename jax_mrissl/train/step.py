"""The one step: views, projections, loss, gradient, update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jax_mrissl.augment.policy import make_views
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis
from jax_mrissl.objectives.objective import LossAux, Objective
from jax_mrissl.train.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    axis: BatchAxis,
    chunks: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Augments, differentiates and updates, once. Pure; knows no device.

    Args:
        state: `state.step` counts the updates already made.
        batch: images [B, H, W, C]; under pmap, this device's rows only.
        key: the run's key, the same at every step and on every device.
        objective, optimizer: what to minimise, and by which transformation.
        axis: where the rest of the batch is.
        chunks: how many parts the networks see the batch in; see `in_chunks`.

    Returns: the next state; metrics, scalars equal on every device. `finite` is 1
        while the loss, the gradient and the running statistics are finite.
    """
    step_key = jax.random.fold_in(key, state.step)
    row_ids = axis.row_ids(len(batch.image))

    def loss_of(params: Any) -> tuple[jax.Array, LossAux]:
        def project(model_state: Any, rows: Any) -> tuple[Any, Any]:
            part, ids = rows
            views = make_views(step_key, part, objective.policies, ids)
            return objective.project(params, model_state, views, axis=axis)

        projections, model_state = in_chunks(
            project, state.model_state, (batch, row_ids), chunks
        )
        return objective.criterion(params, model_state, projections, batch, axis=axis)

    (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # Inside pmap, `grad` differentiates the sum of all devices' losses, so their
    # mean gradient is the gradient of the mean loss, gathers included.
    loss, grads, metrics = axis.mean((loss, grads, aux.metrics))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    next_state = TrainState(state.step + 1, params, aux.model_state, opt_state)
    grad_norm = optax.tree.norm(grads)
    # A pool may drop a NaN on its way to the loss; running statistics keep it.
    finite = _all_finite((loss, grad_norm, aux.model_state))
    return next_state, {
        **metrics,
        'loss': loss,
        'grad_norm': grad_norm,
        'finite': finite.astype(jnp.float32),
    }


def _all_finite(tree: Any) -> jax.Array:
    """Says whether every number is finite; counters, which are whole, always are."""
    checks = [
        jnp.isfinite(leaf).all()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.stack(checks).all()


def in_chunks(
    project: Callable[[Any, Any], tuple[Any, Any]],
    model_state: Any,
    rows: Any,
    chunks: int,
) -> tuple[Any, Any]:
    """Projects the rows in parts, of which only one at a time is held in memory.

    Each part has batch statistics of its own, by definition: the loss is that of the
    whole batch over a network that normalises chunk by chunk, and its gradient is
    exact. Backwards, each part's networks (and views) are run once more. A chunk is
    every `chunks`-th row, so that every device holds its share of each. Running
    statistics move once a chunk.

    Args:
        project: maps (model_state, rows) to (projections, model_state).
        model_state: goes through the chunks one after the other.
        rows: a tree of arrays [b, ...]; `chunks` divides b.
        chunks: 1 runs all rows at once, and keeps what the gradient needs.

    Returns: projections [b, ...], in the order of the rows; the last model state.

    Source: GradCache, Gao et al. 2021 (arXiv:2101.06983), as one differentiated scan.
    """
    if chunks == 1:
        return project(model_state, rows)

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    @jax.checkpoint
    def one(model_state: Any, part: Any) -> tuple[Any, Any]:
        projections, model_state = project(model_state, part)
        return model_state, projections

    model_state, projections = lax.scan(one, model_state, jax.tree.map(split, rows))
    return jax.tree.map(join, projections), model_state
