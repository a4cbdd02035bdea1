"""An experiment laid out: its data, and the stages that it needs, in order."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl import __version__
from jax_mrissl.audit.findings import Part
from jax_mrissl.audit.overlap import Overlap, find_seen
from jax_mrissl.core import processes
from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.labels import label_rows
from jax_mrissl.data.prepared import PreparedSet, open_fingerprint
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.controls import controls_identity, run_controls
from jax_mrissl.tasks.finetune import Finetuner, expect_batches
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
    Follow,
    lay_out,
    open_data,
    pretrain_identity,
    run_pretrain,
)
from jax_mrissl.tasks.programs import channels_of
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
        by_fold: the same of each fold, where folds chose different ones; else ().
    """

    name: str
    mode: str
    stage: Stage
    origin: 'Origin'
    by_fold: tuple['Origin', ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedExperiment:
    """An experiment whose data are open and whose mistakes have been looked for.

    Attributes:
        experiment: the plans.
        whole: the labelled set, with the rows that are not used.
        data: the labelled images.
        pretraining: the images of the chain, in its order, less what is left out.
        overlap: what pretraining sees of the labelled images.
        outside: the weights that it all starts from; None: random numbers.
        jobs: all stages; each after those whose results it reads.
        chain: the stages of pretraining; where folds chose different ones, those of
            the first fold.
        arms: what is finetuned.
        controls: the stage of baselines and controls.
        parts: what it is put together from, where folds chose different stages.
    """

    experiment: Experiment
    whole: PreparedSet
    data: LabelledData
    pretraining: tuple[PreparedSet, ...]
    overlap: Overlap
    outside: Start | None
    jobs: tuple[Job, ...]
    chain: tuple[Stage, ...]
    arms: tuple[PlannedArm, ...]
    controls: Stage
    parts: tuple['PlannedExperiment', ...] = ()


def told_collapses(planned: PlannedExperiment, store: Store) -> list[str]:
    """Says which stages of pretraining, of those that are done, ended collapsed."""
    found: dict[str, str] = {}
    for one in (planned, *planned.parts):
        for stage, prepared in zip(one.chain, one.pretraining, strict=True):
            if not store.is_done(stage):
                continue
            # Stages of versions that did not look for it tell nothing.
            if signs := store.facts(stage).get('collapse'):
                found[stage.address] = (
                    f'COLLAPSED: pretraining on {prepared.card["title"]} ended with '
                    f'signs of a collapse. {" ".join(signs)} Results of the pretrained '
                    'network say nothing of its method.'
                )
    return list(found.values())


class Shelf:
    """What experiments of one process share: open datasets, folds, finetuners.

    Args:
        finetuners: how many are kept; each holds images and compiled programs.
    """

    def __init__(self, finetuners: int = 1) -> None:
        self._opened: dict[Any, PreparedSet] = {}
        self._labelled: dict[str, LabelledData] = {}
        self._finetuners: dict[str, Finetuner] = {}
        self._most = finetuners

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
        """Gives the finetuner of a plan; the oldest is let go."""
        key = digest([_but_modes(plan), repr(common), data.prepared.fingerprint])
        if key not in self._finetuners:
            while len(self._finetuners) >= self._most:
                del self._finetuners[next(iter(self._finetuners))]
            self._finetuners[key] = Finetuner(plan, common, data)
        return self._finetuners[key]


def _but_modes(plan: FinetunePlan) -> str:
    """Tells plans apart whose data and programs differ: modes share them."""
    return repr(dataclasses.replace(plan, modes=MODES))


def plan_experiment(
    experiment: Experiment,
    store: Store,
    *,
    spare: Path,
    shelf: Shelf | None = None,
    follow: Callable[[int], Follow] | None = None,
    folds: tuple[int, ...] = (),
) -> PlannedExperiment:
    """Opens the data of an experiment, and lays its stages out.

    Args:
        experiment: the plans.
        store: where stages keep their results.
        spare: keeps what an audit finds where `data_dir` cannot be written to.
        shelf: what is shared with other experiments; None: nothing.
        follow: gives who looks on while a stage of the chain, by its number, is
            pretrained; None: nobody does.
        folds: in which the experiment's own arm is finetuned in full; (): in all.

    Raises:
        UserError: a mistake in the config or the data.
    """
    shelf = shelf or Shelf()
    common, plan = experiment.common, experiment.finetune
    pretraining = tuple(shelf.open(p.data, common.data_dir) for p in experiment.chain)
    whole = shelf.open(plan.data, common.data_dir)
    data = shelf.labelled(plan, common)
    _expect_same_channels(experiment, pretraining, data)

    outside = find_start(experiment.init_from) if experiment.init_from else None
    if outside and experiment.overlap != 'allow':
        _refuse_seen(outside.lineage, data.prepared, plan.data.split)
    ancestors = _ancestors(outside.lineage, common.data_dir) if outside else []
    pretraining, overlap = _unseen(experiment, pretraining, ancestors, whole, spare)
    chain = zip(experiment.chain, pretraining, strict=True)
    experiment = dataclasses.replace(
        experiment, chain=tuple(p.in_epochs(len(images)) for p, images in chain)
    )
    jobs: list[Job] = []
    origin = Origin(outside)
    probe_set = _probe_set(data)
    chain = zip(experiment.chain, pretraining, strict=True)
    for number, (stage_plan, prepared) in enumerate(chain):
        looks_on = follow(number) if follow else None
        job = _pretrain_job(
            experiment, stage_plan, prepared, origin, store, probe_set, looks_on
        )
        jobs.append(job)
        origin = Origin(None, job.stage)
    stages = tuple(job.stage for job in jobs)
    arms: list[PlannedArm] = []
    starts = [(experiment.name, origin)] if origin.is_any else []
    for name, begin in [*starts, (UNTRAINED, Origin())]:
        for mode in plan.modes:
            # What is not frozen costs most of all.
            some = folds if mode == 'full' and name != UNTRAINED else ()
            arm, job = _finetune_job(
                experiment, name, mode, begin, data, store, shelf, some
            )
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
        chain=stages,
        arms=tuple(arms),
        controls=controls,
    )


