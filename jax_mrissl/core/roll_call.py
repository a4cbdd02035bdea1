"""Signs of life between processes: who is lost is named, and the others end.

A process that has died or stands still leaves the others waiting in their next
collective. So each counts up a number of its own in JAX's coordination service, which
is part of process 0. Process 0 watches the numbers of all, the others that of process
0; a number that has not moved for long is of a process that is lost. Whoever ends
before the work is done says so there, and the others end with the same exit code.

JAX watches, too (twice as long), but it aborts, and does not say where the lost process
ran.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import logging

from jax_mrissl.core.preemption import START_AGAIN

_ALIVE = 'jax_mrissl/alive/'
_ENDING = 'jax_mrissl/ending'
_GONE = 'jax_mrissl/gone/'
_DONE: dict[str, Any] = {'code': 0, 'words': ''}
# Signs of life in the time after which a process is lost, and seconds between two of
# them at most.
_BEATS = 10
_BEAT_S = 5.0
# The service ends with process 0, which lets the others go first.
_GOODBYE_S = 10.0


class RollCall:
    """Watches the others, from two threads, until `stop`.

    Args:
        client: of JAX's coordination service.
        index: of this process.
        names: of all processes, for people.
        timeout_s: without a sign of life for so long, a process is lost.
    """

    def __init__(self, client: Any, index: int, names: Sequence[str], timeout_s: float):
        self._client, self._index, self._names = client, index, names
        self._timeout_s = timeout_s
        self._beat_s = min(_BEAT_S, timeout_s / _BEATS)
        watched = [0] if index else range(1, len(names))
        # How often this one looked since they moved. Time by a clock would count when
        # this process itself stood still.
        self._silent = dict.fromkeys(watched, 0)
        self._counts: dict[int, str] = {}
        self._over = threading.Event()
        self._ending = threading.Lock()
        # A call to a service that hangs does not return: another thread has the watch.
        self._threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self._beat, self._look)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the watch; all processes have come to the end of their work."""
        self._over.set()
        if self._index == 0:
            self._tell(**_DONE)  # wakes the others
        for thread in self._threads:
            thread.join()

    def leave(self, code: int, words: str) -> NoReturn:
        """Ends this process before the work is done, and with it all others.

        Args:
            code: the exit code.
            words: why, for the others.
        """
        self._end(code, f'{self._names[self._index]} has ended: {words}', say=False)

    def wait_for_verdict(self) -> None:
        """Waits as long as it may take to find who is lost; that ends this process."""
        self._over.wait(self._timeout_s + 3 * self._beat_s)

    def _beat(self) -> None:
        """Gives signs of life, sees those of others, and hears of who ends."""
        beats = 0
        while not self._over.is_set():
            beats += 1
            try:
                self._client.key_value_set(
                    f'{_ALIVE}{self._index}', str(beats), allow_overwrite=True
                )
                self._see()
                heard = self._client.blocking_key_value_get(
                    _ENDING, int(1000 * self._beat_s)
                )
            except Exception as error:  # JAX has no narrower kind
                if 'DEADLINE_EXCEEDED' in str(error):  # nobody ends
                    continue
                if not self._over.is_set():
                    self._lost(0)
                return
            ending = json.loads(heard)
            if ending != _DONE:
                self._end(**ending)
            return

    def _see(self) -> None:
        for key, count in self._client.key_value_dir_get(_ALIVE):
            index = int(key.removeprefix(_ALIVE))
            if index in self._silent and self._counts.get(index) != count:
                self._counts[index] = count
                self._silent[index] = 0

    def _look(self) -> None:
        while not self._over.wait(self._beat_s):
            for index in self._silent:
                self._silent[index] += 1
            longest = max(self._silent.values())
            if longest * self._beat_s > self._timeout_s:
                # One may have torn others with it, and signs of life come in turn.
                self._lost(*(i for i, n in self._silent.items() if n > longest - 3))

    def _lost(self, *those: int) -> NoReturn:
        names = ' and '.join(self._names[index] for index in those)
        are = 'was lost: it has' if len(those) == 1 else 'were lost: they have'
        self._end(
            START_AGAIN,
            f'{names} {are} died, or stood still for {self._timeout_s:g} s. What '
            f'{"it" if len(those) == 1 else "they"} printed may say why. The others '
            'end, too; the same command goes on from here.',
            tell=0 not in those,  # without process 0 there is no service
        )

    def _end(
        self, code: int, words: str, *, say: bool = True, tell: bool = True
    ) -> NoReturn:
        self._ending.acquire()  # for good: who comes second waits for the end
        if say:
            print(words, file=sys.stderr, flush=True)
        if tell:
            # Nobody waits for a service that does not answer.
            telling = threading.Thread(target=self._tell, args=(code, words))
            telling.daemon = True
            telling.start()
            telling.join(self._beat_s)
        if self._index == 0:
            self._let_others_go()
        end_now(code)

    def _tell(self, code: int, words: str) -> None:
        said = json.dumps({'code': code, 'words': words})
        for key, value in ((_ENDING, said), (f'{_GONE}{self._index}', '')):
            try:
                self._client.key_value_set(key, value)
            except Exception as error:  # another was faster, or the service is gone
                logging.debug('%s is not told: %s', key, error)

    def _let_others_go(self) -> None:
        most = self._timeout_s / self._beat_s
        living = 1 + sum(looks < most for looks in self._silent.values())
        deadline = time.monotonic() + _GOODBYE_S
        while time.monotonic() < deadline:
            if len(self._client.key_value_dir_get(_GONE)) >= living:
                return
            time.sleep(0.05)


def end_now(code: int, words: str = '') -> NoReturn:
    """Ends the process at once, from any thread, without JAX's farewell to the others.

    Args:
        code: the exit code.
        words: why, for stderr.
    """
    logging.flush()
    if words:
        print(words, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
