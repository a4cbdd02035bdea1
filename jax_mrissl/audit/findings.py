"""Finds what prepared datasets share, and gives it as JSON without any name."""

import dataclasses
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jax_mrissl.core.digest import digest
from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data.catalog import advice
from jax_mrissl.data.prepared import PreparedSet, find_prepared, open_prepared
from jax_mrissl.likeness import orientation
from jax_mrissl.likeness.filters import PIXELS
from jax_mrissl.likeness.pairs import KINDS, NEAR, TWIN, Pairs, Pictures, find_pairs
from jax_mrissl.readers.image import thumbnail

# Raised by hand when the same images give other pairs than before.
_VERSION = 2
_FOLDER = '.audit'  # beside the datasets; of no dataset's name

Json = Any


@dataclasses.dataclass(frozen=True)
class Part:
    """One split of a prepared dataset.

    Attributes:
        name: the dataset's.
        split: which of its splits.
        prepared: its images.
    """

    name: str
    split: str
    prepared: PreparedSet

    @property
    def title(self) -> str:
        """How people call it."""
        return f'{self.name}/{self.split}'

    def identity(self) -> Json:
        """Gives what decides which pairs are found."""
        rows = digest(list(self.prepared.file_ids))
        return [self.name, self.split, self.prepared.fingerprint, rows]


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """Parts one after the other, and what is needed of each row."""

    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(len(part.prepared) for part in self.parts)

    def place(self, row: int) -> tuple[int, int]:
        """Gives the part that a row is of, and its row there."""
        for index, part in enumerate(self.parts):
            if row < len(part.prepared):
                return index, row
            row -= len(part.prepared)
        raise IndexError(row)

    @property
    def of(self) -> np.ndarray:
        """The part of each row, int [n]."""
        sizes = [len(part.prepared) for part in self.parts]
        return np.repeat(np.arange(len(sizes)), sizes)

    @property
    def groups(self) -> np.ndarray:
        """The subject of each row, text [n]: equal within one prepared set alone."""
        return np.concatenate(
            [
                np.char.add(f'{part.prepared.fingerprint[:16]} ', part.prepared.groups)
                for part in self.parts
            ]
        )

    @property
    def file_ids(self) -> np.ndarray:
        """The id of each row, text [n]."""
        return np.concatenate([part.prepared.file_ids for part in self.parts])

    @property
    def identities(self) -> list[str]:
        """The hash of each row's raw pixels."""
        return [str(s) for part in self.parts for s in part.prepared.pixel_sha256]


def open_parts(data_dir: Path, names: Sequence[str]) -> list[Part]:
    """Opens all splits of prepared datasets.

    Raises:
        UserError: one is not prepared; with how to.
    """
    parts = []
    for name in dict.fromkeys(names):
        _, card = find_prepared(data_dir, name, advice=advice(name, data_dir))
        for split in card['counts']['splits']:
            parts.append(Part(name, split, open_prepared(data_dir, name, split)))
    return parts


def find_all(parts: Sequence[Part], data_dir: Path, *, spare: Path) -> Pairs:
    """Finds the pairs within and between the parts, or reads them if they are known.

    Args:
        parts: the images; rows of the result count through them.
        data_dir: where prepared sets are, and what was found about them.
        spare: keeps it where `data_dir` cannot be written to.
    """
    return _known_or_found(Side(tuple(parts)), None, data_dir, spare)


def find_between(
    first: Sequence[Part], second: Sequence[Part], data_dir: Path, *, spare: Path
) -> Pairs:
    """Finds the pairs of one image of `first` and one of `second`."""
    return _known_or_found(Side(tuple(first)), Side(tuple(second)), data_dir, spare)


def _known_or_found(
    left: Side, right: Side | None, data_dir: Path, spare: Path
) -> Pairs:
    key = {
        'version': _VERSION,
        'twin': TWIN,
        'near': NEAR,
        'left': [part.identity() for part in left.parts],
        'right': None if right is None else [part.identity() for part in right.parts],
    }
    name = f'pairs-{digest(key)[:32]}.json'
    for folder in (data_dir / _FOLDER, spare):
        if (pairs := _read(folder / name, key)) is not None:
            return pairs
    pairs = _find(left, right)
    stored = {
        'key': key,
        'pairs': {
            f.name: getattr(pairs, f.name).tolist() for f in dataclasses.fields(Pairs)
        },
    }
    try:
        write_json(data_dir / _FOLDER / name, stored)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        write_json(spare / name, stored)
    return pairs


