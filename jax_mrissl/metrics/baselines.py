"""What must be beaten: the class prior, one number, and pixels without a network."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

Array = np.ndarray


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


def dark_pixel_share(
    images: Array,
    *,
    threshold: float = 60,
    rows: tuple[int, int] = (40, 170),
    columns: tuple[int, int] = (40, 140),
) -> Array:
    """Gives the share of dark pixels in the middle of each image, float64 [n].

    Ventricles and sulci are dark, so it stands for atrophy. The defaults are for the
    Kaggle Alzheimer set's images of 208 x 176 pixels.

    Args:
        images: [n, H, W], gray.
        threshold: pixels below it are dark.
        rows, columns: the first that counts, and the first that does no more.
    """
    middle = images[:, slice(*rows), slice(*columns)]
    return (middle < threshold).mean(axis=(1, 2))


def pca_baseline(
    train: Array,
    train_labels: Array,
    test: Array,
    *,
    classes: int,
    components: int = 40,
    seed: int = 0,
) -> Array:
    """Learns classes from pixels by principal components and logistic regression.

    Args:
        train: [n, ...], small images; they are flattened.
        train_labels: int [n], in 0 … K-1.
        test: [m, ...].
        classes: K.
        components: how many principal components; fewer where there are fewer rows
            or pixels.
        seed: of the randomised decomposition.

    Returns:
        float64 [m, K], probabilities; 0 for a class that is not in training.
    """
    pixels = train.reshape(len(train), -1).astype(np.float64)
    held = test.reshape(len(test), -1).astype(np.float64)
    count = min(components, *pixels.shape)
    pca = PCA(count, svd_solver='randomized', random_state=seed).fit(pixels)
    scores, held_scores = pca.transform(pixels), pca.transform(held)
    scale = scores.std(0)
    # Components of no variance would be rounding, blown up.
    kept = scale > 1e-9 * scale.max(initial=0)
    model = LogisticRegression(max_iter=2000)
    model.fit(scores[:, kept] / scale[kept], train_labels)
    probabilities = np.zeros((len(held), classes))
    probabilities[:, model.classes_] = model.predict_proba(
        held_scores[:, kept] / scale[kept]
    )
    return probabilities
