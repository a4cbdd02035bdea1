"""What the page of a run shows: plain texts, numbers and arrays, nothing else."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mrissl.core.results import Estimate


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """A line of the table of results.

    Attributes:
        label: what was measured.
        role: 'baseline', 'arm' or 'control'.
        estimates: by the name of the metric.
        failure: what stands in place of the numbers; '': they stand.
        notes: of the line.
        chosen: whether it is the one that the page looks at closely.
    """

    label: str
    role: str
    estimates: Mapping[str, Estimate]
    failure: str = ''
    notes: tuple[str, ...] = ()
    chosen: bool = False


@dataclasses.dataclass(frozen=True)
class ResultTable:
    """Results over one unit.

    Attributes:
        unit: 'subject' or 'slice'.
        count: how many there are.
        metrics: the columns, names of `estimates`.
        rows: in the order of the table.
        prior: the headline metric of the class prior; None: there is none.
    """

    unit: str
    count: int
    metrics: tuple[str, ...]
    rows: tuple[ResultRow, ...]
    prior: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class ClassDetails:
    """A close look at one arm that tells classes; by subject.

    Attributes:
        label: the arm.
        classes: their names.
        ordered: whether they are grades, the least first.
        labels: int [N].
        probabilities: float64 [N, K], calibrated.
        confidence, accuracy, low, high, count: [b], bins of reliability; `low` and
            `high` are the 95 % interval of `accuracy`.
        calibration_error: over those bins.
        log_loss_uncalibrated: before the temperature.
        confusion: int [K, K]: true, told.
        curves: of each class against the rest: name, 1 - specificity, sensitivity,
            area.
    """

    label: str
    classes: tuple[str, ...]
    ordered: bool
    labels: np.ndarray
    probabilities: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    calibration_error: float
    log_loss_uncalibrated: float | None
    confusion: np.ndarray
    curves: tuple[tuple[str, np.ndarray, np.ndarray, float], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class NumberDetails:
    """A close look at one arm that tells a number; float64 [N], by subject."""

    label: str
    truth: np.ndarray
    told: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A picture with its words.

    Attributes:
        pixels: uint8 [H, W], [H, W, 1] or [H, W, 3]; or a PNG file.
        alt: what a reader hears who does not see it.
        caption: lines below.
    """

    pixels: np.ndarray | bytes
    alt: str
    caption: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures under a heading.

    Attributes:
        title: of the section.
        notes: paragraphs before the pictures.
        pictures: the pictures.
        sheet: whether each fills the width, as a montage does.
        table: below the pictures; None: none.
    """

    title: str
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    sheet: bool = False
    table: 'FactTable | None' = None


@dataclasses.dataclass(frozen=True, eq=False)
class CurvePlot:
    """Lines over epochs.

    Attributes:
        title: of the plot.
        y_label: what the lines are.
        lines: name, epochs, values; a name of '' is a backdrop, one of several.
        reference: a number to be held against, and its name; None: none.
    """

    title: str
    y_label: str
    lines: tuple[tuple[str, np.ndarray, np.ndarray], ...]
    reference: tuple[float, str] | None = None


@dataclasses.dataclass(frozen=True)
class FactTable:
    """A table of texts.

    Attributes:
        title: its heading; '': none.
        heads: of the columns.
        rows: of the table, the first cell naming each.
        notes: paragraphs below.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StageFacts:
    """One stage of the run.

    Attributes:
        name: what it did.
        address: the SHA-256 of what decided its numbers.
        device: that it ran on, in words.
        seconds: that it took.
        arm: the label of the arm that it is of; '': it is pretraining.
    """

    name: str
    address: str
    device: str
    seconds: float
    arm: str = ''


