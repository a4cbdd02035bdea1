"""A set of random images in memory, for measuring time where there are no data."""

import numpy as np

from jax_mrissl.data.example import encode_example
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.report.png import encode_png

_DISTINCT = 256
_SPOT = 8  # pixels over which an image is smooth


def random_images(
    name: str, count: int, *, canvas: int, channels: int, seed: int = 0
) -> PreparedSet:
    """Makes a set of spots and noise, encoded and read as prepared ones are.

    Args:
        name: the dataset in whose place it stands.
        count: images; each is a subject of its own. Beyond 256 they repeat.
        canvas: height and width, in pixels.
        channels: 1 or 3.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    distinct = min(count, _DISTINCT)
    cells = -(-canvas // _SPOT)
    records: list[bytes] = []
    for _ in range(distinct):
        spots = rng.integers(0, 200, (cells, cells, channels))
        smooth = spots.repeat(_SPOT, 0).repeat(_SPOT, 1)[:canvas, :canvas]
        pixels = (smooth + rng.integers(0, 56, smooth.shape)).astype(np.uint8)
        png = encode_png(pixels if channels == 3 else pixels[..., 0], method='quick')
        records.append(encode_example({'image': png}))
    names = np.array([f'random-{i}' for i in range(count)])
    nothing = np.full(count, '')
    return PreparedSet(
        name=name,
        card={
            'fingerprint': f'random-{count}-{canvas}-{channels}-{seed}',
            'canvas': canvas,
            'channels': channels,
            'bits': 8,
        },
        boxes=np.tile(np.array([0, 0, canvas, canvas], np.int32), (count, 1)),
        labels=np.full(count, -1, np.int32),
        targets=np.full(count, np.nan, np.float32),
        groups=names,
        positions=np.full(count, np.nan, np.float32),
        sites=nothing,
        splits=nothing,
        file_ids=names,
        pixel_sha256=names,
        windows=None,
        _sources=(records,),
        _places=np.stack([np.zeros(count), np.arange(count) % distinct], 1).astype(
            np.int32
        ),
    )
