"""Gaussian filters of small pictures, as matrix products."""

import functools

import numpy as np

# Height and width of the small pictures that all of this looks at, in pixels.
PIXELS = 64


def blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs float32 [n, 64, 64] by a Gaussian of `sigma` pixels; nothing enters."""
    matrix = _blur(sigma)
    return matrix @ pictures @ matrix.T


def band(pictures: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """Keeps what lies between two Gaussians' widths, float32 [n, 64, 64]."""
    return blurred(pictures, fine) - blurred(pictures, coarse)


@functools.cache
def _blur(sigma: float) -> np.ndarray:
    places = np.arange(PIXELS)
    weights = np.exp(-((places[:, None] - places[None, :]) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
