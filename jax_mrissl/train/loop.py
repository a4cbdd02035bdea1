"""Steps, logs, checkpoints: the loop around the one step."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jax_mrissl.core.errors import UserError
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

    Returns: the last state.

    Raises:
        TrainingDiverged: names the steps between which it happened.
    """
    first = int(state.step)
    window: list[dict[str, jax.Array]] = []
    window_start, window_clock = first, time.monotonic()
    traces_before = step.traces.count
    with Progress(
        what,
        rhythm.steps * images_per_step,
        done=first * images_per_step,
        unit='images',
    ) as progress:
        for index in range(first, rhythm.steps):
            state, metrics = step(state, source, next(feeds), key)
            window.append(metrics)
            done = index + 1
            last = done == rhythm.steps
            save = last or done % rhythm.checkpoint_every == 0
            watch = last or done % rhythm.monitor_every == 0
            if last or save or watch or done % rhythm.log_every == 0:
                # The only place where Python waits for the device.
                values = _window_means(window, window_start, done)
                elapsed_s = time.monotonic() - window_clock
                values['images_per_s'] = len(window) * images_per_step / elapsed_s
                values['learning_rate'] = float(learning_rate(index))
                values['epoch'] = done / rhythm.steps_per_epoch
                if watch:
                    values |= monitor(state, values)
                log.write(done, values)
                progress.advance(
                    len(window) * images_per_step, note=f'loss {values["loss"]:.4g}'
                )
                window, window_start = [], done
                if save:
                    checkpoints.save(done, state, {'step': done})
                window_clock = time.monotonic()
    traces = step.traces.count - traces_before
    if traces > 1:
        raise RuntimeError(f'The step was traced {traces} times; once is right.')
    checkpoints.wait()
    return state


def _window_means(
    window: list[dict[str, jax.Array]], start: int, stop: int
) -> dict[str, float]:
    """Fetches a window's metrics and averages them; raises if one is not finite."""
    fetched = jax.device_get(window)
    means = {
        name: float(np.mean([metrics[name] for metrics in fetched]))
        for name in fetched[0]
    }
    bad = [i for i, metrics in enumerate(fetched) if not metrics['finite'] > 0]
    if bad:
        raise TrainingDiverged(
            f'NaN or Inf between steps {start} and {stop}, first in step '
            f'{start + bad[0]} (loss {fetched[bad[0]]["loss"]}). The last good '
            'checkpoint is kept. Lower the learning rate '
            '(optimizer.rate_per_256) or lengthen the warm-up, then start again.'
        )
    del means['finite']
    return means