# The topic of methods and leaks that an untrained arm has no part in.
PRETRAINING = 'Pretraining'


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """A dataset's card.

    Attributes:
        name, title: the dataset's.
        use: what it was used for.
        tested: whether it is the labelled one.
        simulated: whether it holds no patient.
        fingerprint: the SHA-256 of its records.
        facts: pairs of a name and a text.
    """

    name: str
    title: str
    use: str
    tested: bool
    simulated: bool
    fingerprint: str
    facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class RunFacts:
    """All that the page of a run says.

    Attributes:
        title, subtitle: of the page.
        simulated: whether the tested data are.
        lead: the result in a sentence that needs no statistics.
        headline: sentences that follow it.
        alarms: what must be known before any number is believed.
        headline_metric: the name of the metric of the forest plot.
        tables: of results.
        table_notes: sentences at the foot of the tables.
        differences: sentences on arms against the untrained one.
        details: the close look; None: the arm is no result, or there is none.
        told_by: which networks tell a subject, for after 'by'.
        details_absent: why, where there is none.
        more: further tables on the arms.
        groups: tables of results among some of the subjects; the first is shown whole.
        against: networks minus baselines; None: none was compared.
        beyond: what arms tell besides age, sex and the like; None: not known.
        galleries: pictures.
        pictures_left_out: whether pictures were not asked for.
        curves: how training went.
        background: paragraphs on what is known of the tested set.
        cards: of the datasets.
        leaks: what pretraining and finetuning could have seen, by topic.
        stages: what was run, in order.
        methods: paragraphs for a methods section, by topic.
        command: what repeats the run; '': not known.
        config: its text.
        versions: pairs of a package and its version.
    """

    title: str
    subtitle: str
    simulated: bool
    lead: str
    headline: Sequence[str]
    alarms: Sequence[str]
    headline_metric: str
    tables: Sequence[ResultTable]
    table_notes: Sequence[str]
    differences: Sequence[str]
    details: ClassDetails | NumberDetails | None
    told_by: str
    details_absent: str
    more: Sequence[FactTable]
    groups: Sequence[FactTable]
    against: FactTable | None
    beyond: FactTable | None
    galleries: Sequence[Gallery]
    pictures_left_out: bool
    curves: Sequence[CurvePlot]
    background: Sequence[str]
    cards: Sequence[CardFacts]
    leaks: Sequence[tuple[str, str]]
    stages: Sequence[StageFacts]
    methods: Sequence[tuple[str, str]]
    command: str
    config: str
    versions: Sequence[tuple[str, str]]


# Names of metrics as a reader knows them, and how they are written: the factor and the
# digits.
METRIC_WORDS: Mapping[str, tuple[str, float, int]] = {
    'log_loss': ('log loss', 1, 3),
    'accuracy': ('accuracy, %', 100, 1),
    'balanced_accuracy': ('balanced accuracy, %', 100, 1),
    'macro_auroc': ('macro AUROC', 1, 3),
    'macro_average_precision': ('average precision', 1, 3),
    'average_precision': ('average precision', 1, 3),
    'binary_auroc': ('AUROC (first class or not)', 1, 3),
    'sensitivity': ('sensitivity, %', 100, 1),
    'specificity': ('specificity, %', 100, 1),
    'ppv': ('positive predictive value, %', 100, 1),
    'npv': ('negative predictive value, %', 100, 1),
    'brier': ('Brier score', 1, 3),
    'quadratic_kappa': ('quadratic kappa', 1, 3),
    'calibration_error': ('calibration error', 1, 3),
    'log_loss_uncalibrated': ('log loss before calibration', 1, 3),
    'r2': ('R²', 1, 3),
    'mae': ('mean absolute error', 1, 3),
    'rmse': ('root mean squared error', 1, 3),
    'spearman': ('Spearman correlation', 1, 3),
}
NOT_MEASURED = '–'
# Of all others, more is better.
LOWER_IS_BETTER = (
    'log_loss',
    'log_loss_uncalibrated',
    'brier',
    'calibration_error',
    'mae',
    'rmse',
)


def metric_words(name: str) -> str:
    """Gives a metric's name for people."""
    return METRIC_WORDS.get(name, (name.replace('_', ' '), 1, 3))[0]


def metric_parts(name: str, estimate: Any) -> tuple[str, str]:
    """Writes a metric's value and its interval, '' where there is none.

    Args:
        name: the metric's.
        estimate: None: it was not measured.
    """
    _, scale, digits = METRIC_WORDS.get(name, ('', 1, 3))
    if estimate is None:
        return NOT_MEASURED, ''
    if estimate.value is None:
        return 'undefined', ''
    value = f'{scale * estimate.value:.{digits}f}'
    if estimate.low is None or estimate.high is None:
        return value, ''
    low, high = scale * estimate.low, scale * estimate.high
    return value, f'[{low:.{digits}f}, {high:.{digits}f}]'


def duration_words(seconds: float) -> str:
    """Writes a time as people say it."""
    if seconds < 120:
        return f'{seconds:.0f} s'
    if seconds < 2 * 3600:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'


def cost_table(stages: Sequence[StageFacts]) -> FactTable:
    """Tells the time of stages and of all of them."""
    rows = [(s.name, s.device, duration_words(s.seconds)) for s in stages]
    rows.append(('in all', '', duration_words(sum(s.seconds for s in stages))))
    return FactTable(
        title='',
        heads=('stage', 'device', 'time'),
        rows=tuple(rows),
        notes=(
            'Of a stage that was stopped and went on, the time of its last start. '
            'Compiling is in it; preparing data and the audit are not. Energy was not '
            'measured.',
        ),
    )
