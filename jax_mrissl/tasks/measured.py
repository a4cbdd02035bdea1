"""What was measured of each arm, and whether its training makes it a result at all."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_mrissl.core.results import SIMULATED, UNDER_TRAINED, ArmResult, Estimate, Unit
from jax_mrissl.metrics.baselines import (
    class_prior,
    class_prior_log_loss,
    under_trained,
)
from jax_mrissl.metrics.bootstrap import Bootstrap, bootstrap
from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.panel import (
    CLASS_HEADLINES,
    NUMBER_HEADLINES,
    Detection,
    Panel,
    class_panel,
    number_panel,
)
from jax_mrissl.tasks.from_config import FinetunePlan, Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.pooling import Arm, Pooled, pool

CLASS_PRIOR = 'class prior'
UNITS: tuple[Unit, ...] = ('subject', 'slice')
# Log loss that training ended at; squared error, and the same in deviations.
_LOSS, _SQUARED, _SCALED = (
    'training_log_loss',
    'training_squared_error',
    'training_loss',
)


@dataclasses.dataclass(frozen=True)
class Training:
    """Where an arm's training ended.

    Attributes:
        log_loss: of classes, mean over folds; None: not finite, or not judged.
        error_share: of a number, the squared error as a share of the variance.
        failed: whether it did not end below a constant guess. What has nothing to
            train, as neighbours, is not judged.
    """

    log_loss: float | None = None
    error_share: float | None = None
    failed: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One arm, its predictions and its metrics."""

    arm: Arm
    pooled: Pooled
    found: Bootstrap
    training: Training

    @property
    def headline_names(self) -> tuple[str, ...]:
        """The metrics that the table of results shows of such an arm."""
        columns = self.pooled.columns
        classes = columns['logits'].shape[1] if 'logits' in columns else 0
        return headline_metrics(classes, ranks_alone='scores' in columns)

    def tells(self, unit: Unit, metric: str) -> bool:
        """Says whether a metric is known of it, and means something."""
        known = (unit, metric) in self.found.values
        return known and (not self.arm.only or metric in self.arm.only)

    def headlines(self, unit: Unit) -> dict[str, Estimate]:
        """Gives what the table of results shows of it."""
        return {
            name: self.found.estimate(unit, name)
            for name in self.headline_names
            if self.tells(unit, name)
        }

    def estimates(self, unit: Unit) -> dict[str, Estimate]:
        """Gives all metrics of it that mean something, with intervals."""
        return {
            name: self.found.estimate(unit, name)
            for of_unit, name in self.found.values
            if of_unit == unit and self.tells(unit, name)
        }


def headline_metrics(classes: int, *, ranks_alone: bool = False) -> tuple[str, ...]:
    """Gives the metrics that a table of results shows.

    Args:
        classes: how many are told; 0: a number is.
        ranks_alone: whether a number ranks as it is, beside the probabilities.
    """
    if not classes:
        return NUMBER_HEADLINES
    # Of two classes the areas are the same, but where a number ranks as it is.
    if classes == 2 and not ranks_alone:
        return CLASS_HEADLINES
    return (*CLASS_HEADLINES, 'binary_auroc')


def measure(
    arm: Arm,
    facts: Sequence[Json],
    data: LabelledData,
    plan: FinetunePlan,
    *,
    seed: int,
) -> Measured:
    """Measures one arm.

    Args:
        arm: whose predictions are written.
        facts: what finetuning told of each fold; (): nothing was trained.
        data: the labelled images.
        plan: tells how often is resampled, and the prevalence.
        seed: of the resamples.

    Raises:
        ValueError: predictions that are not of the rows that the folds test.
    """
    pooled = pool(arm, data)
    found = bootstrap(
        panel(pooled, np.arange(len(pooled.rows)), data, plan),
        resamples=plan.bootstrap_resamples,
        seed=seed,
    )
    return Measured(arm, pooled, found, judge(facts, data))


def panel(
    pooled: Pooled, which: np.ndarray, data: LabelledData, plan: FinetunePlan
) -> Panel:
    """Gives the metrics of some pooled rows of an arm.

    Args:
        pooled: its predictions.
        which: int [k], of the m pooled rows.
        data: the labelled images.
        plan: tells the prevalence.
    """
    rows = pooled.rows[which]
    labels, groups = data.labels[rows], data.prepared.groups[rows]
    columns = {name: column[which] for name, column in pooled.columns.items()}
    found: list[Panel] = []
    if data.task.kind != 'regression':
        found.append(
            class_panel(
                columns['probabilities'],
                labels,
                groups,
                uncalibrated=softmax(columns['logits']),
                detection=Detection(
                    {unit: t[which] for unit, t in pooled.thresholds.items()},
                    _prevalence(labels, groups, plan),
                    columns.get('scores'),
                ),
            )
        )
    if 'predictions' in columns:
        numbers = (columns['predictions'], columns['targets'])
        # Bands of the number are no classes: drawing within them would hide how the
        # numbers of subjects vary.
        strata = labels if found else np.zeros_like(labels)
        found.append(number_panel(*numbers, strata, groups))
    measures = {key: m for part in found for key, m in part.measures.items()}
    return dataclasses.replace(found[0], measures=measures)


