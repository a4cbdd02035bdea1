"""The plots of a run's page: arrays in, inline SVG out."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from jax_mrissl.report.svg import (
    ACCENT,
    FAINT,
    INK,
    LINE,
    PAPER,
    SECOND,
    SERIES,
    WARN,
    axes,
    inline_svg,
)

# What a plot says of simulated data, on itself.
_SIMULATED = 'SIMULATED'
# More classes than this are too many for names side by side.
_MANY = 6
# Lines of one colour, when there are more than colours.
_DASHES = ('-', (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


@dataclasses.dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot.

    Attributes:
        label: of the line.
        value, low, high: the number and its interval; None: not shown, see `note`.
        role: 'arm' is drawn in colour, all else in gray.
        note: what stands in place of numbers.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    role: str = 'arm'
    note: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """A line of a plot.

    Attributes:
        label: its name.
        x, y: float [n].
        faint: whether it is a backdrop of others.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    faint: bool = False


def forest_plot(
    rows: Sequence[ForestRow],
    *,
    name: str,
    title: str,
    measure: str,
    reference: tuple[float, str] | None,
    simulated: bool,
) -> Markup:
    """Draws numbers with their intervals, one above the other.

    Args:
        rows: from top to bottom.
        name: of the plot in the page.
        title: for who does not see it.
        measure: what the axis is.
        reference: a number to be held against, and its name.
        simulated: whether the plot says so.
    """
    with axes(height=0.75 + 0.46 * len(rows)) as plot:
        for index, row in enumerate(rows):
            colour = ACCENT if row.role == 'arm' else FAINT
            _label(plot, row.label, index)
            if row.value is None:
                plot.plot([], [])
                plot.text(
                    0.0,
                    index + 0.12,
                    row.note,
                    transform=plot.get_yaxis_transform(),
                    color=WARN,
                    va='center',
                    fontsize=9,
                    bbox={'facecolor': PAPER, 'edgecolor': 'none', 'pad': 1},
                    zorder=3,
                )
                continue
            if row.low is not None and row.high is not None:
                plot.plot([row.low, row.high], [index + 0.12] * 2, color=colour)
            plot.plot(row.value, index + 0.12, 'o', color=colour, markersize=5)
        if reference:
            plot.axvline(reference[0], color=SECOND, linewidth=1, dashes=(4, 3))
            plot.annotate(
                reference[1],
                (reference[0], -0.75),
                xytext=(3, 0),
                textcoords='offset points',
                color=SECOND,
                fontsize=8.5,
                va='center',
            )
        plot.set_ylim(len(rows) - 0.45, -1.0)
        plot.set_yticks([])
        plot.spines['left'].set_visible(False)
        plot.margins(x=0.08)
        plot.locator_params(axis='x', nbins=6)  # more would run into each other
        plot.set_xlabel(measure)
        _mark(plot, simulated)
        told = '; '.join(f'{row.label}: {_forest_words(row)}' for row in rows)
        if reference:
            told += f'. The dashed line is {reference[1]}'
        return inline_svg(plot, name=name, title=title, description=f'{told}.')


def reliability_plot(
    confidence: np.ndarray,
    accuracy: np.ndarray,
    interval: tuple[np.ndarray, np.ndarray],
    count: np.ndarray,
    *,
    name: str,
    title: str,
    simulated: bool,
) -> Markup:
    """Draws how often predictions of some confidence were right.

    Args:
        confidence, accuracy: float [b], of bins of predictions.
        interval: float [b] each, the ends of that of `accuracy`.
        count: int [b], how many are in each.
        name, title: as in `forest_plot`.
        simulated: whether the plot says so.
    """
    with axes(height=3.9) as plot:
        _diagonal(plot, 'as sure as right')
        plot.vlines(confidence, *interval, color=ACCENT, linewidth=1)
        # As area, so that a bin counts for the eye as it does for the number.
        area = 60 * count / count.max()
        plot.scatter(
            confidence,
            accuracy,
            s=np.maximum(area, 8),
            color=ACCENT,
            edgecolor=PAPER,
            zorder=3,
        )
        plot.set_xlabel('said probability of the chosen class')
        plot.set_ylabel('share that was right')
        _mark(plot, simulated)
        told = '; '.join(
            f'{n:,} at {c:.2f} were right in {a:.2f}'
            for c, a, n in zip(confidence, accuracy, count, strict=True)
        )
        return inline_svg(plot, name=name, title=title, description=f'{told}.')


def roc_plot(
    curves: Sequence[Series], *, name: str, title: str, simulated: bool
) -> Markup:
    """Draws ROC curves; `x` is 1 - specificity, `y` sensitivity."""
    many = len(curves) > _MANY  # names go below
    with axes(height=4.0 + 0.09 * len(curves) if many else 3.9) as plot:
        _diagonal(plot, 'a guess')
        for index, curve in enumerate(curves):
            turn, place = divmod(index, len(SERIES))
            plot.plot(
                curve.x,
                curve.y,
                color=SERIES[place],
                linestyle=_DASHES[turn % len(_DASHES)],
                label=curve.label,
            )
        plot.set_xlabel('1 - specificity')
        plot.set_ylabel('sensitivity')
        if many:
            plot.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=2)
        else:
            plot.legend(loc='lower right')
        _mark(plot, simulated)
        told = '; '.join(curve.label for curve in curves)
        return inline_svg(plot, name=name, title=title, description=f'{told}.')


