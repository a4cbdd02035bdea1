"""A ResNet18 training step on a CPU: ours, plain `lax.conv`, and PyTorch's, in turn.

    python benchmarks/cpu_step.py [--pixels 64] [--batch 32] [--rounds 7]
    python benchmarks/cpu_step.py --sweep          # against lax.conv alone; long

Forward, backward with BatchNorm in training mode, and an SGD update, float32. The
variants take turns in one process, so that a machine whose speed drifts does so for
all; quote the ratios, not the rates. PyTorch is optional (requirements.txt).
"""

import argparse
import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jax_mrissl.models import ENCODERS, convolution


def jax_step(pixels, batch, *, plain):
    """Makes a function that runs one step and waits for it."""
    module = ENCODERS['resnet18']().module()
    rng = np.random.default_rng(0)
    images = jnp.float32(rng.normal(size=(batch, pixels, pixels, 3)))

    def train(variables, images):
        def loss(params):
            h, state = module.apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats'],
            )
            return (h**2).mean(), state

        gradient, state = jax.grad(loss, has_aux=True)(variables['params'])
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables['params'], gradient)
        return {'params': params, **state}

    def build():
        variables = jax.jit(lambda x: module.init(jax.random.key(0), x, train=True))(
            images
        )
        step = jax.jit(train, donate_argnums=0).lower(variables, images).compile()
        return variables, step

    if plain:
        with (
            mock.patch.object(
                convolution, '_conv_by_products', convolution._conv_native
            ),
            mock.patch.object(
                convolution, '_max_pool_by_comparison', convolution._pool_native
            ),
        ):
            variables, step = build()
    else:
        variables, step = build()

    def run():
        nonlocal variables
        variables = jax.block_until_ready(step(variables, images))

    return run


def torch_step(pixels, batch):
    """Makes PyTorch's step: torchvision's layout, channels_last, two threads."""
    import torch
    from torch import nn

    def block(c, d, stride):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = nn.Conv2d(c, d, 3, stride, 1, bias=False)
                self.bn1 = nn.BatchNorm2d(d)
                self.conv2 = nn.Conv2d(d, d, 3, 1, 1, bias=False)
                self.bn2 = nn.BatchNorm2d(d)
                self.down = None
                if stride != 1 or c != d:
                    self.down = nn.Sequential(
                        nn.Conv2d(c, d, 1, stride, bias=False), nn.BatchNorm2d(d)
                    )

            def forward(self, x):
                y = torch.relu(self.bn1(self.conv1(x)))
                y = self.bn2(self.conv2(y))
                return torch.relu(y + (x if self.down is None else self.down(x)))

        return Block()

    torch.set_num_threads(2)
    layers = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for index in range(2):
            stride = 2 if stage and not index else 1
            layers.append(block(channels, width, stride))
            channels = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = net.to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, pixels, pixels)
    images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def run():
        optimizer.zero_grad()
        (net(images) ** 2).mean().backward()
        optimizer.step()

    return run


def interleaved_medians(variants, rounds):
    """Times the variants in turn; gives the median seconds of each."""
    for run in variants.values():
        run()
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(pixels, batch, rounds, *, with_torch):
    variants = {
        'ours': jax_step(pixels, batch, plain=False),
        'lax.conv': jax_step(pixels, batch, plain=True),
    }
    if with_torch:
        try:
            variants['PyTorch'] = torch_step(pixels, batch)
        except ImportError:
            print('PyTorch is not installed: left out.')
    medians = interleaved_medians(variants, rounds)
    print(f'ResNet18 step, {pixels} pixels, batch {batch}, medians of {rounds}:')
    for name, seconds in medians.items():
        ratio = seconds / medians['ours']
        print(f'  {name:9s} {batch / seconds:7.1f} images/s   ours is {ratio:.2f} x')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--sweep', action='store_true')
    options = parser.parse_args()
    if not options.sweep:
        report(options.pixels, options.batch, options.rounds, with_torch=True)
        return
    for pixels, batches in {
        32: (32, 256),
        64: (32, 128, 256),
        128: (32, 64),
        224: (32,),
    }.items():
        for batch in batches:
            report(pixels, batch, 3, with_torch=False)


if __name__ == '__main__':
    main()
