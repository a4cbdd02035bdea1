"""What a stage would cost: time from a few measured steps, and disk."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from jax_mrissl.data.pipeline import Resident, Rows, resident
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.objectives.supervised import Supervised
from jax_mrissl.tasks.answers import answers
from jax_mrissl.tasks.from_config import Common, FinetunePlan, PretrainPlan
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.pretrain import set_up
from jax_mrissl.tasks.program_run import ProgramRun
from jax_mrissl.tasks.programs import (
    RowProgram,
    channels_of,
    embedding,
    initial_program,
    training_program,
)
from jax_mrissl.tasks.stopwatch import seconds_of
from jax_mrissl.train.optimizer import tunable
from jax_mrissl.train.parallel import Compiled, Parallel, choose_parallel
from jax_mrissl.train.state import TrainState

_STEPS = 3
# Regressions on features of a few thousand images, and what is written: not measured.
_FITS_S = 5.0
_PROBE_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a stage would take.

    Attributes:
        seconds: by the clock, on this machine as it is now.
        bytes: of disk, when it is done.
    """

    seconds: float
    bytes: int


class Meter:
    """Measures each kind of step once, whatever images it is for.

    Of a kind are pretrainings with one method, size of views and batch: what is done to
    the pixels of another domain costs little beside the network, and to compile a
    program for each would take longer than a reader waits for an estimate.
    """

    def __init__(self) -> None:
        # By kind: seconds to compile, seconds of a step or an image, bytes.
        self._known: dict[str, tuple[float, float, int]] = {}

    def pretraining(
        self, plan: PretrainPlan, common: Common, prepared: PreparedSet
    ) -> Cost:
        """Measures a few steps of pretraining.

        Args:
            plan, common: the declaration.
            prepared: the images.
        """
        training = set_up(plan, common, prepared)
        plan = training.plan
        views = [plan.image_size, len(plan.views)]
        kind = [views, plan.batch_size, plan.method, plan.chunks, common]

        def measure() -> tuple[float, float, int]:
            some = prepared.select(np.arange(plan.batch_size))
            return _measure(
                training.initial(some, jax.random.key(0)),
                training_program(
                    training.objective,
                    training.optimizer,
                    training.parallel,
                    chunks=plan.chunks,
                ),
                resident(some),
                plan.batch_size,
                training.parallel,
            )

        compiling, per_step, size = self._once(kind, measure)
        steps = plan.epochs * training.steps_per_epoch
        return Cost(compiling + steps * per_step, size)

    def finetuning(
        self, mode: str, plan: FinetunePlan, common: Common, data: LabelledData
    ) -> Cost:
        """Measures a few steps of finetuning, or one batch of features.

        Args:
            mode: 'linear', 'knn' or 'full'.
            plan, common: the declaration.
            data: the labelled images.
        """
        kinds = answers(data)
        policy = plan.build_training_policy()
        objective = Supervised(
            common.build_encoder(), (policy,), kinds.head, kinds.row_loss
        )
        kind = [plan.image_size, data.prepared.image_shape, common]
        if mode != 'full':
            found = self._once(
                ['features', *kind], lambda: _features(objective, plan, data)
            )
            compiling, per_image, size = found
            return Cost(compiling + per_image * len(data.labels) + _FITS_S, size)
        batch = plan.full.batch_size
        declared = plan.build_optimizer()

        def measure() -> tuple[float, float, int]:
            schedule = declared.schedule(batch_size=batch, steps_per_epoch=1, steps=2)
            source = resident(data.prepared.select(np.arange(batch)))
            labels = kinds.truth(np.arange(len(data.labels)))[:batch]
            optimizer = tunable(declared, schedule)
            parallel = choose_parallel(common.parallel, batch)
            return _measure(
                _state(objective, optimizer, plan, source),
                training_program(objective, optimizer, parallel),
                dataclasses.replace(source, label=labels),
                batch,
                parallel,
            )

        compiling, per_step, size = self._once(['full', *kind, plan.full], measure)
        rows = sum(len(data.rows(fold.train)) for fold in data.folds)
        steps = plan.full.epochs * len(plan.full.trials(declared)) * rows / batch
        # Validation after each epoch takes about a tenth of it.
        return Cost(compiling + 1.1 * steps * per_step, size * len(data.folds))

    def _once(
        self, kind: Any, measure: Callable[[], tuple[float, float, int]]
    ) -> tuple[float, float, int]:
        key = repr(kind)
        if key not in self._known:
            logging.info('Measuring a few steps.')
            self._known[key] = measure()
        return self._known[key]


def _features(
    objective: Supervised, plan: FinetunePlan, data: LabelledData
) -> tuple[float, float, int]:
    policy = plan.build_evaluation_policy()
    count = min(plan.evaluation_batch_size, len(data.labels))
    source = resident(data.prepared.select(np.arange(count)))
    state = _state(objective, optax.identity(), plan, source)
    program = RowProgram(embedding(objective.encoder), policy, count)

    def once() -> None:
        program(state.params, state.model_state, source, np.arange(count))

    compiling = seconds_of(once)
    seconds = statistics.median(seconds_of(once) for _ in range(_STEPS))
    return compiling, seconds / count, _PROBE_BYTES


def _measure(
    state: TrainState, step: Compiled, source: Resident, batch: int, parallel: Parallel
) -> tuple[float, float, int]:
    """Gives seconds to compile, seconds of a step, and the bytes of a checkpoint."""
    total = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
    rows = Rows(np.arange(batch, dtype=np.int32), np.ones(batch, np.float32))
    feed = parallel.place_feed(rows)
    run = ProgramRun(step, state, source, jax.random.key(0), feed, parallel)
    feeds = itertools.repeat(feed)
    run.seconds(feeds, 1)
    seconds = statistics.median(run.seconds(feeds, 1) for _ in range(_STEPS))
    return run.trace_s + run.compile_s, seconds, total


def _state(
    objective: Supervised,
    optimizer: optax.GradientTransformation,
    plan: FinetunePlan,
    source: Resident,
) -> TrainState:
    size = plan.image_size
    channels = channels_of(plan.build_evaluation_policy(), source.image.shape[1:])
    shape = (size, size, channels)
    return initial_program(objective, optimizer, shape)(jax.random.key(0))
