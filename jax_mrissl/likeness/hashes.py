"""Perceptual hashes: the shapes of middling size of a picture in 105 numbers."""

import functools

import numpy as np

from jax_mrissl.likeness import orientation
from jax_mrissl.likeness.filters import PIXELS, band, blurred

# Shapes between these standard deviations, in pixels of 64, each divided by how strong
# they are around it, so that gamma and contrast drop out.
_FINE, _COARSE, _AROUND = 1.4, 4.0, 4.0
# Where there are none, half of the picture's average stands in: noise stays small.
_LEAST = 0.5
# Of the cosine transform, waves of so many half periods along both axes together. All
# heads are alike below: there, slices of two people of the Kaggle Alzheimer set
# correlate at up to 0.985 (one pair in 1,000), as do twins of another gamma. In this
# range it is 0.959 against 0.977. Finer waves do not outlive 32 pixels and JPEG.
_WAVES = range(5, 15)
_PER_BLOCK = 1024


def hash_pictures(pictures: np.ndarray) -> np.ndarray:
    """Hashes pictures, so that the product of two hashes is a correlation of shapes.

    Args:
        pictures: uint8 or float [n, 64, 64], any unit.

    Returns: float32 [n, 105], of length 1; 0 for a picture without shape.
    """
    rows, columns = _places()
    waves = _cosines()
    found = np.empty((len(pictures), len(rows)), np.float32)
    for start in range(0, len(pictures), _PER_BLOCK):
        part = pictures[start : start + _PER_BLOCK].astype(np.float32)
        coefficients = waves @ _evened(part) @ waves.T
        found[start : start + _PER_BLOCK] = coefficients[:, rows, columns]
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.where(lengths > 1e-3, found / np.maximum(lengths, 1e-3), 0)


def turn_hashes(hashes: np.ndarray, number: int) -> np.ndarray:
    """Gives the hashes [n, 105] of the same pictures in an orientation.

    A flip changes signs of a cosine transform, a transposition swaps its axes.
    """
    order, signs = _effect(number)
    return hashes[:, order] * signs


def _evened(pictures: np.ndarray) -> np.ndarray:
    shapes = band(pictures, _FINE, _COARSE)
    energy = shapes**2
    average = np.sqrt(energy.mean(axis=(1, 2), keepdims=True))
    around = np.sqrt(np.maximum(blurred(energy, _AROUND), 0))
    return shapes / (around + _LEAST * average + 1e-3)


@functools.cache
def _places() -> tuple[np.ndarray, np.ndarray]:
    """Gives which waves count: int [105] along the rows, and along the columns."""
    rows, columns = np.indices((_WAVES.stop, _WAVES.stop)).reshape(2, -1)
    kept = (rows + columns >= _WAVES.start) & (rows + columns < _WAVES.stop)
    return rows[kept], columns[kept]


@functools.cache
def _cosines() -> np.ndarray:
    """Gives the orthonormal cosine transform (DCT-II), float32 [waves, 64]."""
    waves = np.arange(_WAVES.stop)[:, None]
    places = (np.arange(PIXELS) + 0.5)[None, :]
    matrix = np.cos(np.pi * waves * places / PIXELS) * (2 / PIXELS) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.astype(np.float32)


@functools.cache
def _effect(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives what an orientation does to a hash: an order and signs."""
    rows, columns = _places()
    index = {wave: i for i, wave in enumerate(zip(rows, columns, strict=True))}
    # Follow one wave after the other through a turn of their pictures.
    waves = _cosines()
    order, signs = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for i, (row, column) in enumerate(index):
        picture = np.outer(waves[row], waves[column])
        coefficients = waves @ orientation.turned(picture, number) @ waves.T
        to = divmod(int(np.abs(coefficients).argmax()), _WAVES.stop)
        order[index[to]] = i
        signs[index[to]] = np.sign(coefficients[to])
    return order, signs
