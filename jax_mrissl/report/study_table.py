"""A study's tables: for a terminal, as Markdown, CSV and LaTeX."""

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence

from jax_mrissl.core.results import SIMULATED, Estimate, Unit
from jax_mrissl.report.run_facts import metric_words
from jax_mrissl.report.study_facts import (
    SettingFacts,
    StudyArm,
    StudyFacts,
    words_of,
)
from jax_mrissl.report.table import WIDTH, escaped_markdown, estimate_text

_EMPTY = '–'
_COLUMNS = (
    'target',
    'dataset',
    'label_fraction',
    'method',
    'chain',
    'pretraining_fraction',
    'mode',
    'seeds',
    'unit',
    'metric',
    'value',
    'low',
    'high',
    'seed_low',
    'seed_high',
    'difference',
    'difference_low',
    'difference_high',
    'holm_p',
    'failure',
    'tested_subjects_seen',
    'collapsed',
    'seconds',
    'simulated',
    'leaky',
    'shuffled_labels',
    'seeds_asked',
)
# Of LaTeX, what means something else in text.
_LATEX = {
    '\\': r'\textbackslash{}',
    '&': r'\&',
    '%': r'\%',
    '$': r'\$',
    '#': r'\#',
    '_': r'\_',
    '{': r'\{',
    '}': r'\}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '–': '--',
}


class Matrix:
    """One table of a setting: chains down, methods across, what began it all last.

    Args:
        facts: the study.
        setting: of it.
        mode: of finetuning.
        unit: what one observation is.
    """

    def __init__(self, facts: StudyFacts, setting: SettingFacts, mode: str, unit: Unit):
        self._facts, self._setting = facts, setting
        self._mode, self._unit = mode, unit

    @property
    def title(self) -> str:
        """Says what the cells are."""
        setting = self._setting
        labels, simulated = setting.labels, _simulated(self._facts)
        count = setting.subjects if self._unit == 'subject' else setting.slices
        return (
            f'{metric_words(setting.headline)} by {self._unit}, {self._mode}: '
            f'{setting.title}{labels} (n = {count}){simulated}{setting.marks}'
        )

    @property
    def head(self) -> list[str]:
        """The columns."""
        return ['pretrained on', *self._facts.methods, *(a.name for a in self._begun)]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as texts, rows without any result left out."""
        facts, setting = self._facts, self._setting
        begun = [self._cell(arm, (arm.method, '')) for arm in self._begun]
        rows = []
        for chain in facts.chains:
            for share in facts.shares:
                arms = [
                    setting.arm(method, chain, share, self._mode)
                    for method in facts.methods
                ]
                if not any(arms):
                    continue
                name = words_of(chain)
                if share != 1:
                    name += f', {100 * share:g} %'
                keys = [(method, chain) for method in facts.methods]
                cells = [
                    self._cell(arm, key if share == 1 else None)
                    for arm, key in zip(arms, keys, strict=True)
                ]
                rows.append([name, *cells, *begun])
        if not rows and begun:
            rows.append([_EMPTY, *[_EMPTY] * len(facts.methods), *begun])
        return rows

    @property
    def _begun(self) -> list[StudyArm]:
        """The arms without pretraining, that of random weights last."""
        own = [a for a in self._setting.arms if a.mode == self._mode and not a.chain]
        return own[::-1]

    def _cell(self, arm: StudyArm | None, key: tuple[str, str] | None) -> str:
        if arm is None:
            return _EMPTY
        if arm.failure:
            text = arm.failure.partition(':')[0]
        else:
            estimate = arm.estimates.get((self._unit, self._setting.headline))
            text = estimate_text(estimate) if estimate else _EMPTY
        text += arm.marks
        published = self._setting.published.get(key) if key else None
        if published is not None and self._unit == 'slice':
            text += f' (report: {published:.3f})'
        return text


class Transfer:
    """What pretraining did for each labelled set: encoders down, what is asked across.

    A cell is the difference to the untrained encoder in the metric that decides there.

    Args:
        facts: the study.
        settings: of it, with one share of labels.
        mode: of finetuning.
    """

    def __init__(self, facts: StudyFacts, settings: Sequence[SettingFacts], mode: str):
        self._facts, self._settings, self._mode = facts, settings, mode

    @property
    def title(self) -> str:
        """Says what the cells are."""
        labels, simulated = self._settings[0].labels, _simulated(self._facts)
        marks = ''.join(dict.fromkeys(one.marks for one in self._settings))
        return (
            f'Transfer, {self._mode}: pretrained minus untrained, by subject{labels}; '
            f'below 0 pretraining helped{simulated}{marks}'
        )

    @property
    def head(self) -> list[str]:
        """The columns."""
        asked = [
            f'{setting.target} ({setting.dataset}), {metric_words(setting.headline)}'
            f'{setting.marks}'
            for setting in self._settings
        ]
        return ['pretrained', *asked]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as texts, rows without any arm left out."""
        keys = dict.fromkeys(
            (arm.method, arm.chain, arm.share)
            for setting in self._settings
            for arm in setting.arms
            if arm.method and arm.mode == self._mode
        )
        rows = []
        for key in keys:
            arms = [setting.arm(*key, self._mode) for setting in self._settings]
            name = next(arm.name for arm in arms if arm)
            rows.append([name, *map(_difference, arms)])
        return rows


def transfers(facts: StudyFacts) -> list[Transfer]:
    """Gives the transfer matrices; none where one labelled set is asked alone."""
    found = []
    for share in dict.fromkeys(s.label_fraction for s in facts.settings):
        settings = [s for s in facts.settings if s.label_fraction == share]
        if len({setting.dataset for setting in settings}) < 2:
            continue
        for mode in dict.fromkeys(mode for s in settings for mode in s.modes):
            own = [s for s in settings if mode in s.modes]
            matrix = Transfer(facts, own, mode)
            if len({setting.dataset for setting in own}) > 1 and matrix.rows:
                found.append(matrix)
    return found


