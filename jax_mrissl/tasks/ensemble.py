"""What the networks of all folds say together, also of images that some have seen."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_mrissl.tasks.fold_network import FoldNetwork
from jax_mrissl.tasks.programs import RowProgram

# What of an image may be unlike the training images.
CAUSES = ('features', 'looks')


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """What is said of n images.

    Attributes:
        answers: float64 [n, K], the mean over folds of calibrated probabilities; or
            the number, [n, 1].
        unlikeness: float64 [n, 2], by `CAUSES`: above 1, unlike the training images.
        trained_on: int [n], how many folds trained on the image's subject or chose by
            it. They have no say, unless it is all of them.
    """

    answers: np.ndarray
    unlikeness: np.ndarray
    trained_on: np.ndarray


def ask(
    networks: Sequence[FoldNetwork],
    program: RowProgram,
    source: Any,
    rows: np.ndarray,
    *,
    looks: np.ndarray,
    pixel_sha256: np.ndarray,
) -> Verdict:
    """Asks the networks of all folds about rows of a resident set.

    Args:
        networks: of one arm.
        program: from rows to embeddings.
        source: the resident set.
        rows: int [n].
        looks: float [n, L], as `metrics.novelty.looks_of` gives them.
        pixel_sha256: text [n], of the raw pixels.
    """
    answers, scores, seen = [], [], []
    features, encoder = np.zeros(0), None
    for network in networks:
        # Linear probes mostly have one encoder for all folds.
        if network.params['encoder'] is not encoder:
            features = program(network.params, network.model_state, source, rows)
            encoder = network.params['encoder']
        answers.append(network.answers(features))
        scores.append(network.novelty.scores(features, looks))
        seen.append(np.isin(pixel_sha256, network.seen))
    trained = np.stack(seen)  # [folds, n]
    asked = (~trained | trained.all(0, keepdims=True)).astype(np.float64)
    asked /= asked.sum(0, keepdims=True)
    return Verdict(
        answers=np.einsum('fn,fnk->nk', asked, np.stack(answers)),
        unlikeness=np.einsum('fn,fnk->nk', asked, np.stack(scores)),
        trained_on=trained.sum(0),
    )
