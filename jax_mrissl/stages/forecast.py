"""What a study would cost, before it is spent: time, from a few steps, and disk."""

import dataclasses
from collections.abc import Callable

from jax_mrissl.core.progress import duration
from jax_mrissl.stages.plan import Job, PlannedExperiment
from jax_mrissl.stages.study import Study
from jax_mrissl.tasks.cost import Cost, Meter

_FEW = 12


@dataclasses.dataclass(frozen=True)
class _Stage:
    job: Job
    cost: Callable[[], Cost]


def forecast_text(study: Study) -> str:
    """Says what a study would do, how long it may take, and what disk it needs.

    A few training steps of each kind are measured, on this machine as it is now: what a
    method costs is taken to be alike for all images.
    """
    lines = []
    left = list(_left(study, Meter()).values())
    total, done = study.counts()
    lines.append(f'{total} stages in all; {done} are done, {len(left)} are left.')
    seconds = 0.0
    size = 0
    for stage in left:
        what = stage.job.what
        cost = stage.cost()
        seconds += cost.seconds
        size += cost.bytes
        failed = ' (failed before)' if study.failure(stage.job) else ''
        lines.append(
            f'  {what}{failed}: about {duration(cost.seconds)}, '
            f'{cost.bytes / 1e6:.0f} MB'
        )
    lines.append(
        f'In all about {duration(seconds)} with one process here, and '
        f'{size / 1e9:.2f} GB. What is chosen by validation (finalists) comes on top.'
    )
    for folder, why in list(study.refused.items())[:_FEW]:
        lines.append(f'Cannot be run: {folder}. {why}')
    if len(study.refused) > _FEW:
        lines.append(f'… and {len(study.refused) - _FEW} more.')
    return '\n'.join(lines)


def _left(study: Study, meter: Meter) -> dict[str, _Stage]:
    """Gives the stages that are not done, by address, in the order of work."""
    found: dict[str, _Stage] = {}
    whole = [part for p in study.planned for part in (*p.parts, p)]
    for planned in whole:
        for job in planned.jobs:
            if not study.is_done(job):
                cost = _cost(planned, job, meter)
                found.setdefault(job.stage.address, _Stage(job, cost))
    order = sorted(found, key=lambda a: found[a].job.stage.kind != 'pretrain')
    return {address: found[address] for address in order}


def _cost(planned: PlannedExperiment, job: Job, meter: Meter) -> Callable[[], Cost]:
    experiment = planned.experiment
    common = experiment.common
    if job.stage in planned.chain:
        index = planned.chain.index(job.stage)
        plan, prepared = experiment.chain[index], planned.pretraining[index]
        return lambda: meter.pretraining(plan, common, prepared)
    if job.stage.kind == 'by_fold':
        return lambda: Cost(seconds=1, bytes=1_000_000)
    for arm in planned.arms:
        if arm.stage.address == job.stage.address:
            mode = arm.mode
            return lambda: meter.finetuning(
                mode, experiment.finetune, common, planned.data
            )
    return lambda: Cost(seconds=len(planned.whole) / 300, bytes=1_000_000)
