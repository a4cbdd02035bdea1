"""The eight orientations of a square picture: quarter turns, with and without flip."""

import numpy as np

# By number: 0 to 3 quarter turns against the clock; 4 to 7 the same, then mirrored.
COUNT = 8
NAMES = (
    'as it is',
    'turned 90°',
    'turned 180°',
    'turned 270°',
    'mirrored',
    'turned 90°, mirrored',
    'turned 180°, mirrored',
    'turned 270°, mirrored',
)


def turned(pictures: np.ndarray, orientation: int) -> np.ndarray:
    """Gives pictures [..., S, S] in another orientation, as a view."""
    result = np.rot90(pictures, orientation % 4, axes=(-2, -1))
    return result[..., ::-1] if orientation >= 4 else result