def _expect_same_channels(
    experiment: Experiment, pretraining: Sequence[PreparedSet], data: LabelledData
) -> None:
    """Looks whether one network can look at all views.

    Raises:
        UserError: some have other channels than others.
    """
    plan = experiment.finetune
    seen = [
        ('finetune.evaluation_view', plan.build_evaluation_policy(), data.prepared),
        ('finetune.full.views', plan.build_training_policy(), data.prepared),
    ]
    for stage, prepared in zip(experiment.chain, pretraining, strict=True):
        seen += [
            (f'{stage.where}.views'.removeprefix('config.'), policy, prepared)
            for policy in stage.build_policies()
        ]
    counts = {
        where: channels_of(policy, prepared.image_shape)
        for where, policy, prepared in seen
    }
    if len(set(counts.values())) > 1:
        told = ', '.join(f'{where} {count}' for where, count in counts.items())
        raise UserError(
            'One network looks at all views, and their channels are not as many: '
            f'{told}. `normalize` with as many numbers in each makes them alike.'
        )


def _finetune_job(
    experiment: Experiment,
    name: str,
    mode: str,
    begin: 'Origin',
    data: LabelledData,
    store: Store,
    shelf: Shelf,
    folds: tuple[int, ...],
) -> tuple[PlannedArm, Job]:
    common, plan = experiment.common, experiment.finetune
    if mode == 'full':
        expect_batches(plan, common, data)
    params = {
        **common.identity(),
        **plan.identity(mode),
        **begin.params,
        'data': data.prepared.fingerprint,
        **data.identity(),
        **({'only_folds': list(folds)} if folds else {}),
    }
    stage = Stage('finetune', params, begin.inputs)
    what = f'Finetuning ({name}, {mode})'

    def run(folder: Path) -> Json:
        finetuner = shelf.finetuner(plan, common, data)
        start, lineage = begin.start(store), begin.lineage(stage)
        return finetuner.run(mode, start, folder, lineage, what=what, folds=folds)

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
    follow: Follow | None,
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
            follow=follow,
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
            '--config.overlap=allow: the result is then no test.'
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
        left_out = params.get('left_out', ())
        prepared = open_fingerprint(data_dir, fingerprint, split, left_out=left_out)
        if prepared:
            found.append(Part(prepared.name, split, prepared))
    for parent in lineage.get('parents', ()):
        found += _ancestors(parent, data_dir)
    return found


