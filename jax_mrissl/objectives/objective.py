"""What a run minimises: one protocol for every method and for finetuning."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import optax
from flax import struct

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis

PyTree = Any
Schedule = Callable[[Any], Any]
Rule = Callable[[Schedule], optax.GradientTransformation]


@struct.dataclass
class LossAux:
    """What a loss gives besides its value.

    Attributes:
        model_state: running statistics and the like after this step.
        metrics: float32 scalars to be logged, equal on every device once averaged.
            `chance_loss`, where there is one, is what a collapsed output costs.
    """

    model_state: PyTree
    metrics: dict[str, jax.Array]


class Objective(Protocol):
    """What a run minimises. Pure; owns its networks and its policies.

    A loss has two halves. `project` is everything that takes memory, the networks,
    and may be run on a part of the batch at a time; `criterion` is everything that
    compares images with each other, and sees all rows. `params` and `model_state` have
    exactly the two subtrees `encoder` and `head`: that convention is the whole
    hand-over from pretraining to finetuning.
    """

    @property
    def encoder(self) -> Any:
        """The network from views, [B, H, W, C], to embeddings, [B, F]."""

    @property
    def policies(self) -> tuple[Policy, ...]:
        """One augmentation policy per view."""

    @property
    def remedies(self) -> tuple[str, ...]:
        """What is known to help when this method's output collapses; sentences."""

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
        """Draws parameters and states for views of shape [H, W, C].

        Returns: params, model_state.
        """

    def project(
        self,
        params: PyTree,
        model_state: PyTree,
        views: tuple[jax.Array, ...],
        *,
        axis: BatchAxis,
    ) -> tuple[PyTree, PyTree]:
        """Runs the networks on some rows, in training mode.

        Args:
            params: `encoder` and `head`.
            model_state: `encoder` and `head`.
            views: one array a policy, [b, H, W, C].
            axis: where the rest of these rows is.

        Returns:
            Projections, a tree of arrays [b, ...], float32 or wider; the model state
            with its running statistics moved.
        """

    def criterion(
        self,
        params: PyTree,
        model_state: PyTree,
        projections: PyTree,
        batch: Batch,
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the loss of all rows, a scalar equal on every device, and its company.

        Args:
            params: `encoder` and `head`.
            model_state: as `project` left it.
            projections: as `project` made them, for every row of the batch.
            batch: the rows' labels, groups and mask.
            axis: where the rest of the batch is.
        """

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the update rule: `rule(schedule)` for most.

        Args:
            rule: makes an optimiser that follows a learning rate by step.
            schedule: the learning rate by step.
        """

    def advice(self) -> tuple[str, ...]:
        """What a user should know of these settings before the run; sentences."""


def exact(x: jax.Array) -> jax.Array:
    """Gives `x` in float32, or in float64 where it is that: losses are never less."""
    return x.astype(jax.numpy.promote_types(x.dtype, jax.numpy.float32))
