"""What a run's networks were trained on, kept beside each fold's network.

With it `predict` says when an image is unlike the training images, and which folds have
seen it, without the training images.
"""

import io

import numpy as np
from absl import logging

from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import write_atomically
from jax_mrissl.data.pipeline import resident
from jax_mrissl.metrics.novelty import Novelty, looks_of
from jax_mrissl.tasks.answers import scale_of
from jax_mrissl.tasks.fold_network import TRAINING, FoldNetwork
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.opened_run import OpenedRun


def write_training_facts(run: OpenedRun, data: LabelledData) -> None:
    """Writes `fold-N/training.npz` where it is missing; trains nothing.

    Args:
        run: the finished run.
        data: the labelled images that it used.
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
    looks = looks_of_all(data)
    source = run.parallel.replicate(resident(data.prepared))
    program = run.features()
    for arm in dict.fromkeys(arm for arm, _ in missing):
        networks = run.networks(arm)

        def embed(rows: np.ndarray, network: FoldNetwork) -> np.ndarray:
            return program(network.params, network.model_state, source, rows)

        frozen = None
        if arm.mode == 'linear':  # one encoder for all folds
            frozen = embed(np.arange(len(data.labels)), networks[0])
        for network in networks:
            if (arm, network.index) not in missing:
                continue
            fold = data.folds[network.index]
            rows = data.rows(fold.train), data.rows(fold.validation)
            features = [
                embed(some, network) if frozen is None else frozen[some]
                for some in rows
            ]
            _write(data, network, looks, *rows, *features)


def looks_of_all(data: LabelledData) -> np.ndarray:
    """Gives the plain looks of all rows, float64 [n, L]."""
    prepared = data.prepared
    found = []
    with Progress('Looking at training images', len(prepared), unit='images') as bar:
        for row in range(len(prepared)):
            found.append(looks_of(prepared.shown_image(row), prepared.boxes[row]))
            bar.advance(1)
    return np.stack(found)


def _write(
    data: LabelledData,
    network: FoldNetwork,
    looks: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    train_features: np.ndarray,
    held_features: np.ndarray,
) -> None:
    novelty = Novelty.fit(train_features, looks[train], held_features, looks[held])
    arrays = {
        **novelty.to_arrays(),
        # Validation chose the best epoch and the temperature: its images count as seen.
        'pixel_sha256': np.unique(data.prepared.pixel_sha256[np.r_[train, held]]),
    }
    if data.task.kind == 'regression':
        arrays['target_scale'] = np.array(scale_of(data.targets[train]))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(network.folder / TRAINING, buffer.getvalue())
