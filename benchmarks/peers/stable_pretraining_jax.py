"""The contestant stable-pretraining, its JAX back end: its own trainer and views.

    python stable_pretraining_jax.py --folder=DIR --method=simclr --pixels=64 --batch=64

Its views are fewer than the papers' (no blur, no solarisation, no hue, square crops),
and it reads no files by itself: images wait in memory, resized once.
"""

import argparse
from pathlib import Path

import numpy as np
import stable_pretraining.jax as spj
from flax import nnx
from PIL import Image
from worker import serve

_CANVAS = 96


class Steps(spj.Trainer):
    """A trainer whose steps are asked for from outside."""

    def start(self, module):
        """Does what `fit` does before its first epoch."""
        optimizer = spj.create_optimizer(module.optim)
        self.optimizer = nnx.Optimizer(module, optimizer, wrt=nnx.Param)
        self.module = module

    def run(self, batches):
        """Trains on some batches."""
        self._train_epoch(self.module, batches)


def build(method, pixels):
    rngs = nnx.Rngs(0)
    backbone = spj.backbone.resnet18(rngs=rngs)
    shared = dict(
        optim={'type': 'sgd', 'learning_rate': 0.06, 'momentum': 0.9},
        transform=spj.augment.two_view_transform(pixels),
        backbone=backbone,
    )
    if method == 'simclr':
        return spj.SimCLR(embed_dim=512, rngs=rngs, projector_dims=(512, 128), **shared)
    # The class BarlowTwins, with a transform.
    return spj.Module(
        forward=spj.forward.barlow_twins,
        projector=spj.backbone.MLP(512, [2048, 2048, 2048], rngs=rngs),
        barlow_loss=spj.BarlowTwinsLoss(lambd=5e-3),
        **shared,
    )


def read(folder):
    """Reads all images, float32 [n, 96, 96, 3] in [0, 1]."""
    files = sorted(p for p in Path(folder).rglob('*') if p.is_file())
    pictures = []
    for file in files:
        with Image.open(file) as image:
            pictures.append(np.asarray(image.convert('RGB').resize((_CANVAS,) * 2)))
    return np.stack(pictures).astype(np.float32) / 255


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', required=True)
    parser.add_argument('--method', choices=('barlow', 'simclr'))
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--batch', type=int, default=64)
    options = parser.parse_args()
    images = read(options.folder)
    rng = np.random.default_rng(0)
    trainer = Steps(max_epochs=1)
    trainer.start(build(options.method, options.pixels))

    def run(steps):
        rows = rng.integers(0, len(images), (steps, options.batch))
        trainer.run({'image': images[r]} for r in rows)

    run(2)
    serve(run, images_per_step=options.batch, facts={'images': 'memory'})


if __name__ == '__main__':
    main()
