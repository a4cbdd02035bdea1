"""Finetuning on labelled subjects: every fold, by linear probe or in full."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import MetricsLog, read_json, write_json
from jax_mrissl.data.labels import LabelTask, label_task
from jax_mrissl.data.pipeline import Resident, Shard, resident, row_feeds
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.splits import Fold, folds
from jax_mrissl.metrics.calibration import fit_temperature, softmax
from jax_mrissl.metrics.classification import by_subject, log_loss
from jax_mrissl.metrics.linear import fit_linear_probe
from jax_mrissl.objectives.classifier import Classifier
from jax_mrissl.tasks.from_config import Common, FinetunePlan, Json
from jax_mrissl.tasks.pretrain import device_in_words
from jax_mrissl.tasks.programs import RowProgram, embedding, training_program
from jax_mrissl.train.checkpoint import Checkpoints, Lineage
from jax_mrissl.train.loop import Rhythm, run_steps
from jax_mrissl.train.parallel import choose_parallel
from jax_mrissl.train.start import Start
from jax_mrissl.train.state import TrainState, initial_state

PREDICTIONS = 'predictions.npz'
PROBE = 'probe.npz'


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledData:
    """The labelled images of an experiment, and who is in which fold.

    Attributes:
        prepared: the rows that are used, all of them labelled.
        task: what is told apart.
        labels: int32 [n], class numbers of the task.
        folds: of subjects.
        warnings: what a reader of the folds must know.
    """

    prepared: PreparedSet
    task: LabelTask
    labels: np.ndarray
    folds: tuple[Fold, ...]
    warnings: tuple[str, ...]

    def rows(self, subjects: frozenset[str]) -> np.ndarray:
        """Gives the rows of some subjects, int [k], in order."""
        return np.flatnonzero([g in subjects for g in self.prepared.groups])


def label_data(plan: FinetunePlan, whole: PreparedSet) -> LabelledData:
    """Chooses the labelled rows and makes the folds.

    Folds are keyed by all of a subject's images, so that they hold when only some of
    its slices are used.
    """
    whole = whole.select(np.flatnonzero(whole.labels >= 0))
    if len(whole) == 0:
        raise UserError(
            f'No image of {whole.name} has a label: nothing to finetune on.'
        )
    task = label_task(plan.task, tuple(whole.card['classes']))
    labels = task.labels(whole.labels)
    made, warnings = folds(
        whole.groups,
        labels,
        whole.pixel_sha256,
        classes=task.classes,
        count=plan.folds,
        seed=plan.fold_seed,
    )
    rows = central_slices(whole, plan.slices_per_group)
    return LabelledData(whole.select(rows), task, labels[rows], made, tuple(warnings))


def central_slices(prepared: PreparedSet, count: int) -> np.ndarray:
    """Gives the rows of each subject's `count` central slices; all if `count` is 0."""
    if count == 0:
        return np.arange(len(prepared))
    kept = []
    for group in np.unique(prepared.groups):
        rows = np.flatnonzero(prepared.groups == group)
        order = np.lexsort((prepared.file_ids[rows], prepared.positions[rows]))
        start = max(0, (len(rows) - count) // 2)
        kept.append(rows[order][start : start + count])
    return np.sort(np.concatenate(kept))


class Finetuner:
    """Finetunes encoders on one labelled set; arms share data and compilations.

    Args:
        plan, common: the declaration.
        data: the labelled images.
    """

    def __init__(self, plan: FinetunePlan, common: Common, data: LabelledData):
        self._plan, self._common, self._data = plan, common, data
        self._parallel = choose_parallel(common.parallel, plan.full.batch_size)
        self._key = jax.random.key(common.seed)

    def run(
        self,
        mode: str,
        start_from: Start | None,
        folder: Path,
        lineage: Lineage,
        *,
        what: str,
    ) -> Json:
        """Finetunes in all folds; writes `fold-N/predictions.npz` for each.

        Args:
            mode: 'linear' or 'full'.
            start_from: a pretrained encoder; None: an untrained one.
            folder: the stage's.
            lineage: written into each checkpoint.
            what: a few words for the progress bar.

        Returns: JSON facts about the run.
        """
        began = time.monotonic()
        state = self._parallel.replicate(self._initial)
        if start_from is not None:
            state = start_from.give_to(state)
        if mode == 'linear':
            facts = self._run_linear(state, folder, what)
        else:
            facts = [
                self._run_fold(index, fold, state, folder, lineage, what)
                for index, fold in enumerate(self._data.folds)
            ]
        return {
            'folds': facts,
            'seconds_of_last_start': round(time.monotonic() - began, 1),
            'device': device_in_words(),
        }

    # What the arms share, made when the first needs it.

    @functools.cached_property
    def _source(self) -> Resident:
        held = dataclasses.replace(
            resident(self._data.prepared), label=self._data.labels
        )
        return self._parallel.replicate(held)

    @functools.cached_property
    def _objective(self) -> Classifier:
        return Classifier(
            self._common.build_encoder(),
            (self._plan.build_training_policy(),),
            len(self._data.task.classes),
        )

    @functools.cached_property
    def _steps_per_epoch(self) -> int:
        """The same for all folds, so that they share a schedule and a compilation."""
        batch = self._plan.full.batch_size
        smallest = min(len(self._data.rows(f.train)) for f in self._data.folds)
        if smallest < batch:
            raise UserError(
                f'finetune.full.batch_size is {batch}, but a fold has only {smallest} '
                'training images. Set it to at most that.'
            )
        return smallest // batch

    @functools.cached_property
    def _schedule(self) -> Any:
        return self._plan.build_optimizer().schedule(
            batch_size=self._plan.full.batch_size,
            steps_per_epoch=self._steps_per_epoch,
            steps=self._plan.full.epochs * self._steps_per_epoch,
        )

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        rule = self._plan.build_optimizer().transform
        return self._objective.optimize(rule, self._schedule)

    @functools.cached_property
    def _initial(self) -> TrainState:
        """The untrained state; every fold and arm starts with the same head."""
        size = self._plan.image_size
        shape = (size, size, 3)
        return jax.jit(
            lambda key: initial_state(self._objective, self._optimizer, key, shape)
        )(jax.random.fold_in(self._key, 0))

    @functools.cached_property
    def _step(self) -> Any:
        return training_program(self._objective, self._optimizer, self._parallel)

    @functools.cached_property
    def _logits(self) -> RowProgram:
        return self._row_program(self._objective.logits)

    @functools.cached_property
    def _features(self) -> RowProgram:
        return self._row_program(embedding(self._objective.encoder))

    def _row_program(self, network: Any) -> RowProgram:
        policy = self._plan.build_evaluation_policy()
        return RowProgram(network, policy, self._plan.evaluation_batch_size)

    # The two modes.

    def _run_linear(self, state: TrainState, folder: Path, what: str) -> list[Json]:
        data = self._data
        logging.info('%s: features of %d images.', what, len(data.labels))
        features = self._features(
            state.params, state.model_state, self._source, np.arange(len(data.labels))
        )
        facts = []
        for index, fold in enumerate(data.folds):
            train, held = data.rows(fold.train), data.rows(fold.validation)
            probe = fit_linear_probe(
                features[train],
                data.labels[train],
                features[held],
                data.labels[held],
                data.prepared.groups[held],
                classes=len(data.task.classes),
                l2_strengths=self._plan.linear.l2_strengths,
            )
            facts.append(
                {
                    'l2_strength': probe.l2_strength,
                    'training_log_loss': probe.training_log_loss,
                    'converged': probe.converged,
                    'strength_at_edge_of_grid': probe.at_edge,
                }
            )
            test = data.rows(fold.test)
            own = folder / f'fold-{index}'
            own.mkdir(parents=True, exist_ok=True)
            probe.model.save(own / PROBE)
            self._write_predictions(
                own,
                validation=(held, probe.logits(features[held])),
                test=(test, probe.logits(features[test])),
            )
        return facts

    def _run_fold(
        self,
        index: int,
        fold: Fold,
        start: TrainState,
        folder: Path,
        lineage: Lineage,
        what: str,
    ) -> Json:
        folder = folder / f'fold-{index}'
        done = folder / 'done.json'
        if done.exists():
            return read_json(done)
        data, plan = self._data, self._plan.full
        what = f'{what}, fold {index + 1} of {len(data.folds)}'
        steps = self._steps_per_epoch
        rhythm = Rhythm(
            steps=plan.epochs * steps,
            steps_per_epoch=steps,
            log_every=steps,
            checkpoint_every=plan.checkpoint_every_epochs * steps,
            monitor_every=steps,
        )
        held = data.rows(fold.validation)
        log = MetricsLog(folder / 'metrics.jsonl')
        # The step donates its state, and the next fold starts from the same one.
        state = jax.tree.map(lambda leaf: leaf.copy(), start)
        with (
            Checkpoints(folder / 'last', lineage) as last,
            Checkpoints(folder / 'best', lineage) as best,
        ):
            if last.latest() is not None:
                state, _ = last.restore(state)
            first = int(state.step)
            log.rewind(first)
            # What counts as the best so far is read off the log, which was cut to the
            # checkpoint: so a fold that was killed goes on as if it had not been.
            seen = [row['validation_log_loss'] for row in log.rows()]

            def validate(state: TrainState, _: Any) -> dict[str, float]:
                logits = self._logits(
                    state.params, state.model_state, self._source, held
                )
                loss = self._subject_log_loss(held, logits)
                if loss < min(seen, default=np.inf):
                    kept = {'params': state.params, 'model_state': state.model_state}
                    best.save(int(state.step), kept, {})
                    # Whole before the checkpoint of `last` that counts on it.
                    best.wait()
                seen.append(loss)
                return {'validation_log_loss': loss}

            state = run_steps(
                state,
                self._step,
                self._source,
                map(
                    self._parallel.place_feed,
                    row_feeds(
                        data.rows(fold.train),
                        batch_size=plan.batch_size,
                        steps_per_epoch=steps,
                        seed=self._common.seed + index,
                        first_step=first,
                        shard=Shard(jax.process_index(), jax.process_count()),
                    ),
                ),
                self._parallel.replicate(jax.random.fold_in(self._key, 1 + index)),
                rhythm=rhythm,
                images_per_step=plan.batch_size,
                learning_rate=self._schedule,
                log=log,
                checkpoints=last,
                monitor=validate,
                what=what,
            )
            kept, _ = best.restore(
                {'params': state.params, 'model_state': state.model_state}
            )
            best_step = best.latest()
        test = data.rows(fold.test)

        def logits(rows: np.ndarray) -> np.ndarray:
            return self._logits(kept['params'], kept['model_state'], self._source, rows)

        self._write_predictions(
            folder, validation=(held, logits(held)), test=(test, logits(test))
        )
        rows = log.rows()
        facts = {
            'best_epoch': round((best_step or 0) / steps),
            'validation_log_loss': min(row['validation_log_loss'] for row in rows),
            'training_log_loss': rows[-1]['loss'],
        }
        write_json(done, facts)
        return facts

    def _subject_log_loss(self, rows: np.ndarray, logits: np.ndarray) -> float:
        labels, groups = self._data.labels[rows], self._data.prepared.groups[rows]
        subjects = by_subject(softmax(logits), labels, groups)
        return float(log_loss(subjects.probabilities, subjects.labels))

    def _write_predictions(
        self,
        folder: Path,
        *,
        validation: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Writes test probabilities, calibrated by the validation part."""
        held, held_logits = validation
        rows, logits = test
        temperature = fit_temperature(held_logits, self._data.labels[held])
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            folder / PREDICTIONS,
            file_ids=self._data.prepared.file_ids[rows],
            groups=self._data.prepared.groups[rows],
            labels=self._data.labels[rows],
            logits=logits.astype(np.float64),
            validation_file_ids=self._data.prepared.file_ids[held],
            validation_groups=self._data.prepared.groups[held],
            validation_labels=self._data.labels[held],
            validation_logits=held_logits.astype(np.float64),
            temperature=np.float64(temperature),
            probabilities=softmax(logits.astype(np.float64) / temperature),
        )
