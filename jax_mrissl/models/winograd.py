"""A 3 x 3 convolution with half to two thirds of the products, for CPUs.

Along the height, m outputs are made of m + 2 products instead of 3 m (Winograd's
minimal filtering); along the width, the kernel's three columns are put side by side as
channels. So all is a few large matrix products, with sums of rows before and after.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_mrissl.models.shifts import barrier, gather, outer, pad, product, scatter

# By m, the matrices of F(m, 3): rows to what is multiplied, [m + 2, m + 2]; taps of the
# kernel to the other factor, [m + 2, 3]; products to outputs, [m, m + 2].
_FILTERS = {
    2: (
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: (
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        (
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 2, -2, 0),
            (0, 1, 1, 4, 4, 0),
            (0, 1, -1, 8, -8, 1),
        ),
    ),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_winograd(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Correlates images with a kernel, stride 1.

    Args:
        x: [B, H, W, C].
        kernel: [3, 3, C, D].
        padding: zeros added on each of the four sides.

    Returns: [B, H + 2 padding - 2, W + 2 padding - 2, D].

    Source: Lavin and Gray 2015 (arXiv:1509.09308), equations 5, 6 and, for F(4, 3),
    the matrices behind them; there along both axes.
    """
    return _forward(x, kernel, padding)[0]


def _forward(x, kernel, padding):
    height = x.shape[1] + 2 * padding - 2
    tile = _tile(height)
    _, _, to_outputs = _FILTERS[tile]
    products = [
        product(columns, factor)
        for columns, factor in zip(
            _columns(x, padding, tile), _factors(kernel, tile), strict=True
        )
    ]
    return _interleaved(_sums(to_outputs, products))[:, :height], (x, kernel)


def _backward(padding, residuals, dy):
    x, kernel = residuals
    size, _, channels, features = kernel.shape
    tile = _tile(dy.shape[1])
    to_columns, to_factors, to_outputs = _FILTERS[tile]
    dy = barrier(pad(dy, 1, 0, -dy.shape[1] % tile))
    d_products = list(map(barrier, _sums(np.transpose(to_outputs), _rows(dy, tile, 0))))
    d_factors = [
        outer(columns, d).reshape(size, channels, features)
        for columns, d in zip(_columns(x, padding, tile), d_products, strict=True)
    ]
    d_kernel = jnp.stack(_sums(np.transpose(to_factors), d_factors))
    width = x.shape[2] + 2 * padding
    d_rows = [
        scatter(barrier(product(d, factor.T)), size, 1, 2, width)
        for d, factor in zip(d_products, _factors(kernel, tile), strict=True)
    ]
    parts = _sums(np.transpose(to_columns), d_rows)
    # The last two rows of a tile are the first of the next.
    own = [pad(part, 1, 0, 1) for part in parts[:tile]]
    for index, part in enumerate(parts[tile:]):
        own[index] = own[index] + pad(part, 1, 1, 0)
    dx = _interleaved(own)
    return dx[
        :, padding : padding + x.shape[1], padding : padding + x.shape[2]
    ], d_kernel


conv_winograd.defvjp(_forward, _backward)


def _tile(height: int) -> int:
    """Chooses m, of which there are fewest products; of equals, the more exact one."""
    return min(sorted(_FILTERS), key=lambda m: -(-height // m) * (m + 2))


def _columns(x: jax.Array, padding: int, tile: int) -> list[jax.Array]:
    """Gives what is multiplied, m + 2 times [B, tiles, W', 3 C]."""
    tiles = -(-(x.shape[1] + 2 * padding - 2) // tile)
    below = (tiles + 1) * tile - x.shape[1] - padding
    x = barrier(pad(pad(x, 1, padding, below), 2, padding, padding))
    to_columns, _, _ = _FILTERS[tile]
    sums = _sums(to_columns, _rows(x, tile, 1))
    return [gather(barrier(rows), 3, 1, axis=2) for rows in sums]


def _rows(x: jax.Array, tile: int, more: int) -> list[jax.Array]:
    """Gives each row of every tile, and the first two of the next if `more` is 1."""
    batch, height, width, channels = x.shape
    tiles = height // tile
    x = x.reshape(batch, tiles, tile, width, channels)
    rows = [x[:, : tiles - more, i] for i in range(tile)]
    return rows + [x[:, 1:, i] for i in range(2 * more)]


def _factors(kernel: jax.Array, tile: int) -> list[jax.Array]:
    """Gives what they are multiplied with, m + 2 times [3 C, D]."""
    taps = [tap.reshape(-1, kernel.shape[-1]) for tap in kernel]
    return _sums(_FILTERS[tile][1], taps)


def _sums(
    matrix: Sequence[Sequence[float]] | np.ndarray, arrays: Sequence[jax.Array]
) -> list[jax.Array]:
    """Multiplies a small matrix with a column of arrays."""
    return [
        functools.reduce(
            jnp.add,
            (
                array if weight == 1 else float(weight) * array
                for weight, array in zip(weights, arrays, strict=True)
                if weight
            ),
        )
        for weights in matrix
    ]


def _interleaved(rows: Sequence[jax.Array]) -> jax.Array:
    """Puts the rows of tiles, each [B, tiles, W, D], in order: [B, m tiles, W, D]."""
    stacked = jnp.stack(rows, axis=2)
    batch, tiles, tile, width, features = stacked.shape
    return stacked.reshape(batch, tiles * tile, width, features)
