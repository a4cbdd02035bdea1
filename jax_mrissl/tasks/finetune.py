"""Finetuning on labelled subjects: every fold, on frozen features or in full."""

import dataclasses
import functools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import MetricsLog, read_json_if_any, write_json
from jax_mrissl.data.pipeline import Resident, Shard, resident, row_feeds
from jax_mrissl.data.splits import Fold
from jax_mrissl.metrics.linear import LinearModel
from jax_mrissl.objectives.supervised import Supervised
from jax_mrissl.tasks.answers import answers
from jax_mrissl.tasks.from_config import Common, FinetunePlan, Json, Trial
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.predictions import write_predictions
from jax_mrissl.tasks.pretrain import device_in_words
from jax_mrissl.tasks.programs import (
    RowProgram,
    channels_of,
    embedding,
    initial_program,
    outputs_of,
    training_program,
)
from jax_mrissl.train.checkpoint import Checkpoints, Lineage
from jax_mrissl.train.loop import Rhythm, TrainingDiverged, run_steps
from jax_mrissl.train.optimizer import tunable, with_settings
from jax_mrissl.train.parallel import choose_parallel
from jax_mrissl.train.start import BEST, Start
from jax_mrissl.train.state import TrainState

PROBE = 'probe.npz'


def expect_batches(plan: FinetunePlan, common: Common, data: LabelledData) -> None:
    """Looks whether full finetuning has whole batches, before any work is done.

    Raises:
        UserError: the batch does not fit the devices, or the smallest fold.
    """
    batch = plan.full.batch_size
    where = 'config.finetune.full.batch_size'
    choose_parallel(common.parallel, batch, where=where)
    if _smallest(data) < batch:
        raise UserError(
            f'{where} is {batch}, but a fold has only {_smallest(data)} training '
            'images. Set it to at most that.'
        )


def _smallest(data: LabelledData) -> int:
    return min(len(data.rows(fold.train)) for fold in data.folds)


