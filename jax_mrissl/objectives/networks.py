"""An encoder and a head: initialised together, run on views in training mode."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_mrissl.core.batch_axis import BatchAxis
from jax_mrissl.objectives.objective import exact


def init_networks(
    key: jax.Array, encoder: nn.Module, head: nn.Module, image_shape: tuple[int, ...]
) -> tuple[dict, dict]:
    """Draws parameters and states of an encoder and the head on it.

    Args:
        key: of the draw.
        encoder: maps [B, H, W, C] to [B, F].
        head: maps [B, F] to anything.
        image_shape: [H, W, C].

    Returns: params, model_state; each with the subtrees `encoder` and `head`.
    """
    encoder_key, head_key = jax.random.split(key)
    images = jnp.zeros((2, *image_shape), jnp.float32)
    embedding, below = encoder.init_with_output(encoder_key, images, train=True)
    zeros = jnp.zeros(embedding.shape, embedding.dtype)
    above = head.init(head_key, zeros, train=True)
    params = {'encoder': below.pop('params'), 'head': above.pop('params')}
    return params, {'encoder': below, 'head': above}


def run_network(
    module: nn.Module, params: Any, state: Any, x: jax.Array, axis: BatchAxis
) -> tuple[jax.Array, Any]:
    """Runs a network in training mode; gives its output and its state after it."""
    return module.apply(
        {'params': params, **state}, x, train=True, axis=axis, mutable=list(state)
    )


def project_views(
    encoder: nn.Module,
    head: nn.Module,
    params: Any,
    model_state: Any,
    views: Sequence[jax.Array],
    axis: BatchAxis,
) -> tuple[tuple[jax.Array, ...], Any]:
    """Projects views one after the other, each with batch statistics of its own.

    Running statistics move once a view. Returns: [b, D] a view; the model state.
    """
    state, head_state = model_state['encoder'], model_state['head']
    projections = []
    for view in views:
        h, state = run_network(encoder, params['encoder'], state, view, axis)
        z, head_state = run_network(head, params['head'], head_state, h, axis)
        projections.append(exact(z))
    return tuple(projections), {'encoder': state, 'head': head_state}


def side_by_side(arrays: Sequence[jax.Array]) -> jax.Array:
    """Puts V arrays of [b, ...] together as [b * V, ...], a row's views side by side.

    So the rows stay on their devices, where a plain concatenation would move them.
    """
    stacked = jnp.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def apart(together: jax.Array, views: int) -> tuple[jax.Array, ...]:
    """Undoes `side_by_side`."""
    stacked = together.reshape(-1, views, *together.shape[1:])
    return tuple(stacked[:, i] for i in range(views))


def unit(x: jax.Array) -> jax.Array:
    """Scales rows, [..., D], to length one; rows of zeros stay and have no gradient."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    somewhere = square > 0
    length = jnp.sqrt(jnp.where(somewhere, square, 1.0))
    return jnp.where(somewhere, x / length, 0.0)
