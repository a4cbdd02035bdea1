"""A finished run measured on another labelled set, without training: does it hold?"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.audit.findings import Part
from jax_mrissl.audit.overlap import Overlap, find_overlap
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.results import SIMULATED, ArmResult, Estimate, Unit
from jax_mrissl.core.run_dir import write_atomically, write_json
from jax_mrissl.data.catalog import advice
from jax_mrissl.data.labels import LabelTask, label_rows
from jax_mrissl.data.pipeline import resident
from jax_mrissl.data.prepared import PreparedSet, open_fingerprint, open_prepared
from jax_mrissl.data.splits import Fold
from jax_mrissl.metrics.bootstrap import Bootstrap, bootstrap
from jax_mrissl.metrics.panel import (
    Detection,
    Panel,
    class_panel,
    number_panel,
)
from jax_mrissl.report.table import results_markdown, results_table
from jax_mrissl.tasks.ensemble import Verdict, ask
from jax_mrissl.tasks.fold_network import FoldNetwork
from jax_mrissl.tasks.foot import interval_sentences
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import (
    UNITS,
    headline_metrics,
    prior_rows,
    tested_labels,
)
from jax_mrissl.tasks.opened_run import OpenedArm, OpenedRun
from jax_mrissl.tasks.pooling import validation_thresholds
from jax_mrissl.tasks.predictions import PREDICTIONS
from jax_mrissl.tasks.training_facts import looks_of_all


def evaluate_elsewhere(
    run: OpenedRun,
    dataset: str,
    data_dir: str | Path,
    *,
    split: str = 'all',
    arm: str = '',
    mode: str = '',
    allow_overlap: bool = False,
    out: Path | None = None,
) -> str:
    """Measures the networks of an arm on a prepared set; writes what was found.

    The probabilities are the mean over the folds' networks, each calibrated on its own
    validation part; nothing is fitted to the new set.

    Args:
        run: a finished one.
        dataset, split: of the prepared set.
        data_dir: where it is, and for the search for twins the run's own sets.
        arm, mode: which networks; '': as `OpenedRun.choose` does.
        allow_overlap: whether the set may show subjects that the run was trained on;
            of those only the folds speak that did not train on them.
        out: gets `metrics.json`, `results.md` and `predictions.npz`; None: a folder of
            the run.

    Returns: the table for a terminal.

    Raises:
        UserError: no such set or arm, other classes, or subjects of the training.
    """
    chosen = run.choose(arm, mode)
    data_dir = Path(data_dir).expanduser()
    prepared = open_prepared(data_dir, dataset, split, advice=advice(dataset, data_dir))
    data = _labelled(run.task, prepared)
    networks = run.networks(chosen)
    known = np.concatenate([network.seen for network in networks])
    exact = np.isin(data.prepared.pixel_sha256, known)
    name = f'{dataset}-{split}-{prepared.fingerprint[:8]}'
    out = out or run.workdir / 'external' / name
    overlap, lacking = _overlap(run, data, split, data_dir, out)
    if (exact.any() or overlap.images) and not allow_overlap:
        raise UserError(_refusal(run, data, exact, overlap, data_dir))
    verdict = ask(
        networks,
        run.features(),
        run.parallel.replicate(resident(data.prepared)),
        np.arange(len(data.prepared)),
        looks=looks_of_all(data.prepared),
        pixel_sha256=data.prepared.pixel_sha256,
    )
    try:
        panel = _panel(data, verdict, networks)
    except ValueError as error:  # a subject whose sessions differ in their label
        raise UserError(f'{dataset}: {error}') from error
    found = bootstrap(
        panel, resamples=run.told['bootstrap_resamples'], seed=run.told['seed']
    )
    rows = [*prior_rows(data), *_rows(chosen, found, data)]
    foot = _foot(run, chosen, data, verdict, exact, overlap, lacking)
    title = (
        f'{run.told["experiment"]} ({run.task.name}), trained on '
        f'{run.told["dataset"]["title"]}, measured on {prepared.card["title"]}'
    )
    _write(out, run, chosen, data, verdict, found, rows, overlap)
    write_atomically(out / 'results.md', results_markdown(rows, title=title, foot=foot))
    return f'{results_table(rows, title=title, foot=foot)}\n\nWritten: {out}.'


def _labelled(task: LabelTask, prepared: PreparedSet) -> LabelledData:
    """Gives the labelled images, with the run's class numbers; all are tested."""
    theirs, labels = label_rows(task.name, prepared)
    if task.kind != 'regression':
        unknown = [name for name in theirs.classes if name not in task.classes]
        if unknown:
            raise UserError(
                f'{prepared.name} has classes that the run does not tell: '
                f'{", ".join(unknown)}. It tells {", ".join(task.classes)}.'
            )
        # Of a set with fewer classes, or in another order, by their names.
        numbers = [task.classes.index(name) for name in theirs.classes]
        labels = np.array([*numbers, -1], np.int32)[labels]
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        raise UserError(f'No image of {prepared.name} has a label to measure by.')
    prepared, labels = prepared.select(known), labels[known]
    everyone = frozenset(prepared.groups.tolist())
    nobody: frozenset[str] = frozenset()
    folds = (Fold(train=nobody, validation=nobody, test=everyone),)
    return LabelledData(prepared, task, labels, folds, ())


