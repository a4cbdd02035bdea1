"""The flags by which a command is one of several processes."""

import re
from collections.abc import Sequence

from absl import flags, logging

from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError

_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'Several processes: HOST:PORT where process 0 listens.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Several processes: how many.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Several processes: which this is, from 0.', lower_bound=0
)
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'Several processes: ask SLURM, the TPU pod, Open MPI or Kubernetes for what is not '
    'given of the three.',
)
_PEER_TIMEOUT = flags.DEFINE_float(
    'peer_timeout',
    100.0,
    'Seconds without a sign of life after which a process is lost, and the others end.',
    lower_bound=1.0,
)
_START_TIMEOUT = flags.DEFINE_float(
    'start_timeout',
    300.0,
    'Seconds that processes wait for each other at the start.',
    lower_bound=1.0,
)


_OWN = (
    _COORDINATOR,
    _NUM_PROCESSES,
    _PROCESS_ID,
    _DISTRIBUTED,
    _PEER_TIMEOUT,
    _START_TIMEOUT,
)


def without_process_flags(arguments: Sequence[str]) -> list[str]:
    """Leaves out the flags of this module: how it is started changes no result."""
    left = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.lstrip('-').partition('=')
        if not argument.startswith('-') or name not in [flag.name for flag in _OWN]:
            left.append(argument)
        elif not equals and name != _DISTRIBUTED.name:
            next(rest, None)  # its value stands apart
    return left


def start_processes() -> None:
    """Makes this process one of several if the flags say so; else does nothing.

    Raises:
        UserError: the flags do not agree, or this process cannot join the others.
    """
    given = {
        '--coordinator': _COORDINATOR.value,
        '--num_processes': _NUM_PROCESSES.value,
        '--process_id': _PROCESS_ID.value,
    }
    missing = [name for name, value in given.items() if value is None]
    if not _DISTRIBUTED.value:
        if len(missing) == len(given):
            return
        if missing:
            raise UserError(
                f'{" and ".join(missing)} must be given, too; or --distributed, if a '
                'cluster is to be asked for it.'
            )
    total, own = _NUM_PROCESSES.value, _PROCESS_ID.value
    if total is not None and own is not None and own >= total:
        raise UserError(
            f'--process_id is {own}; of {total} processes the last is {total - 1}.'
        )
    where = _COORDINATOR.value
    if where is not None and not re.fullmatch(r'.+:\d+', where):
        raise UserError(f'--coordinator is {where!r}; HOST:PORT is expected.')
    processes.start(
        coordinator=where,
        process_count=total,
        process_index=own,
        detect=_DISTRIBUTED.value,
        peer_timeout_s=_PEER_TIMEOUT.value,
        start_timeout_s=_START_TIMEOUT.value,
    )
    logging.info(
        '%s. A process without a sign of life for %g s ends all.',
        processes.name_of(processes.index()),
        _PEER_TIMEOUT.value,
    )
