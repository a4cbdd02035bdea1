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
from jax_mrissl.objectives.objective import LossAux


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An encoder and a linear layer, trained together by cross entropy.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: one view.
        classes: K, the number of classes.
        param_dtype: of the linear layer, which also computes in it.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    classes: int
    param_dtype: Any = jnp.float32

    @property
    def head(self) -> LinearClassifier:
        """The linear layer."""
        return LinearClassifier(self.classes, self.param_dtype)

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
        """Draws parameters and states for views of shape [H, W, C]."""
        encoder_key, head_key = jax.random.split(key)
        images = jnp.zeros((2, *image_shape), jnp.float32)
        encoder = self.encoder.init(encoder_key, images, train=True)
        embedding = jax.eval_shape(
            lambda v: self.encoder.apply(v, images, train=False), encoder
        )
        head = self.head.init(head_key, jnp.zeros(embedding.shape, self.param_dtype))
        params = {'encoder': encoder.pop('params'), 'head': head['params']}
        return params, {'encoder': encoder, 'head': {}}

    def loss(
        self,
        params: Any,
        model_state: Any,
        views: tuple[Batch, ...],
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the mean cross entropy of the rows that count."""
        [view] = views
        encoder_state = model_state['encoder']
        h, encoder_state = self.encoder.apply(
            {'params': params['encoder'], **encoder_state},
            view.image,
            train=True,
            axis=axis,
            mutable=list(encoder_state),
        )
        logits: Any = self.head.apply({'params': params['head']}, h)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, view.label)
        right = (jnp.argmax(logits, axis=-1) == view.label).astype(losses.dtype)
        count = axis.mean(view.mask.sum())
        # Divided by the whole batch's count, so that devices may differ in theirs.
        loss = axis.mean(jnp.sum(losses * view.mask)) / count
        accuracy = axis.mean(jnp.sum(right * view.mask)) / count
        state = {'encoder': encoder_state, 'head': {}}
        return loss, LossAux(model_state=state, metrics={'accuracy': accuracy})

    def logits(self, params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        """Gives the logits, [B, K], of views, [B, H, W, C], in inference mode."""
        h = self.encoder.apply(
            {'params': params['encoder'], **model_state['encoder']}, images, train=False
        )
        logits: Any = self.head.apply({'params': params['head']}, h)
        return logits

    def gradient_transform(self) -> optax.GradientTransformation:
        """Leaves the gradients as they are."""
        return optax.identity()
