"""How embeddings lie on the sphere: spread, rank, and whether views stay together."""

import numpy as np

Array = np.ndarray

# Distances that are held at once: 32 MB.
_DISTANCES_AT_ONCE = 4_000_000


def unit_rows(embeddings: Array) -> Array:
    """Scales rows, float [B, F], to length one, float64; a row of zeros stays."""
    rows = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)


def embedding_std(embeddings: Array) -> float:
    """Gives the spread of embeddings on the unit sphere; 0 is a collapse.

    Args:
        embeddings: float [B, F].

    Returns:
        The mean over features of the standard deviation of L2-normalised rows, times
        sqrt(F): 1 for directions drawn at random, 0 where all rows point one way.

    Source: Chen and He 2021 (arXiv:2011.10566), section 4.1.
    """
    unit = unit_rows(embeddings)
    return float(unit.std(axis=0).mean() * np.sqrt(embeddings.shape[1]))


def effective_rank(embeddings: Array) -> float:
    """Gives the number of dimensions that embeddings use, from 1 to min(B, F).

    The rows are not centred: embeddings with a common direction, as those after a
    ReLU have, count it as one dimension, and a strong one hides the others.

    Args:
        embeddings: float [B, F].

    Returns: exp of the entropy of the singular values, as shares of their sum.

    Source: RankMe, Garrido et al. 2023 (arXiv:2210.02885), Eq. 1. Its epsilon of 1e-7
    is left out: a singular value of zero adds nothing to the entropy.
    """
    singular = np.linalg.svd(embeddings.astype(np.float64), compute_uv=False)
    if singular.sum() == 0:
        return 1.0
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(a: Array, b: Array) -> float:
    """Gives the mean squared distance of positive pairs on the unit sphere.

    Args:
        a, b: float [B, F]; row i of both is a view of image i.

    Returns:
        From 0, where the views of an image are one, to 4; 2 for unrelated directions.
        A collapse gives 0 too: read it beside `uniformity`.

    Source: Wang and Isola 2020 (arXiv:2005.10242), Eq. 3 with alpha 2.
    """
    return float(((unit_rows(a) - unit_rows(b)) ** 2).sum(axis=1).mean())


def uniformity(embeddings: Array) -> float:
    """Gives the log of the mean Gaussian potential of pairs on the unit sphere.

    Args:
        embeddings: float [B, F], B at least 2.

    Returns:
        ln mean exp(-2 d²) over pairs of different rows: 0 where all rows point one
        way, the lower the more evenly they lie; about -4 for directions drawn at
        random in many dimensions.

    Raises:
        ValueError: fewer than two rows.

    Source: Wang and Isola 2020 (arXiv:2005.10242), Eq. 4 with t 2, over the pairs
    that their code takes: `torch.pdist`, so no row with itself.
    """
    count = len(embeddings)
    if count < 2:
        raise ValueError(f'Uniformity is of pairs; {count} row(s) given.')
    unit = unit_rows(embeddings)
    squares = (unit**2).sum(axis=1)
    total = 0.0
    size = max(1, _DISTANCES_AT_ONCE // count)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        cosines = unit[rows] @ unit.T
        # Rounding must not make a distance negative.
        distances = np.maximum(squares[rows, None] + squares - 2 * cosines, 0)
        potential = np.exp(-2 * distances)
        own = np.arange(start, start + len(potential))
        potential[np.arange(len(potential)), own] = 0
        total += potential.sum()
    return float(np.log(total / (count * (count - 1))))
