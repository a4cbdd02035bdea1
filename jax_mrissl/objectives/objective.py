"""What a run minimises: one protocol for every method and for finetuning."""

from typing import Any, Protocol

import jax
import optax
from flax import struct

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis

PyTree = Any


@struct.dataclass
class LossAux:
    """What a loss gives besides its value.

    Attributes:
        model_state: running statistics and the like after this step.
        metrics: float32 scalars to be logged, equal on every device once averaged.
    """

    model_state: PyTree
    metrics: dict[str, jax.Array]


class Objective(Protocol):
    """What a run minimises. Pure; owns its networks and its policies.

    `params` and `model_state` have exactly the two subtrees `encoder` and `head`:
    that convention is the whole hand-over from pretraining to finetuning.
    """

    @property
    def policies(self) -> tuple[Policy, ...]:
        """One augmentation policy per view."""

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
        """Draws parameters and states for views of shape [H, W, C].

        Returns: params, model_state.
        """

    def loss(
        self,
        params: PyTree,
        model_state: PyTree,
        views: tuple[Batch, ...],
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the loss, a float32 scalar equal on every device, and its company."""

    def gradient_transform(self) -> optax.GradientTransformation:
        """What happens to gradients before the optimiser; the identity for most."""
