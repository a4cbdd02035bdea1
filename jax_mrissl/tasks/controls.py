"""What every table shows besides networks: baselines to be beaten, and a leak witness.

None of them has a network, and nothing of them is tuned, so validation has no part in
them but the threshold for sensitivity. They see the same folds as the arms, and
baselines learn from the training part alone; pixels from all slices of it, also where
arms are given few: with 8 of 32 slices the baseline would be weaker (log loss 1.23
instead of 0.91 on the Kaggle set), and beating it would mean less. What they tell is
written as an arm's folds are, so that it is measured alike.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import logging
from threadpoolctl import threadpool_limits

from jax_mrissl.augment.resampling import resize_weights
from jax_mrissl.core.digest import digest
from jax_mrissl.data.labels import is_of_dementia
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.splits import Fold
from jax_mrissl.metrics.baselines import (
    dark_pixel_share,
    nearest_row,
    pixel_components,
)
from jax_mrissl.metrics.linear import LinearModel
from jax_mrissl.tasks.answers import answers
from jax_mrissl.tasks.from_config import FinetunePlan, Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.pooling import Arm
from jax_mrissl.tasks.predictions import write_predictions

DARK_PIXELS = 'dark pixels'
PIXELS = 'PCA of pixels'
WITNESS = 'leak witness'
# Columns of a table that are baselines, the names to show, and whether more of it goes
# with dementia (1), less (-1), or neither is known beforehand (0). Others, such as
# scores of a test of memory, may be what the diagnosis was made from.
COVARIATES = {'age': ('age', 1), 'sex': ('sex', 0), 'nwbv': ('nWBV', -1)}
# What a reader of the table must know of them.
EXPLAINED = {
    DARK_PIXELS: 'the share of dark pixels in the middle of an image, one number; of '
    'grades of dementia it ranks as it is, of other classes by its regression',
    PIXELS: 'regression on 40 principal components of 44 x 52 pixels',
    WITNESS: 'a control, the class of the picture nearest by its pixels; where it is '
    'named far more often than the commonest class occurs, pictures of one subject are '
    'on both sides',
}
# Height and width of the pictures that pixels are taken from.
_SMALL = (52, 44)
# Beside the summed loss; 1 / C of scikit-learn. Nothing is tuned.
_L2_STRENGTH = (1.0,)
# Regressions of few numbers are calibrated as they are: a temperature from 36 subjects
# of validation raised the log loss of pixels on the Kaggle set from 0.908 to 0.924.
_UNCHANGED = 1.0
# Of a nearest neighbour votes are all or nothing; only what they name counts.
_NAMING = ('accuracy', 'balanced_accuracy', 'quadratic_kappa')
_NO_VOTE = 1e-4
_DECODED_AT_ONCE = 256


def baseline_arms(data: LabelledData, folder: Path) -> list[Arm]:
    """Gives the baselines and the witness of a set, as arms.

    Args:
        data: the labelled images.
        folder: of their stage.
    """
    names = [DARK_PIXELS, PIXELS, *_columns(data)]
    found = [Arm(name, '', folder / _plain(name), 'baseline') for name in names]
    only = () if data.task.kind == 'regression' else _NAMING
    witness = Arm(WITNESS, '', folder / _plain(WITNESS), 'control', only)
    return [*found, witness]


def controls_identity(plan: FinetunePlan, data: LabelledData) -> Json:
    """Gives what decides their numbers, for the address of their stage."""
    columns = {
        name: digest(np.asarray(values, np.float64).tobytes().hex())
        for name, values in _columns(data).items()
    }
    return {
        'split': plan.data.split,
        'task': plan.task,
        'slices_per_group': plan.slices_per_group,
        'division': plan.division,
        'folds': plan.folds,
        'fold_seed': plan.fold_seed,
        'label_fraction': plan.label_fraction,
        'shuffle_labels': plan.shuffle_labels,
        'data': data.prepared.fingerprint,
        'covariates': columns,
        **data.identity(),
        **({} if is_of_dementia(data.prepared) else {'ranked_by': 'regression'}),
    }


def run_controls(data: LabelledData, whole: LabelledData, folder: Path) -> Json:
    """Lets baselines and witness tell all folds; writes their `predictions.npz`.

    Args:
        data: the labelled images that arms are tested on.
        whole: the same with all slices of the subjects.
        folder: of their stage.

    Returns: JSON facts about the run.
    """
    began = time.monotonic()
    logging.info('Baselines and controls: pixels of %d images.', len(whole.prepared))
    # Threads of so small matrix products wait for each other on a busy machine: 11 s
    # instead of 0.1 s for 256 images.
    with threadpool_limits(1):
        _tell(data, whole, folder)
    seconds = round(time.monotonic() - began, 1)
    return {'seconds_of_last_start': seconds, 'device': 'host'}


def _tell(data: LabelledData, whole: LabelledData, folder: Path) -> None:
    dark, pixels = look(whole.prepared)
    # Where the images of the arms are among all.
    row_of = {name: row for row, name in enumerate(whole.prepared.file_ids.tolist())}
    places = np.array([row_of[name] for name in data.prepared.file_ids.tolist()])
    # How a number ranks is not learned where it is known: among few subjects the
    # regressions of two folds may disagree.
    signs = {}
    if is_of_dementia(data.prepared):
        signs = {DARK_PIXELS: 1, **dict(COVARIATES.values())}
    numbers = {DARK_PIXELS: dark[places], **_columns(data)}
    for index, fold in enumerate(data.folds):
        for name, values in numbers.items():
            sign = signs.get(name, 0)
            model = _fitted(data, fold, values[:, None])
            _write(
                folder / _plain(name) / f'fold-{index}',
                data,
                fold,
                model.logits(values[:, None]),
                scores=sign * values if sign else None,
            )
        components = pixel_components(pixels, whole.rows(fold.train))
        model = _fitted(whole, fold, components)
        own = folder / _plain(PIXELS) / f'fold-{index}'
        _write(own, data, fold, model.logits(components[places]))
        own = folder / _plain(WITNESS) / f'fold-{index}'
        _write(own, data, fold, _nearest(whole, fold, pixels)[places])


def look(prepared: PreparedSet) -> tuple[np.ndarray, np.ndarray]:
    """Gives each image's share of dark pixels, [n], and its small pixels, uint8 [n, P].

    Small pictures are the valid box, resized by antialiased bilinear interpolation.
    """
    height, width = _SMALL
    dark = np.empty(len(prepared))
    small = np.empty((len(prepared), height * width), np.uint8)
    weights = _resizing(prepared)
    for start in range(0, len(prepared), _DECODED_AT_ONCE):
        rows = np.arange(start, min(start + _DECODED_AT_ONCE, len(prepared)))
        shown = np.stack([prepared.shown_image(int(row)) for row in rows])
        gray = shown[..., 0]
        if shown.shape[-1] > 1:
            gray = np.round(shown.mean(axis=-1)).astype(np.uint8)
        boxes = prepared.boxes[rows]
        dark[rows] = dark_pixel_share(gray, boxes)
        for row, image, box in zip(rows, gray, boxes, strict=True):
            down, across = weights(tuple(box.tolist()))
            resized = down @ image.astype(np.float32) @ across.T
            small[row] = np.clip(np.round(resized), 0, 255).ravel()
    return dark, small


def _resizing(
    prepared: PreparedSet,
) -> Callable[[tuple[int, int, int, int]], tuple[np.ndarray, np.ndarray]]:
    """Gives the two matrices that resize a box; images of one shape share them."""
    stored = prepared.image_shape
    known: dict[tuple[int, int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    def weights(box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        if box not in known:
            top, left, height, width = map(jnp.asarray, box)
            down = resize_weights(top, height, stored[0], _SMALL[0], 'bilinear')
            across = resize_weights(left, width, stored[1], _SMALL[1], 'bilinear')
            known[box] = (np.asarray(down), np.asarray(across))
        return known[box]

    return weights


def _fitted(data: LabelledData, fold: Fold, features: np.ndarray) -> LinearModel:
    """Fits a regression of one fixed strength to a fold's training rows."""
    train, held = data.rows(fold.train), data.rows(fold.validation)
    model, _ = answers(data).fit_linear(features, train, held, _L2_STRENGTH)
    return model


