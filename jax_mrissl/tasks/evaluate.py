"""From the folds' predictions to the table and `metrics.json`.

`metrics.json` is what pages and studies read. Its keys:

experiment, task, kind, classes, dataset, fingerprint, simulated, started_from, warnings
    what was done, and what a reader must know of it.
division
    who is on which side: `kind`, and whether it `is_leaky`.
overlap
    what pretraining has seen of the labelled images.
bootstrap
    `resamples` and `seed` of all intervals.
results
    the rows of the table, by subject and by slice, in its order: `ArmResult.to_json`.
    Every estimate stands under its metric's name, as {value, low, high, undefined}.
details
    by arm, baselines and controls too: `folds`, what its training told;
    `temperatures`; `thresholds` by unit and fold; under 'subject' and 'slice' all
    metrics as estimates; under 'curves', by subject, what plots are drawn from
    (`curves.curves_json`).
comparisons
    arms minus the untrained one of their mode: `Comparison.to_json`.
against_baselines
    the same of networks minus each baseline, by the AUROC of the first class or not, or
    by the mean absolute error.
detection
    the first class against all others: what is `positive`, and the `prevalence` behind
    predictive values, null where it is the sample's.
subgroups
    results by subject among ages, sexes and sites: `Subgroup.to_json`; where `absent`
    says why not, there are none.
adjustments
    what arms add to age, sex and brain volume: `Adjustment.to_json`.
shuffled_labels
    where they were shuffled, each arm among permutations: `shuffled.chances`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.audit.overlap import Overlap
from jax_mrissl.core.run_dir import write_atomically, write_json
from jax_mrissl.data.splits import write_folds
from jax_mrissl.metrics.classification import by_subject
from jax_mrissl.metrics.curves import curves_json
from jax_mrissl.report.table import results_markdown, results_table
from jax_mrissl.tasks.adjustments import adjustment_texts, adjustments
from jax_mrissl.tasks.comparisons import compare, compare_with_baselines
from jax_mrissl.tasks.foot import foot
from jax_mrissl.tasks.from_config import Experiment, Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import UNITS, Measured, measure, prior_rows, result_rows
from jax_mrissl.tasks.pooling import UNTRAINED, Arm
from jax_mrissl.tasks.shuffled import chance_texts, chances
from jax_mrissl.tasks.subgroups import subgroups

_ORDER = {'baseline': 0, 'arm': 1, 'control': 2}


def evaluate(
    arms: Sequence[Arm],
    facts: Mapping[Path, Sequence[Json]],
    data: LabelledData,
    workdir: Path,
    *,
    experiment: Experiment,
    overlap: Overlap,
    pretrained_on: Sequence[Mapping[str, Any]] = (),
    started_from: str = '',
    collapses: Sequence[str] = (),
) -> str:
    """Measures all arms; writes `folds.json`, `metrics.json` and `results.md`.

    Args:
        arms: all on the same data, with the same folds; baselines and controls too.
        facts: by an arm's folder, what finetuning told of each fold.
        data: the labelled images and the folds.
        workdir: gets the files.
        experiment: the plans, for the table's foot.
        overlap: what pretraining has seen of the labelled images.
        pretrained_on: the cards of the datasets of pretraining, in order.
        started_from: the weights from outside that it all began with; '': none.
        collapses: a sentence on each stage of pretraining that ended collapsed.

    Returns: the table for a terminal.

    Raises:
        ValueError: predictions that are not of the rows that the folds test.
    """
    plan, seed = experiment.finetune, experiment.common.seed
    simulated = bool(data.prepared.card['simulated'])
    measured = [
        measure(arm, facts.get(arm.folder, ()), data, plan, seed=seed)
        for arm in sorted(arms, key=lambda arm: _ORDER[arm.role])
    ]
    rows = prior_rows(data)
    for one in measured:
        rows += result_rows(one, data)
    comparisons = compare(measured)
    told = _told(measured)
    against = compare_with_baselines(measured)
    beyond = adjustments(measured, data)
    shuffled = experiment.finetune.shuffle_labels
    by_chance = chances(measured, data, seed) if shuffled else []
    write_folds(workdir / 'folds.json', data.folds)
    content = {
        'experiment': experiment.name,
        'task': plan.task,
        'kind': data.task.kind,
        'classes': list(data.task.classes),
        'dataset': data.prepared.name,
        'fingerprint': data.prepared.fingerprint,
        'simulated': simulated,
        'division': {'kind': data.division, 'is_leaky': data.is_leaky},
        'overlap': overlap.to_json(),
        'started_from': started_from or None,
        'warnings': [*collapses, *data.warnings],
        'bootstrap': {'resamples': plan.bootstrap_resamples, 'seed': seed},
        'results': [row.to_json() for row in rows],
        'details': [_details(one, facts, data) for one in measured],
        'comparisons': [comparison.to_json() for comparison in comparisons],
        'against_baselines': [comparison.to_json() for comparison in against],
        'detection': _detection(data, plan.prevalence),
        'subgroups': [
            group.to_json() for group in subgroups(measured, data, plan, seed=seed)
        ],
        'adjustments': [one.to_json() for one in beyond],
        'shuffled_labels': by_chance,
    }
    write_json(workdir / 'metrics.json', _plain(content))
    title = (
        f'{experiment.name}: {plan.task} ({", ".join(data.task.classes)}) on '
        f'{data.prepared.card["title"]}'
    )
    if data.task.kind == 'regression':
        title = f'{experiment.name}: {plan.task} on {data.prepared.card["title"]}'
    sentences = [
        *collapses,
        *(comparison.text(simulated=simulated) for comparison in comparisons),
        *(
            one.text(simulated=simulated)
            for one in against
            if one.is_named_first and one.arm in told
        ),
        *adjustment_texts(beyond, told, simulated=simulated),
        *chance_texts(by_chance, data),
        *foot(
            rows,
            data,
            experiment,
            overlap,
            pretrained_on=pretrained_on,
            started_from=started_from,
        ),
    ]
    text = results_markdown(rows, title=title, foot=sentences)
    write_atomically(workdir / 'results.md', text)
    return results_table(rows, title=title, foot=sentences)


def _told(measured: Sequence[Measured]) -> list[Arm]:
    """Gives the networks that the foot has room for: pretrained ones if any."""
    results = [m.arm for m in measured if m.arm.mode and not m.training.failed]
    return [arm for arm in results if arm.name != UNTRAINED] or results


def _details(
    measured: Measured, facts: Mapping[Path, Sequence[Json]], data: LabelledData
) -> Json:
    """Gives what the table has no room for."""
    arm, pooled = measured.arm, measured.pooled
    found: dict[str, Any] = {
        'arm': arm.name,
        'mode': arm.mode,
        'role': arm.role,
        'folds': list(facts.get(arm.folder, ())),
        'temperatures': pooled.temperatures,
        'thresholds': pooled.by_fold,
    }
    for unit in UNITS:
        estimates = measured.estimates(unit).items()
        found[unit] = {name: vars(estimate) for name, estimate in estimates}
    if 'probabilities' in pooled.columns:
        labels, groups = data.labels[pooled.rows], data.prepared.groups[pooled.rows]
        whole = by_subject(pooled.columns['probabilities'], labels, groups)
        found['curves'] = curves_json(
            whole.probabilities, whole.labels, data.task.classes
        )
    return found


def _detection(data: LabelledData, prevalence: float) -> Json:
    if data.task.kind == 'regression':
        return None
    first, *rest = data.task.classes
    own = data.labels[data.tested()] > 0
    return {
        'negative': first,
        'positive': rest,
        'prevalence': prevalence or None,
        'share_of_slices': float(np.mean(own)),
    }


def _plain(value: Any) -> Any:
    """Makes JSON: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
