"""How far embeddings are spread out: the alarms of a collapse."""

import numpy as np


def embedding_std(embeddings: np.ndarray) -> float:
    """Gives the spread of embeddings on the unit sphere; 0 is a collapse.

    Args:
        embeddings: float [B, F].

    Returns:
        The mean over features of the standard deviation of L2-normalised rows, times
        sqrt(F): 1 for directions drawn at random, 0 where all rows point one way.

    Source: Chen and He 2021 (arXiv:2011.10566), section 4.1.
    """
    rows = embeddings.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(norms, 1e-12)
    return float(unit.std(axis=0).mean() * np.sqrt(embeddings.shape[1]))


def effective_rank(embeddings: np.ndarray) -> float:
    """Gives the number of dimensions that embeddings use, from 1 to min(B, F).

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