def strip_plot(
    values: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    name: str,
    title: str,
    measure: str,
    right: np.ndarray,
    simulated: bool,
) -> Markup:
    """Draws one dot for each subject, in a column for each class.

    Args:
        values: float [N], what was told of each subject.
        labels: int [N], its class.
        classes: the names of the classes.
        name, title: as in `forest_plot`.
        measure: what `values` are.
        right: bool [N], drawn full where true.
        simulated: whether the plot says so.
    """
    with axes(height=4.4 if len(classes) > _MANY else 3.6) as plot:
        for index in range(len(classes)):
            own = labels == index
            x = index + _swarm(values[own])
            for full, marked in ((True, right[own]), (False, ~right[own])):
                plot.scatter(
                    x[marked],
                    values[own][marked],
                    s=15,
                    facecolor=ACCENT if full else 'none',
                    edgecolor=ACCENT,
                    linewidth=0.9,
                )
            if own.any():
                mean = float(values[own].mean())
                plot.plot([index - 0.36, index + 0.36], [mean] * 2, color=SECOND)
        if len(classes) > _MANY:
            plot.set_xticks(range(len(classes)), classes, rotation=90)
        else:
            plot.set_xticks(range(len(classes)), [_broken(c) for c in classes])
        plot.set_xlim(-0.6, len(classes) - 0.4)
        plot.set_ylabel(measure)
        _mark(plot, simulated)
        told = '; '.join(
            f'{c}: {int((labels == i).sum())} subjects, mean '
            f'{values[labels == i].mean():.2f}'
            for i, c in enumerate(classes)
            if (labels == i).any()
        )
        return inline_svg(plot, name=name, title=title, description=f'{told}.')


def scatter_plot(
    truth: np.ndarray, told: np.ndarray, *, name: str, title: str, simulated: bool
) -> Markup:
    """Draws a told number against the true one, a dot for each subject."""
    with axes(height=3.9) as plot:
        both = np.concatenate([truth, told])
        low, high = both.min(), both.max()
        plot.plot([low, high], [low, high], color=LINE, linewidth=1)
        plot.scatter(truth, told, s=15, facecolor='none', edgecolor=ACCENT)
        plot.set_xlabel('true')
        plot.set_ylabel('told')
        _mark(plot, simulated)
        words = (
            f'{len(truth):,} subjects; true from {truth.min():.3g} to '
            f'{truth.max():.3g}, told from {told.min():.3g} to {told.max():.3g}.'
        )
        return inline_svg(plot, name=name, title=title, description=words)


def line_plot(
    series: Sequence[Series],
    *,
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    reference: tuple[float, str] | None = None,
    simulated: bool,
) -> Markup:
    """Draws lines over a common axis; as `forest_plot` for the rest."""
    with axes(height=2.7) as plot:
        strong = [line for line in series if not line.faint]
        for line in series:
            if line.faint:
                plot.plot(line.x, line.y, color=LINE, linewidth=0.8)
        for colour, line in zip(SERIES * len(series), strong, strict=False):
            marker = 'o' if len(line.x) <= 12 else ''
            plot.plot(
                line.x,
                line.y,
                color=colour,
                marker=marker,
                markersize=3.5,
                label=line.label,
            )
        if reference:
            plot.axhline(reference[0], color=FAINT, linewidth=1, dashes=(4, 3))
            plot.annotate(
                reference[1],
                (1, reference[0]),
                xycoords=('axes fraction', 'data'),
                xytext=(0, 3),
                textcoords='offset points',
                ha='right',
                fontsize=8.5,
                color=FAINT,
            )
        plot.set_xlabel(x_label)
        plot.set_ylabel(y_label)
        if len(strong) > 1:
            plot.legend(loc='best')
        _mark(plot, simulated)
        told = '; '.join(
            f'{line.label}: from {line.y[0]:.4g} to {line.y[-1]:.4g}' for line in series
        )
        return inline_svg(plot, name=name, title=title, description=f'{told}.')


def _mark(plot: Axes, simulated: bool) -> None:
    if simulated:
        plot.set_title(_SIMULATED, loc='right', color=WARN, fontsize=8)


def _label(plot: Axes, text: str, index: int) -> None:
    plot.text(
        0.0,
        index - 0.22,
        text,
        transform=plot.get_yaxis_transform(),
        va='center',
        fontsize=9,
        color=INK,
    )


def _forest_words(row: ForestRow) -> str:
    if row.value is None:
        return row.note
    if row.low is None or row.high is None:
        return f'{row.value:.3f}'
    return f'{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]'


def _diagonal(plot: Axes, words: str) -> None:
    plot.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    plot.text(0.03, 0.09, words, color=FAINT, fontsize=8.5, rotation=45, va='bottom')
    plot.set_xlim(0, 1.02)
    plot.set_ylim(0, 1.02)
    plot.set_aspect('equal')


def _swarm(values: np.ndarray) -> np.ndarray:
    """Gives sideways places so that dots of nearly equal values stand side by side."""
    places = np.zeros(len(values))
    if not len(values):
        return places
    near = max(float(np.ptp(values)), 1e-9) / 28
    order = np.argsort(values, kind='stable')
    bins = np.floor((values[order] - values.min()) / near).astype(int)
    for number in np.unique(bins):
        own = order[bins == number]
        steps = np.arange(len(own))
        # 0, 1, -1, 2, -2, …
        sides = np.where(steps % 2, (steps + 1) // 2, -(steps // 2))
        width = min(0.055, 0.72 / max(len(own), 1))
        places[own] = sides * width
    return places


def _broken(text: str) -> str:
    """Breaks 'VeryMildDemented' into lines that fit below a column."""
    words = re.split(r'(?<=[a-z])(?=[A-Z])|[ _]+', text)
    return '\n'.join(words) if len(text) > 10 and len(words) > 1 else text
