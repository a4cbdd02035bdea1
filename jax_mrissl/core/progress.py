"""Progress for people: a bar with rate and time left, or plain lines in a log."""

import sys
import time
from types import TracebackType

from absl import logging
from rich import progress as rich_progress
from rich.console import Console

from jax_mrissl.core import processes

# Without a terminal a line is logged at most this often.
_LINE_EVERY_S = 15.0


class Progress:
    """One bar; use as a context manager.

    Args:
        what: a few words in front of the bar.
        total: the number of units of work.
        done: how many were done before, by an earlier start.
        unit: what is counted, in the plural: 'images'.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, unit: str):
        self._what, self._total, self._unit = what, total, unit
        self._done = self._done_before = done
        self._start = self._last_line = time.monotonic()
        self._note = ''
        self._bar: rich_progress.Progress | None = None
        if sys.stderr.isatty() and processes.is_first():
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn('{task.description}'),
                rich_progress.BarColumn(bar_width=24),
                rich_progress.TaskProgressColumn(),
                rich_progress.TextColumn('{task.fields[rate]}'),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn('{task.fields[note]}'),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(
                what, total=total, completed=done, rate='', note=''
            )

    def __enter__(self) -> 'Progress':
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units per second since the start; 0 before the first."""
        elapsed_s = time.monotonic() - self._start
        return (self._done - self._done_before) / elapsed_s if elapsed_s > 0 else 0.0

    def advance(self, count: int, note: str = '') -> None:
        """Adds `count` units; `note` replaces the words behind the bar."""
        self._done += count
        self._note = note or self._note
        rate = f'{self.rate:.3g} {self._unit}/s'
        if self._bar:
            self._bar.update(
                self._task, completed=self._done, rate=rate, note=self._note
            )
        elif time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            left_s = (self._total - self._done) / max(self.rate, 1e-9)
            logging.info(
                '%s: %d of %d %s, %s, %s left. %s',
                self._what,
                self._done,
                self._total,
                self._unit,
                rate,
                duration(left_s),
                self._note,
            )


def duration(seconds: float) -> str:
    """Writes a time span for people: '42 s', '3 min', '1 h 20 min'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 90:
        return f'{minutes} min'
    return f'{minutes // 60} h {minutes % 60:02d} min'
