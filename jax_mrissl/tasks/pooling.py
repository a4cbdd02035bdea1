"""The predictions of an arm's folds, put together: every tested row once."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jax_mrissl.core.results import Role, Unit
from jax_mrissl.data.splits import Fold
from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.classification import by_subject
from jax_mrissl.metrics.thresholds import youden_threshold
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.predictions import PREDICTIONS

UNTRAINED = 'untrained'
# Columns of predictions, by tested row.
_COLUMNS = ('logits', 'probabilities', 'targets', 'predictions', 'scores')


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to the task.

    Attributes:
        name: the experiment's, `UNTRAINED`, or a baseline's.
        mode: 'linear', 'knn' or 'full'; '' of a baseline or control.
        folder: where its folds are.
        role: what it is there for.
        only: the metrics that mean something of it; (): all.
    """

    name: str
    mode: str
    folder: Path
    role: Role = 'arm'
    only: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its name in sentences."""
        return f'{self.name}, {self.mode}' if self.mode else self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """The test predictions of all folds, m rows.

    Attributes:
        rows: int [m], rows of the labelled data, in order: those that are tested.
        columns: by name, [m] or [m, K], what `predictions.npz` holds of them.
        thresholds: by unit, float [m], what validation of the row's fold fixed for
            telling the first class from the others; empty where there are no classes.
        by_fold: by unit, the same of each fold.
        temperatures: of each fold; () where there are no classes.
    """

    rows: np.ndarray
    columns: Mapping[str, np.ndarray]
    thresholds: Mapping[Unit, np.ndarray]
    by_fold: Mapping[Unit, tuple[float, ...]]
    temperatures: tuple[float, ...]


def pool(arm: Arm, data: LabelledData) -> Pooled:
    """Puts the folds together.

    Folds may name subjects or images, and may leave rows untested (the shipped split
    tests its own part alone); no row is tested twice.

    Raises:
        ValueError: predictions that are not of the rows that the folds test.
    """
    parts: dict[str, list[np.ndarray]] = {}
    rows, fold_of, temperatures = [], [], []
    by_fold: dict[Unit, list[float]] = {'subject': [], 'slice': []}
    for index, fold in enumerate(data.folds):
        path = arm.folder / f'fold-{index}' / PREDICTIONS
        with np.load(path, allow_pickle=False) as stored:
            own, order = _tested(path, arm, data, fold, stored)
            for name in _COLUMNS:
                if name in stored:
                    parts.setdefault(name, []).append(stored[name][order])
            if 'temperature' in stored:
                temperatures.append(float(stored['temperature']))
                for unit, threshold in validation_thresholds(stored).items():
                    by_fold[unit].append(threshold)
        rows.append(own)
        fold_of.append(np.full(len(own), index))
    whole = np.concatenate(rows)
    order = np.argsort(whole, kind='stable')
    folds = np.concatenate(fold_of)[order]
    return Pooled(
        rows=whole[order],
        columns={name: np.concatenate(part)[order] for name, part in parts.items()},
        thresholds={u: np.array(t)[folds] for u, t in by_fold.items() if t},
        by_fold={unit: tuple(found) for unit, found in by_fold.items() if found},
        temperatures=tuple(temperatures),
    )


def _tested(
    path: Path,
    arm: Arm,
    data: LabelledData,
    fold: Fold,
    stored: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Gives the rows that a fold tests, and where their predictions are stored."""
    rows = data.rows(fold.test)
    if set(stored['groups'].tolist()) != set(data.prepared.groups[rows].tolist()):
        raise ValueError(
            f'{path} was made with other folds: its subjects are not those that '
            f'{path.parent.name} tests. Remove {arm.folder} and run again.'
        )
    rows = rows[np.argsort(data.prepared.file_ids[rows], kind='stable')]
    order = np.argsort(stored['file_ids'], kind='stable')
    if not (
        np.array_equal(stored['file_ids'][order], data.prepared.file_ids[rows])
        and np.array_equal(stored['labels'][order], data.labels[rows])
    ):
        raise ValueError(
            f'The predictions in {arm.folder} are not of these images, each once, with '
            'these labels. Remove that folder and run again.'
        )
    return rows, order


def validation_thresholds(stored: Mapping[str, np.ndarray]) -> dict[Unit, float]:
    """Gives what a fold's validation rows fix, by unit."""
    labels = stored['validation_labels']
    told = softmax(
        stored['validation_logits'], temperature=float(stored['temperature'])
    )
    whole = by_subject(told, labels, stored['validation_groups'])
    return {
        'subject': youden_threshold(1 - whole.probabilities[:, 0], whole.labels > 0),
        'slice': youden_threshold(1 - told[:, 0], labels > 0),
    }
