"""Writes the demo cohort: simulated brain MRI as an ordinary folder of PNG files.

Nobody was scanned for it. Every head is the MNI152 average head, bent, with larger
or smaller ventricles and sulci, as another contrast, with noise; "severity" is how
much atrophy was drawn. It shows that the toolkit works and says nothing of medicine.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from jax_mrissl.core.errors import UserError
from jax_mrissl.report.png import encode_png

# Mean atrophy of a class, in standard deviations of a class. The classes overlap.
SEVERITIES = {
    'NonDemented': 0.0,
    'VeryMildDemented': 1.5,
    'MildDemented': 3.0,
    'ModerateDemented': 4.5,
}
_SHARES = (0.5, 0.35, 0.14, 0.01)  # of the 200 subjects of the real set

_TEXT = {'Description': 'Simulated brain MRI; no patient. MNI152 template, deformed.'}
_FIELD_OF_VIEW_MM = 205.0
_CENTRE_MM = (0.0, -18.0, 10.0)  # of the template's brain, MNI coordinates
# Axes of MNI space (x right, y front, z up): across the slices, down, to the right.
_PLANES = {'axial': (2, 1, 0), 'coronal': (1, 2, 0), 'sagittal': (0, 2, 1)}
_REACH_MM = {
    'axial': (-30.0, 58.0),
    'coronal': (-78.0, 42.0),
    'sagittal': (-52.0, 52.0),
}
# Signal of CSF, gray and white matter.
_CONTRASTS = {
    't1': (0.10, 0.52, 0.80),
    't2': (0.95, 0.56, 0.40),
    'pd': (0.72, 0.84, 0.64),
}
_GRID_MM = 8.0  # of the smooth random fields
_GRID_ORIGIN_MM = -160.0
_GRID_COUNT = 41


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to simulate.

    Args:
        size: pixels along both sides of an image.
        subjects: labelled subjects of each class, in the order of SEVERITIES.
        slices: of a labelled subject, axial, through the ventricles.
        spacing_mm: between them.
        series: unlabelled subjects, one series each.
        series_slices: images in a series.
    """

    size: int
    subjects: tuple[int, ...]
    slices: int
    spacing_mm: float
    series: int
    series_slices: int


DEMO = Scale(
    size=128,
    subjects=(40, 28, 11, 1),
    slices=32,
    spacing_mm=1.25,
    series=100,
    series_slices=10,
)
# Three classes (Moderate joined to Mild) of at least five subjects: five folds.
SMALL = Scale(
    size=48, subjects=(7, 6, 4, 1), slices=4, spacing_mm=5.0, series=12, series_slices=5
)


def write_raw(
    folder: Path,
    *,
    seed: int = 0,
    small: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the simulated cohort, byte for byte the same for the same seed.

    `pretrain/` holds unlabelled series of all planes and contrasts, `labelled/CLASS/`
    the axial slices of other subjects. Files are named `sub-ID_slice-NUMBER.png`.

    Args:
        folder: made here; if it is there already, it must be empty. It appears
            only when it is complete.
        seed: of everything random.
        small: whether to write the smaller one, which takes seconds, for trials.
        progress: called with the number of images written and of all. None: nobody.

    Returns: `folder`.

    Raises:
        UserError: nilearn is missing, or the folder holds something.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f'{folder} is not empty. The simulated cohort needs a folder of its own: '
            'delete it or give another one.'
        )
    scale = SMALL if small else DEMO
    atlas = load_atlas()
    part = folder.with_name(f'{folder.name}.part')
    shutil.rmtree(part, ignore_errors=True)

    def write_labelled(label: int, index: int) -> int:
        images = labelled_images(atlas, scale, seed=seed, label=label, index=index)
        name = f'sub-{1000 * (label + 1) + index + 1:04d}'
        return _write(part / 'labelled' / list(SEVERITIES)[label], name, images)

    def write_series(index: int) -> int:
        images = unlabelled_images(atlas, scale, seed=seed, index=index)
        return _write(part / 'pretrain', f'sub-{index + 1:04d}', images)

    total = sum(scale.subjects) * scale.slices + scale.series * scale.series_slices
    # Threads suffice: NumPy, SciPy and zlib let go of the lock while they work.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(write_labelled, label, index)
            for label, count in enumerate(scale.subjects)
            for index in range(count)
        ]
        jobs += [pool.submit(write_series, index) for index in range(scale.series)]
        done = 0
        for job in jobs:
            done += job.result()
            if progress:
                progress(done, total)
    os.replace(part, folder)
    return folder


