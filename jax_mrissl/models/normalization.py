"""Batch normalisation over the whole batch, wherever its rows are."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis


class BatchNorm(nn.Module):
    """Normalises each channel by its statistics over the whole batch.

    The running variance is the biased one, as everywhere in Flax; PyTorch keeps n /
    (n - 1) times that, and both normalise by the biased one.

    Attributes:
        momentum: the share of the old running statistics that a step keeps
            (PyTorch's `momentum` is one minus this).
        epsilon: added to the variance.
        use_scale, use_bias: whether gamma and beta are learnt.
        scale_init: the start of gamma; zeros for the last of a residual block.
        dtype: of the result; statistics are float32, or float64 for float64 inputs.
        param_dtype: of gamma, beta and the running statistics.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, axis: BatchAxis = WHOLE_BATCH
    ) -> jax.Array:
        """Normalises [B, ..., C].

        Args:
            x: the rows of this device.
            train: whether to normalise by this batch, and update the running
                statistics (collection `batch_stats`), or by the running ones.
            axis: where the rest of the batch is.
        """
        channels = (x.shape[-1],)
        running_mean = self.variable(
            'batch_stats', 'mean', jnp.zeros, channels, self.param_dtype
        )
        running_var = self.variable(
            'batch_stats', 'var', jnp.ones, channels, self.param_dtype
        )
        exact = jnp.promote_types(x.dtype, jnp.float32)
        if train:
            # Initialising happens outside pmap, where the axis has no name.
            here = WHOLE_BATCH if self.is_initializing() else axis
            mean, var = _statistics(x.astype(exact), here)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    old = running.value
                    value = self.momentum * old + (1 - self.momentum) * new
                    running.value = value.astype(old.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        factor = lax.rsqrt(var.astype(exact) + self.epsilon)
        if self.use_scale:
            scale = self.param('scale', self.scale_init, channels, self.param_dtype)
            factor = factor * scale.astype(exact)
        y = (x.astype(exact) - _row(mean.astype(exact), x)) * _row(factor, x)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, channels, self.param_dtype)
            y = y + _row(bias.astype(exact), x)
        return y.astype(self.dtype)


def _statistics(x: jax.Array, axis: BatchAxis) -> tuple[jax.Array, jax.Array]:
    """Gives mean and biased variance, [C]; every device holds as many rows."""
    rest = tuple(range(x.ndim - 1))
    mean = axis.mean(x.mean(rest))
    # From centred values: E[x^2] - E[x]^2 cancels where the mean is large.
    var = axis.mean(jnp.square(x - _row(mean, x)).mean(rest))
    return mean, var


def _row(channels: jax.Array, x: jax.Array) -> jax.Array:
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)
