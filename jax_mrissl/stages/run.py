"""Runs an experiment: the stages that are missing, in order; then its table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_mrissl.core import processes
from jax_mrissl.core.run_dir import write_config
from jax_mrissl.stages.plan import PlannedExperiment, plan_experiment, told_collapses
from jax_mrissl.stages.store import Store
from jax_mrissl.stages.work import do_jobs
from jax_mrissl.tasks.controls import baseline_arms
from jax_mrissl.tasks.evaluate import evaluate
from jax_mrissl.tasks.from_config import Experiment
from jax_mrissl.tasks.opened_run import OpenedArm, write_arms
from jax_mrissl.tasks.page import PAGE, FinishedRun, write_page
from jax_mrissl.tasks.pooling import Arm
from jax_mrissl.tasks.saliency_gallery import ensure_gallery
from jax_mrissl.tasks.training_facts import write_training_facts

# In a workdir: where its stages keep their results.
STAGES = 'stages'
# In it, too: what `write_results` makes for people and programs.
RESULTS = ('results.md', 'metrics.json', 'folds.json', PAGE)


def run_experiment(
    experiment: Experiment,
    workdir: Path,
    *,
    command: str = '',
    config: Mapping[str, Any] | None = None,
) -> str:
    """Runs what is not done yet, and writes the results.

    Args:
        experiment: the plans.
        workdir: gets `stages/`, `folds.json`, `metrics.json`, `results.md` and the
            page.
        command: what repeats this, for the page; '': no command does.
        config: what `experiment` was read from; it is written beside the results as
            soon as nothing speaks against it. None: none was.

    Returns: the table, as text for a terminal.

    Raises:
        UserError: a mistake in the config or the data, before any work is done.
    """
    store = Store(workdir / STAGES)
    planned = plan_experiment(experiment, store, spare=workdir / 'audit')
    if config is not None:
        write_config(workdir, config)
    do_jobs(planned.jobs, store)
    return processes.share(
        lambda: write_results(planned, store, workdir, command=command)
    )


def write_results(
    planned: PlannedExperiment, store: Store, workdir: Path, *, command: str = ''
) -> str:
    """Measures an experiment whose stages are done; writes its table and its page.

    Args:
        planned: the experiment.
        store: where the results of its stages are.
        workdir, command: as in `run_experiment`.

    Returns: the table, as text for a terminal.
    """
    experiment, data = planned.experiment, planned.data
    arms = [Arm(arm.name, arm.mode, store.folder(arm.stage)) for arm in planned.arms]
    controls = store.folder(planned.controls)
    collapses = told_collapses(planned, store)
    table = evaluate(
        [*arms, *baseline_arms(data, controls)],
        {
            arm.folder: store.facts(planned_arm.stage)['folds']
            for arm, planned_arm in zip(arms, planned.arms, strict=True)
        },
        data,
        workdir,
        experiment=experiment,
        overlap=planned.overlap,
        pretrained_on=[prepared.card for prepared in planned.pretraining],
        started_from=planned.outside.name if planned.outside else '',
        collapses=collapses,
    )
    opened = [
        OpenedArm(
            arm.name,
            arm.mode,
            store.folder(arm.stage),
            arm.origin.start(store),
            tuple(filter(None, (origin.start(store) for origin in arm.by_fold))),
        )
        for arm in planned.arms
    ]
    seen = [
        (prepared, stage_plan.data.split)
        for stage_plan, prepared in zip(
            experiment.chain, planned.pretraining, strict=True
        )
    ]
    written = write_arms(experiment, data, opened, seen, collapses, workdir)
    write_training_facts(written, data, planned.whole)
    if experiment.report.pictures and experiment.report.saliency:
        ensure_gallery(written, data)
    write_page(
        FinishedRun(
            experiment=experiment,
            data=data,
            pretraining=planned.pretraining,
            pretrain_folders=tuple(map(store.folder, planned.chain)),
            arms=tuple(arms),
            controls_folder=controls,
            command=command,
        ),
        workdir,
    )
    return table
