"""Where the rest of the batch is: what a step knows of devices, and all it knows."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class BatchAxis:
    """The batch axis of a step.

    Attributes:
        name: the mapped axis that splits the batch over devices (`shard_map`, `pmap`),
            or None: the function holds the whole batch.
    """

    name: str | None = None

    def mean(self, tree: Any) -> Any:
        """Averages every leaf over the devices."""
        return tree if self.name is None else lax.pmean(tree, self.name)

    def sum(self, tree: Any) -> Any:
        """Adds every leaf up over the devices."""
        return tree if self.name is None else lax.psum(tree, self.name)

    def total(self, x: jax.Array) -> jax.Array:
        """Adds up over the devices what each of them then does the same with.

        As `sum`; but where all that follows is equal on every device, such as a loss
        of the total alone, so is its derivative, which then need not be added up again.
        """
        return x if self.name is None else _total(x, self.name)

    def max(self, tree: Any) -> Any:
        """Takes every leaf's maximum over the devices; has no derivative."""
        return tree if self.name is None else lax.pmax(tree, self.name)

    @property
    def size(self) -> Any:
        """How many devices split the batch: 1, or the mapped axis' length."""
        return 1 if self.name is None else lax.axis_size(self.name)

    def gather(self, rows: jax.Array) -> jax.Array:
        """Puts all devices' rows together, [b, ...] to [B, ...], in row order."""
        if self.name is None:
            return rows
        return lax.all_gather(rows, self.name, axis=0, tiled=True)

    def row_ids(self, count: int) -> jax.Array:
        """Numbers this device's `count` rows within the whole batch, int32."""
        ids = jnp.arange(count, dtype=jnp.int32)
        if self.name is None:
            return ids
        return ids + count * lax.axis_index(self.name).astype(jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _total(x: jax.Array, name: str) -> jax.Array:
    return lax.psum(x, name)


def _total_forward(x: jax.Array, name: str) -> tuple[jax.Array, None]:
    return lax.psum(x, name), None


def _total_backward(name: str, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    # What is differentiated is the sum of all devices' losses, and `x` enters each.
    return (cotangent * lax.axis_size(name),)


_total.defvjp(_total_forward, _total_backward)

WHOLE_BATCH = BatchAxis()
