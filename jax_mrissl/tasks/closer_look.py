"""One arm's predictions by subject: the numbers behind plots, and the worst ones."""

import numpy as np

from jax_mrissl.audit.findings import inside
from jax_mrissl.data.labels import is_of_dementia
from jax_mrissl.metrics.calibration import reliability
from jax_mrissl.metrics.classification import auroc, by_subject
from jax_mrissl.metrics.curves import confusion, roc_points, share_interval
from jax_mrissl.metrics.panel import subject_means
from jax_mrissl.report.run_facts import ClassDetails, NumberDetails, Picture
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.pooling import Arm
from jax_mrissl.tasks.predictions import PREDICTIONS

_BINS = 10
_MISTAKES = 8
# Of a subject's hash, enough to tell it from the others.
_SHORT = 8


def predictions(arm: Arm, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Puts columns of all folds' predictions together."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for path in sorted(arm.folder.glob(f'fold-*/{PREDICTIONS}')):
        with np.load(path) as stored:
            for name, found in parts.items():
                found.append(stored[name])
    return {name: np.concatenate(found) for name, found in parts.items()}


def look_closer(
    arm: Arm, data: LabelledData, measured: Json
) -> ClassDetails | NumberDetails:
    """Gives what the plots of one arm show.

    Args:
        arm: a finished one.
        data: the labelled images.
        measured: `metrics.json`, which has what is measured already.
    """
    if data.task.kind == 'regression':
        _, truth, told = _numbers(arm)
        return NumberDetails(arm.label, truth, told)
    found = predictions(arm, ('groups', 'labels', 'probabilities'))
    labels, groups = found['labels'], found['groups']
    whole = by_subject(found['probabilities'], labels, groups)
    bins = reliability(whole.probabilities, whole.labels, bins=_BINS)
    low, high = share_interval(bins.accuracy, bins.count)
    details = next(
        row
        for row in measured['details']
        if (row['arm'], row['mode']) == (arm.name, arm.mode)
    )
    curves = []
    for index, name in enumerate(data.task.classes):
        own = whole.labels == index
        if own.any() and not own.all():
            scores = whole.probabilities[:, index]
            curves.append((name, *roc_points(scores, own), auroc(scores, own)))
    return ClassDetails(
        label=arm.label,
        classes=data.task.classes,
        ordered=data.task.kind == 'ordinal' or is_of_dementia(data.prepared),
        labels=whole.labels,
        probabilities=whole.probabilities,
        confidence=bins.confidence,
        accuracy=bins.accuracy,
        low=low,
        high=high,
        count=bins.count,
        calibration_error=bins.calibration_error,
        log_loss_uncalibrated=details['subject']['log_loss_uncalibrated']['value'],
        confusion=confusion(whole.probabilities, whole.labels),
        curves=tuple(curves),
    )


def worst_mistakes(arm: Arm, data: LabelledData) -> list[Picture]:
    """Shows the subjects that were most surely told wrong, the worst first."""
    if data.task.kind == 'regression':
        ids, truth, told = _numbers(arm)
        order = np.argsort(-np.abs(told - truth), kind='stable')[:_MISTAKES]
        captions = [
            (f'true {truth[i]:.3g}, told {told[i]:.3g}', f'subject {ids[i][:_SHORT]}')
            for i in order
        ]
        return [_picture(data, ids[i], c) for i, c in zip(order, captions, strict=True)]
    found = predictions(arm, ('groups', 'labels', 'probabilities'))
    whole = by_subject(found['probabilities'], found['labels'], found['groups'])
    guess = whole.probabilities.argmax(1)
    sure = whole.probabilities.max(1)
    wrong = np.flatnonzero(guess != whole.labels)
    wrong = wrong[np.argsort(-sure[wrong], kind='stable')][:_MISTAKES]
    names = data.task.classes
    pictures = []
    for i in wrong:
        own = whole.labels[i]
        caption = (
            f'true: {names[own]} (said {whole.probabilities[i, own]:.2f})',
            f'told: {names[guess[i]]} (said {sure[i]:.2f})',
            f'subject {whole.ids[i][:_SHORT]}',
        )
        pictures.append(_picture(data, whole.ids[i], caption))
    return pictures


def _numbers(arm: Arm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives subjects and, of each, the mean true and told number over its slices."""
    found = predictions(arm, ('groups', 'targets', 'predictions'))
    ids, member = np.unique(found['groups'], return_inverse=True)
    true, told = (
        subject_means(found[name], member) for name in ('targets', 'predictions')
    )
    return ids, true, told


def _picture(data: LabelledData, group: str, caption: tuple[str, ...]) -> Picture:
    prepared = data.prepared
    rows = np.flatnonzero(prepared.groups == group)
    order = np.lexsort((prepared.file_ids[rows], prepared.positions[rows]))
    row = int(rows[order][len(rows) // 2])
    simulated = 'simulated ' if prepared.card['simulated'] else ''
    alt = f'The central {simulated}slice of a subject that was told wrong; {caption[0]}'
    return Picture(inside(prepared, row), f'{alt}; {caption[1]}', caption)
