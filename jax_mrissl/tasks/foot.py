"""Sentences at the foot of the table: what a reader needs to believe the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mrissl.audit.overlap import Overlap
from jax_mrissl.core.results import UNDER_TRAINED, ArmResult, Role
from jax_mrissl.report.table import estimate_text, interval_notes
from jax_mrissl.tasks.controls import EXPLAINED, WITNESS
from jax_mrissl.tasks.from_config import Experiment, FinetunePlan
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import CLASS_PRIOR, training_prior

_DIVIDED = {
    'subject': 'divided by subject, stratified by class; every subject is tested once',
    'site': 'one for each site, which is tested by what was learned at the others',
    'image': 'divided by IMAGE, not by subject; every image is tested once',
    'shipped': "the set's own split, which is not by subject; its part called test is "
    'tested',
}


def foot(
    rows: Sequence[ArmResult],
    data: LabelledData,
    experiment: Experiment,
    overlap: Overlap,
    *,
    pretrained_on: Sequence[Mapping[str, Any]] = (),
    started_from: str = '',
) -> list[str]:
    """Gives the sentences, one paragraph each.

    Args:
        rows: of the table.
        data: the labelled images.
        experiment: the plans.
        overlap: what pretraining has seen of the labelled images.
        pretrained_on: the cards of the datasets of pretraining, in order.
        started_from: the weights from outside that it all began with; '': none.
    """
    plan = experiment.finetune
    simulated = bool(data.prepared.card['simulated'])
    lines = _start(started_from)
    lines.append(f'Tested on {_named(data.prepared.card)}.')
    if pretrained_on:
        lines.append(f'Pretrained on {", then ".join(map(_named, pretrained_on))}.')
    if simulated or any(card['simulated'] for card in pretrained_on):
        lines.append(
            'SIMULATED DATA: these numbers say whether the program works, and nothing '
            'about patients.'
        )
    lines.append(_tested(data))
    lines += [f'Note: {warning}' for warning in data.warnings]
    if experiment.chain:
        lines.append(_overlap(overlap, bool(started_from)))
    lines += interval_sentences(data, plan.bootstrap_resamples)
    lines += _detection(rows, data)
    lines += explained({row.arm: row.role for row in rows}, data)
    lines.append(_tuning(plan))
    lines += experiment.notes
    if any(UNDER_TRAINED in row.notes for row in rows):
        lines.append(under_trained_words(data))
    return lines


def _start(started_from: str) -> list[str]:
    if not started_from:
        return []
    return [
        f'Started from {started_from}: whether these weights have seen tested images '
        'is not known here.'
    ]


def _named(card: Mapping[str, Any]) -> str:
    simulated = card['simulated'] and 'simulated' not in card['title'].lower()
    return f'{card["title"]}{" (SIMULATED)" if simulated else ""}'


def _tested(data: LabelledData) -> str:
    rows = data.tested()
    subjects = len(np.unique(data.prepared.groups[rows]))
    count = len(data.folds)
    text = (
        f'n = {subjects:,} subjects, {len(rows):,} slices. {count} '
        f'{"fold" if count == 1 else "folds"}, {_DIVIDED[data.division]}. '
    )
    if data.task.kind == 'regression':
        return f"{text}A subject's number is the mean over its slices."
    return (
        f"{text}A subject's probability is the mean over its slices, calibrated on "
        'validation.'
    )


def _overlap(overlap: Overlap, from_outside: bool) -> str:
    if overlap.images:
        return f'OVERLAP ALLOWED: pretraining has seen {overlap.text}.'
    where = 'the pretraining of this run' if from_outside else 'pretraining'
    left_out = (
        f'{overlap.left_out:,} images of pretraining were left out: their subjects are '
        'tested. '
        if overlap.left_out
        else ''
    )
    return left_out + (
        f'No labelled image was seen in {where}, nor a twin of one (turned, mirrored, '
        'rescaled, re-encoded, of other brightness) or a neighbouring slice, as far as '
        'pixels tell.'
    )


def interval_sentences(data: LabelledData, resamples: int) -> list[str]:
    """Says what the brackets behind the numbers of a run are."""
    subjects = len(np.unique(data.prepared.groups[data.tested()]))
    within = '' if data.task.kind == 'regression' else ' within their class'
    return [
        *interval_notes(resamples, subjects, within=within),
        'The spread over training seeds is not in the intervals.',
    ]


def _detection(rows: Sequence[ArmResult], data: LabelledData) -> list[str]:
    """Says how well the first class is told from all others, arm by arm.

    Of two classes the table says it, but of numbers that rank as they are.
    """
    if not any('binary_auroc' in row.estimates for row in rows):
        return []
    names = ['binary_auroc', 'macro_auroc'][: 2 if len(data.task.classes) == 2 else 1]
    told = []
    for row in rows:
        area = next((row.estimates[n] for n in names if n in row.estimates), None)
        shown = row.unit == 'subject' and UNDER_TRAINED not in row.notes
        if shown and area is not None and area.low is not None:
            mode = f', {row.mode}' if row.mode else ''
            told.append(f'{row.arm}{mode} {estimate_text(area)}')
    if not told:
        return []
    mark = ' (SIMULATED)' if data.prepared.card['simulated'] else ''
    first = data.task.classes[0]
    return [f'AUROC of {first} or not, by subject{mark}: {"; ".join(told)}.']


def explained(roles: Mapping[str, Role], data: LabelledData) -> list[str]:
    """Says which rows are to be beaten, and what baselines and controls are.

    Args:
        roles: by the name of an arm, in the order of the table.
        data: the labelled images.
    """
    words = {
        CLASS_PRIOR: 'the class shares of the tested set itself, the best constant '
        'guess',
        **EXPLAINED,
    }
    if data.task.kind == 'regression':
        words[WITNESS] = 'a control, the number of the picture nearest by its pixels'
    found = []
    if names := [name for name, role in roles.items() if role == 'baseline']:
        found.append(f'To be beaten: {", ".join(names)}.')
    known = [f'{name}: {words[name]}.' for name in roles if name in words]
    return [*found, ' '.join(known)] if known else found


def _tuning(plan: FinetunePlan) -> str:
    trials = len(plan.full.trials(plan.build_optimizer()))
    texts = {
        'linear': 'linear: a regression on frozen features, the best of '
        f'{len(plan.linear.l2_strengths)} L2 strengths by validation.',
        'knn': 'knn: a vote of the nearest among frozen features, the best of '
        f'{len(plan.knn.neighbours)} numbers of neighbours by validation.',
        'full': 'full: the whole network is trained, the best of '
        + (f'{trials} settings and ' if trials > 1 else '')
        + f'{plan.full.epochs} epochs by validation.',
    }
    return ' '.join(texts[mode] for mode in plan.modes)


def under_trained_words(data: LabelledData) -> str:
    """Says what an arm that is no result did not reach."""
    if data.task.kind == 'regression':
        below = 'the variance of the numbers trained on, which their mean reaches'
    else:
        prior = training_prior(data)
        below = f'the log loss of its class prior ({prior:.4f} by slice)'
    return (
        f'Under-trained: training did not end below {below}, so this is no result. '
        'Train longer, or with another learning rate. The numbers are in metrics.json.'
    )
