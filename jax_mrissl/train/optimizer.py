"""Optimisers and their schedules: SGD, LARS, AdamW; rates per 256 images."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

# The learning rate of an update, by its number.
Schedule = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """A learning rate over a run: linear at first, then a cosine, by step.

    Attributes:
        peak: the rate at the end of the warm-up.
        warmup_steps: steps of the warm-up.
        total_steps: steps of the run.
        final_fraction: the last rate, as a share of the peak.
        initial_fraction: the rate of step 0 of the warm-up, as a share of the peak.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    final_fraction: float = 0.0
    initial_fraction: float = 0.0

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Gives the rate of update number `step`, counted from 0; a scalar."""
        step = jnp.asarray(step, jnp.float32)
        rise = (1 - self.initial_fraction) * step / max(self.warmup_steps, 1)
        warm = self.initial_fraction + rise
        rest = max(self.total_steps - self.warmup_steps, 1)
        progress = jnp.clip((step - self.warmup_steps) / rest, 0.0, 1.0)
        cosine = 0.5 * (1 + jnp.cos(math.pi * progress))
        decayed = self.final_fraction + (1 - self.final_fraction) * cosine
        return self.peak * jnp.where(step < self.warmup_steps, warm, decayed)


def is_weight(params: Any) -> Any:
    """Marks, leaf by leaf, weights (True) against biases and norms (False).

    A leaf of one dimension is a bias, a scale or an offset: the rule of the Barlow
    Twins code.
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all optimisers have: how the rate moves, and what is decayed.

    Attributes:
        rate_per_256: peak learning rate for a batch of 256; scaled linearly.
        warmup_epochs: epochs of linear warm-up.
        initial_fraction: the first rate of the warm-up, as a share of the peak.
        final_fraction: the last learning rate, as a share of the peak.
        weight_decay: of weights; biases and norms are decayed only by `decays`.
        decays: 'weights', or 'all' to decay biases and norms too.
    """

    rate_per_256: float
    warmup_epochs: float = 0.0
    initial_fraction: float = 0.0
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    decays: Literal['weights', 'all'] = 'weights'

    def __post_init__(self):
        if self.decays not in ('weights', 'all'):
            raise ValueError(f"decays is {self.decays!r}; 'weights' or 'all'.")
        for name in ('rate_per_256', 'warmup_epochs', 'weight_decay'):
            value = getattr(self, name)
            # In a program a decay is a number that is not known yet.
            if not isinstance(value, jax.Array) and value < 0:
                raise ValueError(f'{name} is {value}; at least 0.')
        for name in ('initial_fraction', 'final_fraction'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f'{name} is {getattr(self, name)}; a share of the rate, 0 to 1.'
                )
        for name in ('momentum', 'b1', 'b2'):
            if not 0 <= getattr(self, name, 0.0) < 1:
                raise ValueError(
                    f'{name} is {getattr(self, name)}; at least 0, below 1.'
                )

    def schedule(
        self, *, batch_size: int, steps_per_epoch: int, steps: int
    ) -> WarmupCosine:
        """Gives the learning rate over a run of `steps` updates."""
        return WarmupCosine(
            peak=self.rate_per_256 * batch_size / 256,
            warmup_steps=min(round(self.warmup_epochs * steps_per_epoch), steps),
            total_steps=steps,
            final_fraction=self.final_fraction,
            initial_fraction=self.initial_fraction,
        )

    def transform(self, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the update rule under `schedule`."""
        raise NotImplementedError

    def _decayed(self, params: Any) -> Any:
        return _is_anything(params) if self.decays == 'all' else is_weight(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; decay joins the gradient."""

    momentum: float = 0.9

    def transform(self, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the update rule under `schedule`."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask=self._decayed),
            optax.trace(self.momentum),
            optax.scale_by_learning_rate(schedule),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LARS(Optimizer):
    """Layer-wise adaptive rates: each weight moves in proportion to its norm.

    Attributes:
        bias_rate_per_256: peak rate of biases and norms; None for that of the weights.
            Barlow Twins has 0.0048 beside 0.2.
        adapts: 'weights' (Barlow Twins, SimCLR), or 'all' to adapt biases and norms
            too (SwAV).
        trust_coefficient: eta, the step of a weight as a share of its norm.
        momentum: of the velocity.
        rate_enters: 'after_momentum' (Barlow Twins' code) or 'before_momentum'
            (SimCLR's): the same while the rate is constant.

    Source: You et al. 2017 (arXiv:1708.03888); main.py of facebookresearch/barlowtwins
    and lars_optimizer.py of google-research/simclr. The norm in the ratio is that of
    the decayed gradient in both; SwAV's (apex LARC) is the sum of the norms, which
    differs by at most the decay's share.
    """

    bias_rate_per_256: float | None = None
    adapts: Literal['weights', 'all'] = 'weights'
    trust_coefficient: float = 0.001
    momentum: float = 0.9
    rate_enters: Literal['after_momentum', 'before_momentum'] = 'after_momentum'

    def __post_init__(self):
        super().__post_init__()
        if self.adapts not in ('weights', 'all'):
            raise ValueError(f"adapts is {self.adapts!r}; 'weights' or 'all'.")
        if self.rate_enters not in ('after_momentum', 'before_momentum'):
            raise ValueError(
                f'rate_enters is {self.rate_enters!r}; '
                "'after_momentum' or 'before_momentum'."
            )
        if self.bias_rate_per_256 is not None and self.rate_per_256 == 0:
            raise ValueError('bias_rate_per_256 needs a rate_per_256 above 0.')

    def transform(self, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the update rule under `schedule`, which is that of the weights."""
        ratio = 1.0
        if self.bias_rate_per_256 is not None:
            ratio = self.bias_rate_per_256 / self.rate_per_256
        rate = optax.chain(
            optax.masked(optax.scale(ratio), _is_not_weight),
            optax.scale_by_learning_rate(schedule),
        )
        momentum = optax.trace(self.momentum)
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask=self._decayed),
            optax.masked(
                optax.scale_by_trust_ratio(trust_coefficient=self.trust_coefficient),
                is_weight if self.adapts == 'weights' else _is_anything,
            ),
            *(
                (momentum, rate)
                if self.rate_enters == 'after_momentum'
                else (rate, momentum)
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decay beside the gradient, not in it.

    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101).
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def transform(self, schedule: Schedule) -> optax.GradientTransformation:
        """Gives the update rule under `schedule`."""
        return optax.adamw(
            schedule,
            b1=self.b1,
            b2=self.b2,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            mask=self._decayed,
        )


@functools.lru_cache(maxsize=16)
def tunable(optimizer: Optimizer, schedule: Schedule) -> optax.GradientTransformation:
    """Gives the update rule with its rate and decay in the state, as numbers.

    So trials that differ in them share one compiled program. Equal arguments get the
    same rule, as programs are told apart by it.

    Args:
        optimizer: the declaration; its decay is the first value.
        schedule: the learning rate by step.
    """

    def rule(rate_ratio: Any, weight_decay: Any) -> optax.GradientTransformation:
        own = dataclasses.replace(optimizer, weight_decay=weight_decay)
        return own.transform(lambda step: rate_ratio * schedule(step))

    return optax.inject_hyperparams(rule)(
        rate_ratio=1.0, weight_decay=float(optimizer.weight_decay)
    )


def with_settings(opt_state: Any, *, rate_ratio: float, weight_decay: float) -> Any:
    """Sets the numbers in the state of a `tunable` rule; nothing has been updated yet.

    Args:
        opt_state: fresh.
        rate_ratio: the learning rate, as a multiple of the schedule's.
        weight_decay: in place of the declaration's.
    """
    given = {'rate_ratio': rate_ratio, 'weight_decay': weight_decay}
    placed = {
        # In the type and on the devices of the number that it replaces.
        name: jax.device_put(
            jnp.asarray(value, opt_state.hyperparams[name].dtype),
            opt_state.hyperparams[name].sharding,
        )
        for name, value in given.items()
    }
    return opt_state._replace(hyperparams=placed)


def _is_anything(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def _is_not_weight(params: Any) -> Any:
    return jax.tree.map(lambda weight: not weight, is_weight(params))


OPTIMIZERS: dict[str, type] = {'sgd': SGD, 'lars': LARS, 'adamw': AdamW}
