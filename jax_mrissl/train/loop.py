"""Steps, logs, checkpoints: the loop around the one step."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.preemption import Preempted, deferred
from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import MetricsLog
from jax_mrissl.train.checkpoint import Checkpoints
from jax_mrissl.train.parallel import Compiled
from jax_mrissl.train.state import TrainState

# Looks at the state, beside the window's mean metrics.
Monitor = Callable[[TrainState, Mapping[str, float]], Mapping[str, float]]


class TrainingDiverged(UserError):
    """The loss, a gradient or a running statistic is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """How long a run is and how often it speaks, in steps.

    Attributes:
        steps: updates of the whole run.
        steps_per_epoch: updates of an epoch.
        log_every: a line of metrics, the mean over the steps since the last.
        checkpoint_every: a checkpoint; one is written at the end in any case.
        monitor_every: a call of the monitor, which is at the end in any case.
    """

    steps: int
    steps_per_epoch: int
    log_every: int
    checkpoint_every: int
    monitor_every: int


def run_steps(
    state: TrainState,
    step: Compiled,
    source: Any,
    feeds: Iterator[Any],
    key: jax.Array,
    *,
    rhythm: Rhythm,
    images_per_step: int,
    learning_rate: Callable[[int], Any],
    log: MetricsLog,
    checkpoints: Checkpoints,
    monitor: Monitor,
    what: str,
    window: Sequence[Mapping[str, float]] = (),
) -> TrainState:
    """Trains from `state.step` to `rhythm.steps`.

    Args:
        state: donated; on the devices.
        step: compiled; `(state, source, feed, key) -> state, metrics`.
        source: resident images, or an empty tuple.
        feeds: what each step reads, from that of `state.step` on.
        key: the run's key, on the devices.
        rhythm: lengths and intervals.
        images_per_step: of the global batch.
        learning_rate: of an update, for the log.
        log: gets a line every `rhythm.log_every` steps.
        checkpoints: gets the state every `rhythm.checkpoint_every` steps.
        monitor: further values to log, such as those of a collapse alarm.
        what: a few words for the progress bar.
        window: metrics of steps since the last line of the log, as they were stored
            with the checkpoint when SIGTERM came between two lines.

    Returns: the last state.

    Raises:
        TrainingDiverged: names the steps between which it happened.
        Preempted: SIGTERM came, to any of the processes, and the state is saved.
    """
    first = int(state.step)
    metrics_of: list[Mapping[str, Any]] = list(window)
    window_start, window_clock = first - len(window), time.monotonic()
    timed = 0
    processes.wait_for_all()  # to read the data takes some longer than others
    anyone = processes.AnyProcess()
    traces_before = step.traces.count
    with (
        deferred() as has_sigterm,
        Progress(
            what,
            rhythm.steps * images_per_step,
            done=first * images_per_step,
            unit='images',
        ) as progress,
    ):
        for index in range(first, rhythm.steps):
            state, metrics = step(state, source, next(feeds), key)
            metrics_of.append(metrics)
            timed += 1
            done = index + 1
            last = done == rhythm.steps
            save = last or done % rhythm.checkpoint_every == 0
            watch = last or done % rhythm.monitor_every == 0
            if last or save or watch or done % rhythm.log_every == 0:
                # Here alone Python waits for the step that it has just begun.
                values = _means(_fetch(metrics_of, window_start, done))
                elapsed_s = time.monotonic() - window_clock
                values['images_per_s'] = timed * images_per_step / elapsed_s
                values['learning_rate'] = float(learning_rate(index))
                values['epoch'] = done / rhythm.steps_per_epoch
                if watch:
                    values |= monitor(state, values)
                log.write(done, values)
                progress.advance(
                    timed * images_per_step, note=f'loss {values["loss"]:.4g}'
                )
                metrics_of, window_start, timed = [], done, 0
                if save:
                    checkpoints.save(done, state, {'step': done})
                window_clock = time.monotonic()
            if anyone(has_sigterm()) and not last:
                kept = _fetch(metrics_of, window_start, done)
                checkpoints.save(done, state, {'step': done, 'window': kept})
                checkpoints.wait()
                logging.info('%s: SIGTERM, saved at step %d.', what, done)
                raise Preempted
        checkpoints.wait()
    traces = step.traces.count - traces_before
    if traces > 1:
        raise RuntimeError(f'The step was traced {traces} times; once is right.')
    return state


def _fetch(
    window: Sequence[Mapping[str, Any]], start: int, stop: int
) -> list[dict[str, float]]:
    """Fetches the metrics of steps; raises if one is not finite."""
    fetched = [
        {name: float(value) for name, value in metrics.items()}
        for metrics in jax.device_get(window)
    ]
    bad = [i for i, metrics in enumerate(fetched) if not metrics['finite'] > 0]
    if bad:
        raise TrainingDiverged(
            f'NaN or Inf between steps {start} and {stop}, first in step '
            f'{start + bad[0]} (loss {fetched[bad[0]]["loss"]}). The last good '
            'checkpoint is kept. Lower the learning rate '
            '(optimizer.rate_per_256) or lengthen the warm-up, then start again.'
        )
    return fetched


def _means(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: float(np.mean([metrics[name] for metrics in window]))
        for name in window[0]
        if name != 'finite'
    }
