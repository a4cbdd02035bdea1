"""The one step: views, loss, gradient, update."""

import jax
import jax.numpy as jnp
import optax

from jax_mrissl.augment.policy import make_views
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis
from jax_mrissl.objectives.objective import Objective
from jax_mrissl.train.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    axis: BatchAxis,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Augments, differentiates and updates, once. Pure; knows no device.

    Args:
        state: `state.step` counts the updates already made.
        batch: images [B, H, W, C]; under pmap, this device's rows only.
        key: the run's key, the same at every step and on every device.
        objective, optimizer: what to minimise, and by which transformation.
        axis: where the rest of the batch is.

    Returns: the next state; metrics, scalars equal on every device. `finite` is 1
        while the loss, the gradient and the running statistics are finite.
    """
    step_key = jax.random.fold_in(key, state.step)
    views = make_views(step_key, batch, objective.policies, axis)
    grad_fn = jax.value_and_grad(objective.loss, has_aux=True)
    (loss, aux), grads = grad_fn(state.params, state.model_state, views, axis=axis)
    # Inside pmap, `grad` differentiates the sum of all devices' losses, so their
    # mean gradient is the gradient of the mean loss, gathers included.
    loss, grads, metrics = axis.mean((loss, grads, aux.metrics))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    next_state = TrainState(state.step + 1, params, aux.model_state, opt_state)
    grad_norm = optax.tree.norm(grads)
    # A pool may drop a NaN on its way to the loss; running statistics keep it.
    statistics = optax.tree.norm(aux.model_state)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(statistics)
    return next_state, {
        **metrics,
        'loss': loss,
        'grad_norm': grad_norm,
        'finite': finite.astype(jnp.float32),
    }
