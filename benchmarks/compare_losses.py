"""Our losses and LARS beside those of the Lightly library, on the same inputs.

    pip install -r benchmarks/requirements.txt
    python benchmarks/compare_losses.py [--tolerance 1e-5]

Prints every option compared, in float64 and float32: both values, their relative
difference, and the largest relative difference of gradients over all inputs (of an
array: the largest difference of its entries over its largest entry). Ends with 1 if a
difference that counts is over the tolerance, with 2 where a library is missing.

For the losses of older Lightly versions the formula is written out here; optax is a
third witness of NT-Xent. Needs Lightly from 1.5.20 on. Views are random and share a
part of their variance, as early in training; float32's rounding weighs more where a
loss is nearly zero.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_mrissl.objectives.barlow import barlow_loss
from jax_mrissl.objectives.simclr import ntxent_loss
from jax_mrissl.objectives.swav import sinkhorn_codes, swav_loss
from jax_mrissl.objectives.vicreg import vicreg_loss
from jax_mrissl.train.optimizer import LARS

try:
    import torch
    from lightly.loss import BarlowTwinsLoss, NTXentLoss, SwaVLoss, VICRegLoss
    from lightly.loss.swav_loss import sinkhorn
    from lightly.utils import lars as lightly_utils_lars
except ImportError as error:
    print(f'{error}: pip install -r benchmarks/requirements.txt', file=sys.stderr)
    sys.exit(2)

Arrays = Sequence[np.ndarray]
# A side takes inputs of one dtype, and gives its value and its gradients, if any.
Side = Callable[[Arrays], tuple[np.ndarray, list[np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Option:
    """One line of the table, once in each dtype.

    Attributes:
        name, against: what is compared, and with what.
        ours, theirs: the two sides.
        inputs: in float64.
        note: what the reader should know.
        counts: whether a difference is a disagreement; not where definitions differ.
    """

    name: str
    against: str
    ours: Side
    theirs: Side
    inputs: Arrays
    note: str = ''
    counts: bool = True


def jax_side(function, *, gradients=True) -> Side:
    """Makes a side of a function of JAX arrays."""

    def run(inputs):
        arrays = [jnp.asarray(x) for x in inputs]
        if not gradients:
            return np.asarray(jax.jit(function)(*arrays)), []
        every = tuple(range(len(arrays)))
        value, found = jax.jit(jax.value_and_grad(function, every))(*arrays)
        return np.asarray(value), [np.asarray(g) for g in found]

    return run


def torch_side(function, *, gradients=True) -> Side:
    """Makes a side of a function of PyTorch tensors."""

    def run(inputs):
        tensors = [torch.tensor(x, requires_grad=gradients) for x in inputs]
        value = function(*tensors)
        if not gradients:
            return value.numpy(), []
        found = torch.autograd.grad(
            value, tensors, allow_unused=True, materialize_grads=True
        )
        return value.detach().numpy(), [g.numpy() for g in found]

    return run


def two_views(rows, width, *, scale=1.0, noise=1.5):
    """Draws two views, [rows, width], of correlation 1 / (1 + noise**2).

    Features have means and deviations of their own, other ones in each view.
    """
    rng = np.random.default_rng(rows * width)
    common = rng.normal(size=(rows, width))
    return [
        scale
        * rng.uniform(0.5, 1.5, size=width)
        * (common + noise * rng.normal(size=(rows, width)) + rng.normal(size=width))
        for _ in range(2)
    ]


def cosines(views, rows, prototypes, *, width=16, seed=0):
    """Draws scores: `views` arrays, [rows, prototypes], of unit vectors."""
    rng = np.random.default_rng(seed)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    weights = unit(rng.normal(size=(prototypes, width)))
    common = rng.normal(size=(rows, width))
    return [
        unit(common + rng.normal(size=(rows, width))) @ weights.T for _ in range(views)
    ]


def ntxent_options():
    for temperature in (0.1, 0.2, 0.5):
        for shape in ((4, 8), (16, 32), (33, 128)):

            def ours(z1, z2, temperature=temperature):
                return ntxent_loss(z1, z2, temperature=temperature)[0]

            def witness(z1, z2, temperature=temperature):
                labels = jnp.tile(jnp.arange(len(z1)), 2)
                return optax.losses.ntxent(
                    jnp.concatenate([z1, z2]), labels, temperature=temperature
                )

            name = f'NT-Xent, tau {temperature}, {shape[0]} x {shape[1]}'
            views = two_views(*shape)
            theirs = NTXentLoss(temperature=temperature, memory_bank_size=0)
            yield Option(name, 'Lightly', jax_side(ours), torch_side(theirs), views)
            yield Option(name, 'optax', jax_side(ours), jax_side(witness), views)


def old_barlow_loss(z1, z2, *, redundancy_weight, joint):
    """What Lightly had before 1.5.20, written out; not its code."""
    rows = len(z1)
    if joint:
        both = torch.cat([z1, z2])
        variance, mean = torch.var_mean(both, dim=0, correction=0)
        u1, u2 = ((z - mean) / torch.sqrt(variance + 1e-5) for z in (z1, z2))
    else:
        u1, u2 = ((z - z.mean(0)) / z.std(0, correction=1) for z in (z1, z2))
    c = u1.T @ u2 / rows
    eye = torch.eye(c.shape[0], dtype=c.dtype)
    weights = eye + redundancy_weight * (1 - eye)
    return (weights * (c - eye) ** 2).sum()


def barlow_options():
    for standardise, against in {
        'per_view_biased': 'Lightly',
        'per_view_unbiased': 'formula of 1.1.2-1.4.16',
        'joint': 'formula of 1.4.17-1.5.19',
    }.items():
        for weight in (5e-3, 0.0051):
            for shape in ((16, 8), (32, 48)):

                def ours(z1, z2, weight=weight, standardise=standardise):
                    return barlow_loss(
                        z1, z2, redundancy_weight=weight, standardise=standardise
                    )[0]

                if standardise == 'per_view_biased':
                    theirs = BarlowTwinsLoss(lambda_param=weight)
                else:
                    theirs = functools.partial(
                        old_barlow_loss,
                        redundancy_weight=weight,
                        joint=standardise == 'joint',
                    )
                yield Option(
                    f'Barlow {standardise}, lambda {weight}, {shape[0]} x {shape[1]}',
                    against,
                    jax_side(ours),
                    torch_side(theirs),
                    two_views(*shape),
                )


def swav_options():
    for epsilon, iterations in ((0.05, 3), (0.03, 10)):
        for rows, prototypes in ((12, 24), (33, 8)):
            settings = dict(epsilon=epsilon, iterations=iterations)
            yield Option(
                f'Sinkhorn, eps {epsilon}, {iterations} iterations, '
                f'{rows} x {prototypes}',
                'Lightly',
                jax_side(
                    functools.partial(sinkhorn_codes, **settings), gradients=False
                ),
                torch_side(functools.partial(sinkhorn, **settings), gradients=False),
                cosines(1, rows, prototypes),
                'values: root of the sum of squares; no gradient by definition',
            )
    for small in (0, 2, 6):
        for queue in ('none', 'full', 'filling'):
            yield _swav_option(small, queue)


def _swav_option(small, queue):
    rows, prototypes, views = 12, 24, 2 + small
    inputs = cosines(views, rows, prototypes)
    if queue != 'none':
        # Other images before the same prototypes.
        inputs += [x[rows:] for x in cosines(2, rows + 20, prototypes, seed=1)]

    def ours(*arrays):
        queues = arrays[views:] or (None, None)
        codes = [
            sinkhorn_codes(
                arrays[i],
                epsilon=0.05,
                iterations=3,
                queue=queues[i],
                use_queue=queue == 'full',
            )
            for i in range(2)
        ]
        return swav_loss(
            jnp.stack(arrays[:views], 1), jnp.stack(codes, 1), temperature=0.1
        )

    def theirs(*tensors):
        loss = SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05, sinkhorn_iterations=3)
        queues = list(tensors[views:]) if queue == 'full' else None
        return loss(list(tensors[:2]), list(tensors[2:views]), queues).squeeze()

    name, note = {
        'none': ('', ''),
        'full': (
            ', queue',
            'Lightly has the queue behind the batch too; none gets a gradient',
        ),
        'filling': (', queue not used yet', 'Lightly: no queue_outputs'),
    }[queue]
    return Option(
        f'SwAV, 2 large + {small} small{name}',
        'Lightly',
        jax_side(ours),
        torch_side(theirs),
        inputs,
        note,
    )


def vicreg_options():
    for weights in ((25.0, 25.0, 1.0), (1.0, 10.0, 0.04)):
        for shape in ((16, 8), (32, 48)):

            def ours(z1, z2, weights=weights):
                invariance, variance, covariance = weights
                return vicreg_loss(
                    z1,
                    z2,
                    invariance_weight=invariance,
                    variance_weight=variance,
                    covariance_weight=covariance,
                )[0]

            yield Option(
                f'VICReg, weights {weights}, {shape[0]} x {shape[1]}',
                'Lightly',
                jax_side(ours),
                torch_side(VICRegLoss(*weights)),
                # So that the hinge holds some features, not all.
                two_views(*shape, scale=0.5),
                'the same scale: no constant between them',
            )


_RATE, _TRUST, _MOMENTUM = 1.0, 0.1, 0.9  # steps large beside float32's rounding


def our_lars(decay, rate_enters) -> Side:
    """Gives the norm of the weight's change, and the changes of weight and bias."""

    def run(inputs):
        weight, bias, *gradients = (jnp.asarray(x) for x in inputs)
        rule = LARS(
            rate_per_256=_RATE,
            weight_decay=decay,
            trust_coefficient=_TRUST,
            momentum=_MOMENTUM,
            rate_enters=rate_enters,
        ).transform(lambda step: _RATE)
        start = params = {'weight': weight, 'bias': bias}
        state = rule.init(params)
        for pair in zip(gradients[::2], gradients[1::2], strict=True):
            found = {'weight': pair[0], 'bias': pair[1]}
            updates, state = rule.update(found, state, params)
            params = optax.apply_updates(params, updates)
        return _changes(
            np.asarray(params['weight'] - start['weight']),
            np.asarray(params['bias'] - start['bias']),
        )

    return run


