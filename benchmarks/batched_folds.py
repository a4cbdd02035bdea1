"""Are folds trained faster side by side, in one program, than one after the other?

    python benchmarks/batched_folds.py [--folds 5] [--pixels 64] [--batch 64]
        [--encoder resnet18] [--dtype float32] [--rounds 7]

A finetuning step (forward, backward with BatchNorm in training mode, AdamW) of each
fold's own network on its own images: one program `folds` times, and one program of all,
by `jax.vmap`, in turn in one process. Quote the ratio. Each fold's numbers are the same
either way, up to rounding, which is looked at first.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_mrissl.models import ENCODERS


def make_step(options):
    """Gives a fresh state by key, and the step of one fold: state, images -> state."""
    module = ENCODERS[options.encoder]().module(dtype=jnp.dtype(options.dtype))
    rule = optax.adamw(1e-3)

    def initial(key, images):
        variables = module.init(key, images, train=True)
        return variables, rule.init(variables['params'])

    def step(state, images):
        variables, moments = state

        def loss(params):
            h, seen = module.apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats'],
            )
            return (h.astype(jnp.float32) ** 2).mean(), seen

        gradient, seen = jax.grad(loss, has_aux=True)(variables['params'])
        change, moments = rule.update(gradient, moments, variables['params'])
        params = optax.apply_updates(variables['params'], change)
        return {'params': params, **seen}, moments

    return initial, step


def seconds(run):
    """Gives the seconds that a run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--folds', type=int, default=5)
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--encoder', default='resnet18')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--rounds', type=int, default=7)
    options = parser.parse_args()
    initial, step = make_step(options)
    keys = jax.random.split(jax.random.key(0), options.folds)
    shape = (options.folds, options.batch, options.pixels, options.pixels, 3)
    images = jnp.float32(np.random.default_rng(0).normal(size=shape))
    together = jax.jit(jax.vmap(initial))(keys, images)
    alone = [
        jax.tree.map(lambda leaf, k=k: leaf[k], together) for k in range(len(keys))
    ]
    one = jax.jit(step, donate_argnums=0).lower(alone[0], images[0]).compile()
    all_ = jax.jit(jax.vmap(step), donate_argnums=0).lower(together, images).compile()

    def in_turn():
        for k in range(len(alone)):
            alone[k] = one(alone[k], images[k])
        jax.block_until_ready(alone)

    def batched():
        nonlocal together
        together = jax.block_until_ready(all_(together, images))

    in_turn()
    batched()
    for k in range(len(alone)):
        for found, expected in zip(
            jax.tree.leaves(together[0]['batch_stats']),
            jax.tree.leaves(alone[k][0]['batch_stats']),
            strict=True,
        ):
            np.testing.assert_allclose(found[k], expected, rtol=0.05, atol=1e-2)
    times = {in_turn: [], batched: []}
    for _ in range(options.rounds):
        for run, found in times.items():
            found.append(seconds(run))
    ratios = sorted(
        one / both for one, both in zip(times[in_turn], times[batched], strict=True)
    )
    print(
        f'{jax.devices()[0].device_kind}, {options.encoder}, {options.folds} folds of '
        f'{options.batch} images at {options.pixels} pixels, {options.dtype}: '
        f'in turn {statistics.median(times[in_turn]):.3f} s, batched '
        f'{statistics.median(times[batched]):.3f} s; batched is '
        f'{statistics.median(ratios):.2f} x as fast ({ratios[0]:.2f} to '
        f'{ratios[-1]:.2f})'
    )


if __name__ == '__main__':
    main()
