"""`predictions.npz`: what one arm tells of the rows that a fold tests and chooses by.

Columns: `file_ids`, `groups`, `labels` of the tested rows, and the same of the
validation rows with `validation_` before the name. Of classes `logits` [n, K],
`probabilities` [n, K], calibrated by `temperature`, and `validation_logits`. Of
numbers, and of classes that stand for numbers, `targets` and `predictions`, with
`validation_targets` and `validation_predictions`. Of a baseline that is one number,
`scores`: that number, higher where the first class is less likely.
"""

from pathlib import Path

import numpy as np

from jax_mrissl.tasks.answers import answers
from jax_mrissl.tasks.labelled import LabelledData

PREDICTIONS = 'predictions.npz'


def write_predictions(
    folder: Path,
    data: LabelledData,
    held: np.ndarray,
    held_outputs: np.ndarray,
    test: np.ndarray,
    test_outputs: np.ndarray,
    *,
    temperature: float | None = None,
    scores: np.ndarray | None = None,
) -> None:
    """Writes what is told of the tested rows, and of the validation rows.

    Args:
        folder: the fold's; made if need be.
        data: the labelled images.
        held, test: rows of the data, int [k].
        held_outputs, test_outputs: what `Answers` makes of a network, [k, K].
        temperature: of classes, what logits are divided by; None: it is fitted to
            validation.
        scores: float [n], of all rows of the data; None: the arm is no single number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = (held, held_outputs, test, test_outputs)
    columns = dict(answers(data).columns(*told, temperature=temperature))
    if scores is not None:
        columns['scores'] = scores[test]
    np.savez(
        folder / PREDICTIONS,
        allow_pickle=False,
        file_ids=data.prepared.file_ids[test],
        groups=data.prepared.groups[test],
        labels=data.labels[test],
        validation_file_ids=data.prepared.file_ids[held],
        validation_groups=data.prepared.groups[held],
        validation_labels=data.labels[held],
        **columns,
    )
