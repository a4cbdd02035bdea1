"""Residual networks in torchvision's layout, as encoders: images to embeddings.

Source: He et al. 2015 (arXiv:1512.03385) as torchvision builds it: no bias in any
convolution, explicit padding, the stride of a bottleneck on its 3 x 3 convolution
(v1.5). Names are torchvision's with `layer1_0` for `layer1.0`, `downsample_conv` and
`downsample_bn` for `downsample.0` and `downsample.1`.
"""

import dataclasses
from functools import partial
from typing import ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.errors import expect_known
from jax_mrissl.models.convolution import Conv, max_pool
from jax_mrissl.models.normalization import BatchNorm

Stem = Literal['imagenet', 'small']
# In the collection `intermediates`: the map [B, h, w, F] whose mean is the embedding.
LAST_MAP = 'last_map'


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and what they are added to.

    Attributes:
        width: channels of every convolution, and of the result.
        stride: of the first convolution.
        zero_init_residual: whether the block starts as its shortcut alone.
        dtype, param_dtype: of the computation, and of the parameters.
    """

    width: int
    stride: int
    zero_init_residual: bool
    dtype: Dtype
    param_dtype: Dtype
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis: BatchAxis) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, width], sizes rounded up."""
        conv = partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(BatchNorm, dtype=self.dtype, param_dtype=self.param_dtype)
        last_scale = _last_scale(self.zero_init_residual)
        y = conv(self.width, 3, self.stride, 1, name='conv1')(x)
        y = norm(name='bn1')(y, train=train, axis=axis)
        y = nn.relu(y)
        y = conv(self.width, 3, 1, 1, name='conv2')(y)
        y = norm(scale_init=last_scale, name='bn2')(y, train=train, axis=axis)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = conv(self.width, 1, self.stride, name='downsample_conv')(x)
            x = norm(name='downsample_bn')(x, train=train, axis=axis)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, and what they are added to.

    Attributes:
        width: channels of the 3 x 3 convolution; the result has four times as many.
        stride: of the 3 x 3 convolution.
        zero_init_residual: whether the block starts as its shortcut alone.
        dtype, param_dtype: of the computation, and of the parameters.
    """

    width: int
    stride: int
    zero_init_residual: bool
    dtype: Dtype
    param_dtype: Dtype
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis: BatchAxis) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, 4 width], rounded up."""
        conv = partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(BatchNorm, dtype=self.dtype, param_dtype=self.param_dtype)
        last_scale = _last_scale(self.zero_init_residual)
        wide = self.expansion * self.width
        y = conv(self.width, 1, name='conv1')(x)
        y = norm(name='bn1')(y, train=train, axis=axis)
        y = nn.relu(y)
        y = conv(self.width, 3, self.stride, 1, name='conv2')(y)
        y = norm(name='bn2')(y, train=train, axis=axis)
        y = nn.relu(y)
        y = conv(wide, 1, name='conv3')(y)
        y = norm(scale_init=last_scale, name='bn3')(y, train=train, axis=axis)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = conv(wide, 1, self.stride, name='downsample_conv')(x)
            x = norm(name='downsample_bn')(x, train=train, axis=axis)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images to embeddings.

    Attributes:
        block: of which the stages are made.
        blocks: their count per stage; every stage but the first halves the image.
        widths: of the blocks, per stage.
        stem: 'imagenet', a 7 x 7 convolution of stride 2 and a pooling (a quarter of
            the size), or 'small', a 3 x 3 convolution alone (the same size).
        zero_init_residual: whether every block starts as its shortcut alone.
        dtype: of the computation; statistics and the embedding are at least float32.
        param_dtype: of parameters and running statistics.
        remat: whether the gradient computes a block's inside again instead of keeping
            it: the same numbers, batch statistics included, in less memory and about a
            third more time.
    """

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Stem = 'imagenet'
    zero_init_residual: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, axis: BatchAxis = WHOLE_BATCH
    ) -> jax.Array:
        """Embeds images.

        Args:
            images: float [B, H, W, C]; under pmap, this device's rows only.
            train: whether BatchNorm uses this batch's statistics, and updates the
                running ones (collection `batch_stats`).
            axis: where the rest of the batch is.

        Returns:
            Embeddings, float32 (float64 where dtype is) [B, F]: means over the image.
        """
        conv = partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(BatchNorm, dtype=self.dtype, param_dtype=self.param_dtype)
        size, stride, padding = (7, 2, 3) if self.stem == 'imagenet' else (3, 1, 1)
        x = images.astype(self.dtype)
        x = conv(self.widths[0], size, stride, padding, name='conv1')(x)
        x = norm(name='bn1')(x, train=train, axis=axis)
        x = nn.relu(x)
        if self.stem == 'imagenet':
            x = max_pool(x)

        def run(block: nn.Module, x: jax.Array) -> jax.Array:
            return block(x, train=train, axis=axis)

        if self.remat:
            run = nn.remat(run)
        for stage, (count, width) in enumerate(
            zip(self.blocks, self.widths, strict=True), start=1
        ):
            for index in range(count):
                block = self.block(
                    width,
                    stride=2 if stage > 1 and index == 0 else 1,
                    zero_init_residual=self.zero_init_residual,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f'layer{stage}_{index}',
                )
                x = run(block, x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        # Kept only where a caller asks for it (Grad-CAM): else it costs nothing.
        self.sow('intermediates', LAST_MAP, x)
        return x.mean((1, 2))


class Encoder(Protocol):
    """What a config section `encoder` declares.

    Attributes:
        features: F, the length of an embedding.
    """

    features: ClassVar[int]

    def module(
        self, dtype: Dtype = ..., param_dtype: Dtype = ..., remat: bool = ...
    ) -> nn.Module:
        """Makes the network, called as `ResNet` is."""


@dataclasses.dataclass(frozen=True)
class ResNet18:
    """The encoder `resnet18`: 11,176,512 parameters. Fields as in `ResNet`."""

    stem: Stem = 'imagenet'
    zero_init_residual: bool = False
    features: ClassVar[int] = 512

    def __post_init__(self):
        expect_known(self.stem, ('imagenet', 'small'), 'stem')

    def module(
        self,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        remat: bool = False,
    ) -> ResNet:
        """Makes the network."""
        return ResNet(
            BasicBlock,
            (2, 2, 2, 2),
            (64, 128, 256, 512),
            **dataclasses.asdict(self),
            dtype=dtype,
            param_dtype=param_dtype,
            remat=remat,
        )


@dataclasses.dataclass(frozen=True)
class ResNet34:
    """The encoder `resnet34`: 21,284,672 parameters. Fields as in `ResNet`."""

    stem: Stem = 'imagenet'
    zero_init_residual: bool = False
    features: ClassVar[int] = 512

    def __post_init__(self):
        expect_known(self.stem, ('imagenet', 'small'), 'stem')

    def module(
        self,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        remat: bool = False,
    ) -> ResNet:
        """Makes the network."""
        return ResNet(
            BasicBlock,
            (3, 4, 6, 3),
            (64, 128, 256, 512),
            **dataclasses.asdict(self),
            dtype=dtype,
            param_dtype=param_dtype,
            remat=remat,
        )


@dataclasses.dataclass(frozen=True)
class ResNet50:
    """The encoder `resnet50`: 23,508,032 parameters. Fields as in `ResNet`."""

    stem: Stem = 'imagenet'
    zero_init_residual: bool = False
    features: ClassVar[int] = 2048

    def __post_init__(self):
        expect_known(self.stem, ('imagenet', 'small'), 'stem')

    def module(
        self,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        remat: bool = False,
    ) -> ResNet:
        """Makes the network."""
        return ResNet(
            Bottleneck,
            (3, 4, 6, 3),
            (64, 128, 256, 512),
            **dataclasses.asdict(self),
            dtype=dtype,
            param_dtype=param_dtype,
            remat=remat,
        )


@dataclasses.dataclass(frozen=True)
class ResNetTiny:
    """The encoder `resnet_tiny`, for smoke tests: 6,056 parameters.

    Fields as in `ResNet`.
    """

    stem: Stem = 'imagenet'
    zero_init_residual: bool = False
    features: ClassVar[int] = 16

    def __post_init__(self):
        expect_known(self.stem, ('imagenet', 'small'), 'stem')

    def module(
        self,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        remat: bool = False,
    ) -> ResNet:
        """Makes the network."""
        return ResNet(
            BasicBlock,
            (1, 1),
            (8, 16),
            **dataclasses.asdict(self),
            dtype=dtype,
            param_dtype=param_dtype,
            remat=remat,
        )


def _last_scale(zero: bool):
    return nn.initializers.zeros if zero else nn.initializers.ones
