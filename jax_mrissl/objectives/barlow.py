"""Barlow Twins: two views' features, correlated with themselves and nothing else."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.errors import expect_known
from jax_mrissl.models.heads import Projector
from jax_mrissl.objectives.networks import init_networks, project_views
from jax_mrissl.objectives.objective import LossAux, Rule, Schedule

Standardise = Literal['per_view_biased', 'per_view_unbiased', 'joint']
_STANDARDISE = ('per_view_biased', 'per_view_unbiased', 'joint')
_EPSILON = 1e-5  # of PyTorch's BatchNorm


def barlow_loss(
    z1: jax.Array,
    z2: jax.Array,
    *,
    redundancy_weight: float,
    standardise: Standardise = 'per_view_biased',
    axis: BatchAxis = WHOLE_BATCH,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-correlation of two views, pushed towards the identity.

    Args:
        z1, z2: projections, float32 or wider, [B, D]; row i of both is image i.
        redundancy_weight: lambda, the weight of the off-diagonal terms.
        standardise: how features are standardised over the batch:
            'per_view_biased': each view by its mean and biased variance, plus 1e-5: the
                authors' code, and the Lightly library from 1.5.20 on;
            'per_view_unbiased': by the unbiased variance alone, so that a dead feature
                is NaN: Lightly 1.1.2 to 1.4.16, and the paper's pseudo-code;
            'joint': both views by one mean and variance, plus 1e-5: Lightly 1.4.17 to
                1.5.19, a mistake of that library, kept to replay its runs.
        axis: where the rest of the batch is; means run over all of it.

    Returns:
        The loss, a scalar equal on every device that grows with D (D*D terms); and
        its two parts, `invariance` and `redundancy`, the latter before its weight.

    Source: Zbontar et al. 2021 (arXiv:2103.03230), Eq. 1-2.
    """
    rows = len(z1) * axis.size

    def mean(*views: jax.Array) -> jax.Array:
        means = [z.mean(axis=0, keepdims=True) for z in views]
        return axis.mean(sum(means[1:], means[0]) / len(views))

    def statistics(*views: jax.Array) -> tuple[jax.Array, jax.Array]:
        centre = mean(*views)
        variance = mean(*(jnp.square(z - centre) for z in views))
        if standardise == 'per_view_unbiased':
            return centre, jnp.sqrt(variance * (rows / (rows - 1)))
        return centre, jnp.sqrt(variance + _EPSILON)

    if standardise == 'joint':
        both = statistics(z1, z2)
        (mean1, std1), (mean2, std2) = both, both
    else:
        (mean1, std1), (mean2, std2) = statistics(z1), statistics(z2)
    # TF32 or bfloat16 products would cost the correlations three digits.
    product = jnp.matmul(
        ((z1 - mean1) / std1).T,
        (z2 - mean2) / std2,
        precision=jax.lax.Precision.HIGHEST,
    )
    c = axis.total(product) / rows  # [D, D]
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
        standardise: as in `barlow_loss`.
        loss_scale: multiplies the loss. LARS undoes it for weights, not for biases and
            norms; the authors' first release had 0.024, later folded into the rate
            of those (`optimizer.bias_rate_per_256`).
        dtype, param_dtype: of the projector's computation and parameters.

    The projector has no bias: BatchNorm takes the place of the hidden ones, and the
    loss standardises the output. One forward pass per view, so that each view has its
    own batch statistics: as in main.py of facebookresearch/barlowtwins.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    projector_widths: tuple[int, ...] = (2048, 2048, 2048)
    redundancy_weight: float = 0.0051
    standardise: Standardise = 'per_view_biased'
    loss_scale: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    remedies = (
        'Lower optimizer.rate_per_256, or lengthen optimizer.warmup_epochs.',
        'Lower method.redundancy_weight: decorrelation then weighs less against '
        'invariance.',
        'Use larger batches: correlations over few images are noise.',
    )

    def __post_init__(self):
        if len(self.policies) != 2:
            raise ValueError(f'Barlow Twins has 2 views; {len(self.policies)} given.')
        if not self.projector_widths or min(self.projector_widths) < 1:
            raise ValueError('projector_widths: one or more widths of at least 1.')
        if self.redundancy_weight < 0:
            raise ValueError(f'redundancy_weight is {self.redundancy_weight}; >= 0.')
        expect_known(self.standardise, _STANDARDISE, 'standardise')

    @property
    def head(self) -> Projector:
        """The network from embedding to projection."""
        return Projector(self.projector_widths, self.dtype, self.param_dtype)

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
        loss, parts = barlow_loss(
            *projections,
            redundancy_weight=self.redundancy_weight,
            standardise=self.standardise,
            axis=axis,
        )
        return self.loss_scale * loss, LossAux(model_state=model_state, metrics=parts)

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the rule as it is."""
        return rule(schedule)

    def advice(self) -> tuple[str, ...]:
        """Gives none."""
        return ()
