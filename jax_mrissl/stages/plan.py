"""An experiment laid out: its data, and the stages that it needs, in order."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl import __version__
from jax_mrissl.audit.findings import Part
from jax_mrissl.audit.overlap import Overlap, find_overlap
from jax_mrissl.core import processes
from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.prepared import PreparedSet, open_fingerprint
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.controls import controls_identity, run_controls
from jax_mrissl.tasks.finetune import Finetuner
from jax_mrissl.tasks.from_config import (
    MODES,
    Common,
    DataPlan,
    Experiment,
    FinetunePlan,
    Json,
    PretrainPlan,
)
from jax_mrissl.tasks.labelled import LabelledData, label_data
from jax_mrissl.tasks.pooling import UNTRAINED
from jax_mrissl.tasks.pretrain import (
    lay_out,
    open_data,
    pretrain_identity,
    run_pretrain,
)
from jax_mrissl.tasks.watch import ProbeSet
from jax_mrissl.train.checkpoint import Lineage
from jax_mrissl.train.start import CHECKPOINTS, Start, find_start


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage, how to run it, and how to call it.

    Attributes:
        stage: what it is.
        run: does it, in the folder that it is given; JSON facts about the run.
        what: a few words for people.
    """

    stage: Stage
    run: Callable[[Path], Json]
    what: str


@dataclasses.dataclass(frozen=True)
class PlannedArm:
    """An encoder that is put to the task in one mode.

    Attributes:
        name: the experiment's, or 'untrained'.
        mode: 'linear', 'knn' or 'full'.
        stage: its finetuning.
        origin: what its encoder starts from.
    """

    name: str
    mode: str
    stage: Stage
    origin: 'Origin'


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedExperiment:
    """An experiment whose data are open and whose mistakes have been looked for.

    Attributes:
        experiment: the plans.
        whole: the labelled set, with the rows that are not used.
        data: the labelled images.
        pretraining: the datasets of the chain, in its order.
        overlap: what pretraining sees of the labelled images.
        outside: the weights that it all starts from; None: random numbers.
        jobs: all stages; each after those whose results it reads.
        arms: what is finetuned.
        controls: the stage of baselines and controls.
    """

    experiment: Experiment
    whole: PreparedSet
    data: LabelledData
    pretraining: tuple[PreparedSet, ...]
    overlap: Overlap
    outside: Start | None
    jobs: tuple[Job, ...]
    arms: tuple[PlannedArm, ...]
    controls: Stage


class Shelf:
    """What experiments of one process share: open datasets, folds, a finetuner."""

    def __init__(self) -> None:
        self._opened: dict[Any, PreparedSet] = {}
        self._labelled: dict[str, LabelledData] = {}
        # One alone: it holds images and compiled programs.
        self._finetuner: tuple[str, Finetuner] | None = None

    def open(self, plan: DataPlan, data_dir: str) -> PreparedSet:
        """Opens a dataset, once."""
        key = (plan, data_dir)
        if key not in self._opened:
            self._opened[key] = open_data(plan, data_dir)
        return self._opened[key]

    def labelled(self, plan: FinetunePlan, common: Common) -> LabelledData:
        """Gives the labelled images of a plan, the same for equal plans."""
        whole = self.open(plan.data, common.data_dir)
        key = digest([_but_modes(plan), common.data_dir, whole.fingerprint])
        if key not in self._labelled:
            self._labelled[key] = label_data(plan, whole, common)
        return self._labelled[key]

    def finetuner(
        self, plan: FinetunePlan, common: Common, data: LabelledData
    ) -> Finetuner:
        """Gives the finetuner of a plan; the one before is let go."""
        key = digest([_but_modes(plan), repr(common), data.prepared.fingerprint])
        if self._finetuner is None or self._finetuner[0] != key:
            self._finetuner = key, Finetuner(plan, common, data)
        return self._finetuner[1]


def _but_modes(plan: FinetunePlan) -> str:
    """Tells plans apart whose data and programs differ: modes share them."""
    return repr(dataclasses.replace(plan, modes=MODES))


