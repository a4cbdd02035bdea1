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

# Mean atrophy of a class, and its standard deviation within each. Classes overlap.
SEVERITIES = {
    'NonDemented': 0.0,
    'VeryMildDemented': 1.5,
    'MildDemented': 3.0,
    'ModerateDemented': 4.5,
}
_SPREAD = 0.6
# Mean and standard deviation. In the middle of the classes: gray values lent by a brain
# with far less fluid leave no dark ones for the last parts of large ventricles.
_DECOY_ATROPHY = (1.2, 0.4)
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
_GRID_ORIGIN_MM = -124.0
_GRID_COUNT = 31


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
    size=112,
    subjects=(30, 21, 8, 1),
    slices=32,
    spacing_mm=1.25,
    series=100,
    series_slices=10,
)
# Three classes (Moderate joined to Mild) of at least five subjects: five folds.
SMALL = Scale(
    size=48, subjects=(7, 6, 4, 1), slices=4, spacing_mm=3.0, series=12, series_slices=5
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
        progress: called with the number of subjects written and of all. None: nobody.

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

    def write_labelled(label: int, index: int) -> None:
        images = labelled_images(atlas, scale, seed=seed, label=label, index=index)
        name = f'sub-{1000 * (label + 1) + index + 1:04d}'
        _write(part / 'labelled' / list(SEVERITIES)[label], name, images)

    def write_series(index: int) -> None:
        images = unlabelled_images(atlas, scale, seed=seed, index=index)
        _write(part / 'pretrain', f'sub-{index + 1:04d}', images)

    # Threads suffice: NumPy, SciPy and zlib let go of the lock while they work.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(write_labelled, label, index)
            for label, count in enumerate(scale.subjects)
            for index in range(count)
        ]
        jobs += [pool.submit(write_series, index) for index in range(scale.series)]
        for done, job in enumerate(jobs, start=1):
            job.result()
            if progress:
                progress(done, len(jobs))
    os.replace(part, folder)
    return folder


@dataclass(frozen=True)
class Atlas:
    """The average head, in voxels of 1 mm.

    Args:
        gray, white: share of that tissue, float32 [X, Y, Z] in [0, 1].
        head: uint8 [X, Y, Z], 1 inside the skull.
        wall: of the ventricles: the distance to it in mm, negative inside, and its
            three slopes, float32 [4, X/2, Y/2, Z/2], voxels of 2 mm.
        origin_mm: MNI coordinates of the first voxel, float32 [3].
    """

    gray: np.ndarray
    white: np.ndarray
    head: np.ndarray
    wall: np.ndarray
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
        _wall((gray + white)[::2, ::2, ::2], origin_mm),
        origin_mm,
    )


def _wall(tissue: np.ndarray, origin_mm: np.ndarray) -> np.ndarray:
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
    slopes = np.gradient(ndimage.gaussian_filter(distance_mm, 1.0), 2.0)
    return np.stack([distance_mm, *slopes]).astype(np.float32)


def labelled_images(
    atlas: Atlas, scale: Scale, *, seed: int, label: int, index: int, decoy: bool = True
) -> np.ndarray:
    """Simulates the axial slices of one labelled subject.

    Brighter and darker pixels are as many as in a decoy: the same head, slices,
    contrast and noise, with an atrophy drawn without regard to the class. So
    nothing that is counted over an image's pixels, wherever they lie, knows the class.

    Args:
        atlas: the average head.
        scale: how many slices of which size.
        seed: of the cohort.
        label: the class, an index into SEVERITIES.
        index: which subject of the class; none depends on another.
        decoy: False leaves the pixels their own values, to show what the decoy is for.

    Returns: uint8 [slices, size, size].
    """
    rng = np.random.default_rng([seed, 1, label, index])
    atrophy = list(SEVERITIES.values())[label] + rng.normal(0, _SPREAD)
    own = _Brain.draw(rng, atrophy)
    other = _Brain.draw(rng, rng.normal(*_DECOY_ATROPHY))
    middle_mm = rng.normal(11.0, 1.5)
    steps = np.arange(scale.slices) - (scale.slices - 1) / 2
    points_mm = _points('axial', middle_mm + scale.spacing_mm * steps, scale.size)
    scan = _Scan.draw(rng, 't1')
    return _image(rng, atlas, own, other if decoy else own, scan, points_mm)


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
    return _image(rng, atlas, brain, brain, scan, points_mm)


