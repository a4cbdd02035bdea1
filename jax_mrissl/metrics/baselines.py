"""What must be beaten: the class prior, one number, and pixels without a network."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

Array = np.ndarray

# Where the ventricles are, as parts of height and width; what is dark there, of 255.
_MIDDLE_ROWS = (40 / 208, 170 / 208)
_MIDDLE_COLUMNS = (40 / 176, 140 / 176)
_DARK = 60


def class_prior(labels: Array, classes: int) -> Array:
    """Gives the share of each class among the labels, float64 [K].

    Taken from the very rows that are tested, it is the best constant guess there is,
    and so the strictest: one from training folds does slightly worse.

    Args:
        labels: int [n], of the subjects, or of the slices.
        classes: K.
    """
    return np.bincount(labels, minlength=classes) / len(labels)


def class_prior_log_loss(labels: Array) -> float:
    """Gives the log loss of the class prior: the entropy of the labels, in nats."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def under_trained(training_log_loss: float, prior_log_loss: float) -> bool:
    """Tells whether training did not end below a constant guess; NaN did not."""
    return not training_log_loss < prior_log_loss


def dark_pixel_share(images: Array, boxes: Array) -> Array:
    """Gives the share of dark pixels in the middle of each image, float64 [n].

    Ventricles and sulci are dark, so it stands for atrophy. The middle is given as
    parts of the image's valid box; on the Kaggle Alzheimer set, of 208 x 176 pixels,
    it is rows 40-169 and columns 40-139.

    Args:
        images: uint8 [n, H, W], gray, as eyes see them.
        boxes: int [n, 4]: top, left, height, width of the valid part.
    """
    found = np.empty(len(images))
    for index, (image, (top, left, height, width)) in enumerate(
        zip(images, boxes, strict=True)
    ):
        rows = [top + round(height * part) for part in _MIDDLE_ROWS]
        columns = [left + round(width * part) for part in _MIDDLE_COLUMNS]
        found[index] = (image[slice(*rows), slice(*columns)] < _DARK).mean()
    return found


def pixel_components(pixels: Array, train: Array, *, components: int = 40) -> Array:
    """Gives scores on the principal components of the training rows' pixels.

    Args:
        pixels: [n, P].
        train: int [k], the rows that the components are of.
        components: how many; fewer where there are fewer training rows or pixels.

    Returns: float64 [n, C].
    """
    own = pixels[train].astype(np.float64)
    count = min(components, *own.shape)
    # The seed is that of the randomised decomposition.
    pca = PCA(count, svd_solver='randomized', random_state=0)
    return pca.fit(own).transform(pixels.astype(np.float64))


def nearest_row(pixels: Array, train: Array, rows: Array) -> Array:
    """Gives the training row nearest to each of some rows, int [len(rows)].

    Args:
        pixels: [n, P]; distances are Euclidean.
        train: int [k], rows to be found.
        rows: int [m], rows to find them for.
    """
    found = NearestNeighbors(n_neighbors=1, algorithm='brute')
    found.fit(pixels[train].astype(np.float32))
    nearest = found.kneighbors(pixels[rows].astype(np.float32), return_distance=False)
    return train[nearest[:, 0]]
