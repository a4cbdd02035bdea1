"""Records of a prepared dataset, and the shards that they are written to."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_parser, example_serializer

from jax_mrissl.core.errors import UnreadableFile, UserError
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.readers import image as image_reader
from jax_mrissl.readers.read import read
from jax_mrissl.readers.slice import Slice, pixel_sha256

# About 5 MB at 160 pixels: small enough that a killed command loses little.
IMAGES_PER_SHARD = 512


# Of the stored pixels, by their bits.
_DTYPES: dict[int, Any] = {8: np.uint8, 16: np.uint16}

# Raised by hand when the same files and options give other records than before.
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """One record to be: what is stored, and where its pixels come from.

    Attributes:
        file: the raw file.
        frame: which image of it.
        windows: the values that become 0 and 255, for all channels or for each; ():
            it is a picture.
        levels: of 16 bits: the value that is stored as 0, and that of one step; ():
            stored as 8 bits, or as the picture that it is.
        label, target, group, position, site, source, file_id, pixel_sha256: the
            features of these names.
    """

    file: str
    frame: int
    windows: Sequence[Sequence[float]]
    levels: Sequence[float]
    label: int
    target: float
    group: str
    position: float
    site: str
    source: str
    file_id: str
    pixel_sha256: str


def features(channels: int, bits: int) -> tfds.features.FeaturesDict:
    """Declares what a record holds, for images of 1 or 3 channels, 8 or 16 bits."""
    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(
                shape=(None, None, channels), dtype=_DTYPES[bits], encoding_format='png'
            ),
            # The stored values that are shown as black and as white.
            'window': tfds.features.Tensor(shape=(2,), dtype=np.float32),
            'box': tfds.features.Tensor(shape=(4,), dtype=np.int32),
            'label': tfds.features.Scalar(np.int64),
            'target': tfds.features.Scalar(np.float32),
            'group': tfds.features.Text(),
            'position': tfds.features.Scalar(np.float32),
            'site': tfds.features.Text(),
            'source': tfds.features.Text(),
            'file_id': tfds.features.Text(),
            'spacing': tfds.features.Tensor(shape=(2,), dtype=np.float32),
            'pixel_sha256': tfds.features.Text(),
        }
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """An image on its canvas.

    Attributes:
        pixels: uint8 or uint16 [canvas, canvas, C], 0 outside the box.
        window: the values of them that are shown as black and as white.
        box: top, left, height, width of the image, in pixels.
        spacing_mm: of the stored rows and columns; NaN where unknown.
    """

    pixels: np.ndarray
    window: tuple[float, float]
    box: tuple[int, int, int, int]
    spacing_mm: tuple[float, float]


def place(
    image: Slice,
    *,
    windows: Sequence[Sequence[float]],
    canvas: int,
    channels: int,
    bits: int = 8,
    levels: Sequence[float] = (),
) -> Placed:
    """Scales an image to its canvas: longer side to longer side, centred on black.

    Pixels that are not square in mm become so.

    Args:
        image: as read.
        windows: the values that become 0 and 255, one pair for all channels or one
            for each; () for a picture, which stays as it is.
        canvas: height and width of the canvas.
        channels: 1 or 3; colour becomes gray by ITU-R 601.
        bits: of the stored pixels.
        levels: as in `Row`: a scan keeps all of its values, in 16 bits.
    """
    pixels = image.pixels
    if pixels.ndim == 3 and channels == 1:
        pixels = image_reader.luma(pixels)
    row_mm, column_mm = image.spacing_mm
    extent = np.array(pixels.shape[:2], float)
    if row_mm > 0 and column_mm > 0:
        extent *= row_mm, column_mm
    height, width = (
        max(1, round(float(side) * canvas / float(extent.max()))) for side in extent
    )
    if levels:
        (least, step), ends = levels, windows[0]
        window = (ends[0] - least) / step, (ends[1] - least) / step
        stored = np.nan_to_num((pixels.astype(float) - least) / step, nan=0.0)
        layers = [stored.astype(np.float32)]
    else:
        window = 0.0, 255.0
        layers = [_windowed(pixels, *ends) for ends in windows] or [pixels]
    highest = np.iinfo(_DTYPES[bits]).max
    resized = np.dstack(
        [image_reader.resize(one, height, width, highest=highest) for one in layers]
    )
    if resized.shape[2] == 1:
        resized = np.repeat(resized, channels, axis=2)
    top, left = (canvas - height) // 2, (canvas - width) // 2
    whole = np.zeros((canvas, canvas, channels), _DTYPES[bits])
    whole[top : top + height, left : left + width] = resized
    return Placed(
        pixels=whole,
        window=window,
        box=(top, left, height, width),
        spacing_mm=(
            row_mm * pixels.shape[0] / height,
            column_mm * pixels.shape[1] / width,
        ),
    )


def _windowed(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps low and high to 0 and 255, float32 [H, W]; NaN becomes 0."""
    scale = np.float32(255 / (high - low))
    scaled = (pixels.astype(np.float32) - np.float32(low)) * scale
    return np.nan_to_num(np.clip(scaled, 0, 255), nan=0.0)


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """Names a shard as TFDS does."""
    return f'{name}-{split}.array_record-{index:05d}-of-{count:05d}'


def facts_name(shard: Path) -> Path:
    """Names the file that says what is in a finished shard."""
    return shard.with_name(f'{shard.name}.json')


