"""Arms against the untrained one of their mode and against baselines, in pairs."""

import dataclasses
from collections.abc import Sequence

from jax_mrissl.core.results import SIMULATED
from jax_mrissl.metrics.bootstrap import Difference, difference, holm
from jax_mrissl.report.run_facts import LOWER_IS_BETTER, metric_words
from jax_mrissl.report.table import estimate_text
from jax_mrissl.tasks.controls import DARK_PIXELS
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.measured import Measured
from jax_mrissl.tasks.pooling import UNTRAINED, Arm

# The first decides; each is corrected for its own number of comparisons.
_OF_CLASSES = ('log_loss', 'macro_auroc')
_OF_NUMBERS = ('mae', 'r2')
# A network that does not beat these has learned little (dark pixels), or nothing
# beyond brain volume.
_ASKED_FOR = (DARK_PIXELS, 'nWBV')
# What says whether a baseline was beaten.
_AGAINST_BASELINES = ('binary_auroc', 'mae')


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm minus another, or minus a baseline, by subject.

    Attributes:
        arm, reference: the arms.
        metric: what of them.
        difference: with its interval.
        holm_p: corrected for the number of comparisons by this metric with references
            of this kind.
        failed: the labels of those of the two that are under-trained.
    """

    arm: Arm
    reference: Arm
    metric: str
    difference: Difference
    holm_p: float | None
    failed: tuple[str, ...]

    @property
    def is_named_first(self) -> bool:
        """Whether a table's foot has room for it: of baselines, two are asked for."""
        return self.reference.name in _ASKED_FOR

    def to_json(self) -> Json:
        """Gives plain values."""
        return {
            'arm': self.arm.name,
            'reference': self.reference.name,
            'mode': self.arm.mode,
            'unit': 'subject',
            'metric': self.metric,
            **dataclasses.asdict(self.difference.estimate),
            'p': self.difference.p,
            'holm_p': self.holm_p,
        }

    def text(self, *, simulated: bool) -> str:
        """Says it in a sentence."""
        what = f'{self.arm.label} minus {self.reference.label}'
        if simulated:
            what += f' ({SIMULATED})'
        if self.failed:
            return f'{what}: not compared; under-trained: {"; ".join(self.failed)}.'
        side = 'below' if self.metric in LOWER_IS_BETTER else 'above'
        p = 'undefined' if self.holm_p is None else f'{self.holm_p:.2g}'
        told = 'pretraining helped' if self.reference.mode else 'the network is better'
        return (
            f'{what}: {estimate_text(self.difference.estimate)} in '
            f'{metric_words(self.metric)} by subject ({side} 0: {told}), '
            f'p = {p} (Holm).'
        )


def compare(measured: Sequence[Measured]) -> list[Comparison]:
    """Compares all arms that have an untrained one of their mode, metric by metric."""
    untrained = {m.arm.mode: m for m in measured if m.arm.name == UNTRAINED}
    pairs = [
        (m, untrained[m.arm.mode])
        for m in measured
        if m.arm.mode and m.arm.name != UNTRAINED and m.arm.mode in untrained
    ]
    found = []
    for metric in (*_OF_CLASSES, *_OF_NUMBERS):
        if any(metric in pair[0].headline_names for pair in pairs):
            found += _compared(pairs, metric)
    return found


def compare_with_baselines(measured: Sequence[Measured]) -> list[Comparison]:
    """Compares all networks with each baseline, by what tells disease from none."""
    metric = next(
        (n for n in _AGAINST_BASELINES if any(m.tells('subject', n) for m in measured)),
        '',
    )
    pairs = [
        (network, baseline)
        for network in measured
        if network.arm.mode
        for baseline in measured
        if baseline.arm.role == 'baseline'
    ]
    return _compared(pairs, metric)


def _compared(
    pairs: Sequence[tuple[Measured, Measured]], metric: str
) -> list[Comparison]:
    able = [pair for pair in pairs if all(one.tells('subject', metric) for one in pair)]
    made = [
        difference(m.found, ref.found, unit='subject', metric=metric) for m, ref in able
    ]
    found = []
    corrected = holm([one.p for one in made])
    for pair, one, p in zip(able, made, corrected, strict=True):
        failed = tuple(m.arm.label for m in pair if m.training.failed)
        arm, reference = (m.arm for m in pair)
        found.append(Comparison(arm, reference, metric, one, p, failed))
    return found