def lightly_lars(decay) -> Side:
    """Lightly's, the bias in a group without decay, which it does not adapt."""

    def run(inputs):
        weight, bias, *gradients = (torch.tensor(x) for x in inputs)
        params = [weight.clone(), bias.clone()]
        groups = [
            {'params': params[:1], 'weight_decay': decay},
            {'params': params[1:], 'weight_decay': 0.0},
        ]
        optimizer = lightly_utils_lars.LARS(
            groups, lr=_RATE, momentum=_MOMENTUM, trust_coefficient=_TRUST
        )
        for pair in zip(gradients[::2], gradients[1::2], strict=True):
            for p, g in zip(params, pair, strict=True):
                p.grad = g.clone()
            optimizer.step()
        return _changes((params[0] - weight).numpy(), (params[1] - bias).numpy())

    return run


def norm_of_sum_lars(decay) -> Side:
    """Written out: Lightly's rule, but for the norm of the decayed gradient."""

    def run(inputs):
        weight, bias, *gradients = (torch.tensor(x) for x in inputs)
        w, b = weight.clone(), bias.clone()
        v, u = torch.zeros_like(w), torch.zeros_like(b)
        for g, h in zip(gradients[::2], gradients[1::2], strict=True):
            decayed = g + decay * w
            v = _MOMENTUM * v + _TRUST * w.norm() / decayed.norm() * decayed
            u = _MOMENTUM * u + h
            w, b = w - _RATE * v, b - _RATE * u
        return _changes((w - weight).numpy(), (b - bias).numpy())

    return run


