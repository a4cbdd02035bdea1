"""Metrics of many resamples of subjects at once.

A measure takes how often each subject counts, float [R, N], and gives float64 [R], NaN
where it is undefined. Slices go with their subject: what they add to a metric is summed
up once, so a resample costs as much as there are subjects, however many slices they
have. Weights of one give the metric of the sample.

Rows are slices, or the subjects themselves; every function below takes them with what
is known of each, and gives the measure.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jax_mrissl.metrics.calibration import reliability_bins
from jax_mrissl.metrics.classification import SMALLEST_PROBABILITY, checked

Array = np.ndarray
Measure = Callable[[Array], Array]

# Numbers that are held at once: of a table of counts, 32 MB of float32; of products
# with it, what stays near the cache.
_HELD_AT_ONCE = 8_000_000
_WORKED_ON_AT_ONCE = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Which subject each row is of.

    Attributes:
        member: int [n], in 0 … N-1.
        subjects: N.
    """

    member: Array
    subjects: int

    def __len__(self) -> int:
        return len(self.member)

    def sums(self, values: Array) -> Array:
        """Adds up values, [n] or [n, C], of each subject: float64 [N] or [N, C]."""
        found = np.zeros((self.subjects, *values.shape[1:]))
        np.add.at(found, self.member, values)
        return found

    def among(self, which: Array) -> tuple['Rows', Array]:
        """Gives some rows, with the subjects that have any: int [M] of N."""
        subjects, member = np.unique(self.member[which], return_inverse=True)
        return Rows(member, len(subjects)), subjects


def mean(rows: Rows, values: Array) -> Measure:
    """The mean of a number over rows, float [n]."""
    return ratio(rows, values, np.ones(len(values)))


def ratio(rows: Rows, part: Array, whole: Array) -> Measure:
    """The sum of one number over that of another."""
    above, below = rows.sums(part), rows.sums(whole)
    return lambda weights: _divided(weights @ above, weights @ below)


def log_loss(rows: Rows, probabilities: Array, labels: Array) -> Measure:
    """Mean of -ln(probability of the true class), clipped at 1e-7; lower is better."""
    probabilities, labels = checked(probabilities, labels)
    true = probabilities[np.arange(len(labels)), labels]
    return mean(rows, -np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0)))


def accuracy(rows: Rows, probabilities: Array, labels: Array) -> Measure:
    """Share of rows whose most probable class is the true one (ties: the first)."""
    probabilities, labels = checked(probabilities, labels)
    return mean(rows, (probabilities.argmax(1) == labels).astype(float))


def brier(rows: Rows, probabilities: Array, labels: Array) -> Measure:
    """Mean squared distance to the truth, summed over the classes: from 0 to 2.

    Brier's own definition; for two classes it is twice the binary score.
    """
    probabilities, labels = checked(probabilities, labels)
    truth = np.eye(probabilities.shape[1])[labels]
    return mean(rows, ((probabilities - truth) ** 2).sum(1))


def balanced_accuracy(rows: Rows, probabilities: Array, labels: Array) -> Measure:
    """Mean over the classes that occur of the share found of each."""
    cells = _confusion(rows, probabilities, labels)

    def measure(weights: Array) -> Array:
        confusion = cells(weights)
        recall = _divided(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2))
        return np.nanmean(recall, axis=1)

    return measure


def quadratic_kappa(rows: Rows, probabilities: Array, labels: Array) -> Measure:
    """Cohen's kappa with quadratic weights: for classes that are steps of a scale.

    1 is perfect, 0 is what the margins give by chance. NaN where one class is all
    that occurs and all that is predicted.
    """
    cells = _confusion(rows, probabilities, labels)

    def measure(weights: Array) -> Array:
        seen = cells(weights)
        steps = np.arange(seen.shape[-1])
        distance = np.subtract.outer(steps, steps) ** 2.0
        expected = seen.sum(2)[:, :, None] * seen.sum(1)[:, None, :]
        wrong = (seen * distance).sum((1, 2)) * seen.sum((1, 2))
        return 1 - _divided(wrong, (expected * distance).sum((1, 2)))

    return measure