def _simulated(facts: StudyFacts) -> str:
    return f', {SIMULATED.upper()}' if facts.simulated else ''


def _difference(arm: StudyArm | None) -> str:
    if arm is None:
        return _EMPTY
    if arm.failure:
        return f'{arm.failure.partition(":")[0]}{arm.marks}'
    if arm.difference is None:
        return f'not compared{arm.marks}'
    return f'{estimate_text(arm.difference)}{arm.marks}'


def matrices(facts: StudyFacts) -> list[Matrix | Transfer]:
    """Gives all tables of a study, in their order."""
    found: list[Matrix | Transfer] = []
    for setting in facts.settings:
        for mode in setting.modes:
            found.append(Matrix(facts, setting, mode, 'subject'))
            if setting.published:  # the report counted slices
                found.append(Matrix(facts, setting, mode, 'slice'))
    return [*found, *transfers(facts)]


def study_text(facts: StudyFacts) -> str:
    """Lays the tables out for a terminal."""
    lines: list[str] = []
    for matrix in matrices(facts):
        rows = [matrix.head, *matrix.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(matrix.head))]
        lines += [*textwrap.wrap(matrix.title, WIDTH), '']
        for row in rows:
            texts = [text.ljust(w) for text, w in zip(row, widths, strict=True)]
            lines.append('  '.join(texts).rstrip())
        lines.append('')
    for setting in facts.settings:
        for name, found in setting.baselines:
            lines.append(_baseline(facts, setting, name, found))
    lines.append('')
    for paragraph in [*facts.findings, *facts.notes, *_failed(facts)]:
        lines += textwrap.wrap(paragraph, WIDTH, subsequent_indent='  ')
    return '\n'.join(lines) + '\n'


def study_markdown(facts: StudyFacts) -> str:
    """Writes the tables, findings and notes in Markdown."""
    lines = [f'# {escaped_markdown(facts.name)}']
    for matrix in matrices(facts):
        lines += ['', f'## {escaped_markdown(matrix.title)}', '']
        lines.append(_markdown_row(matrix.head))
        lines.append('|---' * len(matrix.head) + '|')
        lines += [_markdown_row(row) for row in matrix.rows]
    lines += ['', '## Without a network', '']
    for setting in facts.settings:
        for name, found in setting.baselines:
            text = _baseline(facts, setting, name, found)
            lines.append(f'- {escaped_markdown(text)}')
    lines += ['', '## What it says', '']
    told = [*facts.findings, *facts.notes, *_failed(facts)]
    lines += [f'- {escaped_markdown(text)}' for text in told]
    return '\n'.join(lines) + '\n'


def study_csv(facts: StudyFacts) -> str:
    """Writes one line for each arm, setting, unit and metric."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator='\n')
    rows.writerow(_COLUMNS)
    for setting in facts.settings:
        for arm in setting.arms:
            about = [setting.target, setting.dataset, setting.label_fraction]
            about += [arm.method, arm.chain, arm.share, arm.mode, arm.seeds]
            end = [arm.failure, arm.seen, int(arm.collapsed)]
            end += [_blank(arm.seconds), int(facts.simulated)]
            end += [int(setting.leaky), int(setting.shuffled), arm.of_seeds]
            # An arm that is no result has no numbers here either.
            found = {} if arm.failure else arm.estimates
            for (unit, metric), estimate in found.items():
                headline = unit == 'subject' and metric == setting.headline
                spread = arm.spread if headline and arm.spread else (None, None)
                difference = arm.difference if headline else None
                rows.writerow(
                    [
                        *about,
                        unit,
                        metric,
                        *_three(estimate),
                        *map(_blank, spread),
                        *_three(difference),
                        _blank(arm.holm_p if headline else None),
                        *end,
                    ]
                )
            if not found:
                rows.writerow([*about, *[''] * 11, *end])
    return out.getvalue()


def study_latex(facts: StudyFacts) -> str:
    """Writes the tables in LaTeX, for the package booktabs."""
    lines = []
    for matrix in matrices(facts):
        lines += [
            r'\begin{table}',
            r'\centering',
            rf'\caption{{{_latex(matrix.title)}.}}',
            rf'\begin{{tabular}}{{l{"l" * (len(matrix.head) - 1)}}}',
            r'\toprule',
            _latex_row(matrix.head),
            r'\midrule',
            *(_latex_row(row) for row in matrix.rows),
            r'\bottomrule',
            r'\end{tabular}',
            r'\end{table}',
            '',
        ]
    return '\n'.join(lines)


def _baseline(
    facts: StudyFacts, setting: SettingFacts, name: str, found: Mapping[Unit, Estimate]
) -> str:
    simulated = f' ({SIMULATED})' if facts.simulated else ''
    text = estimate_text(found['subject'])
    about = f'{setting.target}{setting.labels}, {name}'
    return f'{about}: {text} by subject{simulated}{setting.marks}'


def _failed(facts: StudyFacts) -> list[str]:
    return [f'Not done: {what}. {why}' for what, why in facts.failures]


def _markdown_row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(map(escaped_markdown, cells))} |'


def _latex(text: str) -> str:
    return ''.join(_LATEX.get(letter, letter) for letter in text)


def _latex_row(cells: Sequence[str]) -> str:
    return ' & '.join(map(_latex, cells)) + r' \\'


def _three(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ['', '', '']
    return [_blank(v) for v in (estimate.value, estimate.low, estimate.high)]


def _blank(value: float | None) -> str:
    return '' if value is None else f'{value:.6g}'
