"""Whether an image is unlike those that a network was trained on."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import linalg

Array = np.ndarray
Cause = Literal['features', 'looks']

# Of the images of held-out subjects, at least as many are within the threshold.
_WITHIN = 0.98
# What lies no further beyond them than this is no stranger yet.
_MARGIN = 1.1
# More directions than these would be fitted to single subjects.
_MOST_DIRECTIONS = 64
# Rows of training for each direction, at least: neighbouring slices are no strangers.
_ROWS_PER_DIRECTION = 10
# Of the variance 1 that standardised numbers have: what no training image varied in
# must not be blown up by rounding.
_LEAST_VARIANCE = 0.01
# Features that vary by less than this part of the median one count as if by that much.
_LEAST_SPREAD = 0.1
# Looks are shares and gray values in [0, 1]; differences below it are nothing to see.
_LEAST_LOOK = 0.02
# Of a canvas: how much of each side counts as its border.
_BORDER = 0.06


@dataclasses.dataclass(frozen=True, eq=False)
class Cloud:
    """Where training rows lie: a Gaussian with as many free directions as they allow.

    Source: Tipping & Bishop 1999, Probabilistic principal component analysis; its
    covariance, with the variance of all other directions in one number.

    Attributes:
        mean, scale: float64 [F], by which rows are standardised.
        directions: float64 [F, r], orthonormal.
        variances: float64 [r], along them.
        rest: the variance along each other direction.
    """

    mean: Array
    scale: Array
    directions: Array
    variances: Array
    rest: Array

    @classmethod
    def fit(cls, rows: Array, *, least_scale: float) -> 'Cloud':
        """Fits it to rows, float [n, F].

        Args:
            rows: of training.
            least_scale: what varies less is treated as if it varied by this much.
        """
        rows = np.asarray(rows, np.float64)
        mean, scale = rows.mean(0), np.maximum(rows.std(0), least_scale)
        centred = (rows - mean) / scale
        covariance = centred.T @ centred / len(rows)
        # What varies less than it is scaled by is given the variance that it lacks.
        np.fill_diagonal(covariance, 1.0)
        size = len(mean)
        count = min(_MOST_DIRECTIONS, len(rows) // _ROWS_PER_DIRECTION, size - 1)
        variances, directions = np.zeros(0), np.zeros((size, 0))
        if count:
            variances, directions = linalg.eigh(
                covariance, subset_by_index=(size - count, size - 1)
            )
        left = (np.trace(covariance) - variances.sum()) / (size - count)
        rest = max(float(left), _LEAST_VARIANCE)
        return cls(mean, scale, directions, np.maximum(variances, rest), np.array(rest))

    def distances(self, rows: Array) -> Array:
        """Gives the Mahalanobis distance of rows [n, F], per root of F; float64 [n]."""
        centred = (np.asarray(rows, np.float64) - self.mean) / self.scale
        along = centred @ self.directions
        beside = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0)
        square = (along**2 / self.variances).sum(1) + beside / self.rest
        return np.sqrt(square / len(self.mean))


@dataclasses.dataclass(frozen=True, eq=False)
class Novelty:
    """Says how unlike the training images others are.

    An image is unlike where a network's features of it lie apart, or its plain looks
    do: a network that was trained to tell its classes may well map a radiograph on
    one of them. Each distance is divided by its threshold: the 98th percentile among
    images of held-out subjects, at all levels of the head, and a tenth more.

    Attributes:
        features, looks: the clouds.
        reach: float64 [2], the thresholds of features and looks.
    """

    features: Cloud
    looks: Cloud
    reach: Array

    @classmethod
    def fit(
        cls, features: Array, looks: Array, held_features: Array, held_looks: Array
    ) -> 'Novelty':
        """Fits it to training rows; thresholds are of rows of other subjects.

        Args:
            features, held_features: float [n, F] and [m, F], of an encoder.
            looks, held_looks: float [n, L] and [m, L], as `looks_of` gives them.
        """
        spread = np.asarray(features, np.float64).std(0)
        live = spread[spread > 0]
        least = _LEAST_SPREAD * float(np.median(live)) if live.size else 1.0
        clouds = (
            Cloud.fit(features, least_scale=least),
            Cloud.fit(looks, least_scale=_LEAST_LOOK),
        )
        held = np.stack(
            [
                clouds[0].distances(held_features),
                clouds[1].distances(held_looks),
            ]
        )
        reach = np.array([_threshold(row) for row in held])
        return cls(*clouds, reach)

    def scores(self, features: Array, looks: Array) -> Array:
        """Gives float64 [n, 2], of features and of looks: above 1 is unlike."""
        found = np.stack(
            [self.features.distances(features), self.looks.distances(looks)], axis=1
        )
        return found / self.reach

    def to_arrays(self) -> dict[str, Array]:
        """Gives it as named arrays, for a file."""
        found = {'reach': self.reach}
        for name, cloud in (('features', self.features), ('looks', self.looks)):
            for field, value in vars(cloud).items():
                # Half the size; a distance of 1 changes by 1e-6.
                found[f'{name}_{field}'] = np.asarray(value, np.float32)
        return found

    @classmethod
    def load(cls, path: Path) -> 'Novelty':
        """Reads it from an `.npz` that holds what `to_arrays` gave."""
        names = [field.name for field in dataclasses.fields(Cloud)]
        with np.load(path, allow_pickle=False) as stored:
            features, looks = (
                Cloud(*(stored[f'{of}_{name}'].astype(np.float64) for name in names))
                for of in ('features', 'looks')
            )
            return cls(features, looks, stored['reach'])


def _threshold(distances: Array) -> float:
    return max(_MARGIN * float(np.quantile(distances, _WITHIN)), 1e-6)


def looks_of(image: Array, box: Array) -> Array:
    """Describes an image by plain numbers, so that a chest is not taken for a head.

    They are: logarithm of width over height; mean and deviation of gray; five
    quantiles; share of pixels darker than a tenth; means of the border, of each side of
    it, and of the middle; mean step between neighbours along rows and columns, in image
    widths; how unlike left and right are, and top and bottom; mean colour.

    Args:
        image: uint8 [H, W, C], a canvas as it is shown.
        box: [4], its valid part: top, left, height, width.

    Returns: float64 [20].
    """
    top, left, height, width = (int(v) for v in box)
    part = image[top : top + height, left : left + width].astype(np.float64) / 255
    gray = part.mean(2)
    rim = [max(1, round(_BORDER * side)) for side in gray.shape]
    sides = [
        gray[: rim[0]].mean(),
        gray[-rim[0] :].mean(),
        gray[:, : rim[1]].mean(),
        gray[:, -rim[1] :].mean(),
    ]
    inner = gray[height // 4 : height - height // 4, width // 4 : width - width // 4]
    steps = [
        # A fine canvas has more and smaller steps than a coarse one.
        np.abs(np.diff(gray, axis=axis)).mean() * gray.shape[axis] / 100
        if gray.shape[axis] > 1
        else 0.0
        for axis in (0, 1)
    ]
    return np.array(
        [
            np.log(width / height),
            gray.mean(),
            gray.std(),
            *np.quantile(gray, [0.05, 0.25, 0.5, 0.75, 0.95]),
            (gray < 0.1).mean(),
            np.mean(sides),
            *sides,
            inner.mean(),
            *steps,
            np.abs(gray - gray[:, ::-1]).mean(),
            np.abs(gray - gray[::-1]).mean(),
            np.ptp(part, axis=2).mean(),
        ]
    )
