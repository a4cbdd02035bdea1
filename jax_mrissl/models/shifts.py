"""Pads, shifts and products: what convolutions on a CPU are made of."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Keeps XLA from fusing padding and slices into the gathering of single elements.
barrier = lax.optimization_barrier


def pad(
    x: jax.Array, axis: int, low: int, high: int, *, gap: int = 0, value: float = 0
) -> jax.Array:
    """Pads one axis, with `gap` elements between its own; a negative pad cuts."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low, high, gap)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def gather(x: jax.Array, size: int, stride: int, axis: int) -> jax.Array:
    """Puts the `size` shifted views along `axis` side by side in the channels."""
    length = (x.shape[axis] - size) // stride * stride + 1
    views = [lax.slice_in_dim(x, i, i + length, stride, axis=axis) for i in range(size)]
    return barrier(jnp.concatenate(views, axis=-1))


def scatter(
    views: jax.Array, size: int, stride: int, axis: int, length: int
) -> jax.Array:
    """Adds the views up again, to `length` along `axis`: the transpose of gather."""
    channels = views.shape[-1] // size
    covered = (views.shape[axis] - 1) * stride + 1
    parts = [
        pad(
            views[..., i * channels : (i + 1) * channels],
            axis,
            i,
            length - covered - i,
            gap=stride - 1,
        )
        for i in range(size)
    ]
    return functools.reduce(jnp.add, parts)


def product(a: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies the channels, [B, H, W, k] x [k, n]."""
    return jnp.einsum('bhwk,kn->bhwn', a, matrix)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies over all pixels, [B, H, W, k] x [B, H, W, n] to [k, n]."""
    return jnp.einsum('bhwk,bhwn->kn', a, b)
