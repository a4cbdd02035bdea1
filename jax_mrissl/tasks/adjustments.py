"""What arms tell beyond age, sex and brain volume."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from jax_mrissl.core.results import SIMULATED, Estimate, Role
from jax_mrissl.metrics.adjustment import adjusted, independent
from jax_mrissl.metrics.classification import by_subject
from jax_mrissl.report.table import estimate_text
from jax_mrissl.tasks.controls import COVARIATES
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import Measured
from jax_mrissl.tasks.pooling import Arm
from jax_mrissl.tasks.subgroups import FEWEST

# What a score is held against, the less first: columns of a table.
_KNOWN = (('age', 'sex'), ('age', 'sex', 'nwbv'))
# As far as a probability is from certainty.
_CERTAIN = 1e-7


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """What an arm tells beyond covariates, of the first class or not.

    Attributes:
        arm, mode, role: the arm's.
        given: the covariates, as shown; none that is constant or follows from others.
        subjects: those of whom all of them are known.
        odds_ratio, p: as in `metrics.adjustment.Adjusted`.
    """

    arm: str
    mode: str
    role: Role
    given: tuple[str, ...]
    subjects: int
    odds_ratio: Estimate
    p: float | None

    def to_json(self) -> Json:
        """Gives plain values."""
        return {**dataclasses.asdict(self), 'given': list(self.given)}


def adjustments(measured: Sequence[Measured], data: LabelledData) -> list[Adjustment]:
    """Says of each arm what it adds to age and sex, and to brain volume besides.

    Logistic regression over subjects of the first class or not, on the covariates and
    on the logit of the arm's probability from the fold that tested the subject.
    """
    if data.task.kind == 'regression' or data.covariates is None:
        return []
    found = []
    shown = {name for name, _ in COVARIATES.values()}
    for columns in _KNOWN:
        if not all(c in data.covariates.values for c in columns):
            continue
        for one in measured:
            if one.arm.role != 'control' and one.arm.name not in shown:
                found += _adjustment(one, columns, data)
    # Where all are of one sex, or brain volume says nothing new, two are the same.
    firsts: dict[tuple[str, str, tuple[str, ...]], Adjustment] = {}
    for row in found:
        firsts.setdefault((row.arm, row.mode, row.given), row)
    return list(firsts.values())


def adjustment_texts(
    found: Sequence[Adjustment], arms: Sequence[Arm], *, simulated: bool
) -> list[str]:
    """Says what some arms add to the most that is known."""
    told = {(arm.name, arm.mode) for arm in arms}
    most = max((len(one.given) for one in found), default=0)
    mark = f' ({SIMULATED})' if simulated else ''
    return [
        f'{one.arm}, {one.mode}, beyond {" and ".join(one.given)}{mark}: odds ratio '
        f'{estimate_text(one.odds_ratio, digits=2)} for a standard deviation of its '
        f'logit, p = {"undefined" if one.p is None else f"{one.p:.2g}"} (likelihood '
        f'ratio, not corrected; {one.subjects:,} subjects).'
        for one in found
        if len(one.given) == most and (one.arm, one.mode) in told
    ]


def _adjustment(
    measured: Measured, columns: tuple[str, ...], data: LabelledData
) -> list[Adjustment]:
    rows = measured.pooled.rows
    groups, labels = data.prepared.groups[rows], data.labels[rows]
    whole = by_subject(measured.pooled.columns['probabilities'], labels, groups)
    _, first = np.unique(groups, return_index=True)
    values = data.covariates.values if data.covariates else {}
    known = np.column_stack([values[c][rows[first]] for c in columns])
    kept = np.isfinite(known).all(axis=1) & np.isfinite(whole.probabilities).all(1)
    positive = whole.labels[kept] > 0
    if len(positive) < FEWEST or positive.all() or not positive.any():
        return []
    own = independent(known[kept])
    if not own:
        return []
    chance = np.clip(1 - whole.probabilities[kept, 0], _CERTAIN, 1 - _CERTAIN)
    found = adjusted(special.logit(chance), known[kept][:, own], positive)
    return [
        Adjustment(
            arm=measured.arm.name,
            mode=measured.arm.mode,
            role=measured.arm.role,
            given=tuple(COVARIATES[columns[index]][0] for index in own),
            subjects=len(positive),
            odds_ratio=found.odds_ratio,
            p=found.p,
        )
    ]
