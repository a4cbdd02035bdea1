"""Runs an experiment: the stages that are missing, in order; then its table."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jax_mrissl import __version__
from jax_mrissl.audit.findings import Part
from jax_mrissl.audit.overlap import Overlap, find_overlap
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.prepared import PreparedSet, open_fingerprint
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.controls import baseline_arms, controls_identity, run_controls
from jax_mrissl.tasks.evaluate import evaluate
from jax_mrissl.tasks.finetune import Finetuner
from jax_mrissl.tasks.from_config import Experiment, PretrainPlan
from jax_mrissl.tasks.labelled import LabelledData, label_data
from jax_mrissl.tasks.opened_run import OpenedArm, write_arms
from jax_mrissl.tasks.page import FinishedRun, write_page
from jax_mrissl.tasks.pooling import UNTRAINED, Arm
from jax_mrissl.tasks.pretrain import (
    lay_out,
    open_data,
    pretrain_identity,
    run_pretrain,
)
from jax_mrissl.tasks.training_facts import write_training_facts
from jax_mrissl.tasks.watch import ProbeSet
from jax_mrissl.train.checkpoint import Lineage
from jax_mrissl.train.start import CHECKPOINTS, Start, find_start


@dataclasses.dataclass(frozen=True)
class _Job:
    """A stage, how to run it, and how to call it."""

    stage: Stage
    run: Callable[[Path], Any]
    what: str


def run_experiment(experiment: Experiment, workdir: Path, *, command: str = '') -> str:
    """Runs what is not done yet, and writes the results.

    Args:
        experiment: the plans.
        workdir: gets `stages/`, `folds.json`, `metrics.json`, `results.md` and the
            page.
        command: what repeats this, for the page; '': no command does.

    Returns: the table, as text for a terminal.

    Raises:
        UserError: a mistake in the config or the data, before any work is done.
    """
    store = Store(workdir / 'stages')
    common, plan = experiment.common, experiment.finetune
    pretraining = [open_data(p.data, common.data_dir) for p in experiment.chain]
    whole = open_data(plan.data, common.data_dir)
    data = label_data(plan, whole, common)

    jobs: list[_Job] = []
    outside = find_start(experiment.init_from) if experiment.init_from else None
    origin = _Origin(outside)
    if outside and not experiment.allow_overlap:
        _refuse_seen(outside.lineage, data.prepared, plan.data.split)
    ancestors = _ancestors(outside.lineage, common.data_dir) if outside else []
    overlap = _overlap(experiment, pretraining, ancestors, whole, workdir)
    probe_set = _probe_set(data)
    for stage_plan, prepared in zip(experiment.chain, pretraining, strict=True):
        job = _pretrain_job(experiment, stage_plan, prepared, origin, store, probe_set)
        jobs.append(job)
        origin = _Origin(None, job.stage)
    finetuner = Finetuner(plan, common, data)
    arms: list[tuple[str, str, Stage, _Origin]] = []
    starts = [(experiment.name, origin)] if origin.is_any else []
    for name, begin in [*starts, (UNTRAINED, _Origin())]:
        for mode in plan.modes:
            params = {
                **common.identity(),
                **plan.identity(mode),
                **begin.params,
                'data': data.prepared.fingerprint,
                **data.identity(),
            }
            stage = Stage('finetune', params, begin.inputs)
            what = f'Finetuning ({name}, {mode})'

            def run(
                folder: Path,
                mode: str = mode,
                begin: _Origin = begin,
                stage: Stage = stage,
                what: str = what,
            ) -> Any:
                return finetuner.run(
                    mode, begin.start(store), folder, begin.lineage(stage), what=what
                )

            jobs.append(_Job(stage, run, what))
            arms.append((name, mode, stage, begin))

    controls = Stage('controls', controls_identity(plan, data))
    every_slice = label_data(
        dataclasses.replace(plan, slices_per_group=0), whole, common
    )
    run_all = functools.partial(run_controls, data, every_slice)
    jobs.append(_Job(controls, run_all, 'Baselines and controls'))

    waiting = [job for job in jobs if not store.is_done(job.stage)]
    if not waiting:
        logging.info('All %d stages of this experiment are done.', len(jobs))
    for job in waiting:
        logging.info('%s: starts.', job.what)
        facts = job.run(store.folder(job.stage))
        store.mark_done(job.stage, facts)
        logging.info('%s: done.', job.what)
    found = [Arm(name, mode, store.folder(stage)) for name, mode, stage, _ in arms]
    table = evaluate(
        [*found, *baseline_arms(data, store.folder(controls))],
        {
            arm.folder: store.facts(stage)['folds']
            for arm, (_, _, stage, _) in zip(found, arms, strict=True)
        },
        data,
        workdir,
        experiment=experiment,
        overlap=overlap,
        pretrained_on=[prepared.card for prepared in pretraining],
        started_from=outside.name if outside else '',
    )
    opened = [
        OpenedArm(name, mode, store.folder(stage), begin.start(store))
        for name, mode, stage, begin in arms
    ]
    write_training_facts(write_arms(experiment, data, opened, workdir), data)
    write_page(
        FinishedRun(
            experiment=experiment,
            data=data,
            pretraining=tuple(pretraining),
            pretrain_folders=tuple(
                store.folder(job.stage) for job in jobs if job.stage.kind == 'pretrain'
            ),
            arms=tuple(found),
            controls_folder=store.folder(controls),
            command=command,
        ),
        workdir,
    )
    return table


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What an encoder starts from: weights from outside, a stage, or neither."""

    outside: Start | None = None
    stage: Stage | None = None

    @property
    def is_any(self) -> bool:
        return bool(self.outside or self.stage)

    @property
    def inputs(self) -> tuple[Stage, ...]:
        return (self.stage,) if self.stage else ()

    @property
    def params(self) -> dict[str, str]:
        """Gives what of this belongs to the address of what starts from it."""
        return {'init_from': self.outside.address} if self.outside else {}

    def start(self, store: Store) -> Start | None:
        if self.stage is None:
            return self.outside
        folder = store.folder(self.stage) / CHECKPOINTS
        return Start(folder, self.stage.address, self.stage.to_json())

    def lineage(self, stage: Stage) -> Lineage:
        """Makes the lineage of the checkpoints of a stage that starts from this."""
        parents: list[Any] = [parent.to_json() for parent in stage.inputs]
        if self.outside:
            parents.append(self.outside.lineage)
        return Lineage(stage.address, stage.params, tuple(parents), __version__)


