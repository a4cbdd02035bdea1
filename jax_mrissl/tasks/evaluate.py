"""From the folds' predictions to the table, its files and its foot."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.audit.overlap import Overlap
from jax_mrissl.core.results import SIMULATED, UNDER_TRAINED, ArmResult, Estimate, Unit
from jax_mrissl.core.run_dir import write_atomically, write_json
from jax_mrissl.data.splits import write_folds
from jax_mrissl.metrics.baselines import (
    class_prior,
    class_prior_log_loss,
    under_trained,
)
from jax_mrissl.metrics.bootstrap import (
    Bootstrap,
    Difference,
    bootstrap,
    difference,
    holm,
)
from jax_mrissl.metrics.calibration import calibration_error, softmax
from jax_mrissl.metrics.classification import METRICS, by_subject, log_loss
from jax_mrissl.report.table import estimate_text, results_markdown, results_table
from jax_mrissl.tasks.finetune import PREDICTIONS
from jax_mrissl.tasks.from_config import Experiment, FinetunePlan, Json
from jax_mrissl.tasks.labelled import LabelledData

UNTRAINED = 'untrained'
CLASS_PRIOR = 'class prior'
_UNITS: tuple[Unit, ...] = ('subject', 'slice')
# With 200 subjects more bins would show noise.
_CALIBRATION_BINS = 10


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to the task.

    Attributes:
        name: the experiment's, or `UNTRAINED`.
        mode: 'linear' or 'full'.
        folder: where its folds are.
    """

    name: str
    mode: str
    folder: Path

    @property
    def label(self) -> str:
        """Its name in sentences."""
        return f'{self.name}, {self.mode}'


@dataclasses.dataclass(frozen=True, eq=False)
class _Pooled:
    """The test predictions of all folds, in the order of the data's rows."""

    logits: np.ndarray
    probabilities: np.ndarray
    temperatures: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """A pretrained arm minus the untrained one of its mode; log loss by subject."""

    arm: Arm
    reference: Arm
    difference: Difference
    holm_p: float | None


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
) -> str:
    """Measures all arms; writes `folds.json`, `metrics.json` and `results.md`.

    Args:
        arms: all on the same data, with the same folds.
        facts: by an arm's folder, what finetuning told of each fold.
        data: the labelled images and the folds.
        workdir: gets the files.
        experiment: the plans, for the table's foot.
        overlap: what pretraining has seen of the labelled images.
        pretrained_on: the cards of the datasets of pretraining, in order.
        started_from: the weights from outside that it all began with; '': none.

    Returns: the table for a terminal.

    Raises:
        ValueError: predictions that do not cover every subject exactly once.
    """
    plan = experiment.finetune
    pooled = {arm: _pool(arm, data) for arm in arms}
    measured = {
        arm: bootstrap(
            found.probabilities,
            data.labels,
            data.prepared.groups,
            resamples=plan.bootstrap_resamples,
            seed=experiment.common.seed,
        )
        for arm, found in pooled.items()
    }
    training = {arm: _training_log_loss(facts[arm.folder]) for arm in arms}
    simulated = bool(data.prepared.card['simulated'])
    rows = _prior_rows(data, simulated)
    for arm in arms:
        rows += _rows(arm, measured[arm], training[arm], data, simulated)
    comparisons = _compare(arms, measured)
    failed = {(row.arm, row.mode) for row in rows if UNDER_TRAINED in row.notes}

    write_folds(workdir / 'folds.json', data.folds)
    write_json(
        workdir / 'metrics.json',
        _plain(
            {
                'experiment': experiment.name,
                'task': plan.task,
                'classes': list(data.task.classes),
                'dataset': data.prepared.name,
                'fingerprint': data.prepared.fingerprint,
                'simulated': simulated,
                'overlap': overlap.to_json(),
                'started_from': started_from or None,
                'warnings': list(data.warnings),
                'bootstrap': {
                    'resamples': plan.bootstrap_resamples,
                    'seed': experiment.common.seed,
                },
                'results': [row.to_json() for row in rows],
                'details': [
                    {
                        'arm': arm.name,
                        'mode': arm.mode,
                        'folds': list(facts[arm.folder]),
                        'temperatures': pooled[arm].temperatures,
                        **_details(pooled[arm], data),
                    }
                    for arm in arms
                ],
                'comparisons': [
                    {
                        'arm': c.arm.name,
                        'reference': c.reference.name,
                        'mode': c.arm.mode,
                        'unit': 'subject',
                        'metric': 'log_loss',
                        **dataclasses.asdict(c.difference.estimate),
                        'p': c.difference.p,
                        'holm_p': c.holm_p,
                    }
                    for c in comparisons
                ],
            }
        ),
    )
    title = (
        f'{experiment.name}: {plan.task} ({", ".join(data.task.classes)}) on '
        f'{data.prepared.card["title"]}'
    )
    foot = [
        *(_comparison_text(c, failed, simulated) for c in comparisons),
        *_start_text(started_from),
        *_foot(
            data,
            experiment,
            overlap,
            pretrained_on,
            started_from,
            simulated,
            bool(failed),
        ),
    ]
    write_atomically(
        workdir / 'results.md', results_markdown(rows, title=title, foot=foot)
    )
    return results_table(rows, title=title, foot=foot)


