"""SwAV: a view's place among prototypes, predicted from other views."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH, BatchAxis
from jax_mrissl.models.heads import Projector
from jax_mrissl.objectives.networks import (
    apart,
    init_networks,
    run_network,
    side_by_side,
    unit,
)
from jax_mrissl.objectives.objective import LossAux, Rule, Schedule, exact

# Views whose places are computed; the others only predict.
_ASSIGNED = 2
# What a step keeps of the count of each prototype's images: a hundred steps' memory.
_USAGE_MEMORY = 0.99
# A prototype is dead if it is nearest to less than this part of an even share.
_DEAD = 0.1


def sinkhorn_codes(
    scores: jax.Array,
    *,
    epsilon: float,
    iterations: int,
    axis: BatchAxis = WHOLE_BATCH,
    queue: jax.Array | None = None,
    use_queue: jax.Array | bool = True,
) -> jax.Array:
    """Shares images out over prototypes, evenly, by the Sinkhorn-Knopp algorithm.

    Works on logarithms, so that no score overflows or underflows. Each iteration evens
    out the prototypes' masses, then the images'; so every image's code sums to one
    exactly, and prototypes are even only in the limit.

    Args:
        scores: float32 or wider, [B, K]; of an image for a prototype.
        epsilon: how soft the codes are; scores are divided by it.
        iterations: how often both are evened out; 3 in the paper.
        axis: where the rest of the batch is; masses are those of the whole batch.
        queue: scores of earlier images, [Q, K], the same on every device, which take
            part and get no code; None: none.
        use_queue: whether they take part; may be traced.

    Returns: codes, [B, K]; no gradient goes through them.

    Source: Caron et al. 2020 (arXiv:2006.09882), Eq. 3 and Appendix A; `sinkhorn` in
    main_swav.py of facebookresearch/swav, whose constant factors cancel.
    """
    rows = len(scores)
    # `lax.pmax` has no derivative: the gradient is stopped on the way in.
    scaled = jax.lax.stop_gradient(exact(scores)) / epsilon
    weight = jnp.zeros((rows, 1), scaled.dtype)  # logarithms of the rows' weights
    if queue is not None:
        # Every device holds the whole queue, so each counts its share of it.
        devices = jnp.asarray(axis.size, scaled.dtype)
        share = jnp.where(use_queue, -jnp.log(devices), -jnp.inf)
        share = jnp.full((len(queue), 1), share, scaled.dtype)
        held = jax.lax.stop_gradient(exact(queue)) / epsilon
        scaled = jnp.concatenate([scaled, held])
        weight = jnp.concatenate([weight, share])
    for _ in range(iterations):
        mass = _log_sum_of_rows(scaled + weight, axis)
        scaled = scaled - mass
        scaled = scaled - jax.nn.logsumexp(scaled, axis=1, keepdims=True)
    return jnp.exp(scaled[:rows])


def _log_sum_of_rows(x: jax.Array, axis: BatchAxis) -> jax.Array:
    """Gives log sum exp over all devices' rows, [1, K]."""
    highest = axis.max(x.max(axis=0, keepdims=True))
    return highest + jnp.log(axis.sum(jnp.exp(x - highest).sum(axis=0, keepdims=True)))


def swav_loss(
    scores: jax.Array,
    codes: jax.Array,
    *,
    temperature: float,
    axis: BatchAxis = WHOLE_BATCH,
) -> jax.Array:
    """Cross entropy of each assigned view's codes with all other views' predictions.

    Args:
        scores: float32 or wider, [B, V, K], of every view for every prototype.
        codes: [B, A, K], of the first A views.
        temperature: tau of the predictions.
        axis: where the rest of the batch is.

    Returns: a scalar; ln K for even codes and predictions.

    Source: Caron et al. 2020 (arXiv:2006.09882), Eq. 2 and 5: the mean over assigned
    views of the mean over the others.
    """
    assigned, views = codes.shape[1], scores.shape[1]
    predictions = jax.nn.log_softmax(scores / temperature, axis=-1)
    total = jnp.zeros((), predictions.dtype)
    for i in range(assigned):
        others = [v for v in range(views) if v != i]
        likelihood = predictions[:, jnp.array(others)].mean(axis=1)
        total -= jnp.sum(codes[:, i] * likelihood, axis=-1).mean()
    return axis.mean(total / assigned)


