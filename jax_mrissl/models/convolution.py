"""Convolution and max pooling, in the form that each backend runs fast.

On a GPU or a TPU these are `lax.conv_general_dilated` and `lax.reduce_window`. XLA's
CPU backend runs their gradients about ten times slower than its matrix product allows,
so there they are padding, slices, concatenation and matrix products. The backend that
a program is compiled for decides (`lax.platform_dependent`), not the one that traces
it; values and gradients are the same.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jax import lax

from jax_mrissl.models.shifts import barrier, gather, outer, pad, product, scatter
from jax_mrissl.models.winograd import conv_winograd

_FEW_CHANNELS = 32
KAIMING_FAN_OUT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Conv(nn.Module):
    """A convolution without bias, its parameter `kernel` initialised as torchvision's.

    Attributes:
        features: channels of the result.
        kernel_size: the side of the square kernel.
        strides: step between two windows, along both axes.
        padding: zeros added on each of the four sides.
        dtype: of the computation and the result.
        param_dtype: of the parameter.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: int = 0
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves [B, H, W, C] to [B, H', W', features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param('kernel', KAIMING_FAN_OUT, shape, self.param_dtype)
        return conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.strides,
            padding=self.padding,
        )


def conv(x: jax.Array, kernel: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """Correlates images with a square kernel, as `lax.conv_general_dilated` does.

    Args:
        x: [B, H, W, C].
        kernel: [k, k, C, D], of the dtype of `x`.
        stride: step between two windows, along both axes.
        padding: zeros added on each of the four sides.

    Returns:
        [B, H', W', D] with H' = (H + 2 padding - k) // stride + 1, W' likewise.

    Raises:
        ValueError: the kernel is not square, or does not fit the images.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            'conv wants images [B, H, W, C] and a kernel [k, k, C, D]; '
            f'found {x.shape} and {kernel.shape}.'
        )
    if x.shape[3] != kernel.shape[2] or min(x.shape[1:3]) + 2 * padding < len(kernel):
        raise ValueError(
            f'A kernel {kernel.shape} with padding {padding} does not fit '
            f'images {x.shape}.'
        )
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_conv_by_products, stride=stride, padding=padding),
        default=functools.partial(_conv_native, stride=stride, padding=padding),
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of 3 x 3 windows, stride 2, padding 1.

    Of equal values in a window the first, row by row, gets the gradient on every
    backend. A NaN gives NaN on a GPU or a TPU; on a CPU the comparisons may drop it,
    so that a search for NaNs must not rely on what comes out here.

    Args:
        x: [B, H, W, C].

    Returns:
        [B, ceil(H / 2), ceil(W / 2), C].
    """
    return lax.platform_dependent(x, cpu=_max_pool_by_comparison, default=_pool_native)


def _conv_native(x, kernel, *, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def _pool_native(x):
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, 3, 3, 1),
        window_strides=(1, 2, 2, 1),
        padding=((0, 0), (1, 1), (1, 1), (0, 0)),
    )


