"""The network of one fold of a finished run, opened again."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.labels import LabelTask
from jax_mrissl.metrics.calibration import softmax
from jax_mrissl.metrics.linear import LinearModel
from jax_mrissl.metrics.novelty import Novelty
from jax_mrissl.tasks.answers import head_of
from jax_mrissl.tasks.finetune import PROBE
from jax_mrissl.tasks.predictions import PREDICTIONS
from jax_mrissl.train.checkpoint import Checkpoints, Lineage
from jax_mrissl.train.start import BEST
from jax_mrissl.train.state import TrainState

# In a fold's folder: what its training images look like, and which they were.
TRAINING = 'training.npz'
UNLIKE_SHARE = 'unlike_share'

Head = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class FoldNetwork:
    """The network of one fold, with what makes probabilities of its outputs.

    Attributes:
        index: of the fold.
        folder: the fold's.
        task: what it tells.
        params, model_state: with the subtrees `encoder` and `head`.
        head: `(params['head'], embeddings) -> outputs`, for JAX to differentiate; the
            same function for all folds of an arm.
        probe: the numbers of a linear probe, float64; None: it was trained in full.
    """

    index: int
    folder: Path
    task: LabelTask
    params: Any
    model_state: Any
    head: Head
    probe: LinearModel | None

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """Gives logits [n, K], or the number [n, 1] in its units, of embeddings."""
        if self.probe is not None:
            return self.probe.logits(features)
        made = np.asarray(
            self.head(self.params['head'], jnp.asarray(features)), np.float64
        )
        if self.task.kind != 'regression':
            return made
        mean, deviation = self._stored('target_scale')
        return made * deviation + mean

    def answers(self, features: np.ndarray) -> np.ndarray:
        """Gives calibrated probabilities [n, K], or the number [n, 1]."""
        outputs = self.outputs(features)
        if self.task.kind == 'regression':
            return outputs
        return softmax(outputs / self.temperature)

    @functools.cached_property
    def temperature(self) -> float:
        """What logits are divided by, as validation chose it."""
        with np.load(self.folder / PREDICTIONS, allow_pickle=False) as stored:
            return float(stored['temperature'])

    @functools.cached_property
    def novelty(self) -> Novelty:
        """Says how unlike its training images others are."""
        return Novelty.load(self.folder / TRAINING)

    @functools.cached_property
    def unlike_share(self) -> float:
        """Of the images that its fold tested, how many are called unlike; NaN: unknown.

        They had no part in the thresholds. Earlier versions did not look.
        """
        with np.load(self.folder / TRAINING, allow_pickle=False) as stored:
            return float(stored.get(UNLIKE_SHARE, np.nan))

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """The SHA-256 of the raw pixels of all its training and validation images."""
        return self._stored('pixel_sha256')

    def _stored(self, name: str) -> np.ndarray:
        with np.load(self.folder / TRAINING, allow_pickle=False) as stored:
            return stored[name]


def open_linear(
    index: int, folder: Path, task: LabelTask, fresh: TrainState
) -> FoldNetwork:
    """Opens a fold of a linear probe.

    Args:
        index: of the fold.
        folder: the fold's.
        task: what is told.
        fresh: its encoder is the frozen one.

    Raises:
        UserError: the probe's file is not there any more.
    """
    if not (folder / PROBE).exists():
        raise UserError(f'{folder / PROBE} is gone: run the same `main` again.')
    probe = LinearModel.load(folder / PROBE)
    weights = probe.weights / probe.scale[:, None]
    head = {
        'weights': jnp.asarray(weights, jnp.float32),
        'bias': jnp.asarray(probe.bias - probe.mean @ weights, jnp.float32),
    }
    params = {'encoder': fresh.params['encoder'], 'head': head}
    return FoldNetwork(index, folder, task, params, fresh.model_state, _affine, probe)


def _affine(params: Any, embeddings: jax.Array) -> jax.Array:
    return embeddings @ params['weights'] + params['bias'][None]


def open_full(
    index: int, folder: Path, task: LabelTask, fresh: TrainState
) -> FoldNetwork:
    """Opens a fold that was finetuned in full: the best epoch of its best trial.

    Args:
        index: of the fold.
        folder: the fold's.
        task: what is told.
        fresh: a state of the same shapes.

    Raises:
        UserError: the checkpoint is not there any more.
    """
    best = folder / BEST
    if not best.is_dir():
        raise UserError(f'{best} is gone: run the same `main` again.')
    with Checkpoints(best, Lineage('', None, (), '')) as kept:
        found, _ = kept.restore(
            {'params': fresh.params, 'model_state': fresh.model_state}
        )
    return FoldNetwork(
        index, folder, task, found['params'], found['model_state'], _head(task), None
    )


@functools.lru_cache(maxsize=8)
def _head(task: LabelTask) -> Head:
    module = head_of(task)

    def head(params: Any, embeddings: jax.Array) -> jax.Array:
        made: Any = module.apply({'params': params}, embeddings)
        return made

    return head
