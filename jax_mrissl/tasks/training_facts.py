"""What a run's networks were trained on, kept beside each fold's network.

With it `predict` says when an image is unlike the training images, and which folds have
seen it, without the training images.
"""

import functools
import io
from collections.abc import Mapping

import numpy as np
from absl import logging

from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import write_atomically
from jax_mrissl.data.pipeline import Resident, resident
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.metrics.novelty import Novelty, looks_of
from jax_mrissl.tasks.answers import scale_of
from jax_mrissl.tasks.fold_network import TRAINING, UNLIKE_SHARE, FoldNetwork
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.opened_run import OpenedRun

# Images that describe what a fold was trained on; held-out ones that set thresholds,
# and tested ones that say how often those are passed.
_MOST_TRAINED, _MOST_HELD = 4096, 512


def write_training_facts(
    run: OpenedRun, data: LabelledData, whole: PreparedSet
) -> None:
    """Writes `fold-N/training.npz` where it is missing; trains nothing.

    Args:
        run: the finished run.
        data: the labelled images that it used.
        whole: the labelled set: other slices of a subject show the subject, too.
    """
    missing = [
        (arm, index)
        for arm in run.arms
        if arm.is_asked
        for index in range(len(data.folds))
        if not (arm.folder / f'fold-{index}' / TRAINING).exists()
    ]
    if not missing:
        return
    logging.info('Keeping what the training images look like, for `predict`.')
    shown, looks, on_host = _pictures(data, whole)
    source = run.parallel.replicate(on_host)
    program = run.features()
    for arm in dict.fromkeys(arm for arm, _ in missing):
        networks = run.networks(arm)

        def embed(rows: np.ndarray, network: FoldNetwork) -> np.ndarray:
            return program(network.params, network.model_state, source, rows)

        encoder, frozen = None, np.zeros(0)
        for network in networks:
            if (arm, network.index) not in missing:
                continue
            fold = data.folds[network.index]
            train = _evenly(_rows(data, shown, fold.train), _MOST_TRAINED)
            held = _evenly(_rows(data, shown, fold.validation), _MOST_HELD)
            test = _evenly(_rows(data, shown, fold.test), _MOST_HELD)
            parts = (train, held, test)
            if arm.mode == 'linear':  # mostly one encoder for all folds
                if network.params['encoder'] is not encoder:
                    frozen = embed(np.arange(len(shown)), network)
                    encoder = network.params['encoder']
                features = [frozen[rows] for rows in parts]
            else:
                features = [embed(rows, network) for rows in parts]
            novelty = Novelty.fit(features[0], looks[train], features[1], looks[held])
            scores = novelty.scores(features[2], looks[test])
            # Validation chose the best epoch and the temperature: its images count as
            # seen.
            rows = data.rows(fold.train | fold.validation)
            seen = _seen(data, whole, rows, data.rows(fold.test))
            arrays = novelty.to_arrays()
            arrays[UNLIKE_SHARE] = np.array((scores > 1).any(1).mean())
            arrays['pixel_sha256'] = seen
            if data.task.kind == 'regression':
                targets = data.targets[data.rows(fold.train)]
                arrays['target_scale'] = np.array(scale_of(targets))
            _write(network, arrays)


@functools.lru_cache(maxsize=1)
def _pictures(
    data: LabelledData, whole: PreparedSet
) -> tuple[PreparedSet, np.ndarray, Resident]:
    """Gives images that tell what those of this kind look like, and their looks [n, L].

    They are of the subjects at all levels of the head: a slice is not unlike the
    training images for being one that `slices_per_group` left out. Of a leaky division,
    where images of one subject are on both sides, they are the labelled images alone.
    No network has to do with them: all experiments of a study have the same.
    """
    shown = data.prepared
    if not data.is_leaky:
        own = np.isin(whole.groups, data.prepared.groups)
        shown = whole.select(np.flatnonzero(own))
    return shown, looks_of_all(shown), resident(shown)


def _rows(data: LabelledData, shown: PreparedSet, part: frozenset[str]) -> np.ndarray:
    """Gives the rows of `shown` that are of a part of a fold."""
    rows = data.rows(part)
    if data.is_leaky:
        return rows
    return np.flatnonzero(np.isin(shown.groups, data.prepared.groups[rows]))


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    steps = np.linspace(0, len(rows) - 1, min(len(rows), most))
    return rows[steps.astype(int)]


def looks_of_all(prepared: PreparedSet) -> np.ndarray:
    """Gives the plain looks of all rows, float64 [n, L]."""
    found = []
    with Progress('Looking at training images', len(prepared), unit='images') as bar:
        for row in range(len(prepared)):
            found.append(looks_of(prepared.shown_image(row), prepared.boxes[row]))
            bar.advance(1)
    return np.stack(found)


def _seen(
    data: LabelledData, whole: PreparedSet, rows: np.ndarray, tested: np.ndarray
) -> np.ndarray:
    """Gives the SHA-256 of all images of the subjects on some rows.

    In a leaky division a subject's tested images are left out: they alone are new.
    """
    subjects = np.unique(data.prepared.groups[rows])
    theirs = whole.pixel_sha256[np.isin(whole.groups, subjects)]
    return np.setdiff1d(theirs, data.prepared.pixel_sha256[tested])


def _write(network: FoldNetwork, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(network.folder / TRAINING, buffer.getvalue())
