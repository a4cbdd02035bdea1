"""A prepared dataset, read: facts in memory, images by row."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.core.run_dir import read_json
from jax_mrissl.data.canvas import shown
from jax_mrissl.data.example import decode_example
from jax_mrissl.data.records import READABLE, shard_name
from jax_mrissl.readers.image import decode_png

# What of a record is held in memory: all but its image. Text has no dtype here.
_FACTS = {
    'box': np.int32,
    'label': np.int32,
    'target': np.float32,
    'group': None,
    'position': np.float32,
    'site': None,
    'file_id': None,
    'pixel_sha256': None,
    'window': np.float32,
}
# As Python's objects, facts take ten times their room; so they are gathered in parts.
_RECORDS_AT_ONCE = 4096


class Messages(Protocol):
    """Records by number, as they are on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, record: int, /) -> bytes: ...


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSet:
    """Some rows of a prepared dataset.

    Attributes:
        name: the dataset's.
        card: what `prepare` wrote of it; see `specs` in the card's own text.
        boxes: int32 [n, 4]: top, left, height, width of each image's valid part.
        labels: int32 [n], -1 where unknown.
        targets: float32 [n], the number that may be regressed, NaN where unknown.
        groups: text [n], a keyed hash of the subject.
        positions: float32 [n], place within the subject's series, NaN where unknown.
        sites: text [n], a keyed hash of where it was made, '' where unknown.
        splits: text [n], the shipped split that each image is in.
        file_ids: text [n].
        pixel_sha256: text [n], of the raw pixels.
        windows: float32 [n, 2], the stored values that are shown as black and white,
            where images have 16 bits; None: they have 8, and all are shown.
        left_out: the groups that `without` has left out.
    """

    name: str
    card: Mapping[str, Any]
    boxes: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    positions: np.ndarray
    sites: np.ndarray
    splits: np.ndarray
    file_ids: np.ndarray
    pixel_sha256: np.ndarray
    windows: np.ndarray | None
    _sources: tuple[Messages, ...]
    _places: np.ndarray  # int32 [n, 2]: which source, which record of it
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 that runs and tables cite."""
        return self.card['fingerprint']

    @functools.cached_property
    def group_numbers(self) -> np.ndarray:
        """Numbers the groups, int32 [n]: equal where the subject is."""
        return np.unique(self.groups, return_inverse=True)[1].astype(np.int32)

    @property
    def bits(self) -> int:
        """Of a stored pixel: 8 or 16."""
        return self.card['bits']

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the stored canvas."""
        return self.card['canvas'], self.card['canvas'], self.card['channels']

    def images(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decodes images, uint8 or uint16 [len(rows), H, W, C]."""
        return np.stack([self.image(int(row)) for row in rows])

    def image(self, row: int) -> np.ndarray:
        """Decodes one image, [H, W, C]."""
        source, record = self._places[row]
        message = self._sources[source][int(record)]
        return decode_png(decode_example(message, ('image',))['image'])

    def all_images(self) -> np.ndarray:
        """Decodes every image once, on threads (the decoder frees Python's lock)."""
        first = self.image(0)
        images = np.empty((len(self), *first.shape), first.dtype)

        def fill(row: int) -> None:
            images[row] = self.image(row)

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(len(self)), chunksize=64))
        return images

    def shown_images(self) -> np.ndarray:
        """Decodes every image as eyes see it, through its window, uint8."""
        return np.stack([self.shown_image(row) for row in range(len(self))])

    def shown_image(self, row: int) -> np.ndarray:
        """Decodes one image as eyes see it, uint8 [H, W, C]."""
        window = (0, 255) if self.windows is None else self.windows[row]
        return shown(self.image(row), window)

    def select(self, rows: np.ndarray) -> 'PreparedSet':
        """Gives some of the rows, in the order asked for."""
        picked = {
            f.name: getattr(self, f.name)[rows]
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        return dataclasses.replace(self, **picked)

    def without(self, groups: Sequence[str]) -> 'PreparedSet':
        """Leaves out all rows of some groups, and remembers which."""
        here = np.isin(self.groups, list(groups))
        if not here.any():
            return self
        out = {*self.left_out, *self.groups[here].tolist()}
        kept = self.select(np.flatnonzero(~here))
        return dataclasses.replace(kept, left_out=tuple(sorted(out)))


def find_prepared(
    data_dir: str | Path, name: str, *, advice: str = ''
) -> tuple[Path, Mapping[str, Any]]:
    """Finds the newest version of a prepared dataset, and reads its card alone.

    Args:
        data_dir, name, advice: as in `open_prepared`.

    Raises:
        UserError: it is not there, not whole, or of another format.
    """
    home = Path(data_dir).expanduser() / name
    versions = sorted(
        (p for p in home.glob('*.*.*') if (p / 'dataset_info.json').is_file()),
        key=lambda p: [int(n) if n.isdigit() else -1 for n in p.name.split('.')],
    )
    if not versions:
        half = any(home.glob('*.*.*'))
        state = 'is only half prepared' if half else 'is not prepared'
        raise UserError(
            f'The dataset {name!r} {state} in {Path(data_dir).expanduser().absolute()}.'
            + (f'\n{advice}' if advice else '')
        )
    folder = versions[-1]
    card = read_json(folder / 'card.json')
    if card['options']['format'] not in READABLE:
        raise UserError(
            f'{folder} was prepared by another version of jax_mrissl. Prepare it '
            'again, with --overwrite.' + (f'\n{advice}' if advice else '')
        )
    return folder, card


def open_prepared(
    data_dir: str | Path, name: str, split: str = 'all', *, advice: str = ''
) -> PreparedSet:
    """Opens the newest version of a prepared dataset.

    Args:
        data_dir: where `prepare` put its datasets.
        name: the dataset's.
        split: one of its splits, or 'all' for all of them, in order of their names.
        advice: what a user is told who has not prepared it: source, layout, command.

    Raises:
        UserError: it is not there, not whole, of another format, or has no such split.
    """
    folder, card = find_prepared(data_dir, name, advice=advice)
    splits = _open_splits(folder)
    if split != 'all':
        expect_known(split, [*splits, 'all'], f'split of {name}')
        splits = {split: splits[split]}
    sizes = [len(source) for source in splits.values()]
    if not sum(sizes):
        raise UserError(f'The split {split!r} of {name} holds no image.')
    facts = _facts(list(splits.values()))
    of = np.repeat(np.arange(len(sizes)), sizes)
    places = np.stack([of, np.concatenate([np.arange(n) for n in sizes])], 1)
    return PreparedSet(
        name=name,
        card=card,
        boxes=facts['box'],
        labels=facts['label'],
        targets=facts['target'],
        groups=facts['group'],
        positions=facts['position'],
        sites=facts['site'],
        splits=np.array(list(splits))[of],
        file_ids=facts['file_id'],
        pixel_sha256=facts['pixel_sha256'],
        windows=None if card['bits'] == 8 else facts['window'],
        _sources=tuple(splits.values()),
        _places=places.astype(np.int32),
    )


def open_fingerprint(
    data_dir: str | Path, fingerprint: str, split: str, *, left_out: Sequence[str] = ()
) -> PreparedSet | None:
    """Opens the dataset of a fingerprint; None if it is not there, or not any more.

    Args:
        data_dir: where prepared datasets are.
        fingerprint, split: of what is looked for.
        left_out: groups of it that were not used.
    """
    for file in sorted(Path(data_dir).expanduser().glob('*/*.*.*/card.json')):
        try:
            known = read_json(file).get('fingerprint') == fingerprint
            if not known:
                continue
            prepared = open_prepared(data_dir, file.parts[-3], split)
        except (OSError, ValueError):  # half written, another layout, no such split
            continue
        if prepared.fingerprint == fingerprint:  # the newest version
            return prepared.without(left_out)
    return None


def _facts(sources: Sequence[Messages]) -> dict[str, np.ndarray]:
    """Reads all records for all but their images, in order."""
    parts: dict[str, list[np.ndarray]] = {fact: [] for fact in _FACTS}
    for source in sources:
        for start in range(0, len(source), _RECORDS_AT_ONCE):
            stop = min(start + _RECORDS_AT_ONCE, len(source))
            rows = [decode_example(source[i], _FACTS) for i in range(start, stop)]
            for fact, dtype in _FACTS.items():
                values = [row[fact] for row in rows]
                parts[fact].append(
                    np.array([value.decode() for value in values])
                    if dtype is None
                    else np.array(values, dtype)
                )
    found: dict[str, np.ndarray] = {}
    for fact in _FACTS:  # one by one, so that a large set is not in memory twice
        column = np.concatenate(parts.pop(fact))
        scalar = column.ndim == 2 and column.shape[1] == 1
        found[fact] = column[:, 0] if scalar else column
    return found


@functools.lru_cache(maxsize=16)
def _open_splits(folder: Path) -> dict[str, Messages]:
    """Opens the records of each split, in order of their names.

    Not by TFDS, which can: it takes ten times as long for a record.
    """
    info = read_json(folder / 'dataset_info.json')
    splits: dict[str, Messages] = {}
    for split in sorted(info['splits'], key=lambda told: told['name']):
        count = len(split['shardLengths'])
        shards = [
            str(folder / shard_name(info['name'], split['name'], index, count))
            for index in range(count)
        ]
        splits[split['name']] = ArrayRecordDataSource(shards)
    return splits
