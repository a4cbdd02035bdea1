"""What a run's networks were trained on, kept beside each fold's network.

With it `predict` says when an image is unlike the training images, and which folds have
seen it, without the training images.
"""

import dataclasses
import functools
import io

import numpy as np
from absl import logging

from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import write_atomically
from jax_mrissl.data.pipeline import Resident, resident
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.metrics.novelty import Novelty, looks_of
from jax_mrissl.tasks.answers import scale_of
from jax_mrissl.tasks.fold_network import TRAINING, FoldNetwork
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.opened_run import OpenedRun

# Held-out images that thresholds are set by, in each fold.
_MOST_HELD = 512


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
    own, *held = (
        dataclasses.replace(pictures, source=run.parallel.replicate(pictures.source))
        for pictures in _pictures(data, whole)
    )
    program = run.features()
    for arm in dict.fromkeys(arm for arm, _ in missing):
        networks = run.networks(arm)

        def embed(
            pictures: _Pictures, rows: np.ndarray, network: FoldNetwork
        ) -> np.ndarray:
            return program(network.params, network.model_state, pictures.source, rows)

        encoder, frozen = None, np.zeros(0)
        for network in networks:
            if (arm, network.index) not in missing:
                continue
            fold, others = data.folds[network.index], held[network.index]
            train = data.rows(fold.train)
            if arm.mode == 'linear':  # mostly one encoder for all folds
                if network.params['encoder'] is not encoder:
                    frozen = embed(own, own.rows, network)
                    encoder = network.params['encoder']
                features = frozen[train]
            else:
                features = embed(own, train, network)
            novelty = Novelty.fit(
                features,
                own.looks[train],
                embed(others, others.rows, network),
                others.looks,
            )
            rows = np.concatenate([train, data.rows(fold.validation)])
            seen = _seen(data, whole, rows, data.rows(fold.test))
            _write(data, network, novelty, seen, train)


@dataclasses.dataclass(frozen=True, eq=False)
class _Pictures:
    """Images, and what is known of them without a network.

    Attributes:
        source: the images.
        looks: float64 [n, L].
    """

    source: Resident
    looks: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All of them."""
        return np.arange(len(self.looks))


@functools.lru_cache(maxsize=1)
def _pictures(data: LabelledData, whole: PreparedSet) -> list[_Pictures]:
    """Gives the labelled images, and what is held out in each fold.

    No network has to do with them: all experiments of a study have the same.
    """
    held = [_held_out(data, whole, fold.validation) for fold in data.folds]
    return [_Pictures(resident(p), looks_of_all(p)) for p in (data.prepared, *held)]


def _held_out(
    data: LabelledData, whole: PreparedSet, validation: frozenset[str]
) -> PreparedSet:
    """Gives images that tell how far from training an image of its kind may be.

    They are of the validation subjects, at all levels of the head: a slice is not
    unlike the training images for being one that `slices_per_group` left out.
    """
    rows = data.rows(validation)
    if data.is_leaky:  # other images of the same subjects are trained on
        held, some = data.prepared, rows
    else:
        held = whole
        theirs = np.unique(data.prepared.groups[rows])
        some = np.flatnonzero(np.isin(whole.groups, theirs))
    steps = np.linspace(0, len(some) - 1, min(len(some), _MOST_HELD))
    return held.select(some[steps.astype(int)])


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


def _write(
    data: LabelledData,
    network: FoldNetwork,
    novelty: Novelty,
    seen: np.ndarray,
    train: np.ndarray,
) -> None:
    # Validation chose the best epoch and the temperature: its images count as seen.
    arrays = {**novelty.to_arrays(), 'pixel_sha256': seen}
    if data.task.kind == 'regression':
        arrays['target_scale'] = np.array(scale_of(data.targets[train]))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(network.folder / TRAINING, buffer.getvalue())
