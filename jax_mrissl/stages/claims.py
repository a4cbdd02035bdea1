"""Who works on a stage: one process at a time, of all that share the disk.

A claim is a file in the stage's folder, `claim-N`, made so that one process alone can
make it; the highest N counts. Its owner counts up in it every few seconds, in a thread,
however slow the work is. A claim that has not moved for a while, by the clock of
whoever looks at it, is of a process that died, and the next one makes `claim-N+1`. On
one machine a dead process is known at once.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from jax_mrissl.core.preemption import START_AGAIN

BEAT_S = 10.0
# Longer than file systems on a network may show what is no longer true.
EXPIRES_S = 150.0

_RELEASED = 'released'
_DIGITS = 12


class Claims:
    """Makes claims, and remembers which of others were seen to move.

    Args:
        beat_s: seconds between signs of life.
        expires_s: seconds without one after which a claim is of a dead process.
    """

    def __init__(self, beat_s: float = BEAT_S, expires_s: float = EXPIRES_S):
        self._beat_s, self._expires_s = beat_s, expires_s
        self._seen: dict[Path, tuple[str, float]] = {}

    @contextlib.contextmanager
    def take(self, folder: Path) -> Iterator[bool]:
        """Claims a stage's folder for as long as the block lasts.

        Yields: whether it is ours; False: a living process has it.
        """
        path = self._make(folder)
        if path is None:
            yield False
            return
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(path, over), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            over.set()
            beating.join()
            # Not there any more if the stage is done; then it must not come back.
            with contextlib.suppress(FileNotFoundError), open(path, 'r+') as file:
                file.truncate()
                file.write(_RELEASED)

    def owner(self, folder: Path) -> str:
        """Says which process has the claim, for people; '': none that lives."""
        path = _newest(folder)
        if path is None or not self._is_alive(path):
            return ''
        try:
            about = json.loads(path.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return 'another process'
        return f'process {about["pid"]} on {about["host"]}'

    def _make(self, folder: Path) -> Path | None:
        last = _newest(folder)
        if last is not None and self._is_alive(last):
            return None
        number = _number(last) + 1 if last else 0
        path = folder / f'claim-{number:06d}'
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return None  # another one was faster
        try:
            path.write_text(f'{json.dumps(_who())}\n{0:0{_DIGITS}d}\n')
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if last is not None and not _is_released(last):
            logging.info('%s: a claim before this one ended without a result.', folder)
        return path

    def _is_alive(self, path: Path) -> bool:
        try:
            content = path.read_text()
        except FileNotFoundError:
            return False  # the stage was finished
        if content == _RELEASED:
            return False
        with contextlib.suppress(ValueError, IndexError):
            if _is_dead(json.loads(content.splitlines()[0])):
                return False
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if content != before:
            self._seen[path] = content, now
            return True
        return now - since < self._expires_s

    def _beat(self, path: Path, over: threading.Event) -> None:
        beats = 0
        start = len(path.read_bytes()) - _DIGITS - 1
        while not over.wait(self._beat_s):
            newest = _newest(path.parent)
            if newest and _number(newest) > _number(path):
                # This process was stopped for long, and is presumed dead. Two that
                # write one folder would spoil it.
                logging.error(
                    '%s was taken by another process while this one stood still.',
                    path.parent,
                )
                logging.flush()
                os._exit(START_AGAIN)
            beats += 1
            with contextlib.suppress(OSError), open(path, 'r+') as file:
                file.seek(start)
                file.write(f'{beats:0{_DIGITS}d}')


def forget(folder: Path) -> None:
    """Removes the claims of a stage that is done."""
    for path in folder.glob('claim-*'):
        path.unlink(missing_ok=True)


def forget_old(folder: Path) -> None:
    """Removes all claims but the newest, which others may look at."""
    newest = _newest(folder)
    for path in folder.glob('claim-*'):
        if path != newest:
            path.unlink(missing_ok=True)


def _newest(folder: Path) -> Path | None:
    return max(folder.glob('claim-*'), key=_number, default=None)


def _is_released(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text() == _RELEASED
    return True


def _number(path: Path) -> int:
    return int(path.name.partition('-')[2])


def _who() -> dict[str, str | int]:
    return {
        'host': platform.node(),
        'machine': _machine(),
        'pid': os.getpid(),
        'started': _started(os.getpid()),
    }


def _is_dead(about: dict[str, str | int]) -> bool:
    """Says whether a process of this machine is gone; of others nothing is known."""
    if about['machine'] != _machine():
        return False
    pid = int(about['pid'])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(pid) != about['started']  # its number was given again


def _machine() -> str:
    """Tells this start of this machine, and this container, from all others."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return f'{platform.node()} {uuid.getnode()}'


def _started(pid: int) -> str:
    """Tells a process from another with its number; '': not known."""
    try:
        # Behind the name, which may hold brackets and spaces, the twentieth field.
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]
    except (OSError, IndexError):
        return ''
