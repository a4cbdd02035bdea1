"""Barlow Twins: two views' features, correlated with themselves and nothing else."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.models.heads import Projector
from jax_mrissl.objectives.objective import LossAux


def barlow_loss(
    z1: jax.Array,
    z2: jax.Array,
    *,
    redundancy_weight: float,
    axis: BatchAxis = WHOLE_BATCH,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-correlation of two views, pushed towards the identity.

    Args:
        z1, z2: projections, float32 or wider, [B, D]; row i of both is image i.
        redundancy_weight: lambda, the weight of the off-diagonal terms.
        axis: where the rest of the batch is; means run over all of it.
        epsilon: keeps a dead (constant) feature finite, gradient included.

    Returns:
        The loss, a scalar equal on every device that grows with D (D*D terms); and
        its two parts, `invariance` and `redundancy`, the latter before its weight.

    Source: Zbontar et al. 2021 (arXiv:2103.03230), Eq. 1-2. Biased variance, as in
    the `BatchNorm(affine=False)` of the paper's own code; the paper's pseudo-code
    has the unbiased one, which moves the optimum by D / B**2.
    """

    def standardise(z: jax.Array) -> jax.Array:
        centred = z - axis.mean(z.mean(axis=0, keepdims=True))
        variance = axis.mean((centred**2).mean(axis=0, keepdims=True))
        return centred / jnp.sqrt(variance + epsilon)

    # TF32 or bfloat16 products would cost the correlations three digits.
    product = jnp.matmul(
        standardise(z1).T, standardise(z2), precision=jax.lax.Precision.HIGHEST
    )
    c = axis.mean(product / len(z1))  # [D, D]
    on_diagonal = jnp.diagonal(c)
    invariance = jnp.sum((1 - on_diagonal) ** 2)
    redundancy = jnp.sum(c**2) - jnp.sum(on_diagonal**2)
    parts = {'invariance': invariance, 'redundancy': redundancy}
    return invariance + redundancy_weight * redundancy, parts


@dataclasses.dataclass(frozen=True)
class BarlowTwins:
    """Barlow Twins on an encoder.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: the two views; the paper's pair is asymmetric.
        projector_widths: outputs of the projector's layers; the last is D.
        redundancy_weight: lambda, the weight of the off-diagonal terms.
        dtype, param_dtype: of the projector's computation and parameters.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    projector_widths: tuple[int, ...] = (2048, 2048, 2048)
    redundancy_weight: float = 0.0051
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.policies) != 2:
            raise ValueError(f'Barlow Twins has 2 views; {len(self.policies)} given.')
        if not self.projector_widths:
            raise ValueError('projector_widths needs at least one width.')

    @property
    def projector(self) -> Projector:
        """The network from embedding to projection."""
        return Projector(self.projector_widths, self.dtype, self.param_dtype)

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
        """Draws parameters and states for views of shape [H, W, C]."""
        encoder_key, head_key = jax.random.split(key)
        images = jnp.zeros((2, *image_shape), self.dtype)
        encoder = self.encoder.init(encoder_key, images, train=True)
        embedding = jax.eval_shape(
            lambda v: self.encoder.apply(v, images, train=False), encoder
        )
        zeros = jnp.zeros(embedding.shape, embedding.dtype)
        head = self.projector.init(head_key, zeros, train=True)
        params = {'encoder': encoder.pop('params'), 'head': head.pop('params')}
        return params, {'encoder': encoder, 'head': head}

    def loss(
        self,
        params: Any,
        model_state: Any,
        views: tuple[Batch, ...],
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the loss of two views, and the running statistics after it.

        One forward pass per view, so that each view has its own batch statistics and
        running ones move twice a step: as in the paper's code.
        """
        encoder_state, head_state = model_state['encoder'], model_state['head']
        projections = []
        for view in views:
            h, encoder_state = self.encoder.apply(
                {'params': params['encoder'], **encoder_state},
                view.image,
                train=True,
                axis=axis,
                mutable=list(encoder_state),
            )
            z, head_state = self.projector.apply(
                {'params': params['head'], **head_state},
                h,
                train=True,
                axis=axis,
                mutable=list(head_state),
            )
            projections.append(z.astype(jnp.promote_types(z.dtype, jnp.float32)))
        loss, parts = barlow_loss(
            *projections, redundancy_weight=self.redundancy_weight, axis=axis
        )
        state = {'encoder': encoder_state, 'head': head_state}
        return loss, LossAux(model_state=state, metrics=parts)

    def gradient_transform(self) -> optax.GradientTransformation:
        """Leaves the gradients as they are."""
        return optax.identity()
