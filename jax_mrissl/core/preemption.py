"""SIGTERM, by which schedulers take a machine back: save, end, be started again."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

# The exit code of a process that has not done its work, and will if the same command is
# started again; EX_TEMPFAIL of sysexits.h. Schedulers requeue on it.
START_AGAIN = 75

_noticed = False
_deferred = False


class Preempted(BaseException):
    """SIGTERM came, and what is to be kept is on disk.

    As KeyboardInterrupt it is no Exception: whoever goes on after errors does not go on
    after this.
    """


def listen() -> None:
    """Answers SIGTERM from now on; in the main thread."""
    signal.signal(signal.SIGTERM, _notice)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Lets a block of work come to a good end before SIGTERM is answered.

    Elsewhere SIGTERM raises at once.

    Yields: a function that says whether SIGTERM has come to this process.

    Raises:
        Preempted: it has, when the block ends.
    """
    global _deferred
    _deferred = True
    try:
        yield lambda: _noticed
    finally:
        _deferred = False
    if _noticed:
        raise Preempted


def _notice(number: int, frame: FrameType | None) -> None:
    del frame
    global _noticed
    _noticed = True
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    if not _deferred:
        raise Preempted
