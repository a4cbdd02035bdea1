"""Results among the young and the old, women and men, and at each site."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jax_mrissl.core.results import Estimate, Role
from jax_mrissl.metrics.baselines import class_prior_log_loss
from jax_mrissl.metrics.bootstrap import bootstrap
from jax_mrissl.tasks.from_config import FinetunePlan, Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import Measured, panel

# Of fewer subjects, numbers would be chance.
FEWEST = 20
# From, to (in years; the last is not in it), name. Of the Kaggle set no subject below
# 60 is demented, so those from 60 on are a group of their own.
_AGES = (
    (-math.inf, 60, 'under 60'),
    (60, math.inf, '60 and over'),
    (60, 70, '60 to 69'),
    (70, 80, '70 to 79'),
    (80, math.inf, '80 and over'),
)
_METRICS = (
    *('log_loss', 'accuracy', 'macro_auroc', 'binary_auroc'),
    *('sensitivity', 'specificity', 'r2', 'mae', 'spearman'),
)


@dataclasses.dataclass(frozen=True)
class GroupResult:
    """One arm among some of the tested subjects.

    Attributes:
        arm, mode, role: the arm's.
        estimates: by metric, by subject.
    """

    arm: str
    mode: str
    role: Role
    estimates: dict[str, Estimate]

    def to_json(self) -> Json:
        """Gives plain values, estimates by their names."""
        found = {name: vars(estimate) for name, estimate in self.estimates.items()}
        return {'arm': self.arm, 'mode': self.mode, 'role': self.role, **found}


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """Some of the tested subjects.

    Attributes:
        by: what they share: 'age', 'sex' or 'site'.
        name: which of it.
        subjects: how many they are.
        absent: why nothing is said of them; '': it is.
        prior_log_loss: of their own class shares; None: no classes, or absent.
        arms: the results.
    """

    by: str
    name: str
    subjects: int
    absent: str
    prior_log_loss: float | None = None
    arms: tuple[GroupResult, ...] = ()

    def to_json(self) -> Json:
        """Gives plain values."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**own, 'arms': [arm.to_json() for arm in self.arms]}


def subgroups(
    measured: Sequence[Measured], data: LabelledData, plan: FinetunePlan, *, seed: int
) -> list[Subgroup]:
    """Measures all arms in each group that a table or the sites name.

    Args:
        measured: the arms.
        data: the labelled images.
        plan: tells how often is resampled.
        seed: of the resamples.
    """
    return [
        _subgroup(by, name, member, measured, data, plan, seed)
        for by, name, member in _groups(data)
    ]


def _groups(data: LabelledData) -> Iterator[tuple[str, str, np.ndarray]]:
    """Gives what subjects share, its name, and the rows of it, bool [n]."""
    covariates = data.covariates
    tested = data.tested()
    if covariates and 'age' in covariates.values:
        ages = covariates.values['age']
        for start, end, name in _AGES:
            member = (ages >= start) & (ages < end)
            known = np.isfinite(ages[tested])
            # Not what is the whole set.
            if member[tested].any() and not member[tested][known].all():
                yield 'age', name, member
    if covariates and 'sex' in covariates.values:
        values = covariates.values['sex']
        words = covariates.levels.get('sex')
        for value in np.unique(values[tested][np.isfinite(values[tested])]):
            name = words[int(value)] if words else f'{value:g}'
            yield 'sex', name, values == value
    sites = data.prepared.sites
    known_sites = sorted(set(sites[tested].tolist()) - {''})
    if len(known_sites) > 1:
        for number, site in enumerate(known_sites):
            yield 'site', f'site {number + 1}', sites == site


def _subgroup(
    by: str,
    name: str,
    member: np.ndarray,
    measured: Sequence[Measured],
    data: LabelledData,
    plan: FinetunePlan,
    seed: int,
) -> Subgroup:
    rows = data.tested()[member[data.tested()]]
    groups, first = np.unique(data.prepared.groups[rows], return_index=True)
    labels = data.labels[rows][first]
    count = len(groups)
    if count < FEWEST:
        return Subgroup(by, name, count, f'fewer than {FEWEST} subjects')
    classes = data.task.kind != 'regression'
    if classes and len(np.unique(labels)) < 2:
        only = data.task.classes[labels[0]]
        return Subgroup(by, name, count, f'all of one class: {only}')
    found = []
    for one in measured:
        which = np.flatnonzero(member[one.pooled.rows])
        whole = panel(one.pooled, which, data, plan)
        wanted = {
            key: take
            for key, take in whole.measures.items()
            if key[0] == 'subject'
            and key[1] in _METRICS
            and (not one.arm.only or key[1] in one.arm.only)
        }
        sampled = bootstrap(
            dataclasses.replace(whole, measures=wanted),
            resamples=plan.bootstrap_resamples,
            seed=seed,
        )
        estimates = {key[1]: sampled.estimate(*key) for key in wanted}
        arm = one.arm
        found.append(GroupResult(arm.name, arm.mode, arm.role, estimates))
    prior = class_prior_log_loss(labels) if classes else None
    return Subgroup(by, name, count, '', prior, tuple(found))
