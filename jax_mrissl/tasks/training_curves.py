"""Logs of training as lines over epochs."""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_mrissl.report.run_facts import CurvePlot
from jax_mrissl.tasks.from_config import Json

_PROBES = (('linear_accuracy', 'linear probe'), ('knn_accuracy', 'kNN'))


def pretraining_curves(rows: Sequence[Json], dataset: str) -> list[CurvePlot]:
    """Gives loss, probes and spread of a pretraining stage.

    Args:
        rows: of its metrics.jsonl.
        dataset: what it learned from.
    """
    found = []
    if loss := _line(rows, 'loss', 'loss'):
        title = f'Pretraining on {dataset}: its loss, which compares with itself alone.'
        found.append(CurvePlot(title, 'loss', (loss,)))
    probes = [line for key, name in _PROBES if (line := _line(rows, key, name))]
    if probes:
        chance = next(row['probe_chance'] for row in rows if 'probe_chance' in row)
        found.append(
            CurvePlot(
                f'Pretraining on {dataset}: labels of validation slices of the first '
                'fold, told from frozen features. They chose nothing.',
                'accuracy by slice',
                tuple(probes),
                (chance, 'commonest class'),
            )
        )
    if rank := _line(rows, 'effective_rank', 'effective rank'):
        found.append(
            CurvePlot(
                f'Pretraining on {dataset}: how many directions its embeddings fill. '
                'A fall to 1 is a collapse.',
                'effective rank',
                (rank,),
            )
        )
    return found


def validation_curves(arms: Mapping[str, Sequence[Sequence[Json]]]) -> list[CurvePlot]:
    """Gives the validation loss of full finetuning.

    Args:
        arms: by name, the rows of the kept trial of each fold.
    """
    lines, backdrop = [], []
    for label, folds in arms.items():
        own = [line for rows in folds if (line := _line(rows, 'validation_loss', ''))]
        if not own:
            continue
        backdrop += own
        epochs = min((line[1] for line in own), key=len)
        mean = np.mean([line[2][: len(epochs)] for line in own], axis=0)
        lines.append((label, epochs, mean))
    if not lines:
        return []
    title = (
        'Full finetuning: validation loss by subject, the mean over folds; thin, each '
        'fold. The best epoch of each fold is kept.'
    )
    return [CurvePlot(title, 'validation loss', (*backdrop, *lines))]


def _line(
    rows: Sequence[Json], key: str, name: str
) -> tuple[str, np.ndarray, np.ndarray] | None:
    own = [row for row in rows if row.get(key) is not None and np.isfinite(row[key])]
    if not own:
        return None
    # What was measured before the first step has no epoch.
    epochs = np.array([row.get('epoch', 0.0) for row in own], np.float64)
    return name, epochs, np.array([row[key] for row in own], np.float64)