def _pretrain_job(
    experiment: Experiment,
    plan: PretrainPlan,
    prepared: PreparedSet,
    origin: _Origin,
    store: Store,
    probe_set: ProbeSet,
) -> _Job:
    common = experiment.common
    lay_out(plan, common, prepared)  # mistakes show before any work is done
    params = {**pretrain_identity(plan, common, prepared), **origin.params}
    stage = Stage('pretrain', params, origin.inputs)
    what = f'Pretraining ({plan.method["name"]} on {prepared.name})'

    def run(folder: Path) -> Any:
        return run_pretrain(
            plan,
            common,
            prepared,
            folder,
            origin.lineage(stage),
            start_from=origin.start(store),
            probe_set=probe_set,
            what=what,
        )

    return _Job(stage, run, what)


def _probe_set(data: LabelledData) -> ProbeSet:
    """Gives pretraining the labelled images that it may be tried on."""
    first = data.folds[0]
    return ProbeSet(
        prepared=data.prepared,
        labels=data.labels,
        train=data.rows(first.train),
        held=data.rows(first.validation),
        classes=data.task.classes,
    )


def _refuse_seen(lineage: Any, labelled: PreparedSet, split: str) -> None:
    """Refuses weights that come from a run on the labelled set itself.

    Args:
        lineage: JSON of a checkpoint or file, with those of its parents in it.
        labelled: the labelled images.
        split: theirs.

    Raises:
        UserError: they do.
    """
    params = lineage.get('params', {})
    same_split = 'all' in (split, params.get('split')) or split == params.get('split')
    if params.get('data') == labelled.fingerprint and same_split:
        raise UserError(
            f'config.init_from names weights that were trained on {labelled.name}, '
            'which they are to be tested on. Start from others, or set '
            '--config.allow_overlap=true: the result is then no test.'
        )
    for parent in lineage.get('parents', ()):
        _refuse_seen(parent, labelled, split)


def _ancestors(lineage: Any, data_dir: str) -> list[Part]:
    """Gives the images that weights come from, those that are in `data_dir`.

    Args:
        lineage: JSON of a checkpoint or file, with those of its parents in it.
        data_dir: where prepared datasets are.
    """
    found = []
    params = lineage.get('params', {})
    if fingerprint := params.get('data'):
        split = params.get('split', 'all')
        if prepared := open_fingerprint(data_dir, fingerprint, split):
            found.append(Part(prepared.name, split, prepared))
    for parent in lineage.get('parents', ()):
        found += _ancestors(parent, data_dir)
    return found


def _overlap(
    experiment: Experiment,
    pretraining: list[PreparedSet],
    ancestors: list[Part],
    whole: PreparedSet,
    workdir: Path,
) -> Overlap:
    """Looks for labelled images in pretraining; refuses them unless allowed.

    Every labelled subject is tested in some fold, so all of them count. So do images
    that the weights of `init_from` were trained on, as far as they are still here.
    """
    plan, data_dir = experiment.finetune, Path(experiment.common.data_dir).expanduser()
    labelled = whole.select(np.flatnonzero(whole.labels >= 0))
    parts = [
        Part(stage.data.name, stage.data.split, prepared)
        for stage, prepared in zip(experiment.chain, pretraining, strict=True)
    ]
    parts += ancestors
    overlap = find_overlap(
        parts,
        Part(plan.data.name, plan.data.split, labelled),
        data_dir,
        spare=workdir / 'audit',
    )
    if overlap.images and not experiment.allow_overlap:
        names = dict.fromkeys([plan.data.name, *(part.name for part in parts)])
        flags = ' '.join(f'--dataset={name}' for name in names)
        raise UserError(
            f'Pretraining {"would see" if not ancestors else "sees or has seen"} test '
            f'subjects: {overlap.images:,} of the '
            f'{overlap.labelled_images:,} labelled images, of {overlap.subjects:,} of '
            f'the {overlap.labelled_subjects:,} subjects, are among the images of '
            f'pretraining or show the same as {overlap.seen:,} of them. In all: '
            f'{overlap.text}. Look at them:\n'
            f'    python -m jax_mrissl.audit --data_dir={data_dir} {flags} '
            '--out=audit\n'
            'Pretrain on other images, or set --config.allow_overlap=true: the table '
            'then says so.'
        )
    return overlap