def _overlap(
    run: OpenedRun, data: LabelledData, split: str, data_dir: Path, spare: Path
) -> tuple[Overlap, list[str]]:
    """Looks for the set's subjects in training; names the sets that are not there."""
    parts, lacking = [], []
    for told in [run.told['dataset'], *run.told['pretrained_on']]:
        found = open_fingerprint(
            data_dir,
            told['fingerprint'],
            told['split'],
            left_out=told.get('left_out', ()),
        )
        if found is None:
            lacking.append(told['name'])
        else:
            parts.append(Part(told['name'], told['split'], found))
    part = Part(data.prepared.name, split, data.prepared)
    return find_overlap(parts, part, data_dir, spare=spare), lacking


def _refusal(
    run: OpenedRun,
    data: LabelledData,
    exact: np.ndarray,
    overlap: Overlap,
    data_dir: Path,
) -> str:
    images = max(int(exact.sum()), overlap.images)
    names = dict.fromkeys([run.told['dataset']['name'], data.prepared.name])
    flags = ' '.join(f'--dataset={name}' for name in names)
    return (
        f'{data.prepared.name} is no new set for this run: {images:,} of its '
        f'{len(data.prepared):,} labelled images show subjects that it was trained on'
        f'{f" ({overlap.text})" if overlap.images else ""}. Look at them:\n'
        f'    python -m jax_mrissl.audit --data_dir={data_dir} {flags} --out=audit\n'
        'Take another set, or --allow_overlap: the table then says so.'
    )


def _panel(
    data: LabelledData, verdict: Verdict, networks: Sequence[FoldNetwork]
) -> Panel:
    labels, groups = data.labels, data.prepared.groups
    if data.task.kind == 'regression':
        # As in the run: bands of the number are no strata.
        strata = np.zeros_like(labels)
        return number_panel(verdict.answers[:, 0], data.targets, strata, groups)
    fixed = []
    for network in networks:
        with np.load(network.folder / PREDICTIONS, allow_pickle=False) as stored:
            fixed.append(validation_thresholds(stored))
    thresholds = {
        unit: np.full(len(labels), np.mean([one[unit] for one in fixed]))
        for unit in UNITS
    }
    prevalence: dict[Unit, float] = {
        unit: float((tested_labels(data, unit) > 0).mean()) for unit in UNITS
    }
    return class_panel(
        verdict.answers,
        labels,
        groups,
        detection=Detection(thresholds, prevalence),
    )


def _estimates(found: Bootstrap, unit: Unit) -> dict[str, Estimate]:
    return {name: found.estimate(unit, name) for of, name in found.values if of == unit}