def _changes(weight, bias):
    return np.linalg.norm(weight), [weight, bias]


def lars_options():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(6, 5)), rng.normal(size=6)
    any_way = [weight, bias]
    along = [weight, bias]
    for _ in range(3):
        any_way += [rng.normal(size=(6, 5)), rng.normal(size=6)]
        along += [rng.uniform(0.5, 2.0) * weight, rng.normal(size=6)]
    for enters in ('after_momentum', 'before_momentum'):
        for decay, gradients, inputs, against, theirs, note in (
            (
                1e-6,
                'any gradients',
                any_way,
                'Lightly',
                lightly_lars,
                'by definition up to 1e-6 apart: norm of sum, sum of norms',
            ),
            (
                0.01,
                'gradients along the weight',
                along,
                'Lightly',
                lightly_lars,
                'norm of sum = sum of norms here; theirs adds 1e-8 to it',
            ),
            (
                0.01,
                'any gradients',
                any_way,
                'formula, norm of sum',
                norm_of_sum_lars,
                'as the authors of SimCLR and Barlow Twins',
            ),
            (
                0.01,
                'any gradients',
                any_way,
                'Lightly',
                lightly_lars,
                'NOT COUNTED, other definition: ours norm of sum, theirs sum of norms',
            ),
        ):
            yield Option(
                f'LARS, 3 steps, decay {decay}, rate {enters}, {gradients}',
                against,
                our_lars(decay, enters),
                theirs(decay),
                inputs,
                note,
                counts=not note.startswith('NOT COUNTED'),
            )


