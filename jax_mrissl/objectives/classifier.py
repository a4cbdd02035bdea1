"""Supervised finetuning: cross entropy on a linear layer over the encoder."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis
from jax_mrissl.models.heads import LinearClassifier
from jax_mrissl.objectives.networks import init_networks, project_views
from jax_mrissl.objectives.objective import LossAux, Rule, Schedule


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An encoder and a linear layer, trained together by cross entropy.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: one view.
        classes: K, the number of classes.
        param_dtype: of the linear layer, which also computes in it.
        remedies: none; labels keep it from collapsing.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    classes: int
    param_dtype: Any = jnp.float32
    remedies: tuple[str, ...] = ()

    @property
    def head(self) -> LinearClassifier:
        """The linear layer."""
        return LinearClassifier(self.classes, self.param_dtype)

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
        """Gives the logits, [b, K]."""
        [logits], state = project_views(
            self.encoder, self.head, params, model_state, views, axis
        )
        return logits, state

    def criterion(
        self,
        params: Any,
        model_state: Any,
        projections: jax.Array,
        batch: Batch,
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the mean cross entropy of the rows that count."""
        del params
        logits = projections
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        right = (jnp.argmax(logits, axis=-1) == batch.label).astype(losses.dtype)
        count = axis.mean(batch.mask.sum())
        # Divided by the whole batch's count, so that devices may differ in theirs.
        loss = axis.mean(jnp.sum(losses * batch.mask)) / count
        accuracy = axis.mean(jnp.sum(right * batch.mask)) / count
        return loss, LossAux(model_state=model_state, metrics={'accuracy': accuracy})

    def logits(self, params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        """Gives the logits, [B, K], of views, [B, H, W, C], in inference mode."""
        h = self.encoder.apply(
            {'params': params['encoder'], **model_state['encoder']}, images, train=False
        )
        logits: Any = self.head.apply({'params': params['head']}, h)
        return logits

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the rule as it is."""
        return rule(schedule)

    def advice(self) -> tuple[str, ...]:
        """Gives none."""
        return ()