def _pool(arm: Arm, data: LabelledData) -> _Pooled:
    """Puts the folds together; refuses what does not test every row exactly once."""
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ('file_ids', 'labels', 'logits', 'probabilities')
    }
    temperatures = []
    for index, fold in enumerate(data.folds):
        path = arm.folder / f'fold-{index}' / PREDICTIONS
        with np.load(path) as stored:
            if set(stored['groups'].tolist()) != set(fold.test):
                raise ValueError(
                    f'{path} was made with other folds: its subjects are not those '
                    f'that fold {index} tests. Remove {arm.folder} and run again.'
                )
            for name, found in parts.items():
                found.append(stored[name])
            temperatures.append(float(stored['temperature']))
    whole = {name: np.concatenate(found) for name, found in parts.items()}
    order = np.argsort(whole['file_ids'], kind='stable')
    place = np.argsort(data.prepared.file_ids, kind='stable')
    if not (
        np.array_equal(whole['file_ids'][order], data.prepared.file_ids[place])
        and np.array_equal(whole['labels'][order], data.labels[place])
    ):
        raise ValueError(
            f'The predictions in {arm.folder} are not of these images, each once, with '
            'these labels. Remove that folder and run again.'
        )
    # order[i] and place[i] are the same image.
    rows = np.empty_like(order)
    rows[place] = order
    return _Pooled(
        whole['logits'][rows], whole['probabilities'][rows], tuple(temperatures)
    )


def _training_log_loss(folds: Sequence[Json]) -> float | None:
    """Gives the mean over folds of where training ended; None if one diverged.

    Neighbours learn nothing, and have no such loss: 0.
    """
    losses = [fold.get('training_log_loss', 0.0) for fold in folds]
    if any(loss is None or not math.isfinite(loss) for loss in losses):
        return None
    return float(np.mean(losses))


def _labels(data: LabelledData, unit: Unit) -> np.ndarray:
    if unit == 'slice':
        return data.labels
    _, first = np.unique(data.prepared.groups, return_index=True)
    return data.labels[first]


def _prior_rows(data: LabelledData, simulated: bool) -> list[ArmResult]:
    rows = []
    for unit in _UNITS:
        labels = _labels(data, unit)
        guess = class_prior(labels, len(data.task.classes))
        rows.append(
            ArmResult(
                arm=CLASS_PRIOR,
                mode='',
                unit=unit,
                subjects=len(_labels(data, 'subject')),
                slices=len(data.labels),
                # A constant guess on resamples of fixed class sizes does not vary.
                log_loss=Estimate(class_prior_log_loss(labels)),
                accuracy=Estimate(float(guess.max())),
                macro_auroc=Estimate(0.5),
                prior_log_loss=class_prior_log_loss(labels),
                notes=(SIMULATED,) if simulated else (),
            )
        )
    return rows


def _rows(
    arm: Arm,
    measured: Bootstrap,
    training_log_loss: float | None,
    data: LabelledData,
    simulated: bool,
) -> list[ArmResult]:
    reached = math.nan if training_log_loss is None else training_log_loss
    failed = under_trained(reached, class_prior_log_loss(_labels(data, 'slice')))
    notes = (UNDER_TRAINED,) * failed + (SIMULATED,) * simulated
    return [
        ArmResult(
            arm=arm.name,
            mode=arm.mode,
            unit=unit,
            subjects=measured.subjects,
            slices=measured.slices,
            log_loss=measured.estimate(unit, 'log_loss'),
            accuracy=measured.estimate(unit, 'accuracy'),
            macro_auroc=measured.estimate(unit, 'macro_auroc'),
            prior_log_loss=class_prior_log_loss(_labels(data, unit)),
            training_log_loss=training_log_loss,
            notes=notes,
        )
        for unit in _UNITS
    ]


def _details(pooled: _Pooled, data: LabelledData) -> Json:
    """Gives what the table has no room for, on the sample, without intervals."""
    subjects = by_subject(pooled.probabilities, data.labels, data.prepared.groups)
    raw = softmax(pooled.logits)
    raw_subjects = by_subject(raw, data.labels, data.prepared.groups)
    views = {
        'subject': (
            subjects.probabilities,
            subjects.labels,
            raw_subjects.probabilities,
        ),
        'slice': (pooled.probabilities, data.labels, raw),
    }
    return {
        unit: {
            **{name: metric(given, labels) for name, metric in METRICS.items()},
            'calibration_error': calibration_error(
                given, labels, bins=_CALIBRATION_BINS
            ),
            'log_loss_uncalibrated': log_loss(uncalibrated, labels),
        }
        for unit, (given, labels, uncalibrated) in views.items()
    }