def _unseen(
    experiment: Experiment,
    pretraining: Sequence[PreparedSet],
    ancestors: list[Part],
    whole: PreparedSet,
    spare: Path,
) -> tuple[tuple[PreparedSet, ...], Overlap]:
    """Looks for labelled subjects in pretraining; refuses, leaves out or allows them.

    Every labelled subject is tested in some fold, so all of them count. So do images
    that the weights of `init_from` were trained on, as far as they are still here:
    those can be refused or allowed only.

    Returns: the images to pretrain on, stage by stage; what they show.

    Raises:
        UserError: they show labelled subjects, and may not.
    """
    plan, data_dir = experiment.finetune, Path(experiment.common.data_dir).expanduser()
    # Of a number the labels are the task's: a set may have no classes. All images of
    # a subject count, also those without a label: they show the subject.
    _, labels = label_rows(plan.task, whole)
    known = np.isin(whole.groups, whole.groups[labels >= 0])
    labelled = whole.select(np.flatnonzero(known))
    own = [
        Part(stage.data.name, stage.data.split, prepared)
        for stage, prepared in zip(experiment.chain, pretraining, strict=True)
    ]
    parts = [*own, *ancestors]
    tested = Part(plan.data.name, plan.data.split, labelled)

    def look() -> Json:
        overlap, shown = find_seen(parts, tested, data_dir, spare=spare)
        rows = [np.flatnonzero(of_part).tolist() for of_part in shown]
        return [overlap.to_json(), rows]

    told, shown = processes.share(look)
    overlap = Overlap.of_json(told)
    if not overlap.images or experiment.overlap == 'allow':
        return tuple(pretraining), overlap
    past = any(shown[len(own) :])
    if experiment.overlap == 'leave_out' and not past:
        kept = tuple(map(_without, pretraining, shown))
        left_out = sum(map(len, pretraining)) - sum(map(len, kept))
        return kept, overlap.after_leaving_out(left_out)
    names = dict.fromkeys([plan.data.name, *(part.name for part in parts)])
    flags = ' '.join(f'--dataset={name}' for name in names)
    way_out = (
        'Start from other weights'
        if past
        else 'Pretrain on other images, leave those and the others of their subjects '
        'out by --config.overlap=leave_out'
    )
    raise UserError(
        f'Pretraining {"would see" if not ancestors else "sees or has seen"} test '
        f'subjects: {overlap.images:,} of the '
        f'{overlap.labelled_images:,} labelled images, of {overlap.subjects:,} of '
        f'the {overlap.labelled_subjects:,} subjects, are among the images of '
        f'pretraining or show the same as {overlap.seen:,} of them. In all: '
        f'{overlap.text}. Look at them:\n'
        f'    python -m jax_mrissl.audit --data_dir={data_dir} {flags} '
        '--out=audit\n'
        f'{way_out}, or set --config.overlap=allow: the table then says so.'
    )


def _without(prepared: PreparedSet, shown: list[int]) -> PreparedSet:
    """Leaves out all images of the subjects of some rows.

    Raises:
        UserError: nothing is left.
    """
    kept = prepared.without(prepared.groups[shown].tolist())
    if not len(kept):
        raise UserError(
            f'Every image of {prepared.name} is of a subject that is tested, so '
            'config.overlap=leave_out leaves none to pretrain on.'
        )
    return kept