@dataclasses.dataclass(frozen=True)
class SwAV:
    """SwAV on an encoder.

    Attributes:
        encoder: maps views, [B, H, W, C], to embeddings, [B, F].
        policies: two large views, then any number of small ones.
        prototypes: K. Some ten times as many as one expects classes.
        hidden_width: of the projector's hidden layer.
        width: D, of the projection.
        temperature: tau, of the predictions.
        epsilon: how soft the codes are.
        sinkhorn_iterations: how often prototypes and images are evened out.
        queue_length: Q, earlier images that take part in the codes; a multiple of the
            batch, 0 for none. For batches that are small beside K.
        queue_from_epoch: from when on they are gathered; used once the queue is full.
        freeze_prototypes_epochs: how long prototypes stay as they were drawn.
        batch_size, steps_per_epoch, epochs: of the run; None where not known.
        dtype, param_dtype: of the projector's computation and parameters.

    Crops of one size go through the encoder together, all crops through the projector
    together: so they share batch statistics, as in the authors' code. Prototypes have
    no bias, length one, and lie beside the projector in `head`.
    """

    encoder: nn.Module
    policies: tuple[Policy, ...]
    prototypes: int = 3000
    hidden_width: int = 2048
    width: int = 128
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    queue_length: int = 0
    queue_from_epoch: float = 15.0
    freeze_prototypes_epochs: float = 1.0
    batch_size: int | None = None
    steps_per_epoch: int = 1
    epochs: int | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    remedies = (
        'Lower method.epsilon (0.03; 0.01 in a short run): codes are sharper then.',
        'Lengthen method.freeze_prototypes_epochs.',
        'Use fewer prototypes, or softer and fewer small crops.',
        'Lower optimizer.rate_per_256: Adam at 0.001 is known to stay at ln K.',
        'If it began with the queue: shorten method.queue_length, or start it later.',
    )

    def __post_init__(self):
        if len(self.policies) < _ASSIGNED:
            raise ValueError(f'SwAV has at least 2 views; {len(self.policies)} given.')
        for name in ('prototypes', 'hidden_width', 'width', 'sinkhorn_iterations'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; at least 1.')
        for name in ('temperature', 'epsilon'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name} is {getattr(self, name)}; above 0.')
        for name in ('queue_length', 'queue_from_epoch', 'freeze_prototypes_epochs'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}; 0 for none.')
        if self.batch_size and self.queue_length % self.batch_size:
            lower = self.queue_length // self.batch_size * self.batch_size
            near = [n for n in (lower, lower + self.batch_size) if n > 0]
            raise ValueError(
                f'queue_length is {self.queue_length}, no multiple of the batch of '
                f'{self.batch_size} images; such as {" or ".join(map(str, near))}.'
            )

    @property
    def head(self) -> Projector:
        """The network from embedding to projection."""
        return Projector(
            (self.hidden_width, self.width),
            self.dtype,
            self.param_dtype,
            hidden_bias=True,
            output_bias=True,
        )

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
        """Draws parameters and states for views of shape [H, W, C]."""
        network_key, prototype_key = jax.random.split(key)
        params, state = init_networks(network_key, self.encoder, self.head, image_shape)
        # Directions as PyTorch's linear layer has them; their length is one anyway.
        drawn = jax.random.uniform(
            prototype_key, (self.prototypes, self.width), self.param_dtype, -1.0, 1.0
        )
        params['head'] = {'projector': params['head'], 'prototypes': unit(drawn)}
        memory = {
            'step': jnp.zeros((), jnp.int32),
            'usage': jnp.full(
                (self.prototypes,), 1 / self.prototypes, self.param_dtype
            ),
        }
        if self.queue_length:
            memory['queued'] = jnp.zeros((), jnp.int32)
            memory['queue'] = jnp.zeros(
                (_ASSIGNED, self.queue_length, self.width), self.param_dtype
            )
        state['head'] = {'projector': state['head'], 'memory': memory}
        return params, state

    def project(
        self,
        params: Any,
        model_state: Any,
        views: tuple[jax.Array, ...],
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, Any]:
        """Gives projections of length one, [b, V, D]."""
        encoder_state = model_state['encoder']
        embeddings: dict[int, jax.Array] = {}
        for shape in dict.fromkeys(view.shape for view in views):
            alike = [i for i, view in enumerate(views) if view.shape == shape]
            h, encoder_state = run_network(
                self.encoder,
                params['encoder'],
                encoder_state,
                side_by_side([views[i] for i in alike]),
                axis,
            )
            embeddings |= zip(alike, apart(h, len(alike)), strict=True)
        z, projector_state = run_network(
            self.head,
            params['head']['projector'],
            model_state['head']['projector'],
            side_by_side([embeddings[i] for i in range(len(views))]),
            axis,
        )
        head_state = model_state['head'] | {'projector': projector_state}
        projections = jnp.stack(apart(unit(exact(z)), len(views)), axis=1)
        return projections, {'encoder': encoder_state, 'head': head_state}

    def criterion(
        self,
        params: Any,
        model_state: Any,
        projections: jax.Array,
        batch: Batch,
        *,
        axis: BatchAxis,
    ) -> tuple[jax.Array, LossAux]:
        """Gives the loss of all views; moves the queue and the count of usage."""
        del batch
        prototypes, memory = params['head']['prototypes'], model_state['head']['memory']
        scores = _scores(projections, prototypes)  # [b, V, K]
        assigned = jax.lax.stop_gradient(projections[:, :_ASSIGNED])
        codes = []
        for i in range(_ASSIGNED):
            queue, use_queue = None, True
            if self.queue_length:
                queue = _scores(memory['queue'][i], prototypes)
                use_queue = memory['queued'] >= self.queue_length
            codes.append(
                sinkhorn_codes(
                    scores[:, i],
                    epsilon=self.epsilon,
                    iterations=self.sinkhorn_iterations,
                    axis=axis,
                    queue=queue,
                    use_queue=use_queue,
                )
            )
        loss = swav_loss(
            scores, jnp.stack(codes, axis=1), temperature=self.temperature, axis=axis
        )
        memory = self._remember(memory, assigned, scores[:, :_ASSIGNED], axis)
        entropy = -sum(jnp.sum(jax.scipy.special.xlogy(q, q), -1).mean() for q in codes)
        dead = memory['usage'] < _DEAD / self.prototypes
        metrics = {
            'assignment_entropy': axis.mean(entropy / _ASSIGNED),
            'dead_prototypes': dead.astype(jnp.float32).mean(),
            'chance_loss': jnp.log(jnp.float32(self.prototypes)),
        }
        state = model_state | {'head': model_state['head'] | {'memory': memory}}
        return loss, LossAux(model_state=state, metrics=metrics)

    def _remember(
        self, memory: Any, assigned: jax.Array, scores: jax.Array, axis: BatchAxis
    ) -> Any:
        """Counts which prototypes are nearest, and puts this batch into the queue."""
        nearest = jnp.argmax(scores, axis=-1).ravel()
        picks = jnp.zeros((self.prototypes,), memory['usage'].dtype).at[nearest].add(1)
        usage = axis.mean(picks / len(nearest))
        memory = memory | {
            'step': memory['step'] + 1,
            'usage': _USAGE_MEMORY * memory['usage'] + (1 - _USAGE_MEMORY) * usage,
        }
        if not self.queue_length:
            return memory
        new = axis.gather(assigned).swapaxes(0, 1)  # [A, B, D], the newest first
        moved = jnp.concatenate([new, memory['queue']], axis=1)[:, : self.queue_length]
        start = round(self.queue_from_epoch * self.steps_per_epoch)
        begun = memory['step'] > start
        count = jnp.minimum(memory['queued'] + new.shape[1], self.queue_length)
        return memory | {
            'queue': jnp.where(begun, moved.astype(self.param_dtype), memory['queue']),
            'queued': jnp.where(begun, count, memory['queued']),
        }

    def optimize(self, rule: Rule, schedule: Schedule) -> optax.GradientTransformation:
        """Freezes the prototypes at first, and keeps them at length one.

        While they are frozen, their momenta rest too, as where PyTorch has no gradient.
        """
        steps = round(self.freeze_prototypes_epochs * self.steps_per_epoch)
        if not steps:
            return optax.chain(rule(schedule), _unit_prototypes())
        late = optax.conditionally_mask(
            rule(lambda step: schedule(step + steps)), lambda step: step >= steps
        )

        def labels(params: Any) -> Any:
            marked = jax.tree.map(lambda _: 'free', params)
            marked['head']['prototypes'] = 'frozen at first'
            return marked

        return optax.chain(
            optax.partition({'free': rule(schedule), 'frozen at first': late}, labels),
            _unit_prototypes(),
        )

    def advice(self) -> tuple[str, ...]:
        """Says which settings come to nothing in a run of this size."""
        sentences = []
        seen = self.batch_size
        if self.epochs is not None and self.freeze_prototypes_epochs >= self.epochs:
            sentences.append(
                f'Prototypes are frozen for {self.freeze_prototypes_epochs:g} epochs '
                f'of {self.epochs}, so they never learn. Lower '
                'method.freeze_prototypes_epochs.'
            )
        if self.queue_length and self.batch_size:
            fills = self.queue_length / (self.batch_size * self.steps_per_epoch)
            if self.epochs is not None and self.queue_from_epoch + fills >= self.epochs:
                sentences.append(
                    f'The queue is full, and used, only after the {self.epochs} epochs '
                    'of this run. Lower method.queue_from_epoch or '
                    'method.queue_length.'
                )
            else:
                seen = self.batch_size + self.queue_length
        if seen and self.batch_size and self.prototypes > seen:
            least = -(-(self.prototypes - self.batch_size) // self.batch_size)
            sentences.append(
                f'{self.prototypes} prototypes are shared out over {seen} images at a '
                'time (of the batch, and of a queue that is used): some must go '
                'without. Set method.prototypes to at most '
                f'{2 ** math.floor(math.log2(seen))}, or method.queue_length to '
                f'{least * self.batch_size} (images).'
            )
        return tuple(sentences)


def _scores(projections: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Gives cosines, [..., K], in at least float32: codes divide them by 0.05."""
    return jnp.matmul(
        exact(projections), exact(prototypes).T, precision=jax.lax.Precision.HIGHEST
    )


def _unit_prototypes() -> optax.GradientTransformation:
    """Makes every update end at prototypes of length one.

    No gradient goes through it: as the authors' code, which normalises them in place
    before each step.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        old = params['head']['prototypes']
        new = unit(old + updates['head']['prototypes'])
        head = updates['head'] | {'prototypes': new - old}
        return updates | {'head': head}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
