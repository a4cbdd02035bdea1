"""SIGTERM, by which schedulers take a machine back: save, end, be started again."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

# The exit code of a process that has not done its work, and will if the same command is
# started again; EX_TEMPFAIL of sysexits.h. Schedulers requeue on it.
START_AGAIN = 75

# After so long it is looked whether the work has ended.
_LOOK_AGAIN_S = 1.0

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

    Elsewhere SIGTERM raises at once, and once more where that was lost.

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
    global _noticed
    _noticed = True
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    signal.signal(signal.SIGALRM, _insist)
    _insist(number, frame)


def _insist(number: int, frame: FrameType | None) -> None:
    """Raises, and again where that was lost: Python ignores it in some callbacks.

    JAX has one that the garbage collector calls, often while programs are traced.
    """
    del number, frame
    if _deferred or _is_ending():
        signal.setitimer(signal.ITIMER_REAL, 0)
        return
    signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_S)
    raise Preempted


def _is_ending() -> bool:
    """Says whether what runs now runs because of `Preempted`: what ends the work."""
    error = sys.exception()
    while error is not None and not isinstance(error, Preempted):
        error = error.__context__
    return error is not None


def settle() -> None:
    """Says that the work has ended: nothing is raised any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)