def _conv_by_products(x, kernel, *, stride, padding):
    size, _, channels, features = kernel.shape
    if size == 1 and padding == 0:
        return product(x[:, ::stride, ::stride], kernel[0, 0])
    if x.shape[1:3] == (1, 1) and size == 2 * padding + 1:
        # All the rest of the kernel lies on padding.
        return product(x, kernel[padding, padding])
    # Im2col copies k k C values a pixel, columns and rows k (C + D), and Winograd's
    # filters 4.5 C + 1.5 D; so where C is few, im2col is faster (3 to 64 channels: an
    # eighth of the time). Of a ResNet18's 3 x 3 layers at 64 pixels and batch 64,
    # forward and backward, Winograd takes 0.60 to 0.76 of what columns and rows take.
    if stride > 1 or features >= (size - 1) * channels:
        return _conv_im2col(x, kernel, stride, padding)
    # In less than float32 its sums would lose digits that are needed; and of a few
    # channels the products are no longer what takes time, but its program is larger.
    if size == 3 and x.dtype.itemsize >= 4 and min(channels, features) >= _FEW_CHANNELS:
        return conv_winograd(x, kernel, padding)
    return _conv_columns_rows(x, kernel, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_columns_rows(x, kernel, padding):
    """Stride 1: gathers the kernel's columns before the product, adds its rows after.

    The product is [B H W', k C] x [k C, k D]. Its patches are k times smaller than
    those of im2col, and the gradients are the same three steps backwards.
    """
    return _columns_rows_forward(x, kernel, padding)[0]


def _columns_rows_forward(x, kernel, padding):
    size, _, _, features = kernel.shape
    height = x.shape[1] + 2 * padding - size + 1
    by_row = product(_columns(x, size, padding), _columns_matrix(kernel))
    parts = [
        pad(
            by_row[..., i * features : (i + 1) * features],
            1,
            padding - i,
            height - x.shape[1] - padding + i,
        )
        for i in range(size)
    ]
    return functools.reduce(jnp.add, parts), (x, kernel)


def _columns_rows_backward(padding, residuals, dy):
    x, kernel = residuals
    size, _, channels, features = kernel.shape
    height, width = x.shape[1:3]
    reach = size - 1 - padding
    tall = barrier(pad(dy, 1, reach, reach))
    rows = [
        lax.slice_in_dim(tall, size - 1 - i, size - 1 - i + height, axis=1)
        for i in range(size)
    ]
    d_by_row = barrier(jnp.concatenate(rows, axis=-1))
    d_kernel = outer(_columns(x, size, padding), d_by_row)
    d_kernel = d_kernel.reshape(size, channels, size, features).transpose(2, 0, 1, 3)
    d_columns = product(d_by_row, _columns_matrix(kernel).T)
    parts = [
        pad(
            d_columns[..., j * channels : (j + 1) * channels],
            2,
            j - padding,
            width - dy.shape[2] + padding - j,
        )
        for j in range(size)
    ]
    return functools.reduce(jnp.add, parts), d_kernel


_conv_columns_rows.defvjp(_columns_rows_forward, _columns_rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_im2col(x, kernel, stride, padding):
    """Any stride: one product with the patches, gathered again for the gradient."""
    return _im2col_forward(x, kernel, stride, padding)[0]


def _im2col_forward(x, kernel, stride, padding):
    patches = _patches(x, len(kernel), stride, padding)
    return product(patches, _as_matrix(kernel)), (x, kernel)


def _im2col_backward(stride, padding, residuals, dy):
    x, kernel = residuals
    size = len(kernel)
    height, width = x.shape[1:3]
    patches = _patches(x, size, stride, padding)
    d_kernel = outer(patches, dy).reshape(kernel.shape)
    d_patches = product(dy, _as_matrix(kernel).T)
    dx = barrier(scatter(d_patches, size, stride, 1, height + 2 * padding))
    dx = scatter(dx, size, stride, 2, width + 2 * padding)
    return dx[:, padding : padding + height, padding : padding + width], d_kernel


_conv_im2col.defvjp(_im2col_forward, _im2col_backward)


def _max_pool_by_comparison(x):
    """Pools along the width, then the height, by comparing three shifted copies."""
    for axis in (2, 1):
        x = pad(x, axis, 0, x.shape[axis] % 2, value=-jnp.inf)
        pairs = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        x = x.reshape(pairs)
        middle = lax.index_in_dim(x, 0, axis + 1, keepdims=False)
        right = lax.index_in_dim(x, 1, axis + 1, keepdims=False)
        left = pad(right, axis, 1, -1, value=-jnp.inf)
        best = jnp.where(middle >= right, middle, right)
        x = barrier(jnp.where((left >= middle) & (left >= right), left, best))
    return x


def _columns(x, size, padding):
    return gather(barrier(pad(x, 2, padding, padding)), size, 1, axis=2)


def _patches(x, size, stride, padding):
    x = barrier(pad(pad(x, 1, padding, padding), 2, padding, padding))
    return gather(gather(x, size, stride, axis=2), size, stride, axis=1)


def _as_matrix(kernel):
    return kernel.reshape(-1, kernel.shape[-1])  # [k k C, D]


def _columns_matrix(kernel):
    size, _, channels, features = kernel.shape
    matrix = kernel.transpose(1, 2, 0, 3)  # [column, C, row, D]
    return matrix.reshape(size * channels, size * features)
