"""Compiled programs that several stages share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jax_mrissl.augment.policy import Policy, make_views
from jax_mrissl.core import processes
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.data.pipeline import evaluation_feeds, fetch
from jax_mrissl.objectives.objective import Objective
from jax_mrissl.train.parallel import Compiled, MeshParallel, Parallel
from jax_mrissl.train.step import train_step


def training_program(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    parallel: Parallel,
    *,
    chunks: int = 1,
) -> Compiled:
    """Compiles the step: `(state, source, feed, key) -> state, metrics`."""

    def step(state: Any, source: Any, feed: Any, key: Any, *, axis: BatchAxis) -> Any:
        return train_step(
            state,
            fetch(source, feed),
            key,
            objective=objective,
            optimizer=optimizer,
            axis=axis,
            chunks=chunks,
        )

    return parallel.compile(step)


def embedding(encoder: Any) -> Callable[[Any, Any, jax.Array], jax.Array]:
    """Gives the network `(params, model_state, images) -> embeddings`, in inference.

    Args:
        encoder: maps [B, H, W, C] to [B, F]; its trees are the subtrees `encoder`.
    """

    def embed(params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        variables = {'params': params['encoder'], **model_state['encoder']}
        found: jax.Array = encoder.apply(variables, images, train=False)
        return found

    return embed


def channels_of(policy: Policy, image_shape: tuple[int, int, int]) -> int:
    """Says how many channels a view has; a normalisation may widen gray images.

    Args:
        policy: of the view.
        image_shape: of the stored canvas, [H, W, C].
    """
    views = jax.eval_shape(
        policy,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, *image_shape), np.uint8),
        jax.ShapeDtypeStruct((1, 4), np.int32),
        jax.ShapeDtypeStruct((1,), np.int32),
    )
    return views.shape[-1]


class RowProgram:
    """A network over chosen rows of a resident set, in inference mode.

    All processes call it with the same rows, or inside of `processes.share` one alone.

    Args:
        network: maps `(params, model_state, images)` to [B, ...], rows apart.
        policy: the view that it looks at; must not be random.
        batch_size: of the global batch.
    """

    def __init__(
        self,
        network: Callable[[Any, Any, jax.Array], jax.Array],
        policy: Policy,
        batch_size: int,
    ):
        devices = processes.devices()
        self._batch_size = -(-batch_size // len(devices)) * len(devices)
        self._parallel = MeshParallel(devices)

        def run(state: Any, source: Any, feed: Any, key: Any, *, axis: Any) -> Any:
            params, model_state = state
            batch = fetch(source, feed)
            [view] = make_views(key, batch, (policy,), axis.row_ids(len(batch.mask)))
            return network(params, model_state, view)

        whole = self._parallel.replicated
        self._run = jax.jit(
            functools.partial(run, axis=WHOLE_BATCH), out_shardings=whole
        )
        self._key = self._parallel.replicate(jax.random.key(0))

    def __call__(
        self, params: Any, model_state: Any, source: Any, rows: np.ndarray
    ) -> np.ndarray:
        """Gives the network's output for each of `rows`, on the host."""
        blocks = []
        for feed in evaluation_feeds(rows, self._batch_size):
            placed = self._parallel.split(feed)
            blocks.append(self._run((params, model_state), source, placed, self._key))
        return np.concatenate(jax.device_get(blocks))[: len(rows)]