def is_finished(shard: Path) -> bool:
    """Says whether a shard was written whole, by this or an earlier start."""
    return shard.is_file() and facts_name(shard).is_file()


def write_shard(
    path: str, rows: Sequence[dict[str, Any]], canvas: int, channels: int, bits: int
) -> Iterator[int]:
    """Writes one shard under a temporary name, then renames it.

    Beside it lies a file of facts: SHA-256 of the records, number of bytes, and for
    each channel the count, sum and sum of squares of the pixels inside the boxes, as
    shown, of 255.

    Args:
        path: of the finished shard.
        rows: fields of its `Row`s, in order.
        canvas: height and width of the stored images.
        channels, bits: of the stored images.

    Yields:
        1 after each image.

    Raises:
        UserError: a raw file changed since it was looked at, or cannot be read again.
    """
    shard = Path(path)
    temporary = shard.with_name(f'.{shard.name}.{os.getpid()}.tmp')
    writer = array_record_module.ArrayRecordWriter(str(temporary), 'group_size:1')
    digest, size = hashlib.sha256(), 0
    sums = np.zeros((2, channels), np.int64)
    pixel_count = 0
    with _errors_of_the_disk(temporary):
        for fields in rows:
            placed, record = _record(Row(**fields), canvas, channels, bits)
            writer.write(record)
            digest.update(hashlib.sha256(record).digest())
            size += len(record)
            top, left, height, width = placed.box
            inside = shown(placed.pixels, placed.window)
            inside = inside[top : top + height, left : left + width]
            inside = inside.reshape(-1, channels).astype(np.int64)
            sums += inside.sum(axis=0), (inside**2).sum(axis=0)
            pixel_count += len(inside)
            yield 1
        writer.close()
        _keep(temporary, len(rows))
    facts = {
        'sha256': digest.hexdigest(),
        'bytes': size,
        'count': len(rows),
        'pixels': pixel_count,
        'sum': sums[0].tolist(),
        'sum_of_squares': sums[1].tolist(),
    }
    write_json(facts_name(shard), facts)
    os.replace(temporary, shard)


def read_facts(shard: Path) -> dict[str, Any]:
    """Reads what `write_shard` wrote beside a shard."""
    return read_json(facts_name(shard))


def shown(pixels: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Gives stored pixels as they are shown through their window, uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(_windowed(pixels, *window)).astype(np.uint8)


def read_shown(
    shards: Sequence[Path], index: int, channels: int, bits: int
) -> np.ndarray:
    """Reads record `index` of a split as it is shown, given all of its shards."""
    for shard in shards:
        count = read_facts(shard)['count']
        if index < count:
            reader = array_record_module.ArrayRecordReader(str(shard))
            record = reader.read([index])[0]
            reader.close()
            example = _parser(channels, bits).parse_example(record)
            return shown(image_reader.decode_png(example['image']), example['window'])
        index -= count
    raise IndexError(index)


@contextlib.contextmanager
def _errors_of_the_disk(temporary: Path) -> Iterator[None]:
    """Gives the writer's own errors their proper type, and the room back."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        full = 'No space left' in str(error) or 'quota' in str(error)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code), str(temporary)) from error


def _keep(temporary: Path, count: int) -> None:
    """Brings a shard to the disk, and makes sure that all of it got there."""
    with open(temporary, 'rb') as file:
        os.fsync(file.fileno())
    try:
        reader = array_record_module.ArrayRecordReader(str(temporary))
        whole = reader.num_records() == count
        reader.close()
    except (RuntimeError, ValueError):  # its own errors, of a file cut short
        whole = False
    if not whole:
        raise OSError(f'{temporary} was not written whole; is the disk full?')


def _record(row: Row, canvas: int, channels: int, bits: int) -> tuple[Placed, bytes]:
    try:
        image = next(iter(read(Path(row.file), row.frame)))
    except UnreadableFile as error:
        raise UserError(f'A raw file cannot be read any more: {error}') from error
    if pixel_sha256(image.pixels) != row.pixel_sha256:
        raise UserError(
            f'The raw file {row.file} changed while it was being prepared. Start again.'
        )
    placed = place(
        image,
        windows=row.windows,
        canvas=canvas,
        channels=channels,
        bits=bits,
        levels=row.levels,
    )
    example = {
        'image': io.BytesIO(image_reader.encode_png(placed.pixels)),
        'window': np.array(placed.window, np.float32),
        'box': np.array(placed.box, np.int32),
        'label': row.label,
        'target': np.float32(row.target),
        'group': row.group,
        'position': np.float32(row.position),
        'site': row.site,
        'source': row.source,
        'file_id': row.file_id,
        'spacing': np.array(placed.spacing_mm, np.float32),
        'pixel_sha256': row.pixel_sha256,
    }
    declared, serializer = _serializer(channels, bits)
    message = serializer.get_tf_example(declared.encode_example(example))
    # Else the order of the features in the message is another in every process.
    return placed, message.SerializeToString(deterministic=True)


@functools.cache
def _serializer(channels: int, bits: int) -> tuple[Any, Any]:
    declared = features(channels, bits)
    info = declared.get_serialized_info()
    return declared, example_serializer.ExampleSerializer(info)


@functools.cache
def _parser(channels: int, bits: int) -> Any:
    info = features(channels, bits).get_serialized_info()
    return example_parser.ExampleParserNp(info)
