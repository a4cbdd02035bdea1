"""Runs an experiment: the stages that are missing, in order; then its table."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.evaluate import UNTRAINED, Arm, evaluate
from jax_mrissl.tasks.finetune import Finetuner, label_data
from jax_mrissl.tasks.from_config import Experiment, PretrainPlan
from jax_mrissl.tasks.pretrain import (
    CHECKPOINTS,
    lay_out,
    make_lineage,
    open_data,
    pretrain_identity,
    run_pretrain,
)


@dataclasses.dataclass(frozen=True)
class _Job:
    """A stage, how to run it, and how to call it."""

    stage: Stage
    run: Callable[[Path], Any]
    what: str


def run_experiment(experiment: Experiment, workdir: Path) -> str:
    """Runs what is not done yet, and writes the results.

    Args:
        experiment: the plans.
        workdir: gets `stages/`, `folds.json`, `metrics.json` and `results.md`.

    Returns: the table, as text for a terminal.

    Raises:
        UserError: a mistake in the config or the data, before any work is done.
    """
    store = Store(workdir / 'stages')
    common, plan = experiment.common, experiment.finetune
    pretraining = [open_data(p.data, common.data_dir) for p in experiment.chain]
    data = label_data(plan, open_data(plan.data, common.data_dir))
    overlap = _overlap(experiment, pretraining, data.prepared)

    jobs: list[_Job] = []
    parents: tuple[Stage, ...] = ()
    for stage_plan, prepared in zip(experiment.chain, pretraining, strict=True):
        job = _pretrain_job(experiment, stage_plan, prepared, parents, store)
        jobs.append(job)
        parents = (job.stage,)
    finetuner = Finetuner(plan, common, data)
    arms: list[tuple[str, str, Stage]] = []
    starts = [(experiment.name, parents)] if parents else []
    for name, inputs in [*starts, (UNTRAINED, ())]:
        for mode in plan.modes:
            params = {
                **common.identity(),
                **plan.identity(mode),
                'data': data.prepared.fingerprint,
            }
            stage = Stage('finetune', params, inputs)
            what = f'Finetuning ({name}, {mode})'

            def run(
                folder: Path,
                mode: str = mode,
                inputs: tuple[Stage, ...] = inputs,
                stage: Stage = stage,
                what: str = what,
            ) -> Any:
                start = store.folder(inputs[0]) / CHECKPOINTS if inputs else None
                lineage = make_lineage(
                    stage.address, tuple(s.address for s in inputs), data.prepared
                )
                return finetuner.run(mode, start, folder, lineage, what=what)

            jobs.append(_Job(stage, run, what))
            arms.append((name, mode, stage))

    waiting = [job for job in jobs if not store.is_done(job.stage)]
    if not waiting:
        logging.info('All %d stages of this experiment are done.', len(jobs))
    for job in waiting:
        logging.info('%s: starts.', job.what)
        facts = job.run(store.folder(job.stage))
        store.mark_done(job.stage, facts)
        logging.info('%s: done.', job.what)
    found = [Arm(name, mode, store.folder(stage)) for name, mode, stage in arms]
    return evaluate(
        found,
        {
            arm.folder: store.facts(stage)['folds']
            for arm, (_, _, stage) in zip(found, arms, strict=True)
        },
        data,
        workdir,
        experiment=experiment,
        overlap=overlap,
        pretrained_on=[prepared.card for prepared in pretraining],
    )


def _pretrain_job(
    experiment: Experiment,
    plan: PretrainPlan,
    prepared: PreparedSet,
    parents: tuple[Stage, ...],
    store: Store,
) -> _Job:
    common = experiment.common
    lay_out(plan, common, prepared)  # mistakes show before any work is done
    stage = Stage('pretrain', pretrain_identity(plan, common, prepared), parents)
    what = f'Pretraining ({plan.method["name"]} on {prepared.name})'

    def run(folder: Path) -> Any:
        lineage = make_lineage(
            stage.address, tuple(s.address for s in parents), prepared
        )
        start = store.folder(parents[0]) / CHECKPOINTS if parents else None
        return run_pretrain(
            plan, common, prepared, folder, lineage, start_from=start, what=what
        )

    return _Job(stage, run, what)


def _overlap(
    experiment: Experiment, pretraining: list[PreparedSet], labelled: PreparedSet
) -> int:
    """Counts labelled images that pretraining sees; refuses them unless allowed."""
    seen: set[str] = set()
    for prepared in pretraining:
        seen |= set(prepared.pixel_sha256)
    count = int(np.sum([sha in seen for sha in labelled.pixel_sha256]))
    if count and not experiment.allow_overlap:
        raise UserError(
            f'{count} of the {len(labelled)} labelled images are, pixel by pixel, '
            'among the images of pretraining, so that test subjects would have been '
            'seen before the test. Pretrain on other images, or set '
            '--config.allow_overlap=true: the table then says so.'
        )
    return count