def plan_experiment(
    experiment: Experiment, store: Store, *, spare: Path, shelf: Shelf | None = None
) -> PlannedExperiment:
    """Opens the data of an experiment, and lays its stages out.

    Args:
        experiment: the plans.
        store: where stages keep their results.
        spare: keeps what an audit finds where `data_dir` cannot be written to.
        shelf: what is shared with other experiments; None: nothing.

    Raises:
        UserError: a mistake in the config or the data.
    """
    shelf = shelf or Shelf()
    common, plan = experiment.common, experiment.finetune
    pretraining = tuple(shelf.open(p.data, common.data_dir) for p in experiment.chain)
    whole = shelf.open(plan.data, common.data_dir)
    data = shelf.labelled(plan, common)

    outside = find_start(experiment.init_from) if experiment.init_from else None
    if outside and not experiment.allow_overlap:
        _refuse_seen(outside.lineage, data.prepared, plan.data.split)
    ancestors = _ancestors(outside.lineage, common.data_dir) if outside else []
    overlap = _overlap(experiment, pretraining, ancestors, whole, spare)
    jobs: list[Job] = []
    origin = Origin(outside)
    probe_set = _probe_set(data)
    for stage_plan, prepared in zip(experiment.chain, pretraining, strict=True):
        job = _pretrain_job(experiment, stage_plan, prepared, origin, store, probe_set)
        jobs.append(job)
        origin = Origin(None, job.stage)
    arms: list[PlannedArm] = []
    starts = [(experiment.name, origin)] if origin.is_any else []
    for name, begin in [*starts, (UNTRAINED, Origin())]:
        for mode in plan.modes:
            arm, job = _finetune_job(experiment, name, mode, begin, data, store, shelf)
            arms.append(arm)
            jobs.append(job)
    controls = Stage('controls', controls_identity(plan, data))
    every_slice = dataclasses.replace(plan, slices_per_group=0)

    def run_baselines(folder: Path) -> Json:
        whole = shelf.labelled(every_slice, common)
        return processes.share(lambda: run_controls(data, whole, folder))

    jobs.append(Job(controls, run_baselines, 'Baselines and controls'))
    return PlannedExperiment(
        experiment=experiment,
        whole=whole,
        data=data,
        pretraining=pretraining,
        overlap=overlap,
        outside=outside,
        jobs=tuple(jobs),
        arms=tuple(arms),
        controls=controls,
    )


def _finetune_job(
    experiment: Experiment,
    name: str,
    mode: str,
    begin: 'Origin',
    data: LabelledData,
    store: Store,
    shelf: Shelf,
) -> tuple[PlannedArm, Job]:
    common, plan = experiment.common, experiment.finetune
    params = {
        **common.identity(),
        **plan.identity(mode),
        **begin.params,
        'data': data.prepared.fingerprint,
        **data.identity(),
    }
    stage = Stage('finetune', params, begin.inputs)
    what = f'Finetuning ({name}, {mode})'

    def run(folder: Path) -> Json:
        finetuner = shelf.finetuner(plan, common, data)
        start, lineage = begin.start(store), begin.lineage(stage)
        return finetuner.run(mode, start, folder, lineage, what=what)

    return PlannedArm(name, mode, stage, begin), Job(stage, run, what)


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an encoder starts from: weights from outside, a stage, or neither."""

    outside: Start | None = None
    stage: Stage | None = None

    @property
    def is_any(self) -> bool:
        """Whether there is anything."""
        return bool(self.outside or self.stage)

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """Gives the stages whose results what starts from this reads."""
        return (self.stage,) if self.stage else ()

    @property
    def params(self) -> dict[str, str]:
        """Gives what of this belongs to the address of what starts from it."""
        return {'init_from': self.outside.address} if self.outside else {}

    def start(self, store: Store) -> Start | None:
        """Gives the weights; None: random numbers."""
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
    origin: Origin,
    store: Store,
    probe_set: ProbeSet,
) -> Job:
    common = experiment.common
    lay_out(plan, common, prepared)  # mistakes show before any work is done
    params = {**pretrain_identity(plan, common, prepared), **origin.params}
    stage = Stage('pretrain', params, origin.inputs)
    what = f'Pretraining ({plan.method["name"]} on {prepared.name})'

    def run(folder: Path) -> Json:
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

    return Job(stage, run, what)


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
    pretraining: Sequence[PreparedSet],
    ancestors: list[Part],
    whole: PreparedSet,
    spare: Path,
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
    part = Part(plan.data.name, plan.data.split, labelled)
    overlap = Overlap.of_json(
        processes.share(
            lambda: find_overlap(parts, part, data_dir, spare=spare).to_json()
        )
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