@dataclass(frozen=True)
class Atlas:
    """The average head, in voxels of 1 mm.

    Args:
        gray, white: share of that tissue, float32 [X, Y, Z] in [0, 1].
        head: uint8 [X, Y, Z], 1 inside the skull.
        outwards: away from the ventricles, float32 [3, X/2, Y/2, Z/2], voxels of
            2 mm; length at most 1, falling to 0 far from them.
        origin_mm: MNI coordinates of the first voxel, float32 [3].
    """

    gray: np.ndarray
    white: np.ndarray
    head: np.ndarray
    outwards: np.ndarray
    origin_mm: np.ndarray


def load_atlas() -> Atlas:
    """Reads the MNI152 maps out of nilearn's package data.

    Raises:
        UserError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise UserError(
            'The simulated demo cohort is made from a template that nilearn carries. '
            "Install it: pip install 'jax_mrissl[demo]'"
        ) from error
    image = datasets.load_mni152_template(resolution=1)
    gray, white = (
        np.asarray(load(resolution=1).dataobj, np.float32)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    head = np.asarray(image.dataobj) > 0
    origin_mm = image.affine[:3, 3].astype(np.float32)
    scale = max(gray.max(), white.max())
    gray, white = gray / scale, white / scale
    return Atlas(
        gray,
        white,
        head.astype(np.uint8),
        _outwards((gray + white)[::2, ::2, ::2], origin_mm),
        origin_mm,
    )


def _outwards(tissue: np.ndarray, origin_mm: np.ndarray) -> np.ndarray:
    """The direction in which ventricles grow, times how far the growth reaches."""
    # The box holds the lateral and third ventricles and no sulcus.
    low, high = np.array([(-36, -46, -8), (36, 36, 30)]) - origin_mm
    box = tuple(slice(int(a / 2), int(b / 2)) for a, b in zip(low, high, strict=True))
    fluid = np.zeros(tissue.shape, bool)
    fluid[box] = tissue[box] < 0.5
    labels, _ = ndimage.label(fluid)
    sizes = np.bincount(labels.ravel())
    ventricles = labels == 1 + np.argmax(sizes[1:])
    distance_mm = 2 * (
        ndimage.distance_transform_edt(~ventricles)
        - ndimage.distance_transform_edt(ventricles)
    )
    slopes = np.stack(np.gradient(ndimage.gaussian_filter(distance_mm, 1.0), 2.0))
    reach = np.clip(1 - np.abs(distance_mm) / 32, 0, 1) ** 2
    return (slopes * reach).astype(np.float32)


def labelled_images(
    atlas: Atlas, scale: Scale, *, seed: int, label: int, index: int
) -> np.ndarray:
    """Simulates the axial slices of one labelled subject.

    Brighter and darker pixels are as many as in a decoy: the same head, slices,
    contrast and noise with the atrophy of a subject of a class drawn at random. So
    nothing that is counted over an image's pixels, wherever they lie, knows the class.

    Returns: uint8 [slices, size, size].
    """
    rng = np.random.default_rng([seed, 1, label, index])
    atrophy = list(SEVERITIES.values())[label] + rng.normal(0, 0.8)
    own, decoy = _Brain.draw(rng, atrophy), _Brain.draw(rng, _any_atrophy(rng))
    middle_mm = rng.normal(12.0, 1.0)
    steps = np.arange(scale.slices) - (scale.slices - 1) / 2
    points_mm = _points('axial', middle_mm + scale.spacing_mm * steps, scale.size)
    scan = _Scan.draw(rng, 't1')
    places_mm = _bend(rng, points_mm)
    inside = _sample(atlas.head, places_mm - _column(atlas.origin_mm)) > 0.5
    noise = rng.standard_normal((2, *inside.shape), np.float32)
    folds, bias = _random_field(rng, 1.0, points_mm), _random_field(rng, 6.0, points_mm)
    images = [
        scan.acquire(brain.tissues(atlas, places_mm, folds), bias, noise)
        for brain in (own, decoy)
    ]
    return np.stack(
        [
            _with_pixels_of(*pair, mask)
            for *pair, mask in zip(*map(scan.digitise, images), inside, strict=True)
        ]
    )


def unlabelled_images(
    atlas: Atlas, scale: Scale, *, seed: int, index: int
) -> np.ndarray:
    """Simulates one unlabelled series, of a plane and a contrast drawn at random.

    Returns: uint8 [series_slices, size, size].
    """
    rng = np.random.default_rng([seed, 0, index])
    plane = rng.choice(list(_PLANES), p=(0.5, 0.25, 0.25))
    scan = _Scan.draw(rng, rng.choice(list(_CONTRASTS), p=(0.5, 0.25, 0.25)))
    brain = _Brain.draw(rng, _any_atrophy(rng))
    positions_mm = np.linspace(*_REACH_MM[plane], scale.series_slices)
    points_mm = _points(plane, positions_mm + rng.normal(0, 1.5), scale.size)
    places_mm = _bend(rng, points_mm)
    inside = _sample(atlas.head, places_mm - _column(atlas.origin_mm)) > 0.5
    noise = rng.standard_normal((2, *inside.shape), np.float32)
    folds, bias = _random_field(rng, 1.0, points_mm), _random_field(rng, 6.0, points_mm)
    tissues = brain.tissues(atlas, places_mm, folds)
    return scan.digitise(scan.acquire(tissues, bias, noise)) * inside


@dataclass(frozen=True)
class _Brain:
    """What atrophy does: ventricles grow, fluid takes the place of cortex."""

    growth_mm: float
    widening: float  # of sulci: rise of the log odds of fluid

    @classmethod
    def draw(cls, rng: np.random.Generator, atrophy: float) -> '_Brain':
        # Two people of one atrophy differ: normal ageing, and how they were born.
        return cls(
            growth_mm=max(0.6 + 1.2 * atrophy + rng.normal(0, 0.5), -0.5),
            widening=0.4 + 0.3 * atrophy + rng.normal(0, 0.3),
        )

    def tissues(
        self, atlas: Atlas, places_mm: np.ndarray, folds: np.ndarray
    ) -> np.ndarray:
        """Shares of CSF, gray and white matter, float32 [3, N, H, W].

        Args:
            atlas: the average head.
            places_mm: where in the average head each pixel looks, [3, N, H, W].
            folds: what differs between cortices, standard normal, [N, H, W].
        """
        voxels = places_mm - _column(atlas.origin_mm)
        outwards = np.stack([_sample(part, voxels / 2) for part in atlas.outwards])
        voxels = voxels - np.float32(self.growth_mm) * outwards
        gray, white = _sample(atlas.gray, voxels), _sample(atlas.white, voxels)
        fluid = np.clip(1 - gray - white, 0, 1)
        # The average of 152 heads is blurred; powers above 1 make its edges sharp.
        odds = np.stack([fluid, gray, white]) ** np.float32(1.8)
        odds[0] *= np.exp(0.9 + self.widening + 0.5 * folds)
        return odds / (odds.sum(axis=0) + 1e-6)


@dataclass(frozen=True)
class _Scan:
    """A scanner's settings for one subject."""

    signals: np.ndarray  # of CSF, gray and white matter, float32 [3]
    bias: float  # standard deviation of the coil's log sensitivity
    noise: float  # standard deviation, as a share of the brightest tissue
    level: float  # gray value of the brightest tissue, of 1
    gamma: float

    @classmethod
    def draw(cls, rng: np.random.Generator, contrast: str) -> '_Scan':
        signals = np.array(_CONTRASTS[contrast]) * rng.normal(1, 0.05, 3)
        return cls(
            signals=(signals / signals.max()).astype(np.float32),
            bias=rng.uniform(0.03, 0.10),
            noise=rng.uniform(0.015, 0.04),
            level=rng.uniform(0.65, 0.9),
            gamma=rng.uniform(0.85, 1.2),
        )

    def acquire(
        self, tissues: np.ndarray, bias: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Magnitude image with Rician noise, float32 [N, H, W]."""
        signal = np.tensordot(self.signals, tissues, axes=1)
        signal *= np.exp(np.float32(self.bias) * bias)
        real, imaginary = np.float32(self.noise) * noise
        return np.hypot(signal + real, imaginary)

    def digitise(self, image: np.ndarray) -> np.ndarray:
        scaled = np.clip(self.level * image, 0, 1) ** np.float32(self.gamma)
        return np.rint(255 * scaled).astype(np.uint8)


def _any_atrophy(rng: np.random.Generator) -> float:
    return rng.choice(list(SEVERITIES.values()), p=_SHARES) + rng.normal(0, 0.8)


def _points(plane: str, positions_mm: np.ndarray, size: int) -> np.ndarray:
    """MNI coordinates of the pixels of parallel slices, float32 [3, N, H, W].

    Front or top is up; the patient's right, or front, is on the left.
    """
    across, down, right = _PLANES[plane]
    pixel_mm = _FIELD_OF_VIEW_MM / size
    steps_mm = (np.arange(size) - (size - 1) / 2) * pixel_mm
    points = np.empty((3, len(positions_mm), size, size), np.float32)
    points[across] = positions_mm[:, None, None]
    points[down] = _CENTRE_MM[down] - steps_mm[:, None]
    points[right] = _CENTRE_MM[right] - steps_mm
    return points


def _bend(rng: np.random.Generator, points_mm: np.ndarray) -> np.ndarray:
    """Where in the average head the points of another head lie: pose, size, shape."""
    turn = np.deg2rad(rng.normal(0, 1.5, 3))
    skew = np.array(
        [[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]]
    )
    matrix = (np.eye(3) + skew) @ np.diag(rng.normal(1.0, 0.02, 3))
    shift_mm = rng.normal(0, 1.0, 3) + _CENTRE_MM - matrix @ _CENTRE_MM
    places = np.tensordot(matrix.astype(np.float32), points_mm, axes=1)
    places += _column(shift_mm)
    for place in places:
        place += 1.8 * _random_field(rng, 3.0, points_mm)
        place += 0.9 * _random_field(rng, 1.3, points_mm)
    return places


def _random_field(
    rng: np.random.Generator, smoothness: float, points_mm: np.ndarray
) -> np.ndarray:
    """A smooth field of standard deviation 1, float32 [N, H, W].

    Args:
        rng: where it comes from.
        smoothness: standard deviation of the Gaussian kernel, in _GRID_MM.
        points_mm: where it is wanted, [3, N, H, W].
    """
    field = rng.standard_normal((_GRID_COUNT,) * 3, np.float32)
    field = ndimage.gaussian_filter(field, smoothness, mode='wrap')
    return _sample(field / field.std(), (points_mm - _GRID_ORIGIN_MM) / _GRID_MM)


def _sample(volume: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(volume, voxels, np.float32, order=1)


def _column(vector: np.ndarray) -> np.ndarray:
    return np.float32(vector).reshape(-1, 1, 1, 1)


def _with_pixels_of(
    image: np.ndarray, decoy: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Gives `image` the gray values of `decoy`, rank by rank; 0 outside the head."""
    values = np.empty_like(decoy[inside])
    values[np.argsort(image[inside], kind='stable')] = np.sort(decoy[inside])
    result = np.zeros_like(decoy)
    result[inside] = values
    return result


def _write(folder: Path, name: str, images: np.ndarray) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        path = folder / f'{name}_slice-{number:02d}.png'
        path.write_bytes(encode_png(image, text=_TEXT))
    return len(images)
