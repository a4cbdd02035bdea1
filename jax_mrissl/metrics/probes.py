"""How much embeddings tell while they are learned: nearest neighbours, a linear probe.

Quick looks at fixed settings, so that curves of different runs can be compared. What a
study reports comes from `linear` and its grid.
"""

import numpy as np

from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.classification import accuracy
from jax_mrissl.metrics.linear import fit_linear_probe
from jax_mrissl.metrics.spread import unit_rows

Array = np.ndarray

# Similarities that are held at once: 32 MB.
_SIMILARITIES_AT_ONCE = 4_000_000
# Strength of the penalty for each training row, so that it weighs the same beside the
# mean log loss whatever the number of rows. Strong enough that the fit ends soon where
# there are more features than rows; a choice, not tuned.
_PENALTY_PER_ROW = 0.1


def knn_predict(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> Array:
    """Lets the nearest rows of a bank vote for the class of each query.

    Args:
        bank: float [n, F]; rows are scaled to length one, as are the queries.
        bank_labels: int [n], in 0 … K-1.
        queries: float [m, F].
        classes: K.
        neighbours: how many rows vote, the nearest by cosine; at most n do.
        temperature: a neighbour of cosine s votes with weight exp(s / temperature).

    Returns:
        float64 [m, K], each class's share of the votes; rows add up to one.

    Raises:
        ValueError: the bank is empty, or no neighbour or no temperature is left.

    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4, as in the benchmarks of the
    Lightly library; these have 200 neighbours, or 20 on ImageNet-100.
    """
    if not (len(bank) and neighbours >= 1 and temperature > 0):
        raise ValueError(
            'Neighbours vote from a bank of at least one row, at least one of them, at '
            f'a temperature above 0; got {len(bank)} rows, {neighbours} neighbours, '
            f'temperature {temperature}.'
        )
    bank, queries = unit_rows(bank), unit_rows(queries)
    truth = np.eye(classes)[np.asarray(bank_labels)]  # [n, K]
    kept = min(neighbours, len(bank))
    shares = np.empty((len(queries), classes))
    size = max(1, _SIMILARITIES_AT_ONCE // len(bank))
    for start in range(0, len(queries), size):
        similarity = queries[start : start + size] @ bank.T
        nearest = np.argpartition(-similarity, kept - 1, axis=1)[:, :kept]
        votes = softmax(
            np.take_along_axis(similarity, nearest, axis=1), temperature=temperature
        )
        shares[start : start + size] = np.einsum('mk,mkc->mc', votes, truth[nearest])
    return shares


def knn_accuracy(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    classes: int,
    neighbours: int = 20,
) -> float:
    """Gives the share of queries whose neighbours vote for the true class.

    Args:
        bank, bank_labels, queries, classes, neighbours: as in `knn_predict`.
        query_labels: int [m].
    """
    shares = knn_predict(
        bank, bank_labels, queries, classes=classes, neighbours=neighbours
    )
    return accuracy(shares, query_labels)


def linear_accuracy(
    train: Array, labels: Array, held: Array, held_labels: Array, *, classes: int
) -> float:
    """Gives the accuracy, on held rows, of a linear probe of one fixed strength.

    The probe is that of `fit_linear_probe`: features standardised by the training
    rows, L2 strength 0.1 n, so 0.05 times the squared weights beside the mean log loss.
    Nothing is chosen by the held rows.

    Args:
        train: float [n, F].
        labels: int [n], in 0 … K-1, at least two of them.
        held: float [m, F].
        held_labels: int [m].
        classes: K.

    Raises:
        UserError: features that are not finite, or only one class in training.
    """
    probe = fit_linear_probe(
        train,
        labels,
        held,
        held_labels,
        # Of one strength alone, the validation loss chooses nothing.
        np.arange(len(held_labels)).astype(str),
        classes=classes,
        l2_strengths=(_PENALTY_PER_ROW * len(labels),),
    )
    return accuracy(softmax(probe.logits(held)), held_labels)