def _nearest(data: LabelledData, fold: Fold, pixels: np.ndarray) -> np.ndarray:
    """Tells of each row what its nearest is, [n, K].

    Tested rows have theirs among all that are not tested, others among training.
    """
    train, held, test = (
        data.rows(part) for part in (fold.train, fold.validation, fold.test)
    )
    nearest = np.arange(len(data.labels))
    nearest[held] = nearest_row(pixels, train, held)
    nearest[test] = nearest_row(pixels, np.concatenate([train, held]), test)
    if data.task.kind == 'regression':
        return data.targets[nearest][:, None]
    votes = np.eye(len(data.task.classes))[data.labels[nearest]]
    return np.log(np.maximum(votes, _NO_VOTE))


def _write(
    folder: Path,
    data: LabelledData,
    fold: Fold,
    outputs: np.ndarray,
    *,
    scores: np.ndarray | None = None,
) -> None:
    """Writes what is told of a fold's rows; `outputs` are of all rows, [n, K]."""
    held, test = data.rows(fold.validation), data.rows(fold.test)
    write_predictions(
        folder,
        data,
        held,
        outputs[held],
        test,
        outputs[test],
        temperature=_UNCHANGED,
        scores=scores,
    )


def _columns(data: LabelledData) -> Mapping[str, np.ndarray]:
    """Gives the covariates that are baselines: known of every image, and not all one.

    By the names to show, float64 [n].
    """
    if data.covariates is None:
        return {}
    found = {}
    for column, (name, _) in COVARIATES.items():
        values = data.covariates.values.get(column)
        if values is not None and np.isfinite(values).all() and np.ptp(values) > 0:
            found[name] = values
    return found


def _plain(name: str) -> str:
    """Makes a folder's name."""
    return name.replace(' ', '_').casefold()