def calibration_error(
    rows: Rows, probabilities: Array, labels: Array, *, bins: int
) -> Measure:
    """Expected calibration error over bins of equal mass, in [0, 1].

    The bins are those of the sample, in every resample. With few rows the error looks
    larger than it is, in resamples more so.
    """
    probabilities, labels = checked(probabilities, labels)
    place = reliability_bins(probabilities, bins=bins)
    gap = (probabilities.argmax(1) == labels) - probabilities.max(1)
    of_bin = rows.sums(np.eye(place.max() + 1)[place] * gap[:, None])
    count = rows.sums(np.ones(len(labels)))
    return lambda weights: _divided(
        np.abs(weights @ of_bin).sum(axis=1), weights @ count
    )


def auroc(rows: Rows, scores: Array, positive: Array) -> Measure:
    """Area under the ROC curve of two classes, ties counting one half.

    It is the share of pairs, one row of each class, in which the positive row scores
    higher, so a sum over pairs of subjects. NaN where a class has no weight.

    Args:
        rows: of scores.
        scores: float [n], higher for the positive class.
        positive: bool [n].
    """
    above, of_above = rows.among(positive)
    below, of_below = rows.among(~positive)
    positives, negatives = scores[positive], scores[~positive]
    higher = np.zeros((above.subjects, below.subjects))
    order = np.argsort(below.member, kind='stable')
    starts = np.searchsorted(below.member[order], np.arange(below.subjects + 1))
    for subject in range(below.subjects):
        own = np.sort(negatives[order[starts[subject] : starts[subject + 1]]])
        pairs = np.searchsorted(own, positives, side='left')
        pairs = pairs + np.searchsorted(own, positives, side='right')
        higher[:, subject] = above.sums(pairs / 2)
    count_above = above.sums(np.ones(len(above)))
    count_below = below.sums(np.ones(len(below)))

    def measure(weights: Array) -> Array:
        w_above, w_below = weights[:, of_above], weights[:, of_below]
        concordant = ((w_above @ higher) * w_below).sum(axis=1)
        return _divided(concordant, (w_above @ count_above) * (w_below @ count_below))

    return measure