def _rows(arm: OpenedArm, found: Bootstrap, data: LabelledData) -> list[ArmResult]:
    number = data.task.kind == 'regression'
    names = headline_metrics(0 if number else len(data.task.classes))
    priors = {row.unit: row.prior_log_loss for row in prior_rows(data)}
    return [
        ArmResult(
            arm=arm.name,
            mode=arm.mode,
            unit=unit,
            subjects=found.subjects,
            slices=found.slices,
            estimates={name: found.estimate(unit, name) for name in names},
            prior_log_loss=priors.get(unit),
            notes=(SIMULATED,) if data.prepared.card['simulated'] else (),
        )
        for unit in UNITS
    ]


def _foot(
    run: OpenedRun,
    arm: OpenedArm,
    data: LabelledData,
    verdict: Verdict,
    exact: np.ndarray,
    overlap: Overlap,
    lacking: Sequence[str],
) -> list[str]:
    subjects = len(np.unique(data.prepared.groups))
    unlike = float((verdict.unlikeness.max(1) > 1).mean())
    lines = [
        *run.notes,
        f'n = {subjects:,} subjects, {len(data.prepared):,} slices. {arm.label}: the '
        f'mean of {run.told["folds"]} networks, one for each fold of the run, each '
        'calibrated there; nothing was fitted to this set.',
        *run.standing(arm),
        f'{100 * unlike:.1f} % of its images are unlike the training images.',
    ]
    if data.prepared.card['simulated']:
        lines.append(
            'SIMULATED DATA: these numbers say whether the program works, and nothing '
            'about patients.'
        )
    if exact.any() or overlap.images:
        by_heart = int((verdict.trained_on == run.told['folds']).sum())
        lines.append(
            f'OVERLAP ALLOWED: the run was trained on subjects of this set: '
            f'{overlap.text if overlap.images else f"{exact.sum():,} images"}. Where '
            'pixels are equal only the folds speak that did not train on the subject'
            + (f'; all did on those of {by_heart:,} images.' if by_heart else '.')
        )
    elif not lacking:
        lines.append(
            'No image of it shows a subject that the run was trained on, as far as '
            'pixels and published ids tell.'
        )
    if lacking:
        lines.append(
            f'NOT COMPARED with {", ".join(dict.fromkeys(lacking))}, which the run was '
            'trained on and which --data_dir does not hold: of those the pixels of the '
            'labelled subjects alone were compared, and only for equality.'
        )
    lines += interval_sentences(data, run.told['bootstrap_resamples'])
    if data.task.kind != 'regression':
        lines.append(
            'class prior: the class shares of this set itself, the best constant guess.'
        )
    return lines


def _write(
    out: Path,
    run: OpenedRun,
    arm: OpenedArm,
    data: LabelledData,
    verdict: Verdict,
    found: Bootstrap,
    rows: Sequence[ArmResult],
    overlap: Overlap,
) -> None:
    details: Mapping[str, Any] = {
        unit: {name: vars(e) for name, e in _estimates(found, unit).items()}
        for unit in UNITS
    }
    told: Json = {
        'experiment': run.told['experiment'],
        'trained_on': run.told['dataset']['fingerprint'],
        'arm': arm.name,
        'mode': arm.mode,
        'task': dataclasses.asdict(data.task),
        'dataset': data.prepared.name,
        'fingerprint': data.prepared.fingerprint,
        'simulated': bool(data.prepared.card['simulated']),
        'overlap': overlap.to_json(),
        'unlike_share': float((verdict.unlikeness.max(1) > 1).mean()),
        'results': [row.to_json() for row in rows],
        'details': details,
    }
    write_json(out / 'metrics.json', told)
    np.savez(
        out / PREDICTIONS,
        allow_pickle=False,
        file_ids=data.prepared.file_ids,
        groups=data.prepared.groups,
        labels=data.labels,
        answers=verdict.answers,
        unlikeness=verdict.unlikeness,
        trained_on=verdict.trained_on,
    )
