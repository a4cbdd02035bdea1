"""Tables of a page: against baselines, in subgroups, beyond what is known anyway."""

from collections.abc import Mapping

from jax_mrissl.core.results import Estimate
from jax_mrissl.report.run_facts import (
    LOWER_IS_BETTER,
    NOT_MEASURED,
    FactTable,
    metric_parts,
    metric_words,
)
from jax_mrissl.report.table import estimate_text
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.pooling import Arm

# Of the arm that is looked at closely; of all of them the first that is measured, and
# how well the first class is told from the others.
_CLOSE = (
    *('log_loss', 'binary_auroc', 'sensitivity', 'specificity', 'accuracy'),
    *('r2', 'mae', 'spearman'),
)
_FOR_ALL = ('log_loss', 'binary_auroc', 'mae')


def group_tables(
    measured: Json, chosen: Arm | None, failed: set[tuple[str, str]]
) -> list[FactTable]:
    """Gives the results in subgroups: of one arm, then of all, metric by metric.

    Args:
        measured: `metrics.json`.
        chosen: the arm that is looked at closely; None: no arm is a result.
        failed: names and modes of under-trained arms.
    """
    groups = measured['subgroups']
    shown = [group for group in groups if not group['absent']]
    found = []
    if groups and chosen:
        found.append(_of_one(groups, chosen))
    for metric in _FOR_ALL:
        arms = [
            arm
            for arm in (shown[0]['arms'] if shown else ())
            if metric in arm and (arm['arm'], arm['mode']) not in failed
        ]
        if arms:
            found.append(_of_all(shown, arms, metric))
    return found


def against_table(measured: Json, failed: set[tuple[str, str]]) -> FactTable | None:
    """Gives networks minus baselines; None: no network that is a result has any."""
    pairs = [
        pair
        for pair in measured['against_baselines']
        if (pair['arm'], pair['mode']) not in failed
    ]
    if not pairs:
        return None
    metric = pairs[0]['metric']
    baselines = list(dict.fromkeys(pair['reference'] for pair in pairs))
    cells: dict[str, dict[str, str]] = {}
    for pair in pairs:
        own = cells.setdefault(_label(pair), {})
        told = estimate_text(Estimate(*(pair[end] for end in ('value', 'low', 'high'))))
        p = pair['holm_p']
        own[pair['reference']] = told if p is None else f'{told}, p = {p:.2g}'
    better = 'below' if metric in LOWER_IS_BETTER else 'above'
    return FactTable(
        'Does it beat the baselines?',
        ('network', *(f'minus {name}' for name in baselines)),
        tuple(
            (label, *(own.get(name, NOT_MEASURED) for name in baselines))
            for label, own in cells.items()
        ),
        (
            f'Differences in {metric_words(metric)}, by subject, in pairs; {better} 0 '
            'the network is better. p is corrected for all of them (Holm). One that '
            'does not beat dark pixels has learned little, and one that does not beat '
            'nWBV, where that is known, nothing beyond brain volume.',
        ),
    )


def beyond_table(measured: Json, failed: set[tuple[str, str]]) -> FactTable | None:
    """Gives what arms and baselines add to covariates; None: nothing was adjusted."""
    rows = []
    for one in measured['adjustments']:
        if (one['arm'], one['mode']) in failed:
            continue
        ratio = Estimate(**one['odds_ratio'])
        rows.append(
            (
                _label(one),
                ', '.join(one['given']),
                f'{one["subjects"]:,}',
                estimate_text(ratio, digits=2),
                'undefined' if one['p'] is None else f'{one["p"]:.2g}',
            )
        )
    if not rows:
        return None
    return FactTable(
        'Does it tell more than is known anyway?',
        ('arm', 'beyond', 'subjects', 'odds ratio', 'p'),
        tuple(rows),
        (
            f'Logistic regression of {_positive(measured)}, on what is known and on '
            'the logit of the probability that the arm told in the fold that tested '
            'the subject. The odds ratio is for a logit one standard deviation higher, '
            "with Wald's 95 % interval; 1 adds nothing. p is of the likelihood ratio, "
            'not corrected for the number of rows (Vickers, Cronin & Begg 2011).',
        ),
    )


def _of_one(groups: Json, chosen: Arm) -> FactTable:
    rows = []
    metrics: list[str] = []
    for group in groups:
        own = _find(group, chosen.name, chosen.mode)
        metrics = metrics or [name for name in _CLOSE if name in own]
    # Of no group is anything known: the column says why.
    heads = [metric_words(name) for name in metrics] or ['']
    for group in groups:
        own = _find(group, chosen.name, chosen.mode)
        cells = [_cell(name, own) for name in metrics]
        prior = group['prior_log_loss']
        if group['absent']:
            cells = [f'not measured: {group["absent"]}', *[''] * (len(heads) - 1)]
        if 'log_loss' in metrics:
            cells.insert(1, '' if prior is None else f'{prior:.3f}')
        rows.append((_group(group), f'{group["subjects"]:,}', *cells))
    if 'log_loss' in metrics:
        heads.insert(1, 'of their class prior')
    return FactTable(
        f'{chosen.label}, by subject',
        ('subjects who are', 'n', *heads),
        tuple(rows),
        (
            'Trained on all, measured among some: few subjects, wide intervals, and '
            'many rows of which some stand out by chance. No group was looked for; '
            'these are named beforehand.',
        ),
    )


def _of_all(shown: Json, arms: Json, metric: str) -> FactTable:
    heads = [f'{_group(group)} (n = {group["subjects"]:,})' for group in shown]
    rows = [
        (
            _label(arm),
            *(_cell(metric, _find(group, arm['arm'], arm['mode'])) for group in shown),
        )
        for arm in arms
    ]
    title = f'All arms in subgroups: {metric_words(metric)}'
    return FactTable(title, ('arm', *heads), tuple(rows))


def _find(group: Json, name: str, mode: str) -> Mapping[str, Json]:
    return next(
        (arm for arm in group['arms'] if (arm['arm'], arm['mode']) == (name, mode)), {}
    )


def _cell(metric: str, arm: Mapping[str, Json]) -> str:
    if metric not in arm:
        return NOT_MEASURED
    return ' '.join(metric_parts(metric, Estimate(**arm[metric]))).strip()


def _group(group: Json) -> str:
    return f'{group["by"]} {group["name"]}' if group['by'] == 'sex' else group['name']


def _label(arm: Json) -> str:
    return f'{arm["arm"]}, {arm["mode"]}' if arm['mode'] else arm['arm']


def _positive(measured: Json) -> str:
    return f'{measured["detection"]["negative"]} or not'
