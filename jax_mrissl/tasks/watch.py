"""What is measured while an encoder is pretrained, and when it calls for help."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_mrissl.augment.policy import Policy, make_views
from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data.pipeline import Resident, Rows, fetch, resident
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.metrics.probes import knn_accuracy, linear_accuracy
from jax_mrissl.metrics.spread import (
    alignment,
    effective_rank,
    embedding_std,
    uniformity,
)
from jax_mrissl.tasks.programs import embedding, shared
from jax_mrissl.train.loop import TrainingDiverged
from jax_mrissl.train.parallel import MeshParallel
from jax_mrissl.train.state import TrainState

OnCollapse = Literal['warn', 'stop']
ON_COLLAPSE = ('warn', 'stop')

_BATCH_SIZE = 256  # images that are embedded at once, over all devices


@dataclasses.dataclass(frozen=True)
class WatchPlan:
    """What is measured while pretraining, as declared.

    Attributes:
        images: how many training images the spread is measured on.
        every_epochs: epochs between measurements of the spread.
        probe_every_epochs: epochs between probes; 0: never.
        neighbours: how many vote in the kNN probe.
        probe_images: at most so many labelled images are the kNN probe's bank and what
            the linear probe is fitted to; held images are all looked at.
        on_collapse: 'warn' once, or 'stop' the run.
    """

    images: int
    every_epochs: int
    probe_every_epochs: int
    neighbours: int
    probe_images: int
    on_collapse: OnCollapse

    def __post_init__(self):
        for name, least in (
            ('images', 2),  # what is spread is pairs
            ('every_epochs', 1),
            ('probe_every_epochs', 0),
            ('neighbours', 1),
            ('probe_images', 2),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f'watch.{name} is {getattr(self, name)}; at least {least}.'
                )
        if self.probe_every_epochs % self.every_epochs:
            raise UserError(
                f'watch.probe_every_epochs is {self.probe_every_epochs}, which is no '
                f'multiple of watch.every_epochs, {self.every_epochs}.'
            )
        expect_known(self.on_collapse, ON_COLLAPSE, 'watch.on_collapse')


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeSet:
    """The labelled images that the probes look at.

    The probes learn from fold 1's training subjects and are held against its
    validation subjects. Its test subjects are never looked at, and nothing is chosen
    by the figures: they are for the eyes of who waits for the run.

    Attributes:
        prepared: the labelled images, n.
        labels: int [n], class numbers.
        train: int [k], the rows that probes learn from.
        held: int [m], the rows that they are held against.
        classes: names of the classes, in the order of their numbers.
    """

    prepared: PreparedSet
    labels: np.ndarray
    train: np.ndarray
    held: np.ndarray
    classes: tuple[str, ...]


class Collapsed(UserError):
    """The encoder, or its head, gives nearly the same for every image."""


class Watched(Protocol):
    """What is known here of an `Objective`: its encoder, and what helps it."""

    @property
    def encoder(self) -> Any:
        """The network from views, [B, H, W, C], to embeddings, [B, F]."""

    @property
    def remedies(self) -> tuple[str, ...]:
        """What is known to help when this method's output collapses; sentences."""