def judge(facts: Sequence[Json], data: LabelledData) -> Training:
    """Says where training ended, mean over folds, and whether that is a result.

    Classes have to end below the log loss of the class prior, numbers below the
    variance, both of the training rows.
    """
    if facts and all(_LOSS in fold for fold in facts):
        reached = _mean([fold[_LOSS] for fold in facts])
        failed = under_trained(reached, training_prior(data))
        return Training(log_loss=_finite(reached), failed=failed)
    shares = [
        _share(fold, data.targets[data.rows(data.folds[index].train)])
        for index, fold in enumerate(facts)
        if _SQUARED in fold or _SCALED in fold
    ]
    if not shares or len(shares) < len(facts):
        return Training()
    reached = _mean(shares)
    return Training(error_share=_finite(reached), failed=not reached < 1)


def training_prior(data: LabelledData) -> float:
    """Gives the log loss of the best constant guess while training, mean over folds."""
    priors = [
        class_prior_log_loss(data.labels[data.rows(fold.train)]) for fold in data.folds
    ]
    return float(np.mean(priors))


def result_rows(measured: Measured, data: LabelledData) -> list[ArmResult]:
    """Gives the arm's rows of the table, by subject and by slice."""
    arm, training, found = measured.arm, measured.training, measured.found
    simulated = bool(data.prepared.card['simulated'])
    return [
        ArmResult(
            arm=arm.name,
            mode=arm.mode,
            unit=unit,
            subjects=found.subjects,
            slices=found.slices,
            estimates=measured.headlines(unit),
            role=arm.role,
            prior_log_loss=_prior(data, unit),
            training_log_loss=training.log_loss,
            training_error_share=training.error_share,
            notes=(UNDER_TRAINED,) * training.failed + (SIMULATED,) * simulated,
        )
        for unit in UNITS
    ]


def prior_rows(data: LabelledData) -> list[ArmResult]:
    """Gives the rows of the class prior; none where a number is told."""
    if data.task.kind == 'regression':
        return []
    subjects, slices = (len(tested_labels(data, unit)) for unit in UNITS)
    rows = []
    for unit in UNITS:
        labels = tested_labels(data, unit)
        loss = class_prior_log_loss(labels)
        guess = class_prior(labels, len(data.task.classes))
        # A constant guess on resamples of fixed class sizes does not vary.
        estimates = {
            'log_loss': Estimate(loss),
            'accuracy': Estimate(float(guess.max())),
            'macro_auroc': Estimate(0.5),
        }
        if len(data.task.classes) > 2:
            estimates['binary_auroc'] = Estimate(0.5)
        rows.append(
            ArmResult(
                arm=CLASS_PRIOR,
                mode='',
                unit=unit,
                subjects=subjects,
                slices=slices,
                estimates=estimates,
                role='baseline',
                prior_log_loss=loss,
                notes=(SIMULATED,) if data.prepared.card['simulated'] else (),
            )
        )
    return rows


def tested_labels(data: LabelledData, unit: Unit) -> np.ndarray:
    """Gives the labels of what is tested, int [n], of subjects or slices."""
    rows = data.tested()
    if unit == 'subject':
        _, first = np.unique(data.prepared.groups[rows], return_index=True)
        rows = rows[first]
    return data.labels[rows]


def _prior(data: LabelledData, unit: Unit) -> float | None:
    if data.task.kind == 'regression':
        return None
    return class_prior_log_loss(tested_labels(data, unit))


def _prevalence(
    labels: np.ndarray, groups: np.ndarray, plan: FinetunePlan
) -> dict[Unit, float]:
    if plan.prevalence:
        return dict.fromkeys(UNITS, plan.prevalence)
    _, first = np.unique(groups, return_index=True)
    return {
        'subject': float((labels[first] > 0).mean()),
        'slice': float((labels > 0).mean()),
    }


def _share(fold: Json, targets: np.ndarray) -> float | None:
    if _SCALED in fold:
        return fold[_SCALED]
    squared = fold[_SQUARED]
    return None if squared is None else squared / float(targets.var())


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean([math.nan if value is None else value for value in values]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
