"""VICReg: views alike, features spread out, features told apart."""

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
from jax_mrissl.objectives.networks import init_networks, project_views
from jax_mrissl.objectives.objective import LossAux, Rule, Schedule


def vicreg_loss(
    z1: jax.Array,
    z2: jax.Array,
    *,
    invariance_weight: float,
    variance_weight: float,
    covariance_weight: float,
    axis: BatchAxis = WHOLE_BATCH,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Distance of views, hinge on each feature's deviation, squared covariances.

    Args:
        z1, z2: projections, float32 or wider, [B, D]; row i of both is image i.
        invariance_weight, variance_weight, covariance_weight: lambda, mu and nu.
        axis: where the rest of the batch is; statistics run over all of it.

    Returns: the loss, a scalar equal on every device; its three parts, unweighted.

    Source: Bardes et al. 2022 (arXiv:2105.04906), Eq. 1-6, with the scale of
    main_vicreg.py: the hinge is averaged over both views (the paper adds them up).
    """
    rows, width = len(z1) * axis.size, z1.shape[1]

    def spread(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        centred = z - axis.mean(z.mean(axis=0, keepdims=True))
        products = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST)
        covariance = axis.total(products) / (rows - 1)  # [D, D]
        variance = jnp.diagonal(covariance)
        hinge = jnp.mean(jax.nn.relu(1 - jnp.sqrt(variance + 1e-4)))
        return hinge, (jnp.sum(covariance**2) - jnp.sum(variance**2)) / width

    (hinge1, covariance1), (hinge2, covariance2) = spread(z1), spread(z2)
    parts = {
        'invariance': axis.mean(jnp.mean(jnp.square(z1 - z2))),
        'variance': (hinge1 + hinge2) / 2,
        'covariance': covariance1 + covariance2,
    }
    loss = (
        invariance_weight * parts['invariance']
        + variance_weight * parts['variance']
        + covariance_weight * parts['covariance']
    )
    return loss, parts


@dataclasses.dataclass(frozen=True)
class VICReg:
    """VICReg on an encoder.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: the two views.
        projector_widths: outputs of the projector's layers; the last is D.
        invariance_weight, variance_weight, covariance_weight: lambda, mu and nu.
        dtype, param_dtype: of the projector's computation and parameters.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    projector_widths: tuple[int, ...] = (2048, 2048, 2048)
    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    remedies = (
        'Raise method.variance_weight, which is what keeps features apart.',
        'Lower optimizer.rate_per_256, or lengthen optimizer.warmup_epochs.',
    )

    def __post_init__(self):
        if len(self.policies) != 2:
            raise ValueError(f'VICReg has 2 views; {len(self.policies)} given.')
        if not self.projector_widths or min(self.projector_widths) < 1:
            raise ValueError('projector_widths: one or more widths of at least 1.')

    @property
    def head(self) -> Projector:
        """The network from embedding to projection."""
        return Projector(
            self.projector_widths, self.dtype, self.param_dtype, hidden_bias=True
        )

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
    ) -> tuple[tuple[jax.Array, ...], Any]:
        """Gives two projections, [b, D] each."""
        return project_views(self.encoder, self.head, params, model_state, views, axis)

    def criterion(
        self,
        params: Any,
        model_state: Any,
        projections: tuple[jax.Array, ...],
        batch: Batch,
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the loss of two views."""
        del params, batch
        loss, parts = vicreg_loss(
            *projections,
            invariance_weight=self.invariance_weight,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
            axis=axis,
        )
        return loss, LossAux(model_state=model_state, metrics=parts)

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the rule as it is."""
        return rule(schedule)

    def advice(self) -> tuple[str, ...]:
        """Gives none."""
        return ()
