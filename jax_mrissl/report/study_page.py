"""A study's page: plain facts in, one HTML file out; same facts, same bytes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from jax_mrissl.report.pages import render
from jax_mrissl.report.plots import ForestRow, Series, forest_plot, line_plot
from jax_mrissl.report.run_facts import duration_words, metric_words
from jax_mrissl.report.study_facts import (
    SettingFacts,
    StudyArm,
    StudyFacts,
    warnings_of,
)
from jax_mrissl.report.study_table import Matrix, Transfer, matrices
from jax_mrissl.report.table import estimate_text


@dataclasses.dataclass(frozen=True)
class _Figure:
    """A plot and the words under it."""

    plot: Markup
    caption: str


def study_page(facts: StudyFacts) -> str:
    """Writes the page of a study, which links the pages of its experiments."""
    return render(
        'study.html',
        facts=facts,
        alarms=warnings_of([s for s in facts.settings if s.marks]),
        tables=[_table(facts, matrix) for matrix in matrices(facts)],
        differences=_differences(facts),
        curves=[*_label_curves(facts), *_share_curves(facts)],
        arms=[row for setting in facts.settings for row in _arm_rows(setting)],
    )


def _table(facts: StudyFacts, matrix: Matrix | Transfer) -> dict[str, object]:
    del facts
    return {'title': matrix.title, 'head': matrix.head, 'rows': matrix.rows}


def _differences(facts: StudyFacts) -> list[_Figure]:
    """Draws each setting's differences to the untrained encoder."""
    found = []
    for number, setting in enumerate(facts.settings):
        for mode in setting.modes:
            own = [a for a in setting.arms if a.mode == mode and a.method]
            rows = [
                ForestRow(
                    label=f'{arm.name}{arm.marks}',
                    value=arm.difference.value if arm.difference else None,
                    low=arm.difference.low if arm.difference else None,
                    high=arm.difference.high if arm.difference else None,
                    role='arm',
                    note=arm.failure.partition(':')[0] or 'not compared',
                )
                for arm in own
            ]
            if not any(arm.difference for arm in own):
                continue
            measure = f'{metric_words(setting.headline)}, minus untrained'
            plot = forest_plot(
                rows,
                name=f'differences-{number}-{mode}',
                title=f'{setting.target}{setting.labels}, {mode}: pretrained minus '
                f'untrained{setting.marks}',
                measure=measure,
                reference=(0.0, 'no difference'),
                simulated=facts.simulated,
            )
            found.append(
                _Figure(
                    plot,
                    f'{setting.target}{setting.labels}{setting.marks}, {mode}: '
                    f'{measure}, by subject, with 95 % intervals that are not '
                    'corrected for the number of comparisons. Left of the line: '
                    'pretraining helped.',
                )
            )
    return found


def _label_curves(facts: StudyFacts) -> list[_Figure]:
    """Draws the headline over the share of labels, where there are several."""
    found = []
    targets = dict.fromkeys(setting.target for setting in facts.settings)
    for target in targets:
        own = [s for s in facts.settings if s.target == target]
        if len(own) < 2:
            continue
        for mode in own[0].modes:
            lines: dict[str, list[tuple[float, float]]] = {}
            for setting in own:
                for arm in setting.arms:
                    value = _headline(arm, setting)
                    if arm.mode == mode and value is not None:
                        point = (100 * setting.label_fraction, value)
                        lines.setdefault(arm.name, []).append(point)
            figure = _curve(
                lines,
                name=f'labels-{target}-{mode}',
                title=f'{target}, {mode}: how many labels it takes{own[0].marks}',
                x_label='share of the training subjects, %',
                setting=own[0],
                facts=facts,
            )
            found += [figure] if figure else []
    return found


def _share_curves(facts: StudyFacts) -> list[_Figure]:
    """Draws the headline over the share of pretraining, where there are several."""
    if len(facts.shares) < 2:
        return []
    found = []
    for setting in facts.settings:
        for mode in setting.modes:
            lines: dict[str, list[tuple[float, float]]] = {}
            for arm in setting.arms:
                value = _headline(arm, setting)
                if arm.mode == mode and arm.method and value is not None:
                    name = dataclasses.replace(arm, share=1.0).name
                    lines.setdefault(name, []).append((100 * arm.share, value))
            figure = _curve(
                lines,
                name=f'images-{setting.target}-{setting.label_fraction:g}-{mode}',
                title=f'{setting.target}{setting.labels}, {mode}: how many images '
                f'of pretraining it takes{setting.marks}',
                x_label='share of the subjects of pretraining, %',
                setting=setting,
                facts=facts,
            )
            found += [figure] if figure else []
    return found


def _curve(
    lines: dict[str, list[tuple[float, float]]],
    *,
    name: str,
    title: str,
    x_label: str,
    setting: SettingFacts,
    facts: StudyFacts,
) -> _Figure | None:
    series = [
        Series(label, *np.array(sorted(points)).T)
        for label, points in lines.items()
        if len(points) > 1
    ]
    if not series:
        return None
    plot = line_plot(
        series,
        name=name.replace('.', '-'),
        title=title,
        x_label=x_label,
        y_label=metric_words(setting.headline),
        simulated=facts.simulated,
    )
    return _Figure(plot, f'{title}. By subject; the intervals are in the table below.')


def _headline(arm: StudyArm, setting: SettingFacts) -> float | None:
    estimate = arm.estimates.get(('subject', setting.headline))
    return estimate.value if estimate and not arm.failure else None


def _arm_rows(setting: SettingFacts) -> Sequence[dict[str, str]]:
    """Gives one row for each arm: numbers, difference, cost, page."""
    rows = []
    for arm in setting.arms:
        estimate = arm.estimates.get(('subject', setting.headline))
        number = estimate_text(estimate) if estimate else '–'
        spread = f'{arm.spread[0]:.3f} to {arm.spread[1]:.3f}' if arm.spread else '–'
        rows.append(
            {
                'target': f'{setting.target}{setting.labels}{setting.marks}',
                'name': arm.name,
                'mode': arm.mode,
                'number': arm.failure or number,
                'failed': 'yes' if arm.failure else '',
                'seeds': f'{arm.seeds} of {arm.of_seeds}',
                'spread': spread,
                'difference': estimate_text(arm.difference) if arm.difference else '–',
                'p': '–' if arm.holm_p is None else f'{arm.holm_p:.2g}',
                'seen': f'{arm.seen}' if arm.seen else '',
                'collapsed': 'yes' if arm.collapsed else '',
                'cost': '–' if arm.seconds is None else duration_words(arm.seconds),
                'page': arm.page,
            }
        )
    return rows
