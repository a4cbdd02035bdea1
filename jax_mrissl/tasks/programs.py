"""Compiled programs; those of equal declarations are one for the whole process.

Experiments of a study, and the stages of one, ask for the same programs again and
again: tracing and compiling them takes longer than many of their steps.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
import optax

from jax_mrissl.augment.policy import Policy, make_views
from jax_mrissl.core import processes
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.pipeline import evaluation_feeds, fetch
from jax_mrissl.objectives.objective import Objective
from jax_mrissl.train.parallel import Compiled, MeshParallel, Parallel
from jax_mrissl.train.state import TrainState, initial_state
from jax_mrissl.train.step import train_step

# Programs of one kind that are kept. They hold no images and no states.
_KEPT = 16
Maker = TypeVar('Maker', bound=Callable[..., Any])


def shared(make: Maker) -> Maker:
    """Lets a function give the same program again for equal arguments."""
    return cast(Maker, functools.lru_cache(maxsize=_KEPT)(make))


@shared
def training_program(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    parallel: Parallel,
    *,
    chunks: int = 1,
) -> Compiled:
    """Compiles the step: `(state, source, feed, key) -> state, metrics`.

    An optimizer equals itself alone: `tunable` and the like give one for equal rules.
    """

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


@shared
def initial_program(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> Callable[[jax.Array], TrainState]:
    """Compiles the draw of the state that training starts from: `key -> state`."""
    return jax.jit(lambda key: initial_state(objective, optimizer, key, image_shape))


@shared
def outputs_of(objective: Any) -> Callable[[Any, Any, jax.Array], jax.Array]:
    """Gives the network `(params, model_state, images) -> outputs`, in inference."""
    found: Callable[[Any, Any, jax.Array], jax.Array] = objective.outputs
    return found


@shared
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


@shared
def channels_of(policy: Policy, image_shape: tuple[int, int, int]) -> int:
    """Says how many channels a view has; a normalisation may widen gray images.

    Args:
        policy: of the view.
        image_shape: of the stored canvas, [H, W, C].

    Raises:
        UserError: an operation cannot be done on such an image.
    """
    try:
        views = jax.eval_shape(
            policy,
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, *image_shape), np.uint8),
            jax.ShapeDtypeStruct((1, 4), np.int32),
            jax.ShapeDtypeStruct((1,), np.int32),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f'The view {policy} does not fit images of {image_shape[-1]} channel(s): '
            f'{error}'
        ) from error
    return views.shape[-1]


class RowProgram:
    """A network over chosen rows of a resident set, in inference mode.

    All processes call it with the same rows, or inside of `processes.share` one alone.

    Args:
        network: maps `(params, model_state, images)` to [B, ...], rows apart; those of
            `outputs_of` and `embedding` share a program where they are equal.
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
        self._run = _row_program(network, policy, self._parallel)
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


@shared
def _row_program(
    network: Callable[[Any, Any, jax.Array], jax.Array],
    policy: Policy,
    parallel: MeshParallel,
) -> Callable[..., jax.Array]:
    axis = WHOLE_BATCH

    def run(state: Any, source: Any, feed: Any, key: jax.Array) -> jax.Array:
        params, model_state = state
        batch = fetch(source, feed)
        [view] = make_views(key, batch, (policy,), axis.row_ids(len(batch.mask)))
        return network(params, model_state, view)

    return jax.jit(run, out_shardings=parallel.replicated)
