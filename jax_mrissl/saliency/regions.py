"""Where a map lies: inside the brain, in dark regions; how alike two maps are."""

import numpy as np
from scipy import ndimage, stats

Array = np.ndarray

# Gray of 255 below which a pixel inside a brain is dark: ventricles and sulci.
DARK = 60
_BINS = 256


def foreground(image: Array) -> Array:
    """Finds the head, or the brain where the skull was taken off.

    The largest region above Otsu's threshold, its holes filled.

    Args:
        image: float [H, W] in [0, 1].

    Returns: bool [H, W].
    """
    bright = image > otsu(image)
    labels, count = ndimage.label(bright)
    if not count:
        return np.ones(image.shape, bool)
    sizes = ndimage.sum_labels(bright, labels, np.arange(1, count + 1))
    return ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))


def otsu(image: Array) -> float:
    """Gives the gray that best tells two groups of pixels apart.

    Args:
        image: float in [0, 1], any shape.

    Source: Otsu 1979, A threshold selection method from gray-level histograms.
    """
    counts, edges = np.histogram(image, bins=_BINS, range=(0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide='ignore', invalid='ignore'):
        apart = sums / below - (sums[-1] - sums) / above
    between = np.where((below > 0) & (above > 0), below * above * apart**2, -1.0)
    # Where a range of grays is empty, all of it is as good: its middle.
    best = np.flatnonzero(between == between.max())
    return float(edges[1:][best].mean())


def dark_inside(image: Array, inside: Array) -> Array:
    """Finds the dark pixels inside a region, bool [H, W]; image as in `foreground`."""
    return inside & (image < DARK / 255)


def share(saliency: Array, region: Array) -> float:
    """Gives the share of a map's absolute values in a region; NaN of an empty map."""
    weight = np.abs(np.asarray(saliency, np.float64))
    total = weight.sum()
    return float(weight[region].sum() / total) if total > 0 else float('nan')


def rank_correlation(one: Array, two: Array, region: Array) -> float:
    """Gives Spearman's correlation of two maps' absolute values inside a region.

    NaN where one of them is the same everywhere.
    """
    a, b = (np.abs(np.asarray(m, np.float64))[region] for m in (one, two))
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float('nan')
    return float(stats.spearmanr(a, b).statistic)


def blurred(images: Array) -> Array:
    """Takes the detail out of images: a baseline that is as bright but shows nothing.

    On black, which integrated gradients often begin with, a dark pixel can never count,
    and ventricles are dark.

    Args:
        images: float32 [n, H, W, C].

    Returns: float32 [n, H, W, C], by a Gaussian of an eighth of the width.
    """
    sigma = (0, images.shape[1] / 8, images.shape[2] / 8, 0)
    return ndimage.gaussian_filter(images, sigma, mode='nearest').astype(np.float32)
