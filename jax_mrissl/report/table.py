"""The results of a study as a table: for a terminal, and as Markdown."""

import textwrap
from collections.abc import Sequence

from jax_mrissl.core.results import UNDER_TRAINED, ArmResult, Estimate, Unit
from jax_mrissl.report.run_facts import METRIC_WORDS, NOT_MEASURED, metric_words

WIDTH = 100
_GAP = '  '
# A longer name of an arm is broken into lines.
_NAME_WIDTH = 26
# Of fewer subjects the intervals are known to be too narrow. In simulation of three
# classes, with slices alike within subjects, 93.5 to 96.4 % of them hold the truth at
# 200 and 100 subjects, 91.9 to 96.4 % at 30 (tests/metrics/test_bootstrap.py).
_FEW_SUBJECTS = 50
# The columns, of those metrics that any row has.
_COLUMNS = ('log_loss', 'accuracy', 'macro_auroc', 'r2', 'mae', 'spearman')


def results_table(
    rows: Sequence[ArmResult], *, title: str, foot: Sequence[str] = ()
) -> str:
    """Lays results out for a terminal, at most 100 columns wide.

    Args:
        rows: results by subject and by slice, in any order; subjects are shown first.
            Within a unit the order stays: put the class prior first.
        title: what was done on which data.
        foot: sentences that a reader needs to believe the numbers, one paragraph each.
    """
    lines = textwrap.wrap(title, WIDTH)
    for unit in _units(rows):
        own = [row for row in rows if row.unit == unit]
        lines += ['', _heading(own), *_aligned(own, _metrics(rows))]
    if foot:
        lines.append('')
    for paragraph in foot:
        lines += textwrap.wrap(paragraph, WIDTH, subsequent_indent='  ')
    return '\n'.join(lines)


def results_markdown(
    rows: Sequence[ArmResult], *, title: str, foot: Sequence[str] = ()
) -> str:
    """Writes the same as `results_table` in Markdown, a newline at its end."""
    lines = [f'# {escaped_markdown(title)}']
    for unit in _units(rows):
        own = [row for row in rows if row.unit == unit]
        lines += ['', f'## {_heading(own)}', '']
        metrics = _metrics(rows)
        heads = ['', *map(metric_words, metrics), 'notes']
        lines += [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
        for row in own:
            # The note of an under-trained arm stands in place of its numbers.
            cells = _cells(row, metrics)
            if row.failure:
                cells = [row.failure, *[''] * (len(metrics) - 1)]
            texts = [_name(row), *cells, ', '.join(_other_notes(row))]
            lines.append(f'| {" | ".join(map(escaped_markdown, texts))} |')
    if foot:
        lines.append('')
    lines += [f'- {escaped_markdown(paragraph)}' for paragraph in foot]
    return '\n'.join(lines) + '\n'


def estimate_text(estimate: Estimate, *, scale: float = 1, digits: int = 3) -> str:
    """Writes a number with its interval: '0.908 [0.861, 0.957]'."""
    if estimate.value is None:
        return 'undefined'
    value = f'{scale * estimate.value:.{digits}f}'
    if estimate.low is None or estimate.high is None:
        return value
    low, high = scale * estimate.low, scale * estimate.high
    return f'{value} [{low:.{digits}f}, {high:.{digits}f}]'


def interval_notes(resamples: int, subjects: int, *, within: str = '') -> list[str]:
    """Says what the brackets behind numbers are, in sentences.

    Args:
        resamples: of the bootstrap.
        subjects: that were tested.
        within: what subjects are drawn within, as ' within their class'; '': all.
    """
    notes = [
        f'[low, high]: 95 % interval, BCa, from {resamples:,} bootstrap resamples of '
        f'subjects{within}; slices go with their subject.'
    ]
    if subjects < _FEW_SUBJECTS:
        notes.append(
            f'With {subjects:,} subjects the intervals are somewhat too narrow: below '
            f'about {_FEW_SUBJECTS} a bootstrap holds the truth less often than it '
            'says.'
        )
    return notes


def _units(rows: Sequence[ArmResult]) -> list[Unit]:
    order: tuple[Unit, ...] = ('subject', 'slice')
    return [unit for unit in order if any(row.unit == unit for row in rows)]


def _heading(rows: Sequence[ArmResult]) -> str:
    """Says over what the rows are measured; rows over other numbers say so alone."""
    first = rows[0]
    if first.unit == 'subject':
        return f'By subject (n = {first.subjects:,})'
    return f'By slice (n = {first.slices:,}, of {first.subjects:,} subjects)'


def _metrics(rows: Sequence[ArmResult]) -> list[str]:
    return [name for name in _COLUMNS if any(name in row.estimates for row in rows)]


def _aligned(rows: Sequence[ArmResult], metrics: Sequence[str]) -> list[str]:
    names = [textwrap.wrap(_name(row), _NAME_WIDTH) for row in rows]
    name_width = max(len(line) for lines in names for line in lines)
    heads = [metric_words(name) for name in metrics]
    cells = [heads, *(_cells(row, metrics) for row in rows if not row.failure)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    spanned = max(len(row.failure) for row in rows)
    between = len(_GAP) * (len(metrics) - 1)
    # What an under-trained arm says runs over the columns.
    widths[-1] += max(0, spanned - sum(widths) - between)
    numbers_width = sum(widths) + between

    def joined(texts: Sequence[str]) -> str:
        padded = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
        return _GAP.join(padded)

    lines = [(' ' * name_width + _GAP + joined(heads)).rstrip()]
    for row, [name, *more] in zip(rows, names, strict=True):
        body = joined(_cells(row, metrics))
        if row.failure:
            body = row.failure.ljust(numbers_width)
        line = (name.ljust(name_width) + _GAP + body).rstrip()
        notes = ', '.join(_other_notes(row))
        beside = name_width + len(_GAP) + numbers_width + len(_GAP)
        below = [name.rstrip() for name in more]
        if notes and beside + len(notes) <= WIDTH:
            line = line.ljust(beside) + notes
        elif notes:
            below += textwrap.wrap(
                notes, WIDTH, initial_indent=_GAP, subsequent_indent=_GAP
            )
        lines += [line, *below]
    return lines


def _name(row: ArmResult) -> str:
    return f'{row.arm}, {row.mode}' if row.mode else row.arm


def _cells(row: ArmResult, metrics: Sequence[str]) -> list[str]:
    cells = []
    for name in metrics:
        _, scale, digits = METRIC_WORDS[name]
        estimate = row.estimates.get(name)
        told = estimate and estimate_text(estimate, scale=scale, digits=digits)
        cells.append(told or NOT_MEASURED)
    return cells


def _other_notes(row: ArmResult) -> list[str]:
    return [note for note in row.notes if note != UNDER_TRAINED]


def escaped_markdown(text: str) -> str:
    """Keeps what is Markdown's own from being read as such."""
    for mark in '\\|*_<>`[]#':
        text = text.replace(mark, '\\' + mark)
    return text
