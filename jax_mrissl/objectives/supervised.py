"""Supervised finetuning: a head on the encoder, trained with it on labels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis
from jax_mrissl.objectives.networks import init_networks, project_views
from jax_mrissl.objectives.objective import LossAux, Rule, Schedule

# Of outputs [b, K] and labels [b]: each row's loss, and other numbers of each row.
RowLoss = Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def cross_entropy(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gives the cross entropy of each row, in nats, and whether it is told right.

    Args:
        logits: [b, K].
        labels: int [b], in 0 … K-1.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(losses.dtype)
    return losses, {'accuracy': right}


def squared_error(
    outputs: jax.Array, numbers: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gives the squared error of each row.

    Args:
        outputs: [b, 1].
        numbers: float [b].
    """
    return jnp.square(outputs[:, 0] - numbers), {}


@dataclasses.dataclass(frozen=True)
class Supervised:
    """An encoder and a head, trained together.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: one view.
        head: maps embeddings to outputs, [B, K].
        row_loss: of outputs and labels.
        remedies: none; labels keep it from collapsing.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    head: nn.Module
    row_loss: RowLoss
    remedies: tuple[str, ...] = ()

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
        """Draws parameters and states for views of shape [H, W, C]."""
        return init_networks(key, self.encoder, self.head, image_shape)

    def project(
        self,
        params: Any,
        model_state: Any,
        views: tuple[jax.Array, ...],
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, Any]:
        """Gives the outputs, [b, K]."""
        [outputs], state = project_views(
            self.encoder, self.head, params, model_state, views, axis
        )
        return outputs, state

    def criterion(
        self,
        params: Any,
        model_state: Any,
        projections: jax.Array,
        batch: Batch,
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the mean loss of the rows that count."""
        del params
        losses, others = self.row_loss(projections, batch.label)
        count = axis.mean(batch.mask.sum())

        def mean(rows: jax.Array) -> jax.Array:
            # Divided by the whole batch's count, so that devices may differ in theirs.
            return axis.mean(jnp.sum(rows * batch.mask)) / count

        metrics = {name: mean(rows) for name, rows in others.items()}
        return mean(losses), LossAux(model_state=model_state, metrics=metrics)

    def outputs(self, params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        """Gives the outputs, [B, K], of views, [B, H, W, C], in inference mode."""
        h = self.encoder.apply(
            {'params': params['encoder'], **model_state['encoder']}, images, train=False
        )
        outputs: Any = self.head.apply({'params': params['head']}, h)
        return outputs

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the rule as it is."""
        return rule(schedule)

    def advice(self) -> tuple[str, ...]:
        """Gives none."""
        return ()
