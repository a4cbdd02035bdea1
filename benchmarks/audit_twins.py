"""Does the audit find planted twins among 100,000 images of 64 pixels, and how soon?

    python benchmarks/audit_twins.py [--images=100000] [--twins=4000] [--folder=DIR] \
        [--seed=0] [--out=audit_twins.json]

Without --folder the images are smooth random textures with the spectrum of photographs.
With it, each is made of two random images of the folder (any tree of JPEG and PNG
files), a crop of 0.6 to 1 of the side, mixed with a second of at most a third of its
strength. Twins are planted in all eight orientations, with one change each in turn: the
turn alone, rescaled to 0.5 to 1.5 of the side, JPEG of quality 30 to 90, brightness by
up to 40 of 255 levels, contrast by 0.6 to 1.4, gamma 0.6 to 1.6, and all of these in a
row, each half as strong. Everything is compared with everything. Told are recall by
change (the pair is found, in the right orientation), of either kind and as a twin, and
precision: the share of the pairs found that were planted.
"""

import argparse
import io
import json
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jax_mrissl.likeness import orientation
from jax_mrissl.likeness.pairs import KINDS, Pictures, find_pairs

PIXELS = 64


def textures(rng, count):
    frequency = np.hypot(
        np.fft.fftfreq(PIXELS)[:, None], np.fft.rfftfreq(PIXELS)[None, :]
    )
    frequency[0, 0] = 1
    noise = rng.normal(size=(2, count, *frequency.shape))
    # Amplitudes of photographs fall as frequency to the power of -1 to -2.
    power = rng.uniform(1.0, 1.8, (count, 1, 1))
    drawn = np.fft.irfft2(
        (noise[0] + 1j * noise[1]) / frequency**power, s=(PIXELS,) * 2
    )
    drawn -= drawn.mean(axis=(1, 2), keepdims=True)
    drawn *= rng.uniform(25, 55, (count, 1, 1)) / drawn.std(axis=(1, 2), keepdims=True)
    return np.clip(drawn + rng.uniform(90, 150, (count, 1, 1)), 0, 255).astype(np.uint8)


class Mixtures:
    """Makes images of real ones."""

    def __init__(self, folder):
        kinds = ('.jpg', '.jpeg', '.png')
        files = sorted(p for p in Path(folder).rglob('*') if p.suffix.lower() in kinds)
        if len(files) < 100:
            raise SystemExit(
                f'{folder} has {len(files)} JPEG or PNG files; 100 needed.'
            )
        # Of few sources many mixtures show nearly the same: use as many as there are.
        self.sources = []
        for file in files[:20_000]:
            with Image.open(file) as image:
                self.sources.append(np.asarray(image.convert('L').resize((96, 96))))

    def draw(self, rng, count):
        """Draws some, uint8 [count, 64, 64]."""
        return np.stack([self._one(rng) for _ in range(count)])

    def _one(self, rng):
        parts = []
        for _ in range(2):
            source = self.sources[rng.integers(len(self.sources))]
            size = int(rng.uniform(0.6, 1) * 96)
            top, left = rng.integers(0, 97 - size, 2)
            crop = Image.fromarray(source[top : top + size, left : left + size])
            small = np.asarray(crop.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))
            parts.append(orientation.turned(small, int(rng.integers(8))).astype(float))
        weight = rng.uniform(0.15, 0.33)
        return ((1 - weight) * parts[0] + weight * parts[1]).astype(np.uint8)


def rescaled(picture, rng, strength):
    factor = rng.uniform(1 - 0.5 * strength, 1 + 0.5 * strength)
    side = max(8, round(PIXELS * factor))
    return resize(picture, side)


def resize(picture, side):
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def as_jpeg(picture, rng, strength):
    file = io.BytesIO()
    quality = int(rng.integers(90 - int(60 * strength), 91))
    Image.fromarray(np.ascontiguousarray(picture)).save(file, 'JPEG', quality=quality)
    return np.asarray(Image.open(file))


def toned(picture, curve):
    return np.clip(np.rint(curve(picture.astype(float))), 0, 255).astype(np.uint8)


def brightened(picture, rng, strength):
    added = rng.uniform(-40, 40) * strength
    return toned(picture, lambda x: x + added)


def contrasted(picture, rng, strength):
    factor = 1 + rng.uniform(-0.4, 0.4) * strength
    return toned(picture, lambda x: (x - 128) * factor + 128)


def with_gamma(picture, rng, strength):
    gamma = np.exp(rng.uniform(np.log(0.6), np.log(1.6)) * strength)
    return toned(picture, lambda x: 255 * (x / 255) ** gamma)


CHANGES = {
    'turned alone': (),
    'rescaled': (rescaled,),
    'JPEG': (as_jpeg,),
    'brightness': (brightened,),
    'contrast': (contrasted,),
    'gamma': (with_gamma,),
    'all, half as strong': (brightened, contrasted, with_gamma, rescaled, as_jpeg),
}


def change(picture, steps, rng):
    for step in steps:
        picture = step(picture, rng, 1.0 if len(steps) == 1 else 0.5)
    return resize(picture, PIXELS) if picture.shape != (PIXELS, PIXELS) else picture


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--images', type=int, default=100_000)
    parser.add_argument('--twins', type=int, default=4_000)
    parser.add_argument('--folder', default='')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default='')
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    draw = Mixtures(options.folder).draw if options.folder else textures
    originals = options.images - options.twins
    small = np.empty((options.images, PIXELS, PIXELS), np.uint8)
    for start in range(0, originals, 1000):
        count = min(1000, originals - start)
        small[start : start + count] = draw(rng, count)
    chosen = rng.choice(originals, options.twins, replace=False)
    names = list(CHANGES)
    for twin, original in enumerate(chosen):
        turned = orientation.turned(small[original], twin % 8)
        steps = CHANGES[names[twin % len(names)]]
        small[originals + twin] = change(np.ascontiguousarray(turned), steps, rng)

    began = time.monotonic()
    pairs = find_pairs(Pictures(small, [str(i) for i in range(len(small))]))
    seconds = time.monotonic() - began
    found = {}
    for a, b, kind, number in zip(
        pairs.first, pairs.second, pairs.kind, pairs.orientation, strict=True
    ):
        if b >= originals and a == chosen[b - originals]:
            there = orientation.turned(np.arange(4096).reshape(64, 64), int(number))
            twin = int(b) - originals
            wanted = orientation.turned(np.arange(4096).reshape(64, 64), twin % 8)
            if (there == wanted).all():
                found[twin] = KINDS[kind]
    told = {
        'images': options.images,
        'twins': options.twins,
        'source': 'mixtures of real images' if options.folder else 'textures',
        'seconds': round(seconds, 1),
        'peak_memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        'recall': {},
        'recall_as_twin': {},
        'pairs_found': {k: int((pairs.kind == i).sum()) for i, k in enumerate(KINDS)},
        'planted_among_them': {
            k: sum(kind == k for kind in found.values()) for k in KINDS
        },
    }
    for index, name in enumerate([*names, 'all of them']):
        twins = [
            t
            for t in range(options.twins)
            if name not in names or t % len(names) == index
        ]
        told['recall'][name] = round(np.mean([t in found for t in twins]), 4)
        as_twin = np.mean([found.get(t) in ('exact', 'twin') for t in twins])
        told['recall_as_twin'][name] = round(as_twin, 4)
    told['precision'] = round(len(found) / max(1, len(pairs)), 4)
    text = json.dumps(told, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + '\n')


if __name__ == '__main__':
    main()
