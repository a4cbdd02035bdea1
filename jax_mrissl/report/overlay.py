"""Saliency laid over the image that it explains."""

import numpy as np

# For and against; told apart also by eyes that do not tell red from green.
_FOR, _AGAINST = (255.0, 140.0, 0.0), (0.0, 120.0, 255.0)
# Single pixels above it must not make all others pale.
_FULL = 99.5
_MOST = 0.8  # of the colour, so that the image shines through


def overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Colours an image: orange where saliency is above zero, blue where below.

    Args:
        image: float [H, W] in [0, 1].
        saliency: float [H, W]; its 99.5th percentile, without sign, is full colour.

    Returns: uint8 [H, W, 3].
    """
    saliency = np.asarray(saliency, np.float64)
    full = np.percentile(np.abs(saliency), _FULL) or np.abs(saliency).max() or 1.0
    strength = np.clip(np.abs(saliency) / full, 0, 1)[..., None] * _MOST
    gray = np.clip(np.asarray(image, np.float64), 0, 1)[..., None] * 255
    colour = np.where(saliency[..., None] < 0, _AGAINST, _FOR)
    return np.round(gray * (1 - strength) + colour * strength).astype(np.uint8)
