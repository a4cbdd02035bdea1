"""One program in several processes: who decides, who writes, which devices there are.

All processes run the same program on the same global arrays. What depends on the disk
is looked up by the first process alone and told to the others (`share`), so that they
never disagree; what is single, such as JSON and pictures, it alone writes. With one
process, all of this is nothing at all.

JAX is imported late: `--help` and a typo are answered at once.
"""

import collections
import dataclasses
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.preemption import START_AGAIN
from jax_mrissl.core.roll_call import RollCall, end_now

T = TypeVar('T')

# Longer than any work of the first process; a process that is lost is found otherwise.
_FOR_EVER_MS = 14 * 24 * 3600 * 1000
# Until a file of one process is seen by the others, on a disk over a network.
_VISIBLE_S = 60.0


@dataclasses.dataclass(frozen=True)
class _Group:
    """This process among the others."""

    client: Any
    index: int
    hosts: tuple[str, ...]
    names: tuple[str, ...]
    roll_call: RollCall
    # Of what was shared; the same in all, as they run the same program.
    numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)


_group: _Group | None = None
_alone = False


def count() -> int:
    """Says how many processes there are."""
    return len(_group.hosts) if _group else 1


def index() -> int:
    """Says which of them this is; on a TPU not always `jax.process_index()`."""
    return _group.index if _group else 0


def is_first() -> bool:
    """Says whether this process decides, and writes what is single."""
    return index() == 0


def is_alone() -> bool:
    """Says whether nothing may wait for other processes: there are none, or `share`."""
    return _alone or count() == 1


def name_of(number: int) -> str:
    """Names a process, for people: which it is, and where it runs."""
    return _group.names[number] if _group else f'Process {number} of 1'


def count_on_this_host() -> int:
    """Says how many of the processes share this one's memory."""
    return _group.hosts.count(_group.hosts[_group.index]) if _group else 1


def devices() -> tuple[Any, ...]:
    """Gives the devices of the work at hand, those of one process side by side.

    Inside of `share` these are this process's own.

    Raises:
        UserError: processes have unequal numbers of devices.
    """
    import jax

    if _alone:
        return tuple(jax.local_devices())
    # JAX orders them by number, on a TPU pod by place.
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(found) != jax.local_device_count() * jax.process_count():
        raise UserError(
            f'Of {len(found)} devices {jax.local_device_count()} are in process '
            f'{index()} of {count()}: every process must have equally many.'
        )
    return tuple(found)


def share(make: Callable[[], T]) -> T:
    """Calls a function in the first process alone, and gives all what it returned.

    All processes must get here, in the same order. Inside of it the first is by itself:
    `devices` are its own, and nothing waits for others.

    Args:
        make: returns JSON values.

    Raises:
        UserError: what the function raised, in all processes.
    """
    if _group is None or is_alone():
        return make()
    client, key = _group.client, f'jax_mrissl/shared/{next(_group.numbers)}'
    if _group.index == 0:
        told = json.dumps(_outcome(make))
        client.key_value_set(key, told)
    else:
        told = _patiently(lambda: client.blocking_key_value_get(key, _FOR_EVER_MS))
    outcome = json.loads(told)
    if 'error' in outcome:
        raise UserError(outcome['error'])
    return outcome['value']


def wait_for_all() -> None:
    """Waits until all processes have come here."""
    if _group is None or is_alone():
        return
    client, name = _group.client, f'jax_mrissl/meeting/{next(_group.numbers)}'
    _patiently(lambda: client.wait_at_barrier(name, _FOR_EVER_MS))


def meet(*, within_s: float) -> bool:
    """Says whether all processes come here within a time.

    Where they have not, the processes are out of step, and this one must end.
    """
    if _group is None or is_alone():
        return True
    client, name = _group.client, f'jax_mrissl/meeting/{next(_group.numbers)}'
    try:
        _patiently(lambda: client.wait_at_barrier(name, int(1000 * within_s)))
    except Exception as error:  # JAX has no narrower kind
        logging.debug('Not all have come: %s', error)
        return False
    return True


def gather(value: Any) -> list[Any]:
    """Gives all processes what each of them has, JSON values, by their index."""
    if _group is None or is_alone():
        return [value]
    key = f'jax_mrissl/gathered/{next(_group.numbers)}/'
    return _gather(_group.client, key, _group.index, value)


def expect_same(value: Any, what: str) -> None:
    """Makes sure that all processes have the same.

    Args:
        value: JSON values.
        what: they are, in the plural, for the error.

    Raises:
        UserError: one has others; it is named.
    """
    found = gather(digest(value))
    if others := [i for i, its in enumerate(found) if its != found[0]]:
        raise UserError(
            f'{name_of(others[0])} has other {what} than {name_of(0)}. Start all '
            'processes by the same command, with the same data.'
        )