def relative_difference(ours, theirs):
    """The largest difference over the largest of theirs; absolute if those are 0."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ValueError(
            f'{ours.dtype} {ours.shape} beside {theirs.dtype} {theirs.shape}.'
        )
    return np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1.0)


def compare(option, dtype):
    """Gives both values, and the differences of values and gradients, if any."""
    inputs = [x.astype(dtype) for x in option.inputs]
    value, gradients = option.ours(inputs)
    their_value, their_gradients = option.theirs(inputs)
    difference = relative_difference(value, their_value)
    apart = [
        relative_difference(*pair)
        for pair in zip(gradients, their_gradients, strict=True)
    ]
    return (
        float(np.linalg.norm(value)),
        float(np.linalg.norm(their_value)),
        float(difference),
        float(np.max(apart)) if apart else None,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--tolerance', type=float, default=1e-5)
    tolerance = parser.parse_args().tolerance
    torch.set_num_threads(1)
    packages = ('jax-mrissl', 'jax', 'optax', 'torch', 'lightly')
    print(*(f'{p} {importlib.metadata.version(p)}' for p in packages), sep=', ')
    print(
        'Differences are relative, of gradients the largest over all inputs; for LARS '
        "the value\nis the norm of the weight's change, the gradient column that of "
        'weight and bias.\n'
    )
    options = [
        *ntxent_options(),
        *barlow_options(),
        *swav_options(),
        *vicreg_options(),
        *lars_options(),
    ]
    left = max(len(o.name) for o in options)
    right = max(len(o.against) for o in options)
    print(
        f'{"option":{left}}  {"against":{right}}  float  {"ours":>14}  {"theirs":>14}'
        '    value  gradient  note'
    )
    worst = {}
    failed = 0
    for dtype in (np.float64, np.float32):
        jax.config.update('jax_enable_x64', dtype is np.float64)
        bits = 8 * np.dtype(dtype).itemsize
        for option in options:
            ours, theirs, value, gradient = compare(option, dtype)
            note = option.note
            largest = float(np.max([value, gradient or 0.0]))  # NaN stays NaN
            if option.counts:
                worst[bits] = np.maximum(worst.get(bits, 0.0), largest)
                if not largest <= tolerance:
                    failed += 1
                    note = f'OVER {tolerance:g}  {note}'
            shown = '-' if gradient is None else f'{gradient:.1e}'
            line = (
                f'{option.name:{left}}  {option.against:{right}}  {bits:5d}  '
                f'{ours:14.9f}  {theirs:14.9f}  {value:.1e}  {shown:>8}  {note}'
            )
            print(line.rstrip())
    for bits, largest in worst.items():
        print(f'\nlargest difference that counts, float{bits}: {largest:.1e}', end='')
    print(f'\n{failed} of {2 * len(options)} over {tolerance:g}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
