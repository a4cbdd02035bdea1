"""SimCLR: an image's two views find each other among all the others."""

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
from jax_mrissl.objectives.networks import (
    apart,
    init_networks,
    run_network,
    side_by_side,
    unit,
)
from jax_mrissl.objectives.objective import LossAux, Rule, Schedule, exact

Head = Literal['v1', 'v2', 'plain', 'lightly']


def ntxent_loss(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: float,
    groups: jax.Array | None = None,
    axis: BatchAxis = WHOLE_BATCH,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Normalised, temperature-scaled cross entropy over the whole batch.

    Args:
        z1, z2: projections, float32 or wider, [B, D]; row i of both is image i.
        temperature: tau; cosines are divided by it.
        groups: int [B]; views of other images of the same group are no negatives.
            None: all other images are.
        axis: where the rest of the batch is. Every view of every device's rows is a
            negative, and gradients flow through all of them.

    Returns:
        The loss, a scalar, the mean over all 2B views (the authors' code has twice
        that): ln(2B - 1) where all projections are equal; and `accuracy`, the share of
        views whose nearest other view is their partner.

    Source: Chen et al. 2020 (arXiv:2002.05709), Eq. 1; objective.py of
    google-research/simclr.
    """
    # Rows 2i and 2i + 1 are image i's two views, so that one gather is enough.
    anchors = side_by_side((unit(z1), unit(z2)))  # [2 b, D]
    keys = axis.gather(anchors)  # [2 B, D]
    # TF32 or bfloat16 products would cost the cosines three digits.
    logits = (
        jnp.matmul(anchors, keys.T, precision=jax.lax.Precision.HIGHEST) / temperature
    )
    itself = axis.row_ids(len(anchors))
    partner = itself ^ 1
    columns = jnp.arange(len(keys))[None, :]
    is_partner = columns == partner[:, None]
    left_out = columns == itself[:, None]
    if groups is not None:
        own = side_by_side((groups, groups))
        left_out |= (own[:, None] == axis.gather(own)[None, :]) & ~is_partner
    logits = jnp.where(left_out, -jnp.inf, logits)
    positive = jnp.sum(jnp.where(is_partner, logits, 0.0), axis=1)
    losses = jax.nn.logsumexp(logits, axis=1) - positive
    right = (jnp.argmax(logits, axis=1) == partner).astype(losses.dtype)
    return axis.mean(losses.mean()), {'accuracy': axis.mean(right.mean())}


@dataclasses.dataclass(frozen=True)
class SimCLR:
    """SimCLR on an encoder.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: the two views; the paper draws both alike.
        temperature: 0.1 for natural images and large batches, 0.5 for small ones.
        projector: the projector:
            'v2': three layers, BatchNorm after each (the authors' code);
            'v1': two layers, BatchNorm after the first;
            'plain': two layers with biases and no BatchNorm (solo-learn);
            'lightly': two layers, BatchNorm after both (Lightly from 1.4.3 on).
        hidden_width: of the hidden layers; None: as wide as the embedding.
        width: D, of the projection.
        mask_same_group: whether other images of an image's subject are left out of
            its negatives: slices of one scan are near-twins.
        dtype, param_dtype: of the projector's computation and parameters.

    Both views go through the networks together, so that they share batch statistics:
    as in the authors' code.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    temperature: float = 0.1
    projector: Head = 'v2'
    hidden_width: int | None = None
    width: int = 128
    mask_same_group: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    remedies = (
        'Lower optimizer.rate_per_256, or lengthen optimizer.warmup_epochs.',
        'Raise method.temperature (0.5 for batches of a few hundred).',
        'Use larger batches: the loss has only their images as negatives.',
    )

    def __post_init__(self):
        if len(self.policies) != 2:
            raise ValueError(f'SimCLR has 2 views; {len(self.policies)} given.')
        expect_known(self.projector, _HEADS, 'projector')
        if self.temperature <= 0:
            raise ValueError(f'temperature is {self.temperature}; above 0.')

    @property
    def head(self) -> Projector:
        """The network from embedding to projection."""
        declared = dict(_HEADS[self.projector])
        layers = declared.pop('layers')
        widths = (self.hidden_width,) * (layers - 1) + (self.width,)
        return Projector(widths, self.dtype, self.param_dtype, **declared)

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
        """Gives two projections, [b, D] each, not yet of length one."""
        h, encoder_state = run_network(
            self.encoder,
            params['encoder'],
            model_state['encoder'],
            side_by_side(views),
            axis,
        )
        z, head_state = run_network(
            self.head, params['head'], model_state['head'], h, axis
        )
        state = {'encoder': encoder_state, 'head': head_state}
        return apart(exact(z), len(views)), state

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
        del params
        loss, metrics = ntxent_loss(
            *projections,
            temperature=self.temperature,
            groups=batch.group if self.mask_same_group else None,
            axis=axis,
        )
        if not self.mask_same_group:  # else each row has negatives of its own count
            views = 2 * len(batch.group) * axis.size
            metrics['chance_loss'] = jnp.log(jnp.float32(views - 1))
        return loss, LossAux(model_state=model_state, metrics=metrics)

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the rule as it is."""
        return rule(schedule)

    def advice(self) -> tuple[str, ...]:
        """Gives none."""
        return ()


_HEADS: dict[str, dict[str, Any]] = {
    'v1': dict(layers=2, init_weights='normal'),
    'v2': dict(layers=3, output_norm='scale', init_weights='normal'),
    'plain': dict(layers=2, hidden_norm=False, hidden_bias=True, output_bias=True),
    'lightly': dict(layers=2, output_norm='full'),
}
