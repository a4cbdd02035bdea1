"""Records of a prepared dataset, and the shards that they are written to."""

import contextlib
import dataclasses
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from jax_mrissl.core.errors import UnreadableFile, UserError
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data.canvas import Encoded, encode, in_colour, place, shown
from jax_mrissl.data.example import decode_example, encode_example
from jax_mrissl.data.spool import read_image
from jax_mrissl.readers.image import decode_png
from jax_mrissl.readers.read import read
from jax_mrissl.readers.slice import Slice, pixel_sha256

# About 5 MB at 160 pixels: small enough that a killed command loses little.
IMAGES_PER_SHARD = 512
# Of larger sets, shards are larger: all of a set's are open at once, and many systems
# let a process open 1,024 files.
_MOST_SHARDS = 256

# PNG does not become smaller by another compression, which takes its time to find out.
_WRITING = 'group_size:1,uncompressed'
# An answer of `write_shard` for so many images: one that listens costs its time, too.
_IMAGES_PER_ANSWER = 32

# Raised by hand when the same files and options give other records than before.
FORMAT = 3
# Those whose records say the same: in 2, images were packed otherwise.
READABLE = (2, FORMAT)


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
        spool: the file that holds the image, decoded before; '': none does.
        place: where it is in that file.
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
    spool: str = ''
    place: int = 0

    def fields(self) -> tuple[Any, ...]:
        """Gives its fields in their order, as `write_shard` takes them."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """Names a shard as TFDS does."""
    return f'{name}-{split}.array_record-{index:05d}-of-{count:05d}'


def shard_count(images: int) -> int:
    """Says into how many shards a split is divided."""
    return min(-(-images // IMAGES_PER_SHARD), _MOST_SHARDS)


def facts_name(shard: Path) -> Path:
    """Names the file that says what is in a finished shard."""
    return shard.with_name(f'{shard.name}.json')


def is_finished(shard: Path) -> bool:
    """Says whether a shard was written whole, by this or an earlier start."""
    return shard.is_file() and facts_name(shard).is_file()


def write_shard(
    path: str, rows: Sequence[Sequence[Any]], canvas: int, channels: int, bits: int
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
        How many images were written since the last time.

    Raises:
        UserError: a raw file changed since it was looked at, or cannot be read again.
    """
    shard = Path(path)
    temporary = shard.with_name(f'.{shard.name}.{os.getpid()}.tmp')
    writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITING)
    digest, size = hashlib.sha256(), 0
    sums = np.zeros((2, channels), np.int64)
    pixel_count = 0
    with _errors_of_the_disk(temporary):
        for number, fields in enumerate(rows, 1):
            row = Row(*fields)
            image = _encoded(row, canvas, channels, bits)
            record = _message(row, image)
            writer.write(record)
            digest.update(hashlib.sha256(record).digest())
            size += len(record)
            sums += image.moments['sum'], image.moments['sum_of_squares']
            pixel_count += image.moments['pixels']
            if number % _IMAGES_PER_ANSWER == 0:
                yield _IMAGES_PER_ANSWER
        yield len(rows) % _IMAGES_PER_ANSWER
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


def read_shown(shards: Sequence[Path], index: int) -> np.ndarray:
    """Reads record `index` of a split as it is shown, given all of its shards.

    Returns: uint8 [H, W, C].
    """
    for shard in shards:
        count = read_facts(shard)['count']
        if index < count:
            reader = array_record_module.ArrayRecordReader(str(shard))
            example = decode_example(reader.read([index])[0], ('image', 'window'))
            reader.close()
            return shown(decode_png(example['image']), example['window'])
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


def _encoded(row: Row, canvas: int, channels: int, bits: int) -> Encoded:
    """Gives the image of a row: from the spool, or else from its raw file."""
    found = read_image(Path(row.spool), row.place) if row.spool else None
    if isinstance(found, Encoded):
        same = [tuple(window) for window in row.windows] == list(found.windows)
        if same and not row.levels and found.channels <= channels:
            return found if found.channels == channels else in_colour(found)
        found = None
    image = found or _read_again(row)
    placed = place(
        image,
        windows=row.windows,
        canvas=canvas,
        channels=channels,
        bits=bits,
        levels=row.levels,
    )
    return encode(placed, row.windows)


def _read_again(row: Row) -> Slice:
    try:
        image = next(iter(read(Path(row.file), row.frame)))
    except UnreadableFile as error:
        raise UserError(f'A raw file cannot be read any more: {error}') from error
    if pixel_sha256(image.pixels) != row.pixel_sha256:
        raise UserError(
            f'The raw file {row.file} changed while it was being prepared. Start again.'
        )
    return image


def _message(row: Row, image: Encoded) -> bytes:
    """Writes the features that `data/tfds_format.py` declares."""
    return encode_example(
        {
            'image': image.png,
            'window': np.array(image.window, np.float32),
            'box': np.array(image.box, np.int32),
            'label': np.array(row.label, np.int64),
            'target': np.array(row.target, np.float32),
            'group': row.group.encode(),
            'position': np.array(row.position, np.float32),
            'site': row.site.encode(),
            'source': row.source.encode(),
            'file_id': row.file_id.encode(),
            'spacing': np.array(image.spacing_mm, np.float32),
            'pixel_sha256': row.pixel_sha256.encode(),
        }
    )
