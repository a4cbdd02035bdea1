"""Which metrics are reported: by subject and by slice, for classes and for numbers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_mrissl.core.results import Unit
from jax_mrissl.metrics import measures as m
from jax_mrissl.metrics.classification import by_subject, checked
from jax_mrissl.metrics.measures import Measure, Rows

Array = np.ndarray

# With 200 subjects more bins of calibration would show noise.
CALIBRATION_BINS = 10
# What the table of results has room for.
CLASS_HEADLINES = ('log_loss', 'accuracy', 'macro_auroc')
NUMBER_HEADLINES = ('r2', 'mae', 'rmse', 'spearman')
# Metrics of the first class against all others.
DETECTION = ('binary_auroc', 'sensitivity', 'specificity', 'ppv', 'npv')


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """Metrics of one arm, to be taken of the sample and of resamples.

    Attributes:
        ids: text [N], the subjects, sorted.
        strata: int [N], within which subjects are drawn: their class.
        slices: how many there are.
        measures: by (unit, metric), of weights of the N subjects.
    """

    ids: Array
    strata: Array
    slices: int
    measures: Mapping[tuple[Unit, str], Measure]


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """How the first class is told from all others.

    Attributes:
        thresholds: by unit, float [n]: rows whose probability of any other class is at
            least that are told positive. That of a subject is the mean over its slices.
        prevalence: by unit, of the positive, for predictive values; in (0, 1).
        scores: float [n], higher for the positive, that rank the rows; None: the
            probabilities do.
    """

    thresholds: Mapping[Unit, Array]
    prevalence: Mapping[Unit, float]
    scores: Array | None = None


def class_panel(
    probabilities: Array,
    labels: Array,
    groups: Array,
    *,
    uncalibrated: Array | None = None,
    detection: Detection | None = None,
) -> Panel:
    """Gives the metrics of class probabilities.

    Args:
        probabilities: float [n, K], calibrated, of the slices.
        labels: int [n], in 0 … K-1.
        groups: text [n], the subject of each slice.
        uncalibrated: float [n, K], before temperature scaling; None: not reported.
        detection: None: sensitivity and its like are not reported.

    Raises:
        ValueError: no probabilities, or a subject with two labels.
    """
    probabilities, labels = checked(probabilities, labels)
    whole = by_subject(probabilities, labels, groups)
    count = len(whole.ids)
    units: dict[Unit, tuple[Rows, Array, Array]] = {
        'subject': (Rows(np.arange(count), count), whole.probabilities, whole.labels),
        'slice': (Rows(whole.rows, count), probabilities, labels),
    }
    found: dict[tuple[Unit, str], Measure] = {}
    for unit, given in units.items():
        for name, measure in _of_classes(*given).items():
            found[unit, name] = measure
        if uncalibrated is not None:
            raw = uncalibrated
            if unit == 'subject':
                raw = by_subject(raw, labels, groups).probabilities
            found[unit, 'log_loss_uncalibrated'] = m.log_loss(given[0], raw, given[2])
        if detection is not None:
            rows = whole.rows if unit == 'subject' else None
            for name, measure in _of_detection(*given, detection, unit, rows).items():
                found[unit, name] = measure
    return Panel(whole.ids, whole.labels, len(labels), found)


def number_panel(told: Array, truth: Array, strata: Array, groups: Array) -> Panel:
    """Gives the metrics of told numbers.

    Args:
        told, truth: float [n], of the slices; a subject's is the mean of its slices.
        strata: int [n], within which subjects are drawn, one of a subject.
        groups: text [n].
    """
    ids, first, member = np.unique(
        np.asarray(groups), return_index=True, return_inverse=True
    )
    count = len(ids)
    units: dict[Unit, tuple[Rows, Array, Array]] = {
        'subject': (
            Rows(np.arange(count), count),
            subject_means(told, member),
            subject_means(truth, member),
        ),
        'slice': (Rows(member, count), told, truth),
    }
    found: dict[tuple[Unit, str], Measure] = {}
    for unit, given in units.items():
        rows, own_told, own_truth = given
        found[unit, 'r2'] = m.r_squared(*given)
        found[unit, 'mae'] = m.mean(rows, np.abs(own_told - own_truth))
        found[unit, 'rmse'] = m.root_mean_squared_error(*given)
        found[unit, 'spearman'] = m.spearman(*given)
    return Panel(ids, np.asarray(strata)[first], len(member), found)


def _of_classes(rows: Rows, p: Array, labels: Array) -> dict[str, Measure]:
    return {
        'log_loss': m.log_loss(rows, p, labels),
        'accuracy': m.accuracy(rows, p, labels),
        'balanced_accuracy': m.balanced_accuracy(rows, p, labels),
        'macro_auroc': m.macro(m.auroc, rows, p, labels),
        'macro_average_precision': m.macro(m.average_precision, rows, p, labels),
        'quadratic_kappa': m.quadratic_kappa(rows, p, labels),
        'brier': m.brier(rows, p, labels),
        'calibration_error': m.calibration_error(
            rows, p, labels, bins=CALIBRATION_BINS
        ),
    }


def _of_detection(
    rows: Rows,
    p: Array,
    labels: Array,
    detection: Detection,
    unit: Unit,
    of_slices: Array | None,
) -> dict[str, Measure]:
    """Gives metrics of the rest against class 0; `of_slices`: to mean over, or None."""

    def of_unit(values: Array) -> Array:
        return values if of_slices is None else subject_means(values, of_slices)

    chance = 1 - p[:, 0]
    ranked = chance if detection.scores is None else of_unit(detection.scores)
    positive = labels > 0
    told = chance >= of_unit(detection.thresholds[unit])
    truly, not_truly = positive.astype(float), (~positive).astype(float)
    sensitivity = m.ratio(rows, truly * told, truly)
    specificity = m.ratio(rows, not_truly * ~told, not_truly)
    share = detection.prevalence[unit]

    def missed(weights: Array) -> Any:
        return 1 - sensitivity(weights)

    def alarmed(weights: Array) -> Any:
        return 1 - specificity(weights)

    return {
        'binary_auroc': m.auroc(rows, ranked, positive),
        'sensitivity': sensitivity,
        'specificity': specificity,
        'ppv': m.predictive_value(sensitivity, alarmed, share),
        'npv': m.predictive_value(specificity, missed, 1 - share),
    }


def subject_means(values: Array, member: Array) -> Array:
    """Averages numbers of slices, float [n], over the subjects, 0 … N-1, of each."""
    # As in `by_subject`: rounding must not rank subjects by their number of slices.
    return np.round(np.bincount(member, values) / np.bincount(member), 12)
