"""Saliency maps: Grad-CAM, integrated gradients, SmoothGrad; compiled, in batches.

What is explained is a score of each image: of a class, its log odds against all others,
which no constant that is added to all logits changes; of a number, the number. Maps lie
on the view in [0, 1], before it is normalised: the normalisation is differentiated too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from jax_mrissl.core.errors import UserError
from jax_mrissl.models.resnet import LAST_MAP

# Points on each path of integrated gradients to begin with; then three times as many.
_FIRST_POINTS = 32


@struct.dataclass
class Network:
    """The numbers of a network: trees with the subtrees `encoder` and `head`."""

    params: Any
    model_state: Any


@struct.dataclass
class _Points:
    """Points of the space of images, b of them.

    Each lies on the way from the baseline of image `row` (share 0) to that image (share
    1), moved by noise of some deviation; `weight` 0 leaves it out of the sum.
    """

    row: Any
    share: Any
    draw: Any
    weight: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Integrated:
    """Integrated gradients.

    Attributes:
        maps: float32 [n, H, W], signed: what each pixel adds to the score.
        points: int [n], how many each path took.
        change: float64 [n], the score of the image less that of its baseline.
        gap: float64 [n], how much of `change` the maps miss, as a share of it.
    """

    maps: np.ndarray
    points: np.ndarray
    change: np.ndarray
    gap: np.ndarray


@dataclasses.dataclass(frozen=True)
class Explainer:
    """Makes maps for one kind of network; networks of all folds share its programs.

    Attributes:
        encoder: maps [B, H, W, C'] to embeddings, and keeps the map that they are the
            mean of under `models.resnet.LAST_MAP`.
        head: `(params['head'], embeddings) -> outputs` [B, K].
        normalize: one view in [0, 1], [H, W, C], to what the encoder takes.
        tells_number: whether the output is a number, not logits.
        place: puts the rows of a batch on the devices.
        batch_size: points in a batch, a multiple of the number of devices.
    """

    encoder: nn.Module
    head: Callable[[Any, jax.Array], jax.Array]
    normalize: Callable[[jax.Array], jax.Array]
    tells_number: bool
    place: Callable[[Any], Any]
    batch_size: int

    def scores(
        self, network: Network, images: np.ndarray, targets: np.ndarray
    ) -> np.ndarray:
        """Gives the score of each image, float64 [n].

        Args:
            network: its numbers.
            images: float32 [n, H, W, C] in [0, 1].
            targets: int [n], the class that is asked about; of a number, unused.
        """
        found = [
            self._score_program(network, images[rows], targets[rows])
            for rows in self._blocks(len(images))
        ]
        return _joined(found, len(images)).astype(np.float64)

    def grad_cam(
        self, network: Network, images: np.ndarray, targets: np.ndarray
    ) -> np.ndarray:
        """Gives where the last map speaks for the score, float32 [n, H, W], >= 0.

        The map is as coarse as the encoder's last one, and enlarged bilinearly.

        Source: Selvaraju et al. 2017 (arXiv:1610.02391), eq. 1-2.
        """
        found = [
            self._cam_program(network, images[rows], targets[rows])
            for rows in self._blocks(len(images))
        ]
        return _joined(found, len(images))

    def smooth_grad(
        self,
        network: Network,
        images: np.ndarray,
        targets: np.ndarray,
        *,
        draws: int = 16,
        deviation: float = 0.1,
        seed: int = 0,
    ) -> np.ndarray:
        """Gives how much the score depends on each pixel, float32 [n, H, W], >= 0.

        The gradient is averaged over noisy copies, then the channels' absolute values
        are added.

        Args:
            network, images, targets: as in `scores`.
            draws: noisy copies of each image.
            deviation: of the noise; images reach from 0 to 1.
            seed: of the noise.

        Source: Smilkov et al. 2017 (arXiv:1706.03825), section 3.
        """
        rows = np.repeat(np.arange(len(images)), draws)
        draw = np.tile(np.arange(draws), len(images)) + seed * draws
        total = self._slopes(
            network,
            (images, images),
            targets,
            rows,
            np.ones(len(rows)),
            draw,
            deviation,
        )
        return np.abs(total / draws).sum(-1).astype(np.float32)

    def integrated_gradients(
        self,
        network: Network,
        images: np.ndarray,
        targets: np.ndarray,
        *,
        baselines: np.ndarray,
        tolerance: float = 0.01,
        most_points: int = 864,
    ) -> Integrated:
        """Shares the score's change from a baseline out over pixels.

        Midpoints of 32 steps, then 96, 288, 864, for those images alone whose maps do
        not add up yet: midpoints of thirds hold those of the whole.

        Args:
            network, images, targets: as in `scores`.
            baselines: float32 [n, H, W, C], where each path begins.
            tolerance: the greatest gap that is good enough.
            most_points: where refinement ends.

        Source: Sundararajan et al. 2017 (arXiv:1703.01365), eq. 1 and 3.
        """
        count = len(images)
        change = self.scores(network, images, targets) - self.scores(
            network, baselines, targets
        )
        steps = images.astype(np.float64) - baselines
        total = np.zeros(images.shape)
        points = np.zeros(count, int)
        gap = np.full(count, np.inf)
        maps = np.zeros(images.shape)
        shares = (np.arange(_FIRST_POINTS) + 0.5) / _FIRST_POINTS
        while True:
            unfinished = (gap > tolerance) & (points < most_points)
            open_rows = np.flatnonzero(unfinished | (points == 0))
            if not len(open_rows):
                break
            # All of them have as many points: those of earlier rounds.
            before = int(points[open_rows[0]])
            if before:
                middles = (np.arange(before) + 0.5) / before
                third = 1 / (3 * before)
                shares = np.concatenate([middles - third, middles + third])
            total[open_rows] += self._slopes(
                network,
                (images, baselines),
                targets,
                np.repeat(open_rows, len(shares)),
                np.tile(shares, len(open_rows)),
                np.zeros(len(open_rows) * len(shares), int),
                0.0,
            )[open_rows]
            points[open_rows] = before + len(shares)
            maps = steps * total / np.maximum(points, 1)[:, None, None, None]
            missed = np.abs(maps.sum((1, 2, 3)) - change)
            gap = missed / np.maximum(np.abs(change), 1e-12)
        return Integrated(maps.sum(-1).astype(np.float32), points, change, gap)

    def grid(self, network: Network, views: np.ndarray) -> tuple[int, int]:
        """Says how many rows and columns Grad-CAM tells apart in views."""
        last = jax.eval_shape(self._last_map, network, views[:1])
        return last.shape[1], last.shape[2]

    # Programs.

    def _score(
        self, network: Network, views: jax.Array, targets: jax.Array
    ) -> jax.Array:
        inputs = jax.vmap(self.normalize)(views)
        variables = {
            'params': network.params['encoder'],
            **network.model_state['encoder'],
        }
        embedding: Any = self.encoder.apply(variables, inputs, train=False)
        return self._score_of(network.params['head'], embedding, targets)

    def _score_of(
        self, head_params: Any, embedding: jax.Array, targets: jax.Array
    ) -> jax.Array:
        outputs = self.head(head_params, embedding)
        if self.tells_number:
            return outputs[:, 0]
        own = jax.nn.one_hot(targets, outputs.shape[1], dtype=bool)
        others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, outputs), axis=1)
        return jnp.sum(jnp.where(own, outputs, 0.0), axis=1) - others

    @functools.cached_property
    def _score_program(self) -> Callable[..., jax.Array]:
        return jax.jit(self._score)

    def _last_map(self, network: Network, views: jax.Array) -> jax.Array:
        inputs = jax.vmap(self.normalize)(views)
        variables = {
            'params': network.params['encoder'],
            **network.model_state['encoder'],
        }
        _, kept = self.encoder.apply(
            variables, inputs, train=False, mutable=['intermediates']
        )
        if LAST_MAP not in kept['intermediates']:
            raise UserError('Grad-CAM needs an encoder that keeps its last map.')
        [last] = kept['intermediates'][LAST_MAP]
        return last

    @functools.cached_property
    def _cam_program(self) -> Callable[..., jax.Array]:
        def cam(network: Network, views: jax.Array, targets: jax.Array) -> jax.Array:
            last = self._last_map(network, views)  # [B, h, w, F]

            def score(last: jax.Array) -> jax.Array:
                embedding = last.mean((1, 2))
                params = network.params['head']
                return self._score_of(params, embedding, targets).sum()

            weights = jax.grad(score)(last).sum((1, 2))  # alpha, [B, F]
            coarse = nn.relu(jnp.einsum('bhwf,bf->bhw', last, weights))
            shape = (len(views), *views.shape[1:3])
            return jax.image.resize(coarse, shape, 'bilinear')

        return jax.jit(cam)

    @functools.cached_property
    def _slope_program(self) -> Callable[..., jax.Array]:
        def slopes(
            network: Network,
            ends: tuple[jax.Array, jax.Array],
            targets: jax.Array,
            points: _Points,
            deviation: jax.Array,
        ) -> jax.Array:
            images, baselines = (jnp.take(end, points.row, axis=0) for end in ends)
            share = points.share[:, None, None, None]
            views = baselines + share * (images - baselines)

            def noise(row: jax.Array, draw: jax.Array) -> jax.Array:
                key = jax.random.fold_in(jax.random.key(0), row)
                return jax.random.normal(
                    jax.random.fold_in(key, draw), views.shape[1:], views.dtype
                )

            views = views + deviation * jax.vmap(noise)(points.row, points.draw)
            own = jnp.take(targets, points.row, axis=0)
            gradient = jax.grad(lambda v: self._score(network, v, own).sum())(views)
            weighted = gradient * points.weight[:, None, None, None]
            return jax.ops.segment_sum(weighted, points.row, len(ends[0]))

        return jax.jit(slopes)

    def _slopes(
        self,
        network: Network,
        ends: tuple[np.ndarray, np.ndarray],
        targets: np.ndarray,
        rows: np.ndarray,
        shares: np.ndarray,
        draws: np.ndarray,
        deviation: float,
    ) -> np.ndarray:
        """Adds up the gradients at points, for each image: float64 [n, H, W, C]."""
        count = len(ends[0])
        # One shape for all folds, whatever their number of images: one compilation.
        more = -count % self.batch_size
        images, baselines = (
            np.pad(np.asarray(end, np.float32), ((0, more), (0, 0), (0, 0), (0, 0)))
            for end in ends
        )
        own = np.pad(np.asarray(targets, np.int32), (0, more))
        total = np.zeros(images.shape)
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            fill = (0, self.batch_size - len(rows[part]))
            points = _Points(
                row=np.pad(rows[part].astype(np.int32), fill),
                share=np.pad(shares[part].astype(np.float32), fill),
                draw=np.pad(draws[part].astype(np.int32), fill),
                weight=np.pad(np.ones(len(rows[part]), np.float32), fill),
            )
            total += np.asarray(
                self._slope_program(
                    network,
                    (images, baselines),
                    own,
                    self.place(points),
                    np.float32(deviation),
                )
            )
        return total[:count]

    def _blocks(self, count: int) -> Iterator[np.ndarray]:
        """Cuts n rows into blocks of one size; the last repeats its last row."""
        for start in range(0, count, self.batch_size):
            rows = np.arange(start, start + self.batch_size)
            yield np.minimum(rows, count - 1)


def _joined(blocks: list[jax.Array], count: int) -> np.ndarray:
    return np.concatenate([np.asarray(block) for block in blocks])[:count]
