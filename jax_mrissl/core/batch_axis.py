"""Where the rest of the batch is: the one thing in which jit and pmap differ."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class BatchAxis:
    """The batch axis of a step.

    Attributes:
        name: the mapped axis that splits the batch over devices (`pmap`), or None:
            the step holds the whole batch, and the compiler splits it.
    """

    name: str | None = None

    def mean(self, tree: Any) -> Any:
        """Averages every leaf over the devices."""
        return tree if self.name is None else lax.pmean(tree, self.name)

    def sum(self, tree: Any) -> Any:
        """Adds every leaf up over the devices."""
        return tree if self.name is None else lax.psum(tree, self.name)

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


WHOLE_BATCH = BatchAxis()
