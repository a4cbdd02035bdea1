"""The page of a run: what was found, how sure it is, and on what it rests."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from jax_mrissl.report.pages import render
from jax_mrissl.report.plots import (
    ForestRow,
    Series,
    forest_plot,
    line_plot,
    reliability_plot,
    roc_plot,
    scatter_plot,
    strip_plot,
)
from jax_mrissl.report.run_facts import (
    LOWER_IS_BETTER,
    ClassDetails,
    CurvePlot,
    NumberDetails,
    ResultTable,
    RunFacts,
    cost_table,
    metric_parts,
    metric_words,
)

_HEAT_STEPS = 5


def run_page(facts: RunFacts) -> str:
    """Writes the page; same facts, same text."""
    details = facts.details
    return render(
        'run.html',
        facts=facts,
        forest=_forest(facts),
        plots=_details_plots(details, facts.simulated) if details else [],
        confusion=_confusion(details) if isinstance(details, ClassDetails) else None,
        curves=[
            (curve.title, _curve(curve, index, facts.simulated))
            for index, curve in enumerate(facts.curves)
        ],
        cost=cost_table(facts.stages),
        words=metric_words,
        parts=metric_parts,
    )


def _forest(facts: RunFacts) -> Markup | None:
    if not facts.tables:
        return None
    table, metric = facts.tables[0], facts.headline_metric
    rows = []
    for row in table.rows:
        estimate = row.estimates.get(metric)
        if estimate is None and row.role != 'arm':
            continue
        if row.failure or estimate is None or estimate.value is None:
            # The table says where training ended; here is room for a few words.
            note = row.failure.partition(':')[0] or 'not measured'
            rows.append(ForestRow(row.label, None, role=row.role, note=note))
        elif row.role == 'arm' or estimate.low is not None:
            low, high = estimate.low, estimate.high
            rows.append(ForestRow(row.label, estimate.value, low, high, row.role))
    if not any(row.value is not None for row in rows) and table.prior is None:
        return None
    return forest_plot(
        rows,
        name='forest',
        title=f'{metric_words(metric).capitalize()} of all arms, with intervals',
        measure=_measure(table, metric),
        reference=None if table.prior is None else (table.prior, 'class prior'),
        simulated=facts.simulated,
    )


def _measure(table: ResultTable, metric: str) -> str:
    better = 'lower' if metric in LOWER_IS_BETTER else 'higher'
    return f'{metric_words(metric)} by {table.unit} ({better} is better)'


def _details_plots(
    details: ClassDetails | NumberDetails, simulated: bool
) -> list[tuple[str, str, Markup]]:
    """Gives title, caption and plot."""
    if isinstance(details, NumberDetails):
        return [
            (
                'Each subject',
                'A dot is a subject: the mean over its slices. On the line it would be '
                'told right.',
                scatter_plot(
                    details.truth,
                    details.told,
                    name='subjects',
                    title='Told against true, by subject',
                    simulated=simulated,
                ),
            )
        ]
    sure = (
        f'Expected calibration error {details.calibration_error:.3f} over '
        f'{len(details.count)} bins of equal size.'
    )
    if details.log_loss_uncalibrated is not None:
        sure += (
            ' Log loss before the temperature that validation chose: '
            f'{details.log_loss_uncalibrated:.3f}.'
        )
    return [
        (
            'Reliability',
            'Where a probability means what it says, dots lie on the line; below it '
            'the network is too sure. Upright lines are 95 % intervals of a share '
            f'(Wilson), wide where a bin holds few subjects. {sure}',
            reliability_plot(
                details.confidence,
                details.accuracy,
                (details.low, details.high),
                details.count,
                name='reliability',
                title='Reliability by subject',
                simulated=simulated,
            ),
        ),
        (
            'ROC curves',
            'Each class against the rest, by subject; in brackets the area. Without '
            'intervals: those of the mean area are in the table.',
            roc_plot(
                [
                    Series(f'{name} ({area:.2f})', x, y)
                    for name, x, y, area in details.curves
                ],
                name='roc',
                title='ROC curves by subject',
                simulated=simulated,
            ),
        ),
        ('Each subject', *_each_subject(details, simulated)),
    ]


def _each_subject(details: ClassDetails, simulated: bool) -> tuple[str, Markup]:
    """Gives caption and plot: the expected grade, or how sure of the true class."""
    said, labels = details.probabilities, details.labels
    if details.ordered:
        values = said @ np.arange(len(details.classes))
        measure = 'expected grade'
        words = (
            'Columns that stand apart would be told apart. The grade counts classes '
            f'from 0 ({details.classes[0]}) to {len(details.classes) - 1} '
            f'({details.classes[-1]}), weighted by their probabilities.'
        )
    else:
        values = said[np.arange(len(labels)), labels]
        measure = 'probability of the true class'
        words = 'The higher, the surer the network was of what is true.'
    plot = strip_plot(
        values,
        labels,
        details.classes,
        name='subjects',
        title=f'{measure.capitalize()}, by subject and true class',
        measure=measure,
        right=said.argmax(1) == labels,
        simulated=simulated,
    )
    caption = (
        'A dot is a subject, full where its most probable class is the true one; the '
        f'bar is the mean. {words}'
    )
    return caption, plot


def _confusion(details: ClassDetails) -> list[tuple[str, list[tuple[int, int]]]]:
    """Gives, for each true class, counts and how strong their colour is (0-5)."""
    table = details.confusion
    of = np.maximum(table.sum(1, keepdims=True), 1)
    heat = np.ceil(_HEAT_STEPS * table / of).astype(int)
    return [
        (name, [(int(n), int(h)) for n, h in zip(*row, strict=True)])
        for name, row in zip(
            details.classes, zip(table, heat, strict=True), strict=True
        )
    ]


def _curve(curve: CurvePlot, index: int, simulated: bool) -> Markup:
    series: Sequence[Series] = [
        Series(name or 'a fold', x, y, faint=not name) for name, x, y in curve.lines
    ]
    return line_plot(
        series,
        name=f'curve-{index}',
        title=curve.title,
        x_label='epoch',
        y_label=curve.y_label,
        reference=curve.reference,
        simulated=simulated,
    )
