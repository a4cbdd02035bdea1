"""What training carries from step to step: arrays only."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jax_mrissl.objectives.objective import Objective


@struct.dataclass
class TrainState:
    """Everything that a step changes; a pytree of arrays.

    Attributes:
        step: int32 scalar, the number of updates made.
        params: `encoder` and `head`.
        model_state: `encoder` and `head`; running statistics and the like.
        opt_state: the optimiser's.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any


def initial_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, ...],
) -> TrainState:
    """Draws a fresh state for views of shape [H, W, C]."""
    params, model_state = objective.init(key, image_shape)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
    )
