"""A training program with its state, run some steps at a time and timed."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jax_mrissl.train.parallel import Compiled, Parallel


class ProgramRun:
    """A compiled program `(state, source, feed, key) -> state, metrics`, and its state.

    Args:
        program: as `training_program` makes it.
        state, source, key: on the host; they are put on every device.
        feed: the first, on the devices.
        parallel: the layout over the devices.

    Attributes:
        executable: what runs.
        state: after the last step.
        trace_s, compile_s: what it took to trace the program, and to compile it (or to
            find it in the cache on disk).
    """

    def __init__(
        self,
        program: Compiled,
        state: Any,
        source: Any,
        key: jax.Array,
        feed: Any,
        parallel: Parallel,
    ):
        self._source = parallel.replicate(source)
        self._key = parallel.replicate(key)
        # It is donated; the caller's stays.
        self.state = parallel.replicate(jax.tree.map(jnp.copy, state))
        began = time.perf_counter()
        lowered = program.function.lower(self.state, self._source, feed, self._key)
        traced = time.perf_counter()
        self.executable = lowered.compile()
        self.trace_s = traced - began
        self.compile_s = time.perf_counter() - traced

    def seconds(self, feeds: Iterator[Any], steps: int) -> float:
        """Runs some steps; gives seconds per step, until the last state is there.

        Args:
            feeds: on the devices.
            steps: at least 1.
        """
        began = time.perf_counter()
        for _ in range(steps):
            # As in `train.loop`: Python does not wait for the device between steps.
            self.state, metrics = self.executable(
                self.state, self._source, next(feeds), self._key
            )
        jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - began) / steps