def _read(path: Path, key: Json) -> Pairs | None:
    """Gives the pairs of a file; None if there is none, or of something else."""
    try:
        stored = read_json(path)
        if stored['key'] != json.loads(json.dumps(key)):
            return None
        found = stored['pairs']
        return Pairs(
            np.array(found['first'], np.int32),
            np.array(found['second'], np.int32),
            np.array(found['kind'], np.int8),
            np.array(found['orientation'], np.int8),
            np.array(found['likeness'], np.float32),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _find(left: Side, right: Side | None) -> Pairs:
    logging.info(
        'Looking for duplicates and twins: %s.',
        f'{len(left):,} images against {len(right):,}'
        if right
        else f'{len(left):,} images among themselves',
    )
    with tempfile.TemporaryDirectory(prefix='jax_mrissl-audit-') as folder:
        sides = [side for side in (left, right) if side is not None]
        pictures = [
            Pictures(_small(side, Path(folder) / str(i)), side.identities)
            for i, side in enumerate(sides)
        ]
        return find_pairs(*pictures)


def _small(side: Side, path: Path) -> np.ndarray:
    """Makes small gray pictures of what is inside the boxes, in a file: [n, 64, 64]."""
    small = np.memmap(path, np.uint8, 'w+', shape=(len(side), PIXELS, PIXELS))
    start = 0
    with (
        Progress('Reading images', len(side), unit='images') as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for part in side.parts:

            def picture(row: int, prepared: PreparedSet = part.prepared) -> np.ndarray:
                return thumbnail(inside(prepared, row), PIXELS)

            for row, made in enumerate(pool.map(picture, range(len(part.prepared)))):
                small[start + row] = made
                bar.advance(1)
            start += len(part.prepared)
    return small


def inside(prepared: PreparedSet, row: int) -> np.ndarray:
    """Gives an image without the canvas around it, uint8 [H, W, C]."""
    top, left, height, width = prepared.boxes[row]
    pixels = prepared.shown_image(row)[top : top + height, left : left + width]
    return np.ascontiguousarray(pixels)


def describe(parts: Sequence[Part], pairs: Pairs) -> dict[str, Json]:
    """Puts findings in JSON: hashes and counts, no name of a file or subject."""
    side = Side(tuple(parts))
    of, groups, ids = side.of, side.groups, side.file_ids
    return {
        'version': _VERSION,
        'thresholds': {'twin': TWIN, 'near': NEAR},
        'parts': [
            {
                'name': part.name,
                'split': part.split,
                'fingerprint': part.prepared.fingerprint,
                'images': len(part.prepared),
                'groups': len(np.unique(part.prepared.groups)),
                'repeats_left_out_by_prepare_in_the_whole_set': part.prepared.card[
                    'counts'
                ]['duplicates'],
            }
            for part in parts
        ],
        'shared_groups': list(_shared_groups(parts)),
        'counts': list(_counts(pairs, of, groups)),
        'pairs': [
            {
                'kind': KINDS[kind],
                'likeness': round(float(likeness), 4),
                'orientation': orientation.NAMES[number],
                'same_group': bool(groups[a] == groups[b]),
                'first': {
                    'part': int(of[a]),
                    'file_id': str(ids[a]),
                    'group': str(groups[a].split()[1]),
                },
                'second': {
                    'part': int(of[b]),
                    'file_id': str(ids[b]),
                    'group': str(groups[b].split()[1]),
                },
            }
            for a, b, kind, number, likeness in zip(
                pairs.first,
                pairs.second,
                pairs.kind,
                pairs.orientation,
                pairs.likeness,
                strict=True,
            )
        ],
    }


def _counts(
    pairs: Pairs, of: np.ndarray, groups: np.ndarray
) -> Iterator[Mapping[str, Json]]:
    """Counts by kind and parts, and by whether the two are of one group."""
    one, two = of[pairs.first], of[pairs.second]
    same = groups[pairs.first] == groups[pairs.second]
    for kind, name in enumerate(KINDS):
        for a in range(int(of.max()) + 1):
            for b in range(a, int(of.max()) + 1):
                for in_group in (False, True):
                    which = (pairs.kind == kind) & (one == a) & (two == b)
                    which &= same == in_group
                    if which.any():
                        rows = np.concatenate([pairs.first[which], pairs.second[which]])
                        yield {
                            'kind': name,
                            'parts': [a, b],
                            'same_group': in_group,
                            'pairs': int(which.sum()),
                            'images': [
                                len(np.unique(rows[of[rows] == part]))
                                for part in (a, b)
                            ],
                            'groups': [
                                len(np.unique(groups[rows[of[rows] == part]]))
                                for part in (a, b)
                            ],
                        }


def _shared_groups(parts: Sequence[Part]) -> Iterator[Mapping[str, Json]]:
    """Counts subjects that two splits of one prepared set have in common."""
    for a, one in enumerate(parts):
        for b, two in enumerate(parts[:a]):
            if one.prepared.fingerprint == two.prepared.fingerprint:
                shared = np.intersect1d(one.prepared.groups, two.prepared.groups)
                if len(shared):
                    yield {'parts': [b, a], 'groups': len(shared)}