class Watch:
    """Measures an encoder in inference mode: the monitor of a pretraining run.

    It looks at a fixed part of the training images, whole and in two augmented views
    that are drawn the same every time, so that a curve shows the encoder alone.

    Args:
        watch: the plan.
        objective: what is trained.
        prepared: the training images.
        probe_set: labelled images for the probes; None: no probes.
        evaluation_policy: the view that is not random: the whole image.
        training_policies: of the training views; the first two are drawn.
        steps_per_epoch: updates of an epoch.
        steps: updates of the run; the probes look at the last state in any case.
        call_every: updates between two calls. Where epochs are short that is no
            multiple of an epoch: probes then look at the first call after theirs.

    Raises:
        UserError: the probes have fewer than two classes to learn, or none to tell.
    """

    def __init__(
        self,
        watch: WatchPlan,
        objective: Watched,
        prepared: PreparedSet,
        probe_set: ProbeSet | None,
        *,
        evaluation_policy: Policy,
        training_policies: tuple[Policy, ...],
        steps_per_epoch: int,
        steps: int,
        call_every: int,
    ):
        self._plan = watch
        self._remedies = objective.remedies
        self._steps_per_epoch, self._steps = steps_per_epoch, steps
        self._call_every = call_every
        self._history: list[dict[str, float]] = []
        self._announced: set[str] = set()
        few = _evenly(len(prepared), watch.images)
        embedder = _Embedder(objective.encoder)
        self._views = _Embeddings(
            embedder,
            prepared.select(few),
            (evaluation_policy, *training_policies[:2]),
        )
        self._probe: _Probe | None = None
        if probe_set is not None and watch.probe_every_epochs:
            self._probe = _Probe(watch, probe_set, embedder, evaluation_policy)

    def __call__(
        self, state: TrainState, means: Mapping[str, float]
    ) -> dict[str, float]:
        """Measures, and speaks up once for each kind of sign of a collapse.

        Args:
            state: on the devices.
            means: the metrics of the steps since the last call; `loss`, and what the
                method reports.

        Returns:
            `embedding_std`, `effective_rank`, `alignment` and `uniformity`; in an
            epoch of the probes also `knn_accuracy`, `linear_accuracy` and
            `probe_chance`, the share of the largest class among the held rows.

        Raises:
            Collapsed: there is a sign, and the plan says 'stop'.
            TrainingDiverged: embeddings are NaN or infinite.
        """
        step, values = _step(state), self.measure(state)
        seen = {'epoch': step / self._steps_per_epoch, **means, **values}
        self._judge(seen, step)
        self._history.append(seen)
        return values

    def measure(self, state: TrainState) -> dict[str, float]:
        """Gives what a call gives, and judges nothing: of the fresh encoder.

        Raises:
            TrainingDiverged: they are NaN or infinite.
        """
        whole, view1, view2 = self._views(state)
        if not all(np.isfinite(h).all() for h in (whole, view1, view2)):
            raise TrainingDiverged(
                f'Embeddings are NaN or infinite at step {_step(state)}: the weights '
                'or the statistics of the encoder are out of bounds. Lower the '
                'learning rate (optimizer.rate_per_256) or lengthen the warm-up.'
            )
        values = {
            'embedding_std': embedding_std(whole),
            'effective_rank': effective_rank(whole),
            'alignment': alignment(view1, view2),
            'uniformity': uniformity(view1),
        }
        if self._probe is not None and self._probes_now(_step(state)):
            values |= self._probe(state)
        return values

    def recall(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Takes over what was measured before: signs are told by comparison with it.

        Args:
            rows: in order of their steps; those without a measurement are left out.
        """
        self._history += watched_rows(rows)

    def _probes_now(self, step: int) -> bool:
        every = self._plan.probe_every_epochs * self._steps_per_epoch
        before = step - self._call_every  # of the first call, at 0, too
        return step == self._steps or step // every > before // every

    def _judge(self, values: Mapping[str, float], step: int) -> None:
        found = collapse_signs(values, self._history, ended=step == self._steps)
        new = {kind: found[kind] for kind in found if kind not in self._announced}
        if not new:
            return
        self._announced |= set(new)
        text = (
            f'Step {step}: signs of a collapse. {" ".join(new.values())} What helps: '
            + ' '.join((*self._remedies, *_REMEDIES))
        )
        if self._plan.on_collapse == 'stop':
            raise Collapsed(
                f'{text} The last checkpoint is kept, but may have the collapse in it. '
                "To train on regardless, set watch.on_collapse to 'warn'."
            )
        logging.warning('%s', text)


def watched_rows(rows: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """Gives the rows of a log that have a measurement of the spread."""
    return [dict(row) for row in rows if 'embedding_std' in row]


def collapse_signs(
    values: Mapping[str, float],
    history: Sequence[Mapping[str, float]],
    *,
    ended: bool = False,
) -> dict[str, str]:
    """Tells the signs of a collapse.

    Args:
        values: what was measured now: `epoch`, `embedding_std` and `effective_rank`,
            and of the steps since the last time, where the method reports them, `loss`
            with `chance_loss`, what a collapsed output costs, and `dead_prototypes`,
            the share of prototypes that no image chose. What is missing is no sign.
        history: the same of earlier measurements, the last of them last.
        ended: whether training has ended: a loss at chance then has no time left.

    Returns: by kind of sign a sentence that names the value and what it means.
    """
    signs = {}
    for kind, low, what in (
        ('embedding_std', _LOW_STD, 'embeddings of all images point nearly one way'),
        ('effective_rank', _LOW_RANK, 'embeddings use nearly one dimension alone'),
    ):
        value = values.get(kind, math.inf)
        best = max((row[kind] for row in history if kind in row), default=0.0)
        if value < low.certain:
            signs[kind] = f'{kind} is {value:.3g}: the {what}.'
        elif value < low.suspect and value < low.of_best * best:
            signs[kind] = f'{kind} fell from {best:.3g} to {value:.3g}: the {what}.'
    if values.get('epoch', 0.0) <= _SETTLED_EPOCHS and not ended:
        return signs
    # A loss that falls from above passes by chance: two measurements in a row stay.
    stayed = ended or bool(history and _at_chance(history[-1]))
    if stayed and _at_chance(values):
        signs['chance_loss'] = (
            f'The loss, {values["loss"]:.4g}, is what a collapsed output costs, '
            f'{values["chance_loss"]:.4g}: nothing has been learned.'
        )
    dead = values.get('dead_prototypes', 0.0)
    if dead > _MOST_DEAD:
        signs['dead_prototypes'] = (
            f'{dead:.1%} of the prototypes are dead: most images share a few.'
        )
    return signs


@dataclasses.dataclass(frozen=True)
class _Low:
    """When a value is too low: at once, or beside what it has been.

    Attributes:
        certain: below it, whatever came before.
        suspect, of_best: below both it and this part of the highest measurement.
    """

    certain: float
    suspect: float
    of_best: float


# Fresh encoders have little spread, as rows share a direction after a ReLU. Measured on
# whole images at 64 pixels, std and rank: resnet18 on brain MRI, Alzheimer MRI and
# chest X-rays 0.07 to 0.13 and 7 to 20; resnet50 on brain MRI 0.041 and 6.3;
# resnet_tiny on these and OASIS 0.024 to 0.105 and 1.45 to 2.45. And invariance alone,
# which must collapse, left a resnet_tiny with BatchNorm above where it began after 240
# steps: std 0.047, at most 0.125, then 0.058. So these limits are far below and tell of
# a dead encoder; of a dead head, the loss at chance tells.
_LOW_STD = _Low(certain=0.002, suspect=0.05, of_best=0.2)
_LOW_RANK = _Low(certain=1.02, suspect=2.0, of_best=0.25)
# A share of the chance loss. Of ln K for 64 prototypes it is 0.02.
_NEAR_CHANCE = 0.005
_MOST_DEAD = 0.9
# Before, a warm-up may not have let the loss move, nor prototypes find their images.
_SETTLED_EPOCHS = 5
_REMEDIES = (
    'Look at samples/views.png: views that keep nothing of an image, or differ in '
    'nothing, leave nothing to learn.',
)


def _at_chance(values: Mapping[str, float]) -> bool:
    if not {'loss', 'chance_loss'} <= values.keys():
        return False
    chance = values['chance_loss']
    return abs(values['loss'] - chance) <= _NEAR_CHANCE * abs(chance)


class _Embedder:
    """An encoder in inference mode, compiled once for each size of view."""

    def __init__(self, encoder: Any):
        devices = processes.devices()
        self.parallel = MeshParallel(devices)
        self.batch_size = -(-_BATCH_SIZE // len(devices)) * len(devices)
        self._embed = _embed_program(encoder, self.parallel)

    def __call__(self, state: TrainState, view: jax.Array) -> jax.Array:
        """Gives the embeddings, [B, F], of one view, [B, H, W, C]."""
        return self._embed(state.params, state.model_state, view)


@shared
def _embed_program(encoder: Any, parallel: MeshParallel) -> Callable[..., jax.Array]:
    return jax.jit(embedding(encoder), out_shardings=parallel.replicated)


class _Embeddings:
    """The embeddings of fixed images in fixed views; the images stay on the devices.

    Args:
        embedder: the encoder.
        prepared: the images, n.
        policies: one per view.
    """

    def __init__(
        self,
        embedder: _Embedder,
        prepared: PreparedSet,
        policies: tuple[Policy, ...],
    ):
        self._embedder = embedder
        self._prepared = prepared
        self._on_devices: Any = None
        # A small set is not filled up to a whole batch, but is one for every device.
        devices = embedder.parallel.device_count
        count = -(-len(prepared) // devices) * devices
        self._batch_size = min(embedder.batch_size, count)
        self._draw = _draw_program(policies, embedder.parallel)

    def __call__(self, state: TrainState) -> list[np.ndarray]:
        """Gives the embeddings of every view, float32 [n, F] each, on the host."""
        count = len(self._prepared)
        if self._on_devices is None:
            self._on_devices = self._embedder.parallel.replicate(
                (
                    resident(self._prepared),
                    # The last batch is filled up with the last image.
                    [
                        np.arange(start, start + self._batch_size, dtype=np.int32)
                        for start in range(0, count, self._batch_size)
                    ],
                )
            )
        source, batches = self._on_devices
        blocks = [
            [self._embedder(state, v) for v in self._draw(source, rows)]
            for rows in batches
        ]
        return [
            np.concatenate(view)[:count]
            for view in zip(*jax.device_get(blocks), strict=True)
        ]


@shared
def _draw_program(
    policies: tuple[Policy, ...], parallel: MeshParallel
) -> Callable[[Resident, jax.Array], tuple[jax.Array, ...]]:
    def draw(source: Resident, rows: jax.Array) -> tuple[jax.Array, ...]:
        batch = fetch(source, Rows(rows, jnp.ones(rows.shape, jnp.float32)))
        return make_views(jax.random.key(0), batch, policies, rows)

    by_rows = NamedSharding(parallel.mesh, P(parallel.mesh.axis_names))
    return jax.jit(draw, out_shardings=by_rows)


class _Probe:
    """The probes on labelled images.

    Raises:
        UserError: as `Watch` says.
    """

    def __init__(
        self,
        watch: WatchPlan,
        probe_set: ProbeSet,
        embedder: _Embedder,
        evaluation: Policy,
    ):
        # At random, as every n-th slice might be the same one of every subject.
        order = np.random.default_rng(0).permutation(len(probe_set.train))
        train = probe_set.train[np.sort(order[: watch.probe_images])]
        held = probe_set.held
        self._train_labels = probe_set.labels[train]
        self._held_labels = probe_set.labels[held]
        found = len(np.unique(self._train_labels))
        if found < 2 or len(held) == 0:
            raise UserError(
                f'The probes need two classes among their training images and an image '
                f'to be held against; found {found} and {len(held)}. Raise '
                'watch.probe_images, take fewer folds (finetune.folds), or set '
                'watch.probe_every_epochs to 0.'
            )
        self._neighbours = watch.neighbours
        self._classes = len(probe_set.classes)
        self._embeddings = _Embeddings(
            embedder,
            probe_set.prepared.select(np.concatenate([train, held])),
            (evaluation,),
        )

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Gives the accuracies, and that of naming the largest class of all."""
        [embeddings] = self._embeddings(state)
        train, held = np.split(embeddings, [len(self._train_labels)])
        known = (train, self._train_labels, held, self._held_labels)
        return {
            'knn_accuracy': knn_accuracy(
                *known, classes=self._classes, neighbours=self._neighbours
            ),
            'linear_accuracy': linear_accuracy(*known, classes=self._classes),
            'probe_chance': float(
                np.bincount(self._held_labels).max() / len(self._held_labels)
            ),
        }


def _step(state: TrainState) -> int:
    return int(jax.device_get(state.step))


def _evenly(count: int, wanted: int) -> np.ndarray:
    """Gives rows that are spread evenly over `count`, int [at most wanted]."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(int)