class Finetuner:
    """Finetunes encoders on one labelled set; arms share data and compilations.

    Args:
        plan, common: the declaration.
        data: the labelled images.
    """

    def __init__(self, plan: FinetunePlan, common: Common, data: LabelledData):
        self._plan, self._common, self._data = plan, common, data
        self._answers = answers(data)
        self._parallel = choose_parallel(common.parallel)
        self._key = jax.random.key(common.seed)
        # Of the encoder that was asked for last: modes on frozen features share them.
        self._embedded: tuple[str, np.ndarray] | None = None

    def run(
        self,
        mode: str,
        start_from: Start | None,
        folder: Path,
        lineage: Lineage,
        *,
        what: str,
        folds: Sequence[int] = (),
    ) -> Json:
        """Finetunes in all folds; writes `fold-N/predictions.npz` for each.

        Args:
            mode: 'linear', 'knn' or 'full'.
            start_from: a pretrained encoder; None: an untrained one.
            folder: the stage's.
            lineage: written into each checkpoint.
            what: a few words for the progress bar.
            folds: in full, these alone; (): all.

        Returns: JSON facts about the run; of each fold that was run, in order.
        """
        began = time.monotonic()
        if mode == 'full':
            state = self._state(start_from)
            facts = [
                self._run_fold(index, fold, state, folder, lineage, what)
                for index, fold in enumerate(self._data.folds)
                if not folds or index in folds
            ]
        else:
            fit = {'linear': self._fit_linear, 'knn': self._fit_knn}[mode]
            features = self._features_of(start_from, what)
            facts = processes.share(
                lambda: [
                    fit(features, fold, folder / f'fold-{index}')
                    for index, fold in enumerate(self._data.folds)
                ]
            )
        return {
            'folds': facts,
            'seconds_of_last_start': round(time.monotonic() - began, 1),
            'device': device_in_words(),
        }

    def validate_encoder(self, params: Any, model_state: Any) -> list[float]:
        """Gives each fold's validation loss of a linear probe on an encoder.

        It is what `run` in the mode 'linear' would come to; nothing is written.

        Args:
            params, model_state: on the devices, with a subtree `encoder`.
        """
        rows = np.arange(len(self._data.labels))
        features = self._features(params, model_state, self._images, rows)
        losses = []
        for fold in self._data.folds:
            held = self._data.rows(fold.validation)
            probe, _ = self._fitted(features, fold)
            losses.append(self._answers.loss(held, probe.logits(features[held])))
        return losses

    # What the arms share, made when the first needs it.

    @functools.cached_property
    def _images(self) -> Resident:
        return self._parallel.replicate(resident(self._data.prepared))

    @functools.cached_property
    def _objective(self) -> Supervised:
        return Supervised(
            self._common.build_encoder(),
            (self._plan.build_training_policy(),),
            self._answers.head,
            self._answers.row_loss,
        )

    @functools.cached_property
    def _steps_per_epoch(self) -> int:
        """The same for all folds, so that they share a schedule and a compilation."""
        # None at all is no matter to what trains no network.
        return max(_smallest(self._data) // self._plan.full.batch_size, 1)

    @functools.cached_property
    def _schedule(self) -> Any:
        return self._plan.build_optimizer().schedule(
            batch_size=self._plan.full.batch_size,
            steps_per_epoch=self._steps_per_epoch,
            steps=self._plan.full.epochs * self._steps_per_epoch,
        )

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        # Trials of the grid differ in numbers of the state, not in the program.
        declared = self._plan.build_optimizer()
        return tunable(declared, self._schedule)

    @functools.cached_property
    def _initial(self) -> TrainState:
        """The untrained state; every fold and arm starts with the same head."""
        size = self._plan.image_size
        seen = channels_of(
            self._plan.build_evaluation_policy(), self._data.prepared.image_shape
        )
        shape = (size, size, seen)
        draw = initial_program(self._objective, self._optimizer, shape)
        return draw(jax.random.fold_in(self._key, 0))

    @functools.cached_property
    def _step(self) -> Any:
        return training_program(self._objective, self._optimizer, self._parallel)

    @functools.cached_property
    def _outputs(self) -> RowProgram:
        return self._row_program(outputs_of(self._objective))

    @functools.cached_property
    def _features(self) -> RowProgram:
        return self._row_program(embedding(self._objective.encoder))

    def _row_program(self, network: Any) -> RowProgram:
        policy = self._plan.build_evaluation_policy()
        return RowProgram(network, policy, self._plan.evaluation_batch_size)

    def _state(self, start_from: Start | None) -> TrainState:
        state = self._parallel.replicate(self._initial)
        return state if start_from is None else start_from.give_to(state)

    # On frozen features.

    def _features_of(self, start_from: Start | None, what: str) -> np.ndarray:
        address = start_from.address if start_from else ''
        if self._embedded is None or self._embedded[0] != address:
            count = len(self._data.labels)
            logging.info('%s: features of %d images.', what, count)
            state = self._state(start_from)
            self._embedded = (
                address,
                self._features(
                    state.params, state.model_state, self._images, np.arange(count)
                ),
            )
        return self._embedded[1]

    def _fitted(self, features: np.ndarray, fold: Fold) -> tuple[LinearModel, Json]:
        train, held = self._data.rows(fold.train), self._data.rows(fold.validation)
        strengths = self._plan.linear.l2_strengths
        return self._answers.fit_linear(features, train, held, strengths)

    def _fit_linear(self, features: np.ndarray, fold: Fold, folder: Path) -> Json:
        data = self._data
        held = data.rows(fold.validation)
        probe, facts = self._fitted(features, fold)
        folder.mkdir(parents=True, exist_ok=True)
        probe.save(folder / PROBE)
        test = data.rows(fold.test)
        held_logits = probe.logits(features[held])
        write_predictions(
            folder, data, held, held_logits, test, probe.logits(features[test])
        )
        return facts | {'validation_loss': self._answers.loss(held, held_logits)}

    def _fit_knn(self, features: np.ndarray, fold: Fold, folder: Path) -> Json:
        data = self._data
        train, held = data.rows(fold.train), data.rows(fold.validation)
        tried = {
            count: self._answers.vote(features, train, held, count)
            for count in self._plan.knn.neighbours
        }
        losses = {
            count: self._answers.loss(held, votes) for count, votes in tried.items()
        }
        best = min(losses, key=lambda count: losses[count])
        test = data.rows(fold.test)
        write_predictions(
            folder,
            data,
            held,
            tried[best],
            test,
            self._answers.vote(features, train, test, best),
        )
        return {'neighbours': best, 'validation_loss': losses[best]}

    # In full.

    def _run_fold(
        self,
        index: int,
        fold: Fold,
        start: TrainState,
        folder: Path,
        lineage: Lineage,
        what: str,
    ) -> Json:
        """Tries every point of the grid; keeps the best by validation."""
        folder = folder / f'fold-{index}'
        done = folder / 'done.json'
        if (known := read_json_if_any(done)) is not None:
            return known
        grid = self._plan.full.trials(self._plan.build_optimizer())
        trials = []
        for number, trial in enumerate(grid):
            told = f'{what}, fold {index + 1} of {len(self._data.folds)}'
            if len(grid) > 1:
                told += f', trial {number + 1} of {len(grid)}'
            own = folder / f'trial-{number}'
            try:
                found = self._run_trial(trial, index, fold, start, own, lineage, told)
            except TrainingDiverged:
                if len(grid) == 1:
                    raise
                logging.warning('%s diverged, and is out.', told)
                found = {**dataclasses.asdict(trial), 'validation_loss': None}
            trials.append(found)
        ran = [
            n for n, found in enumerate(trials) if found['validation_loss'] is not None
        ]
        if not ran:
            raise TrainingDiverged(
                f'{what}: every trial of finetune.full.grid diverged in fold '
                f'{index + 1}. Try lower rates.'
            )
        best = min(ran, key=lambda number: trials[number]['validation_loss'])
        facts = {**trials[best], 'trial': best, 'trials': trials}
        chosen = folder / f'trial-{best}' / BEST
        # If it is not there, a run that was killed has moved it already.
        if processes.is_first() and chosen.exists():
            chosen.replace(folder / BEST)
        processes.wait_for_all()
        with Checkpoints(folder / BEST, lineage) as checkpoints:
            kept, _ = checkpoints.restore(
                {'params': start.params, 'model_state': start.model_state}
            )
        train, held = self._data.rows(fold.train), self._data.rows(fold.validation)
        test = self._data.rows(fold.test)

        def outputs(rows: np.ndarray) -> np.ndarray:
            found = self._outputs(
                kept['params'], kept['model_state'], self._images, rows
            )
            return self._answers.read(found, train)

        predicted = held, outputs(held), test, outputs(test)
        if not processes.is_first():
            return facts
        write_predictions(folder, self._data, *predicted)
        write_json(done, facts)
        for number in range(len(grid)):
            # What only going on needs, and networks that nothing will ask for.
            for name in ('last', BEST):
                shutil.rmtree(folder / f'trial-{number}' / name, ignore_errors=True)
        return facts

    def _run_trial(
        self,
        trial: Trial,
        index: int,
        fold: Fold,
        start: TrainState,
        folder: Path,
        lineage: Lineage,
        what: str,
    ) -> Json:
        done = folder / 'done.json'
        if (known := read_json_if_any(done)) is not None:
            return known
        data, plan = self._data, self._plan.full
        steps = self._steps_per_epoch
        rhythm = Rhythm(
            steps=plan.epochs * steps,
            steps_per_epoch=steps,
            log_every=steps,
            checkpoint_every=plan.checkpoint_every_epochs * steps,
            monitor_every=steps,
        )
        train, held = data.rows(fold.train), data.rows(fold.validation)
        truth = self._parallel.replicate(self._answers.truth(train))
        source = dataclasses.replace(self._images, label=truth)
        log = MetricsLog(folder / 'metrics.jsonl')
        ratio = trial.rate_per_256 / self._plan.build_optimizer().rate_per_256
        # The step donates its state, and the next trial starts from the same one.
        state = jax.tree.map(lambda leaf: leaf.copy(), start)
        state = dataclasses.replace(
            state,
            opt_state=with_settings(
                state.opt_state, rate_ratio=ratio, weight_decay=trial.weight_decay
            ),
        )
        with (
            Checkpoints(folder / 'last', lineage) as last,
            Checkpoints(folder / BEST, lineage) as best,
        ):
            extra: dict[str, Any] = {}
            if last.latest() is not None:
                state, extra = last.restore(state)
            first = int(state.step)
            log.rewind(first)
            # What counts as the best so far is read off the log, which was cut to the
            # checkpoint: so a trial that was killed goes on as if it had not been.
            seen = processes.share(
                lambda: [row['validation_loss'] for row in log.rows()]
            )

            def validate(state: TrainState, _: Any) -> dict[str, float]:
                outputs = self._outputs(
                    state.params, state.model_state, self._images, held
                )
                if not np.isfinite(outputs).all():
                    raise TrainingDiverged(
                        f'{what}: outputs are not finite after step {int(state.step)}. '
                        'Lower finetune.full.optimizer.rate_per_256.'
                    )
                # The first process says which epoch is the best.
                loss = processes.share(
                    lambda: self._answers.loss(held, self._answers.read(outputs, train))
                )
                if loss < min(seen, default=np.inf):
                    kept = {'params': state.params, 'model_state': state.model_state}
                    best.save(int(state.step), kept, {})
                    # Whole before the checkpoint of `last` that counts on it.
                    best.wait()
                seen.append(loss)
                return {'validation_loss': loss}

            run_steps(
                state,
                self._step,
                source,
                map(
                    self._parallel.place_feed,
                    row_feeds(
                        train,
                        batch_size=plan.batch_size,
                        steps_per_epoch=steps,
                        seed=self._common.seed + index,
                        first_step=first,
                        shard=Shard.own(),
                    ),
                ),
                self._parallel.replicate(jax.random.fold_in(self._key, 1 + index)),
                rhythm=rhythm,
                images_per_step=plan.batch_size,
                learning_rate=lambda step: ratio * self._schedule(step),
                log=log,
                checkpoints=last,
                monitor=validate,
                what=what,
                window=extra.get('window', ()),
            )
            best_step = best.latest() or 0
        last_loss = processes.share(lambda: log.rows()[-1]['loss'])
        facts = {
            **dataclasses.asdict(trial),
            'best_epoch': round(best_step / steps),
            'validation_loss': min(seen),
            'training_log_loss'
            if data.task.kind != 'regression'
            else 'training_loss': last_loss,
        }
        write_json(done, facts)
        return facts
