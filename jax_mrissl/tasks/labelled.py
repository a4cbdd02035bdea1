"""The labelled images of an experiment: which, what is told of them, who tests."""

import dataclasses

import numpy as np

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.covariates import Covariates, read_covariates
from jax_mrissl.data.divisions import LEAKY, divide
from jax_mrissl.data.labels import LabelTask, label_rows
from jax_mrissl.data.manifest import read_manifest
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.splits import Fold, part_of_training
from jax_mrissl.tasks.from_config import Common, FinetunePlan, Json


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledData:
    """The labelled images of an experiment, and who is in which fold.

    Attributes:
        prepared: the rows that are used, all of them labelled.
        task: what is told.
        labels: int32 [n], class numbers of the task.
        folds: of units.
        warnings: what a reader of the results must know.
        units: text [n], what a fold names: the subject, or in a leaky division the
            image; None: the subject.
        division: of `data.divisions.DIVISIONS`.
        covariates: what a table says of these rows, or None.
    """

    prepared: PreparedSet
    task: LabelTask
    labels: np.ndarray
    folds: tuple[Fold, ...]
    warnings: tuple[str, ...]
    units: np.ndarray | None = None
    division: str = 'subject'
    covariates: Covariates | None = None

    @property
    def targets(self) -> np.ndarray:
        """The numbers that are regressed, float64 [n], NaN where unknown."""
        return self.prepared.targets.astype(np.float64)

    @property
    def is_leaky(self) -> bool:
        """Whether images of one subject are in training and in test."""
        return self.division in LEAKY

    def rows(self, units: frozenset[str]) -> np.ndarray:
        """Gives the rows of some units of the folds, int [k], in order."""
        own = self.prepared.groups if self.units is None else self.units
        return np.flatnonzero([unit in units for unit in own])

    def tested(self) -> np.ndarray:
        """Gives the rows that some fold tests, int [m], in order."""
        return self.rows(frozenset().union(*(fold.test for fold in self.folds)))

    def identity(self) -> Json:
        """Gives what of the choice of rows and labels the plan alone does not tell."""
        if self.covariates is None:
            return {}
        # Of a restriction only what it left counts, not how it was said.
        return {'rows': digest(sorted(self.prepared.file_ids.tolist()))}


def label_data(
    plan: FinetunePlan, whole: PreparedSet, common: Common | None = None
) -> LabelledData:
    """Chooses the labelled rows and makes the folds.

    Folds are keyed by all of a subject's images, so that they hold when only some of
    its slices are used.

    Args:
        plan: the declaration.
        whole: the labelled set.
        common: tells where its private manifest is, for a table of covariates.

    Raises:
        UserError: nothing is labelled, or the set does not allow the plan.
    """
    task, labels = label_rows(plan.task, whole)
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        raise UserError(
            f'No image of {whole.name} has a label: nothing to finetune on.'
        )
    whole, labels = whole.select(known), labels[known]
    covariates = None
    warnings: list[str] = []
    if plan.covariates:
        manifest = read_manifest(common.data_dir, whole.name) if common else None
        covariates = read_covariates(plan.covariates, whole, manifest)
        asked = len(set(whole.groups.tolist()))
        if covariates.matched < asked:
            warnings.append(
                f'The table of covariates speaks of {covariates.matched:,} of '
                f'{asked:,} labelled subjects.'
            )
    if plan.where:
        if covariates is None:
            raise UserError(
                'finetune.where needs a table: --config.finetune.covariates=FILE.csv'
            )
        held = np.flatnonzero(covariates.where(plan.where))
        if not len(held):
            raise UserError(f'finetune.where: no image has {plan.where}.')
        whole, labels = whole.select(held), labels[held]
        covariates = covariates.select(held)
    if plan.shuffle_labels:
        labels, whole = _shuffled(labels, whole, plan.fold_seed)
        warnings.append(
            'CONTROL: labels were shuffled over subjects, so nothing can be learned '
            'from them but who is who.'
        )
    division = divide(
        plan.division,
        whole,
        labels,
        task.classes,
        count=plan.folds,
        seed=plan.fold_seed,
    )
    folds = division.folds
    if plan.label_fraction < 1:
        folds = tuple(
            part_of_training(
                fold,
                division.units,
                labels,
                whole.pixel_sha256,
                fraction=plan.label_fraction,
                seed=plan.fold_seed,
            )
            for fold in folds
        )
    # The central slices of a subject may all be on one side of a shipped split.
    sides = whole.splits == 'test' if division.kind == 'shipped' else None
    rows = central_slices(whole, plan.slices_per_group, sides)
    _expect_rows(folds, division.units[rows], plan.slices_per_group)
    return LabelledData(
        whole.select(rows),
        task,
        labels[rows],
        folds,
        (*warnings, *division.warnings),
        division.units[rows],
        division.kind,
        covariates.select(rows) if covariates else None,
    )


def central_slices(
    prepared: PreparedSet, count: int, sides: np.ndarray | None = None
) -> np.ndarray:
    """Gives the rows of each subject's central slices, int [k], in order.

    Args:
        prepared: the images.
        count: how many of each subject; 0: all.
        sides: [n]; of a subject with images on several, `count` of each. None: one.
    """
    if count == 0:
        return np.arange(len(prepared))
    kept = []
    _, who = np.unique(prepared.groups, return_inverse=True)
    where = np.zeros(len(prepared), int)
    if sides is not None:
        where = np.unique(sides, return_inverse=True)[1]
    for one in np.unique(np.stack([who, where], 1), axis=0):
        rows = np.flatnonzero((who == one[0]) & (where == one[1]))
        order = np.lexsort((prepared.file_ids[rows], prepared.positions[rows]))
        start = max(0, (len(rows) - count) // 2)
        kept.append(rows[order][start : start + count])
    return np.sort(np.concatenate(kept))


def _expect_rows(folds: tuple[Fold, ...], units: np.ndarray, count: int) -> None:
    used = set(units.tolist())
    for index, fold in enumerate(folds):
        for part in ('train', 'validation', 'test'):
            if not used & getattr(fold, part):
                raise UserError(
                    f'None of the {count} central slices of a subject is in the '
                    f'{part} part of fold {index + 1}. Take more or, with 0, all: '
                    '--config.finetune.slices_per_group.'
                )


def _shuffled(
    labels: np.ndarray, prepared: PreparedSet, seed: int
) -> tuple[np.ndarray, PreparedSet]:
    """Gives each subject the label and number of another, or its own, at random."""
    _, first, member = np.unique(
        prepared.groups, return_index=True, return_inverse=True
    )
    # By their pixels, so that every copy of a set is shuffled alike.
    order = np.argsort(prepared.pixel_sha256[first])
    source = np.empty_like(order)
    source[order] = order[np.random.default_rng(seed).permutation(len(order))]
    given = first[source][member]  # by row: a row of the subject whose label it gets
    return labels[given], dataclasses.replace(
        prepared, targets=prepared.targets[given], labels=prepared.labels[given]
    )
