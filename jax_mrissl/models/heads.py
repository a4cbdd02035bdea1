"""What stands on top of an encoder: projectors, and heads that answer a task."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.models.normalization import BatchNorm

# PyTorch's default for a linear layer: weight and bias uniform within 1 / sqrt(fan_in).
_TORCH_LINEAR = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# Of google-research/simclr.
_SMALL_NORMAL = nn.initializers.normal(0.01)


class Projector(nn.Module):
    """Linear layers with ReLU between them, and BatchNorm where it is asked for.

    Attributes:
        widths: outputs of each layer; the last is the dimension D of the projection.
            None: as wide as the embedding.
        dtype, param_dtype: of the computation and of the parameters.
        hidden_norm: whether a BatchNorm stands before each ReLU.
        output_norm: what stands after the last layer: nothing, a BatchNorm, or one
            that learns a scale but no offset.
        hidden_bias, output_bias: whether the layers have biases.
        init_weights: 'torch', uniform as PyTorch's linear layers, or
            'normal', with a deviation of 0.01.
    """

    widths: tuple[int | None, ...]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    hidden_norm: bool = True
    output_norm: Literal['none', 'scale', 'full'] = 'none'
    hidden_bias: bool = False
    output_bias: bool = False
    init_weights: Literal['torch', 'normal'] = 'torch'

    @nn.compact
    def __call__(
        self, embedding: jax.Array, *, train: bool, axis: BatchAxis = WHOLE_BATCH
    ) -> jax.Array:
        """Maps embeddings, [B, F], to projections, [B, D], in `dtype`."""
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = embedding
        for i, width in enumerate(self.widths):
            last = i + 1 == len(self.widths)
            x = nn.Dense(
                width or embedding.shape[-1],
                use_bias=self.output_bias if last else self.hidden_bias,
                kernel_init=(
                    _TORCH_LINEAR if self.init_weights == 'torch' else _SMALL_NORMAL
                ),
                bias_init=_torch_bias(x.shape[-1]),
                name=f'linear{i}',
                **types,
            )(x)
            if self.hidden_norm if not last else self.output_norm != 'none':
                offset = not last or self.output_norm == 'full'
                norm = BatchNorm(use_bias=offset, name=f'bn{i}', **types)
                x = norm(x, train=train, axis=axis)
            if not last:
                x = nn.relu(x)
        return x


def _torch_bias(fan_in: int) -> nn.initializers.Initializer:
    bound = fan_in**-0.5

    def init(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class LinearHead(nn.Module):
    """One linear layer from an embedding to K outputs: logits, or a number."""

    outputs: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        embedding: jax.Array,
        *,
        train: bool = False,
        axis: BatchAxis = WHOLE_BATCH,
    ) -> jax.Array:
        """Maps embeddings, [B, F], to outputs, [B, K], in the parameters' type."""
        del train, axis
        return nn.Dense(
            self.outputs,
            kernel_init=_TORCH_LINEAR,
            dtype=self.param_dtype,
            param_dtype=self.param_dtype,
            name='linear',
        )(embedding)


class OrdinalHead(nn.Module):
    """One score and K - 1 rising thresholds: proportional odds over ordered levels.

    P(level <= k) = sigmoid(threshold_k - score). The thresholds begin where a score of
    0 makes all levels equally likely.

    Source: McCullagh 1980, Regression models for ordinal data, section 2.
    """

    levels: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        embedding: jax.Array,
        *,
        train: bool = False,
        axis: BatchAxis = WHOLE_BATCH,
    ) -> jax.Array:
        """Maps embeddings, [B, F], to log probabilities of the levels, [B, K]."""
        score = LinearHead(1, self.param_dtype, name='score')(
            embedding, train=train, axis=axis
        )
        shares = jnp.arange(1, self.levels) / self.levels
        even = jnp.log(shares / (1 - shares)).astype(self.param_dtype)  # [K-1]
        # Steps are kept above zero by a softplus, so that the thresholds stay in order.
        first = self.param('first', lambda _: even[:1])
        steps = self.param('steps', lambda _: _inverse_softplus(jnp.diff(even)))
        thresholds = jnp.cumsum(jnp.concatenate([first, jax.nn.softplus(steps)]))
        return ordinal_log_probabilities(thresholds[None] - score)


def ordinal_log_probabilities(odds: jax.Array) -> jax.Array:
    """Gives log P(level = k), [B, K], of log odds of level <= k, rising, [B, K-1].

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which stays exact
    where both are near 0 or 1.
    """
    below, above = odds[:, :-1], odds[:, 1:]
    middle = (
        jax.nn.log_sigmoid(above)
        + jax.nn.log_sigmoid(-below)
        + jnp.log(-jnp.expm1(below - above))
    )
    ends = jax.nn.log_sigmoid(odds[:, :1]), jax.nn.log_sigmoid(-odds[:, -1:])
    return jnp.concatenate([ends[0], middle, ends[1]], axis=1)


def _inverse_softplus(x: jax.Array) -> jax.Array:
    return x + jnp.log(-jnp.expm1(-x))
