"""Sentences of a run's page: what a result means, on what it rests, what could leak."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mrissl.core.results import Estimate
from jax_mrissl.data.labels import is_of_dementia
from jax_mrissl.metrics.baselines import class_prior_log_loss
from jax_mrissl.metrics.bootstrap import bootstrap
from jax_mrissl.metrics.panel import class_panel
from jax_mrissl.report.run_facts import (
    LOWER_IS_BETTER,
    PRETRAINING,
    ResultRow,
    ResultTable,
    metric_parts,
    metric_words,
)
from jax_mrissl.report.table import estimate_text
from jax_mrissl.tasks.closer_look import predictions
from jax_mrissl.tasks.from_config import Experiment, FinetunePlan, Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.pooling import UNTRAINED, Arm
from jax_mrissl.tasks.shuffled import chance_texts

KAGGLE = 'alzheimer_mri'
_OLD = 60  # years; below it no subject of the Kaggle set is demented
# Of fewer, nothing is said alone.
_FEWEST = 20


def headline(tables: Sequence[ResultTable], metric: str, arm: Arm | None) -> list[str]:
    """Gives the result in a sentence for a doctor, then those that follow it.

    Args:
        tables: of results, by subject first.
        metric: the one that decides.
        arm: the chosen one; None: none is a result.
    """
    row = next((row for row in tables[0].rows if row.chosen), None) if tables else None
    if row is None or arm is None:
        return [
            'No result: every network is under-trained.',
            'Training did not end below what is reached by knowing how common the '
            'classes are. Train longer, or with another learning rate.',
        ]
    prior, people = tables[0].prior, f'{tables[0].count:,} subjects'
    failed = [other.label for other in tables[0].rows if other.failure]
    if metric != 'log_loss' or prior is None:
        found = [
            f'{metric_words(metric)} of {_who(arm)}: '
            f'{_with_interval(row, metric)} over {people}.'
        ]
    else:
        first = tables[0].rows[0]
        found = [
            _verdict(
                _who(arm),
                row.estimates['log_loss'],
                row.estimates.get('accuracy'),
                prior=prior,
                commonest=first.estimates['accuracy'].value
                if first.role == 'baseline' and 'accuracy' in first.estimates
                else None,
                people=people,
            ),
            'Its log loss by subject, which also asks for honest probabilities, is '
            f'{_with_interval(row, "log_loss")}; knowing only how common the classes '
            f'are gives {prior:.3f}. Lower is better; brackets are 95 % intervals.',
        ]
    if failed:
        found.append(f'Under-trained, and so no result: {"; ".join(failed)}.')
    return found


def told_by(data: LabelledData) -> str:
    """Says which networks tell a subject, for after 'by'."""
    if data.is_leaky:
        return 'networks finetuned on other images of the same subjects (leaky)'
    return 'networks that have not seen it in finetuning'


def by_age(arm: Arm | None, data: LabelledData, plan: FinetunePlan) -> list[str]:
    """Gives the result among the over-60s, which stands first where ages are known.

    Of grades of dementia alone: of them age tells most.

    Args:
        arm: the chosen one; None: none is a result.
        data: the labelled images.
        plan: tells how often is resampled.
    """
    ages = data.covariates.values.get('age') if data.covariates else None
    if ages is None or arm is None or data.task.kind == 'regression':
        return []
    if not is_of_dementia(data.prepared):
        return []
    known = ages[np.isfinite(ages)]
    if known.min() >= _OLD or known.max() < _OLD:
        return []
    found = predictions(arm, ('file_ids', 'groups', 'labels', 'probabilities'))
    age_of = dict(zip(data.prepared.file_ids.tolist(), ages.tolist(), strict=True))
    old = np.array([age_of[i] >= _OLD for i in found['file_ids'].tolist()])
    labels, groups = found['labels'][old], found['groups'][old]
    _, first = np.unique(groups, return_index=True)
    own = labels[first]
    counts = np.bincount(own, minlength=len(data.task.classes))
    if len(own) < _FEWEST or (counts > 0).sum() < 2:
        return []
    measured = bootstrap(
        class_panel(found['probabilities'][old], labels, groups),
        resamples=plan.bootstrap_resamples,
    )
    prior = class_prior_log_loss(own)
    loss = measured.estimate('subject', 'log_loss')
    auroc = measured.estimate('subject', 'macro_auroc')
    return [
        _verdict(
            _who(arm),
            loss,
            measured.estimate('subject', 'accuracy'),
            prior=prior,
            commonest=float(counts.max() / counts.sum()),
            people=f'the {len(own):,} subjects aged {_OLD} and over',
            before=f'Among the over-{_OLD}s, of whom age tells least',
        ),
        f'There its log loss is {estimate_text(loss)}, where knowing how common the '
        f'classes are gives {prior:.3f}; macro AUROC {estimate_text(auroc)}. It was '
        f'trained on all ages; --config.finetune.where="age>={_OLD}" trains and tests '
        'within them.',
        'All ages:',
    ]


def _who(arm: Arm) -> str:
    kind = 'untrained' if arm.name == UNTRAINED else 'pretrained'
    return f'the {kind} network ({arm.label})'


def _verdict(
    who: str,
    loss: Estimate,
    right: Estimate | None,
    *,
    prior: float,
    commonest: float | None,
    people: str,
    before: str = '',
) -> str:
    """Holds an arm against how common the classes are, by its interval."""
    if loss.low is None or loss.high is None:
        verdict = 'were measured without an interval'
    elif loss.high < prior:
        verdict = 'tell more than how common the classes are'
    elif loss.low > prior:
        verdict = 'tell less than how common the classes are'
    else:
        verdict = 'are not shown to tell more than how common the classes are'
    text = f'he probabilities of {who} {verdict}.'
    text = f'{before}, t{text}' if before else f'T{text}'
    if right is None or right.value is None:
        return text
    text += f' It names the right class of {100 * right.value:.0f} %'
    if right.low is not None and right.high is not None:
        text += f' (95 % interval {100 * right.low:.0f} to {100 * right.high:.0f} %)'
    text += f' of {people}'
    if commonest is not None:
        text += (
            '; naming the commonest class every time is right of '
            f'{100 * commonest:.0f} %'
        )
    return f'{text}.'


def _with_interval(row: ResultRow, metric: str) -> str:
    return ' '.join(metric_parts(metric, row.estimates.get(metric))).strip()


def alarms(data: LabelledData, overlap: Json) -> list[str]:
    """Gives what a reader must know before any number."""
    found = []
    if data.is_leaky:
        found.append(
            f'LEAKY: images are divided by {data.division!r}, so that images of one '
            'subject are in training and in test. These numbers are for comparison '
            'only, and far too good.'
        )
    if overlap.get('images'):
        found.append(
            f'OVERLAP ALLOWED: pretraining has seen {overlap["images"]:,} labelled '
            f'images of {overlap["subjects"]:,} tested subjects.'
        )
    return found


def detection_notes(measured: Json) -> tuple[str, ...]:
    """Says at which threshold and prevalence the first class is told from the rest."""
    told = measured['detection']
    share = told['prevalence']
    at = (
        "the sample's own prevalence" if share is None else f'a prevalence of {share:g}'
    )
    return (
        f'Sensitivity and specificity are of {" or ".join(told["positive"])} against '
        f"{told['negative']}, at the threshold that was best by Youden's index on "
        f'validation, fold by fold. Predictive values are at {at}. The bins of the '
        "calibration error are the sample's in every resample.",
    )


def difference(compared: Json, failed: set[tuple[str, str]], simulated: bool) -> str:
    """Says what one comparison with the untrained arm shows."""
    arm = f'{compared["arm"]}, {compared["mode"]}'
    reference = f'{compared["reference"]}, {compared["mode"]}'
    mark = ' (SIMULATED)' if simulated else ''
    lacking = [
        f'{name}, {compared["mode"]}'
        for name in (compared['arm'], compared['reference'])
        if (name, compared['mode']) in failed
    ]
    if lacking:
        return f'{arm}: not compared; under-trained: {"; ".join(lacking)}.{mark}'
    estimate = Estimate(compared['value'], compared['low'], compared['high'])
    metric, p = compared['metric'], compared['holm_p']
    if estimate.low is None or estimate.high is None:
        verdict = 'Undefined'
    elif estimate.low <= 0 <= estimate.high:
        verdict = 'No difference is shown'
    elif (estimate.high < 0) == (metric in LOWER_IS_BETTER):
        verdict = 'Pretraining helped'
    else:
        verdict = 'Pretraining harmed'
    if p is not None and p >= 0.05 and verdict.startswith('Pretraining'):
        verdict = 'No difference is shown after correction for several comparisons'
    return (
        f'{verdict}: {arm} minus {reference}, {metric_words(metric)} by '
        f'{compared["unit"]} {estimate_text(estimate)}, '
        f'p = {"undefined" if p is None else f"{p:.2g}"} (paired, Holm).{mark}'
    )


def background(data: LabelledData, plan: FinetunePlan) -> list[str]:
    """Gives what the publisher of the Kaggle Alzheimer set does not say of it."""
    if data.prepared.name != KAGGLE:
        return []
    found = [
        'The Kaggle set is made of 200 sessions of OASIS-1, one a subject, with 32 '
        'neighbouring slices each; its publisher says neither this nor ages. It was '
        'found by this project by comparing pixels, and the CDR of OASIS-1 agrees '
        'with the class of all 200. Its shipped split has every subject on both sides.',
        '28 of the 100 subjects without dementia are younger than 60; no demented one '
        'is. So a part of what any classifier sees is age. For demented or not, among '
        'all 200, AUROC is 0.639 by age alone, 0.774 by normalised brain volume (nWBV) '
        'and 0.760 by the share of dark pixels; among the 172 aged 60 and over 0.499, '
        '0.691 and 0.680. A network has learned more than brain volume only where it '
        'beats nWBV among the over-60s.',
    ]
    if not plan.covariates:
        found.append(
            'Ages were not given to this run, so the over-60s are not shown alone: '
            '--config.finetune.covariates=oasis_cross-sectional.csv, the table of '
            'OASIS-1, brings them.'
        )
    return found


def leaks(
    experiment: Experiment, data: LabelledData, measured: Json
) -> list[tuple[str, str]]:
    """Says what pretraining and training could have seen of tested subjects."""
    overlap = measured['overlap']
    if data.is_leaky:
        text = (
            'Images of tested subjects were trained on: this division '
            f'({data.division}) is leaky by its nature.'
        )
    else:
        text = (
            f'{len(data.folds)} folds, divided by {data.division}; no subject is in '
            'two of training, validation and test. What was tuned (settings, epoch, '
            'temperature) was chosen on validation subjects.'
        )
    found = [('Finetuning', text)]
    if not experiment.chain:
        text = 'None in this run.'
    elif overlap['images']:
        text = (
            f'It has seen {overlap["images"]:,} labelled images of '
            f'{overlap["subjects"]:,} tested subjects, which the config allowed.'
        )
    else:
        left_out = overlap.get('left_out')
        text = (
            f'{left_out:,} of its images were left out: their subjects are tested. '
            if left_out
            else ''
        ) + (
            'No labelled image was among its images, nor a twin of one (turned, '
            'mirrored, rescaled, re-encoded, of other brightness) or a neighbouring '
            'slice, as far as pixels tell. The same person in another sequence or '
            'plane would not be noticed.'
        )
    found.append((PRETRAINING, text))
    if measured['started_from']:
        text = (
            f'{measured["started_from"]}: whether these weights have seen tested '
            'images is not known here.'
        )
        found.append(('Weights from outside', text))
    if experiment.finetune.shuffle_labels:
        told = chance_texts(measured['shuffled_labels'], data)
        text = ' '.join(['Labels were shuffled over subjects.', *told])
        found.append(('Control', text))
    return found


def card_facts(card: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Gives a dataset's card as pairs of a name and a text."""
    counts = card['counts']
    rejected = {'repeated': counts['duplicates'], **counts['rejected']}
    left_out = ', '.join(f'{reason} {n:,}' for reason, n in rejected.items() if n)
    by_class = ', '.join(
        f'{name} {counts["classes"].get(name, 0):,} (of '
        f'{counts["groups_by_class"].get(name, 0):,} groups)'
        for name in card['classes']
    )
    facts = {
        'Dataset': f'{card["name"]} {card["version"]}',
        'Source': card['source'],
        'Terms': card['terms'],
        'Images': f'{counts["images"]:,} in {counts["groups"]:,} groups, from '
        f'{counts["files"]:,} files',
        'Classes': by_class,
        'Groups': card['subjects']['found'],
        'Stored as': f'{card["canvas"]} x {card["canvas"]} pixels, '
        f'{card["channels"]} channel(s), {card["bits"]} bits',
        'Left out': left_out or 'nothing',
        'Notes': ' '.join(card['notes']),
        'Fingerprint': card['fingerprint'],
    }
    return tuple((name, text) for name, text in facts.items() if text)