def expect_shared(folder: Path) -> None:
    """Makes sure that all processes see one folder, made if need be.

    Raises:
        UserError: one does not; it is named.
    """
    if count() == 1:
        return
    mark = folder / share(lambda: _leave_mark(folder))
    deadline = time.monotonic() + _VISIBLE_S
    while not (seen := mark.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    blind = [i for i, sees in enumerate(gather(seen)) if not sees]
    if is_first():
        mark.unlink()
    if blind:
        raise UserError(
            f'{name_of(blind[0])} does not see {folder.absolute()} of {name_of(0)}. '
            'All processes write their parts of checkpoints there: --workdir must be '
            'on a disk that they share.'
        )


class AnyProcess:
    """Says in all processes, at the same call, that one of them has said yes.

    The question goes the way of the steps, over the devices, and is answered a few
    calls later, so that nobody waits for it.
    """

    _CALLS_LATER = 2

    def __init__(self) -> None:
        self._asked: collections.deque[Any] = collections.deque()
        if count() == 1:
            return
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(devices()), ('all',))
        rows = NamedSharding(mesh, PartitionSpec('all'))
        largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

        def ask(said: bool) -> jax.Array:
            own = np.full(jax.local_device_count(), said, np.int32)
            return largest(jax.make_array_from_process_local_data(rows, own))

        self._ask = ask

    def __call__(self, said: bool) -> bool:
        """Says yes or not; tells whether anyone said yes, the given calls ago."""
        if count() == 1:
            return said
        self._asked.append(self._ask(said))
        return len(self._asked) > self._CALLS_LATER and bool(self._asked.popleft())


def start(
    *,
    coordinator: str | None,
    process_count: int | None,
    process_index: int | None,
    detect: bool,
    peer_timeout_s: float,
    start_timeout_s: float,
) -> None:
    """Makes this process one of several; before any use of JAX's devices.

    Args:
        coordinator: HOST:PORT where process 0 listens; None: as the cluster says.
        process_count, process_index: how many, and which; None: as the cluster says.
        detect: whether JAX looks for a cluster: SLURM, a TPU pod, Open MPI, Kubernetes.
        peer_timeout_s: without a sign of life for so long, a process is lost.
        start_timeout_s: for so long processes wait for each other.

    Raises:
        UserError: this one cannot join the others.
    """
    global _group
    import jax

    # Its client has no public door. Orbax takes the same way.
    from jax._src.distributed import global_state

    # SIGTERM is ours (core/preemption.py): JAX's service would hide the second one.
    jax.config.update('jax_enable_preemption_service', False)
    if not detect and process_index == 0 and coordinator:
        _expect_free(coordinator)
    # Where processes do not come JAX aborts, so this has to be a little earlier.
    where = f' at {coordinator}' if coordinator else ''
    words = f'Not all processes have met{where} within {start_timeout_s:g} s.'
    late = threading.Timer(start_timeout_s, end_now, (START_AGAIN, words))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            coordinator,
            process_count,
            process_index,
            cluster_detection_method=None if detect else 'deactivate',
            initialization_timeout=int(start_timeout_s) + 30,
            heartbeat_timeout_seconds=int(2 * peer_timeout_s) + 1,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f'The processes cannot be joined: {error} Where JAX knows no cluster '
            '(SLURM, a TPU pod slice, Open MPI, Kubernetes), give --coordinator, '
            '--num_processes and --process_id.'
        ) from error
    finally:
        late.cancel()
    jax.local_devices()  # all at once: they tell each other what devices they have
    client, own = global_state.client, global_state.process_id
    hosts = _gather(client, 'jax_mrissl/hosts/', own, socket.gethostname())
    names = tuple(
        f'Process {i} of {len(hosts)} (on {host}{"" if i else ", the coordinator"})'
        for i, host in enumerate(hosts)
    )
    roll_call = RollCall(client, own, names, peer_timeout_s)
    _group = _Group(client, own, tuple(hosts), names, roll_call)


def finish() -> None:
    """Ends the work of all processes; each waits for the others."""
    global _group
    if _group is None:
        return
    import jax

    wait_for_all()
    _group.roll_call.stop()
    jax.distributed.shutdown()
    _group = None


def leave(code: int, words: str) -> None:
    """Ends this process before the work is done, and all others; alone, does nothing.

    Args:
        code: the exit code of all.
        words: why, for the others.
    """
    if _group:
        _group.roll_call.leave(code, words)


def wait_for_verdict() -> None:
    """Waits for as long as it may take to find a lost process, which ends this one.

    What a back end says when another process is gone does not tell which.
    """
    if _group:
        _group.roll_call.wait_for_verdict()


def _outcome(make: Callable[[], Any]) -> dict[str, Any]:
    global _alone
    _alone = True
    try:
        return {'value': make()}
    except UserError as error:
        return {'error': str(error)}
    finally:
        _alone = False


def _gather(client: Any, key: str, own: int, value: Any) -> list[Any]:
    client.key_value_set(f'{key}{own}', json.dumps(value))
    _patiently(lambda: client.wait_at_barrier(f'{key}all', _FOR_EVER_MS))
    found = client.key_value_dir_get(key)
    by_index = {int(k.rpartition('/')[2]): json.loads(v) for k, v in found}
    return [by_index[i] for i in range(len(by_index))]


def _patiently(call: Callable[[], T]) -> T:
    """Calls what may take long in a thread: signals are answered while it does."""
    done: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            done.append((True, call()))
        except Exception as error:
            done.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    good, result = done[0]
    if not good:
        raise result
    return result


def _leave_mark(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = f'.seen-{os.getpid()}-{uuid.uuid4().hex}'
    (folder / name).touch()
    return name


def _expect_free(coordinator: str) -> None:
    """Raises UserError if the coordinator could not listen; JAX would crash."""
    port = coordinator.rpartition(':')[2]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(('', int(port)))
        except OSError as error:
            raise UserError(
                f'Process 0 cannot listen at port {port}, of --coordinator: '
                f'{error.strerror}. Choose another one.'
            ) from error
