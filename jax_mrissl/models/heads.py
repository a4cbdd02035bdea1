"""What stands on top of an encoder: projectors and linear classifiers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.models.normalization import BatchNorm

# PyTorch's default for a linear layer: uniform within 1 / sqrt(fan_in).
_TORCH_LINEAR = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Projector(nn.Module):
    """Linear layers with BatchNorm and ReLU between them, and none after the last.

    Attributes:
        widths: outputs of each layer; the last is the dimension D of the projection.
        dtype, param_dtype: of the computation and of the parameters.

    No layer has a bias: BatchNorm takes the place of the hidden ones, and Barlow
    Twins standardises the output.

    Source: the projector of facebookresearch/barlowtwins, main.py.
    """

    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, embedding: jax.Array, *, train: bool, axis: BatchAxis = WHOLE_BATCH
    ) -> jax.Array:
        """Maps embeddings, [B, F], to projections, [B, D], in `dtype`."""
        x = embedding
        for i, width in enumerate(self.widths):
            x = nn.Dense(
                width,
                use_bias=False,
                kernel_init=_TORCH_LINEAR,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f'linear{i}',
            )(x)
            if i + 1 < len(self.widths):
                x = BatchNorm(
                    dtype=self.dtype, param_dtype=self.param_dtype, name=f'bn{i}'
                )(x, train=train, axis=axis)
                x = nn.relu(x)
        return x


class LinearClassifier(nn.Module):
    """One linear layer from an embedding to the logits of K classes."""

    classes: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: jax.Array) -> jax.Array:
        """Maps embeddings, [B, F], to logits, [B, K], in the parameters' type."""
        return nn.Dense(
            self.classes,
            kernel_init=_TORCH_LINEAR,
            dtype=self.param_dtype,
            param_dtype=self.param_dtype,
            name='linear',
        )(embedding)