def _image(
    rng: np.random.Generator,
    atlas: Atlas,
    brain: '_Brain',
    decoy: '_Brain',
    scan: '_Scan',
    points_mm: np.ndarray,
) -> np.ndarray:
    """Images a brain at points [3, N, H, W] with exactly its decoy's gray values."""
    shape = points_mm.shape[1:]
    points_mm = points_mm.reshape(3, -1)
    voxels = _bend(rng, points_mm) - atlas.origin_mm[:, None]
    inside = _sample(atlas.head, voxels) > 0.5
    points_mm, voxels = points_mm[:, inside], voxels[:, inside]
    folds = _sample_field(_random_field(rng, 1.0), points_mm)
    bias = _sample_field(_random_field(rng, 6.0), points_mm)
    wall = np.stack([_sample(part, voxels / 2) for part in atlas.wall])
    own, lent = (
        scan.signal(person.tissues(atlas, voxels, wall, folds), bias)
        for person in (brain, decoy)
    )
    # Rank by rank within each slice. The noise moves with the value that it disturbed:
    # had it been there before, ranking would have turned it into salt and pepper.
    slices = np.flatnonzero(inside) // (shape[1] * shape[2])
    grays = np.empty(len(own), np.uint8)
    noisy = scan.digitise(lent, rng)
    grays[np.lexsort((own, slices))] = noisy[np.lexsort((lent, slices))]
    image = np.zeros(shape, np.uint8)
    image.reshape(-1)[inside] = grays
    return image


@dataclass(frozen=True)
class _Brain:
    """What atrophy does: ventricles grow, fluid takes the place of cortex."""

    growth_mm: float
    widening: float  # of sulci: rise of the log odds of fluid

    @classmethod
    def draw(cls, rng: np.random.Generator, atrophy: float) -> '_Brain':
        # Two people of one atrophy differ: normal ageing, and how they were born.
        return cls(
            growth_mm=max(0.5 + 2.0 * atrophy + rng.normal(0, 0.6), -0.5),
            widening=0.4 + 0.5 * atrophy + rng.normal(0, 0.3),
        )

    def tissues(
        self, atlas: Atlas, voxels: np.ndarray, wall: np.ndarray, folds: np.ndarray
    ) -> np.ndarray:
        """Shares of CSF, gray and white matter, float32 [3, n].

        Args:
            atlas: the average head.
            voxels: where in the average head each pixel looks, [3, n].
            wall: the atlas's `wall` there, [4, n].
            folds: what differs between cortices, standard normal, [n].
        """
        # A pixel looks nearer to the ventricle, at most just inside its wall, or it
        # would see the wall across; beyond 32 mm growth displaces nothing.
        distance_mm, outwards = wall[0], wall[1:]
        reach = np.clip(1 - np.abs(distance_mm) / 32, 0, 1) ** 2
        shift_mm = np.minimum(self.growth_mm * reach, np.maximum(distance_mm + 2, 0))
        voxels = voxels - shift_mm * outwards
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

    def signal(self, tissues: np.ndarray, bias: np.ndarray) -> np.ndarray:
        signal = np.tensordot(self.signals, tissues, axes=1)
        return signal * np.exp(np.float32(self.bias) * bias)

    def digitise(self, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Adds Rician noise and gives gray values."""
        noise = np.float32(self.noise) * rng.standard_normal(
            (2, *signal.shape), np.float32
        )
        scaled = self.level * np.hypot(signal + noise[0], noise[1])
        return np.rint(255 * np.clip(scaled, 0, 1) ** self.gamma).astype(np.uint8)


def _any_atrophy(rng: np.random.Generator) -> float:
    return rng.choice(list(SEVERITIES.values()), p=_SHARES) + rng.normal(0, _SPREAD)


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
    places = (
        matrix.astype(np.float32) @ points_mm + shift_mm.astype(np.float32)[:, None]
    )
    for place in places:
        field = 2.3 * _random_field(rng, 3.0) + 1.1 * _random_field(rng, 1.3)
        place += _sample_field(field, points_mm)
    return places


def _random_field(rng: np.random.Generator, smoothness: float) -> np.ndarray:
    """A field of standard deviation 1 on its grid, smooth by so many steps of it."""
    field = rng.standard_normal((_GRID_COUNT,) * 3, np.float32)
    field = ndimage.gaussian_filter(field, smoothness, mode='wrap')
    return field / field.std()


def _sample_field(field: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    return _sample(field, (points_mm - _GRID_ORIGIN_MM) / _GRID_MM)


def _sample(volume: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(volume, voxels, np.float32, order=1)


def _write(folder: Path, name: str, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        path = folder / f'{name}_slice-{number:02d}.png'
        path.write_bytes(encode_png(image, text=_TEXT))