def _compare(
    arms: Sequence[Arm], measured: Mapping[Arm, Bootstrap]
) -> list[_Comparison]:
    untrained = {arm.mode: arm for arm in arms if arm.name == UNTRAINED}
    pairs = [
        (arm, untrained[arm.mode])
        for arm in arms
        if arm.name != UNTRAINED and arm.mode in untrained
    ]
    found = [
        difference(measured[arm], measured[ref], unit='subject', metric='log_loss')
        for arm, ref in pairs
    ]
    return [
        _Comparison(arm, ref, one, p)
        for (arm, ref), one, p in zip(
            pairs, found, holm([one.p for one in found]), strict=True
        )
    ]


def _comparison_text(
    comparison: _Comparison, failed: set[tuple[str, str]], simulated: bool
) -> str:
    arm, reference = comparison.arm, comparison.reference
    what = f'{arm.label} minus {reference.label}'
    if simulated:
        what += f' ({SIMULATED})'
    lacking = [a.label for a in (arm, reference) if (a.name, a.mode) in failed]
    if lacking:
        return f'{what}: not compared; under-trained: {"; ".join(lacking)}.'
    p = comparison.holm_p
    return (
        f'{what}: {estimate_text(comparison.difference.estimate)} in log loss by '
        f'subject (below 0: pretraining helped), '
        f'p = {"undefined" if p is None else f"{p:.2g}"} (Holm).'
    )


def _foot(
    data: LabelledData,
    experiment: Experiment,
    overlap: Overlap,
    pretrained_on: Sequence[Mapping[str, Any]],
    started_from: str,
    simulated: bool,
    any_failed: bool,
) -> list[str]:
    plan, prepared = experiment.finetune, data.prepared
    subjects = len(np.unique(prepared.groups))
    lines = [f'Tested on {_named(prepared.card)}.']
    if pretrained_on:
        lines.append(f'Pretrained on {", then ".join(map(_named, pretrained_on))}.')
    if simulated or any(card['simulated'] for card in pretrained_on):
        lines.append(
            'SIMULATED DATA: these numbers say whether the program works, and nothing '
            'about patients.'
        )
    lines.append(
        f'n = {subjects:,} subjects, {len(prepared):,} slices. {plan.folds} folds, '
        'split by subject, stratified by class; every subject is tested once, its '
        'probability is the mean over its slices, calibrated on validation subjects.'
    )
    lines += [f'Note: {warning}' for warning in data.warnings]
    if experiment.chain:
        lines.append(_overlap_text(overlap, bool(started_from)))
    lines += [
        f'[low, high]: 95 % interval, percentiles of {plan.bootstrap_resamples:,} '
        'bootstrap resamples of subjects within their class; slices go with their '
        'subject. The spread over training seeds is not in it.',
        'class prior: the class shares of the tested set itself, the best constant '
        f'guess. {_tuning_text(plan)}',
    ]
    if any_failed:
        prior = class_prior_log_loss(data.labels)
        lines.append(
            'under-trained: training did not end below the log loss of the class '
            f'prior ({prior:.4f} by slice), so this is no result. Train longer, or '
            'with another learning rate. The numbers are in metrics.json.'
        )
    return lines


def _start_text(started_from: str) -> list[str]:
    if not started_from:
        return []
    return [
        f'Started from {started_from}: whether these weights have seen tested images '
        'is not known here.'
    ]


def _named(card: Mapping[str, Any]) -> str:
    simulated = card['simulated'] and 'simulated' not in card['title'].lower()
    return f'{card["title"]}{" (SIMULATED)" if simulated else ""}'


def _overlap_text(overlap: Overlap, from_outside: bool) -> str:
    if overlap.images:
        return f'OVERLAP ALLOWED: pretraining has seen {overlap.text}.'
    where = 'the pretraining of this run' if from_outside else 'pretraining'
    return (
        f'No labelled image was seen in {where}, nor a twin of one (turned, mirrored, '
        'rescaled, re-encoded, of other brightness) or a neighbouring slice, as far as '
        'pixels tell.'
    )


def _tuning_text(plan: FinetunePlan) -> str:
    texts = {
        'linear': f'linear: logistic regression on frozen features, the best of '
        f'{len(plan.linear.l2_strengths)} L2 strengths by validation.',
        'knn': f'knn: a vote of the nearest among frozen features, the best of '
        f'{len(plan.knn.neighbours)} numbers of neighbours by validation.',
        'full': f'full: the whole network is trained, the best of '
        f'{len(plan.full.trials(plan.build_optimizer()))} settings and '
        f'{plan.full.epochs} epochs by validation.',
    }
    return ' '.join(texts[mode] for mode in plan.modes)


def _plain(value: Any) -> Any:
    """Makes JSON: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
