"""The contestant PyTorch and Lightly: its transforms, losses and heads, its own loop.

    python lightly_pipeline.py --folder=DIR --method=barlow --pixels=64 --batch=64

As Lightly's documentation of each method has it, on a folder of images, with
torchvision's ResNet18 in channels_last, a DataLoader with workers that stay, SGD with
momentum. On a GPU also autocast to bfloat16, torch.compile, TF32, pinned memory and
cuDNN's search. On a CPU float32 (bfloat16 is emulated on most), and torch.compile where
--compile says so.
"""

import argparse

import torch
import torchvision_on_cpu  # noqa: F401  # before torchvision and lightly
from lightly.loss import BarlowTwinsLoss, NTXentLoss, SwaVLoss
from lightly.models.modules.heads import (
    BarlowTwinsProjectionHead,
    SimCLRProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.transforms import (
    BYOLTransform,
    BYOLView1Transform,
    BYOLView2Transform,
    SimCLRTransform,
    SwaVTransform,
)
from torch import nn
from torchvision import models
from torchvision.datasets import ImageFolder
from worker import serve


class Pair(nn.Module):
    """An encoder and a head over two views, one after the other."""

    def __init__(self, encoder, head, criterion):
        super().__init__()
        self.encoder, self.head, self.criterion = encoder, head, criterion

    def forward(self, views):
        first, second = (self.head(self.encoder(view)) for view in views)
        return self.criterion(first.float(), second.float())

    def before_step(self):
        pass


class Swav(nn.Module):
    """Lightly's SwAV over many crops, without a queue."""

    def __init__(self, encoder, prototypes):
        super().__init__()
        self.encoder = encoder
        self.head = SwaVProjectionHead(512, 512, 128)
        self.prototypes = SwaVPrototypes(128, prototypes)
        self.criterion = SwaVLoss()

    def forward(self, views):
        outputs = []
        for view in views:
            z = nn.functional.normalize(self.head(self.encoder(view)), dim=1, p=2)
            outputs.append(self.prototypes(z).float())
        return self.criterion(outputs[:2], outputs[2:])

    def before_step(self):
        self.prototypes.normalize()


def small(pixels):
    """Gives the size of SwAV's small crops, as jax_mrissl has it."""
    return max(8, round(pixels * 3 / 7 / 8) * 8)


def build(method, pixels, encoder):
    """Gives the views and the network with its loss."""
    if method == 'barlow':
        views = BYOLTransform(
            BYOLView1Transform(input_size=pixels), BYOLView2Transform(input_size=pixels)
        )
        head = BarlowTwinsProjectionHead(512, 2048, 2048)
        return views, Pair(encoder, head, BarlowTwinsLoss())
    if method == 'simclr':
        head = SimCLRProjectionHead(512, 512, 128)
        return SimCLRTransform(input_size=pixels), Pair(encoder, head, NTXentLoss())
    views = SwaVTransform(crop_sizes=(pixels, small(pixels)), crop_counts=(2, 6))
    return views, Swav(encoder, 512)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', required=True)
    parser.add_argument('--method', choices=('barlow', 'simclr', 'swav'))
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--compile', action='store_true')
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device('cuda' if gpu else 'cpu')
    if gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision('high')
    encoder = models.resnet18()
    encoder.fc = nn.Identity()
    encoder = encoder.to(memory_format=torch.channels_last)
    transform, network = build(options.method, options.pixels, encoder)
    network = network.to(device).train()
    compiled = gpu or options.compile
    loss_of = torch.compile(network) if compiled else network
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(options.folder, transform),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=gpu,
    )

    def batches():
        while True:
            for views, _ in loader:
                yield views

    feed = batches()

    def run(steps):
        for _ in range(steps):
            views = [
                view.to(device, memory_format=torch.channels_last, non_blocking=True)
                for view in next(feed)
            ]
            network.before_step()
            with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                loss = loss_of(views)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    run(3)
    facts = {
        'device': torch.cuda.get_device_name() if gpu else 'cpu',
        'dtype': 'bfloat16' if gpu else 'float32',
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
        'workers': options.workers,
        'compiled': compiled,
    }
    serve(run, images_per_step=options.batch, facts=facts)


if __name__ == '__main__':
    main()
