"""How alike two pictures are in their details, whatever was done to their tones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jax_mrissl.likeness.filters import PIXELS, band, blurred

# Details lie between these standard deviations of a Gaussian, in pixels of 64: finer is
# JPEG's, coarser is what all heads have in common.
_FINE, _COARSE = 0.7, 3.0
# A picture that was half as large has lost its finest details: so may the other.
_SOFTER = 1.0
# A correlation of details below this is not looked at again; the least of any twin of
# the measurements (half size, JPEG quality 50, of 64 pixels) was 0.6.
_HOPELESS = 0.5
_PER_BLOCK = 128


def details_alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlates the details of pictures, pair by pair; their order changes nothing.

    One picture's values go through the cubic polynomial that brings them nearest to the
    other's (brightness, contrast, gamma); then both lose what is coarser or finer than
    details. The best counts of: either direction, and either picture blurred a little.

    Args:
        first, second: uint8 or float [n, 64, 64] in [0, 255], in one orientation.

    Returns: float32 [n] in [-1, 1]; 0 where a picture has no details.
    """
    best = np.zeros(len(first), np.float32)

    def fill(start: int) -> None:
        part = slice(start, start + _PER_BLOCK)
        one, two = (p[part].astype(np.float32) / 255 for p in (first, second))
        best[part] = _alike(one, two)

    with ThreadPoolExecutor() as pool:  # products of many small matrices use one CPU
        list(pool.map(fill, range(0, len(first), _PER_BLOCK)))
    return best


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    best = _one_way(first, second, softer=False)
    again = np.flatnonzero(best > _HOPELESS)
    for one, other in ((first, second), (second, first)):
        more = _one_way(one[again], other[again], softer=True)
        best[again] = np.maximum(best[again], more)
    return best


def _one_way(first: np.ndarray, second: np.ndarray, *, softer: bool) -> np.ndarray:
    if not len(first):
        return np.zeros(0, np.float32)
    one = band(first, _FINE, _COARSE)
    two = band(_with_tones_of(first, second), _FINE, _COARSE)
    best = _correlation(one, two)
    if softer:
        best = np.maximum(best, _correlation(blurred(one, _SOFTER), two))
        best = np.maximum(best, _correlation(one, blurred(two, _SOFTER)))
    return best


def _correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    products = np.einsum('nij,nij->n', one, two)
    lengths = np.sqrt(
        np.einsum('nij,nij->n', one, one) * np.einsum('nij,nij->n', two, two)
    )
    # Details of less than a tenth of a gray level are rounding.
    least = np.float32(PIXELS**2 * (0.1 / 255) ** 2)
    return np.where(lengths > least, products / np.maximum(lengths, least), 0)


def _with_tones_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Gives the second's pixels by the cubic that is nearest to the first's."""
    count = len(first)
    values = second.reshape(count, -1) - second.mean(axis=(1, 2)).reshape(-1, 1)
    powers = np.stack([np.ones_like(values), values, values**2, values**3], axis=1)
    gram = (powers @ powers.transpose(0, 2, 1)).astype(np.float64)
    # A little of the identity, so that a picture of two tones has a solution, too.
    gram += np.eye(4) * (1e-6 * PIXELS**2)
    moments = (powers @ first.reshape(count, -1, 1)).astype(np.float64)
    curve = np.linalg.solve(gram, moments).astype(np.float32)
    return (curve.transpose(0, 2, 1) @ powers).reshape(first.shape)
