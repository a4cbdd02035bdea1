"""One step, compiled for many devices: jit over a mesh, or pmap."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_mrissl.core import processes
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.core.errors import UserError, expect_known

PARALLELS = ('mesh', 'pmap')
_AXIS = 'batch'


class Traces:
    """Counts how often a function was traced, and so compiled."""

    def __init__(self) -> None:
        self.count = 0

    def counted(self, function: Callable) -> Callable:
        """Wraps `function` so that each trace of it is counted."""

        def traced(*args: Any) -> Any:
            self.count += 1
            return function(*args)

        return traced


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled `function(state, source, feed, key)` and its count of traces."""

    function: Any  # of jax.jit or jax.pmap
    traces: Traces

    def __call__(self, *args: Any) -> Any:
        """Runs it."""
        return self.function(*args)


class Parallel(Protocol):
    """How a step is laid over the devices."""

    @property
    def device_count(self) -> int:
        """Devices that share a batch."""

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of states and resident images: whole on every device."""

    def compile(self, step: Callable) -> Compiled:
        """Compiles `step(state, source, feed, key, axis=...)`; donates the state."""

    def place_feed(self, feed: Any) -> Any:
        """Puts this process's rows of a batch on its devices."""

    def replicate(self, tree: Any) -> Any:
        """Puts a whole tree on every device."""


@dataclasses.dataclass(frozen=True)
class MeshParallel:
    """One program over a mesh: jit, in which each device has its rows, [b, ...].

    What travels between devices is written in the code (`BatchAxis`), and nothing else
    does. A compiler that is given the whole batch and left to split it does more: it
    sums gradients once for each use of a parameter, in the type of the computation, and
    moves rows where blocks of them are put together (docs/scaling.md).
    """

    devices: tuple[jax.Device, ...]

    @property
    def device_count(self) -> int:
        """Devices that share a batch."""
        return len(self.devices)

    @property
    def mesh(self) -> Mesh:
        """The devices along one axis."""
        return Mesh(np.array(self.devices), (_AXIS,), axis_types=(AxisType.Auto,))

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, P())

    def compile(self, step: Callable) -> Compiled:
        """Compiles by jit over `shard_map`: each device runs the step on its rows."""
        traces = Traces()
        whole, rows = self.replicated, NamedSharding(self.mesh, P(_AXIS))
        # One device has nothing to send, and compilers keep sums over one alone.
        alone = len(self.devices) == 1
        axis = WHOLE_BATCH if alone else BatchAxis(_AXIS)

        def over_mesh(state: Any, source: Any, feed: Any, key: jax.Array) -> Any:
            return step(state, source, feed, key, axis=axis)

        if not alone:
            over_mesh = jax.shard_map(
                over_mesh,
                mesh=self.mesh,
                in_specs=(P(), P(), P(_AXIS), P()),
                out_specs=P(),
                # Sums are differentiated as in pmap: `train_step` counts on it.
                check_vma=False,
            )
        compiled = jax.jit(
            traces.counted(over_mesh),
            donate_argnums=0,
            in_shardings=(whole, whole, rows, whole),
            out_shardings=whole,
        )
        return Compiled(compiled, traces)

    def place_feed(self, feed: Any) -> Any:
        """Puts this process's rows on its devices, as part of the whole batch."""
        rows = NamedSharding(self.mesh, P(_AXIS))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(rows, np.asarray(x)), feed
        )

    def split(self, batch: Any) -> Any:
        """Puts the rows of a batch, which every process has whole, on the devices."""
        rows = NamedSharding(self.mesh, P(_AXIS))

        def put(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, rows, lambda index: x[index])

        return jax.tree.map(put, batch)

    def replicate(self, tree: Any) -> Any:
        """Puts a whole tree on every device of the mesh."""
        return _put_whole(tree, self.replicated)


@dataclasses.dataclass(frozen=True)
class PmapParallel:
    """One program per device, on a batch folded to [devices, B / devices, ...]."""

    devices: tuple[jax.Device, ...]

    @property
    def device_count(self) -> int:
        """Devices that share a batch."""
        return len(self.devices)

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        mesh = Mesh(np.array(self.devices), (_AXIS,), axis_types=(AxisType.Auto,))
        return NamedSharding(mesh, P())

    def compile(self, step: Callable) -> Compiled:
        """Compiles by pmap; states stay unreplicated, as with a mesh."""
        traces = Traces()

        def per_device(state: Any, source: Any, feed: Any, key: jax.Array) -> Any:
            return step(state, source, feed, key, axis=BatchAxis(_AXIS))

        compiled = jax.pmap(
            traces.counted(per_device),
            axis_name=_AXIS,
            in_axes=(None, None, 0, None),
            out_axes=None,
            donate_argnums=0,
            devices=self.devices,
        )
        return Compiled(compiled, traces)

    def place_feed(self, feed: Any) -> Any:
        """Folds this process's rows to one block a device."""
        local = sum(d.process_index == jax.process_index() for d in self.devices)
        return jax.tree.map(
            lambda x: np.reshape(x, (local, len(x) // local, *np.shape(x)[1:])), feed
        )

    def replicate(self, tree: Any) -> Any:
        """Puts a whole tree on every device."""
        return _put_whole(tree, self.replicated)


def _put_whole(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: _put_array(x, sharding), tree)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(
        x.dtype, jax.dtypes.prng_key
    )


def _put_array(x: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if _is_key(x):
        placed = _put_array(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(x))
    # device_put would compare the values of all processes, which are the same here by
    # construction.
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))


def choose_parallel(
    kind: str,
    batch_size: int = 0,
    chunks: int = 1,
    *,
    devices: int | None = None,
    where: str = 'batch_size',
) -> Parallel:
    """Makes the layout over the devices of all processes.

    Args:
        kind: 'mesh' or 'pmap'.
        batch_size: the global batch, in images; 0: it is not told yet.
        chunks: how many parts each device sees its rows in.
        devices: how many of the devices share the batch; None: all.
        where: the field of the config that the batch is from, for messages.

    Raises:
        UserError: the devices, or they and the chunks, do not divide the batch; or
            there are several processes, and 'pmap' is asked for.
    """
    chosen = processes.devices()[:devices]
    parts = len(chosen) * chunks
    if batch_size % parts:
        lower = batch_size // parts * parts
        near = [n for n in (lower, lower + parts) if n > 0]
        by_chunks = f' in {chunks} chunks each' if chunks > 1 else ''
        raise UserError(
            f'A batch of {batch_size} images cannot be divided over {len(chosen)} '
            f'{chosen[0].platform} devices{by_chunks}. Set {where} (it is the '
            f'global one) to a multiple of {parts}, such as '
            f'{" or ".join(map(str, near))}.'
        )
    expect_known(kind, PARALLELS, 'config.parallel')
    if kind == 'pmap' and not processes.is_alone():
        raise UserError(
            "config.parallel is 'pmap', whose arrays belong to one process, and there "
            f"are {processes.count()}. Set it to 'mesh'."
        )
    return MeshParallel(chosen) if kind == 'mesh' else PmapParallel(chosen)
