"""An experiment whose folds chose different settings, put together from several."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jax_mrissl.core.errors import UserError
from jax_mrissl.stages.plan import (
    Job,
    PlannedArm,
    PlannedExperiment,
    Shelf,
    plan_experiment,
)
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.from_config import Experiment, Json
from jax_mrissl.tasks.pooling import UNTRAINED


def plan_by_fold(
    experiments: Sequence[Experiment],
    store: Store,
    *,
    spare: Path,
    shelf: Shelf | None = None,
) -> PlannedExperiment:
    """Lays out an experiment whose folds have plans of pretraining of their own.

    Each fold's predictions, network and facts are those of its own plan; a stage of its
    own puts them into one folder, so that whoever reads an arm need not know of it.

    Args:
        experiments: the plan of each fold; they differ in pretraining alone.
        store, spare, shelf: as in `plan_experiment`.

    Raises:
        UserError: a mistake in the config or the data, or another number of folds.
    """
    distinct: list[Experiment] = []
    which = []
    for experiment in experiments:
        if experiment not in distinct:
            distinct.append(experiment)
        which.append(distinct.index(experiment))
    parts = tuple(
        plan_experiment(
            experiment,
            store,
            spare=spare,
            shelf=shelf,
            folds=_folds_of(number, which) if len(distinct) > 1 else (),
        )
        for number, experiment in enumerate(distinct)
    )
    first = parts[0]
    if len(first.data.folds) != len(which):
        raise UserError(
            f'Settings were chosen in {len(which)} folds, and there are '
            f'{len(first.data.folds)}: search again.'
        )
    if len(parts) == 1:
        return first
    # Equal stages of the parts are done once; the order stays that of what each needs.
    jobs = [job for part in parts for job in part.jobs]
    arms = []
    for index, arm in enumerate(first.arms):
        if arm.name == UNTRAINED:
            arms.append(arm)
            continue
        own = [part.arms[index] for part in parts]
        stage = Stage(
            'by_fold',
            {'parts': which, 'mode': arm.mode},
            tuple(one.stage for one in own),
        )
        origins = tuple(own[number].origin for number in which)
        arms.append(PlannedArm(arm.name, arm.mode, stage, arm.origin, origins))
        jobs.append(_job(stage, arm, which, store))
    return dataclasses.replace(first, jobs=tuple(jobs), arms=tuple(arms), parts=parts)


def _folds_of(number: int, which: Sequence[int]) -> tuple[int, ...]:
    return tuple(fold for fold, own in enumerate(which) if own == number)


def _job(stage: Stage, arm: PlannedArm, which: Sequence[int], store: Store) -> Job:
    def run(folder: Path) -> Json:
        facts = []
        for fold, number in enumerate(which):
            source = stage.inputs[number]
            own = _folds_of(number, which)
            told = store.facts(source)['folds']
            # In full the part has been run in its own folds alone.
            facts.append(told[own.index(fold) if len(told) == len(own) else fold])
            _link(store.folder(source) / f'fold-{fold}', folder / f'fold-{fold}')
        return {'folds': facts, 'seconds_of_last_start': 0.0, 'device': 'host'}

    return Job(stage, run, f'Folds put together ({arm.name}, {arm.mode})')


def _link(source: Path, target: Path) -> None:
    """Gives a folder's files a second name; copies them where that is not to be had."""
    temporary = target.with_name(f'.{target.name}.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link_file)
    os.replace(temporary, target)


def _link_file(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