def average_precision(rows: Rows, scores: Array, positive: Array) -> Measure:
    """Mean over the positive rows of the precision where they are just found.

    What a precision-recall curve's steps add up to, without interpolation. NaN where
    no positive row has weight; a guess without knowledge gives the class's share.

    Args:
        rows: of scores.
        scores: float [n], higher for the positive class.
        positive: bool [n].
    """
    thresholds = np.unique(scores[positive])[::-1]
    # At how many of the thresholds, from the highest down, the row is not found yet.
    place = np.searchsorted(-thresholds, -scores, side='left')
    parts = [rows.among(positive), rows.among(~positive)]
    places = [place[positive], place[~positive]]
    count = rows.sums(positive.astype(float))
    at_once = max(1, _HELD_AT_ONCE // rows.subjects)

    def measure(weights: Array) -> Array:
        total = np.zeros(len(weights))
        own = [weights[:, subjects].astype(np.float32) for _, subjects in parts]
        before = [np.zeros((part.subjects, 1), np.float32) for part, _ in parts]
        for start in range(0, len(thresholds), at_once):
            size = min(at_once, len(thresholds) - start)
            steps = [
                _counts(part, where - start, size)
                for (part, _), where in zip(parts, places, strict=True)
            ]
            found = [
                b + np.cumsum(s, axis=1) for b, s in zip(before, steps, strict=True)
            ]
            before = [table[:, -1:] for table in found]
            for chunk in _chunks(len(weights), size):
                # In float32: an error of 1e-6 is far below any interval.
                right = own[0][chunk] @ found[0]
                all_found = own[1][chunk] @ found[1]
                all_found += right
                np.divide(right, all_found, out=right, where=right > 0)
                right *= own[0][chunk] @ steps[0]
                total[chunk] += right.sum(axis=1, dtype=np.float64)
        return _divided(total, weights @ count)

    return measure


def macro(one: Callable[..., Measure], rows: Rows, p: Array, labels: Array) -> Measure:
    """The mean over the classes of a measure of one class against the rest."""
    p, labels = checked(p, labels)
    classes = [one(rows, p[:, k], labels == k) for k in range(p.shape[1])]
    return lambda weights: np.mean([measure(weights) for measure in classes], axis=0)


def r_squared(rows: Rows, told: Array, truth: Array) -> Measure:
    """1 - squared errors / squared distances from the mean of the truth, at most 1."""
    centred = truth - truth.mean()
    of_each = rows.sums(
        np.stack([(told - truth) ** 2, centred**2, centred, np.ones(len(truth))], 1)
    )

    def measure(weights: Array) -> Array:
        error, square, total, count = (weights @ of_each).T
        spread = square - _divided(total**2, count)
        # Below it there is no spread but rounding.
        spread[spread <= 1e-12 * square.max(initial=0)] = 0
        return 1 - _divided(error, spread)

    return measure


def root_mean_squared_error(rows: Rows, told: Array, truth: Array) -> Measure:
    """The root of the mean squared error."""
    squared = mean(rows, (told - truth) ** 2)
    return lambda weights: np.sqrt(squared(weights))


def spearman(rows: Rows, told: Array, truth: Array) -> Measure:
    """Spearman's correlation: Pearson's, of ranks; equal numbers share their mean rank.

    NaN where all of either are equal.
    """
    columns = []
    for values in (told, truth):
        order = np.argsort(values, kind='stable')
        starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
        place = np.searchsorted(values[order][starts], values)
        columns.append((rows.member[order], starts, place))

    def measure(weights: Array) -> Array:
        found = np.empty(len(weights))
        for chunk in _chunks(len(weights), len(rows)):
            ranks = []
            for ordered, starts, place in columns:
                count = np.add.reduceat(weights[chunk][:, ordered], starts, axis=1)
                rank = np.cumsum(count, axis=1) - count / 2
                rank -= _divided((count * rank).sum(1), count.sum(1))[:, None]
                ranks.append(rank[:, place])
            a, b = ranks
            of_rows = weights[chunk][:, rows.member]
            weighted = of_rows * a
            product = (weighted * b).sum(1)
            squares = (weighted * a).sum(1) * (of_rows * b * b).sum(1)
            found[chunk] = _divided(product, np.sqrt(squares))
        return found

    return measure


def predictive_value(
    hits: Measure, false_alarms: Measure, prevalence: float
) -> Measure:
    """The share of those told positive who are, at a prevalence in (0, 1).

    By Bayes' rule, so that it holds for a population that is not the sample's. For the
    negative predictive value give specificity, 1 - sensitivity, and the rest's share.

    Args:
        hits: sensitivity.
        false_alarms: 1 - specificity.
        prevalence: of the positive.
    """

    def measure(weights: Array) -> Array:
        right = hits(weights) * prevalence
        return _divided(right, right + false_alarms(weights) * (1 - prevalence))

    return measure


def _confusion(rows: Rows, probabilities: Array, labels: Array) -> Measure:
    """Weight of each (true, predicted) pair of classes, [R, K, K]."""
    probabilities, labels = checked(probabilities, labels)
    classes = probabilities.shape[1]
    cell = labels * classes + probabilities.argmax(1)
    counts = rows.sums(np.eye(classes**2)[cell])
    return lambda weights: (weights @ counts).reshape(-1, classes, classes)


def _counts(rows: Rows, place: Array, size: int) -> Array:
    """Counts rows by subject and place, float32 [N, size]; other places are left out.

    A place below 0 is one of an earlier part: it has been counted.
    """
    own = (place >= 0) & (place < size)
    cell = rows.member[own] * size + place[own]
    counts = np.bincount(cell, minlength=rows.subjects * size)
    return counts.reshape(rows.subjects, size).astype(np.float32)


def _chunks(count: int, width: int) -> Iterator[slice]:
    """Cuts resamples so that what is made of a part, [r, width], stays small."""
    size = max(1, _WORKED_ON_AT_ONCE // max(width, 1))
    for start in range(0, count, size):
        yield slice(start, start + size)


def _divided(above: Array, below: Array) -> Array:
    """Divides; NaN where there is nothing to divide by."""
    return np.divide(
        above, below, out=np.full(np.shape(above), np.nan), where=below > 0
    )
