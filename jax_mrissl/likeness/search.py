"""Which pairs of hashes are alike in any orientation, in blocks of products."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jax_mrissl.likeness import orientation
from jax_mrissl.likeness.hashes import turn_hashes

# A block of products, float32, is 16 MB: it stays in the caches of a few cores.
_BLOCK = 2048
# Twins of 64 pixels, of half size and JPEG quality 50, have 0.97 or more; clipped
# contrast costs most, and one in a hundred of those is below 0.92.
FLOOR = 0.88
# Of each picture at most so many others are looked at, the most alike: a slice has a
# few neighbours on both sides, and twins of it are above them.
MOST = 24
# So many pairs may wait to be sorted, whatever the number of pictures: 32 MB.
_LEAST_ROOM = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of pictures that may show the same.

    Attributes:
        first, second: int32 [n], rows.
        orientation: int8 [n], that the first has to be brought into.
        alike: float32 [n], the absolute product of the hashes.
    """

    first: np.ndarray
    second: np.ndarray
    orientation: np.ndarray
    alike: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def find_candidates(
    hashes: np.ndarray,
    others: np.ndarray | None = None,
    *,
    floor: float = FLOOR,
    most: int = MOST,
    block: int = _BLOCK,
    advance: Callable[[int], None] = lambda count: None,
) -> Candidates:
    """Finds pairs of hashes that are alike: any of eight orientations, or a negative.

    Memory: a block of products and a few times `most` pairs for each picture.

    Args:
        hashes: float32 [n, D].
        others: float32 [m, D]: pairs are one of each. None: pairs within `hashes`.
        floor: the least absolute product of hashes.
        most: a pair is kept that is among so many best of either of its pictures.
        block: rows and columns of a block.
        advance: is told after each block of rows how many rows are done.

    Returns: pairs, ordered by first and second; first < second within one set.
    """
    within = others is None
    right = hashes if others is None else others
    kept = _Kept(len(hashes), len(right), within, floor, most)
    for top in range(0, len(hashes), block):
        rows = hashes[top : top + block]
        turned = [turn_hashes(rows, number) for number in range(orientation.COUNT)]
        for left in range(top if within else 0, len(right), block):
            columns = right[left : left + block]
            for number in range(orientation.COUNT):
                # A negative's hash is the picture's, negated.
                alike = np.abs(turned[number] @ columns.T)
                kept.add(alike, top, left, number)
        advance(len(rows))
    return kept.finish()


class _Kept:
    """The best pairs so far."""

    def __init__(self, count: int, others: int, within: bool, floor: float, most: int):
        self._within, self._most = within, most
        # A pair has to be better than the worst that both its pictures would keep.
        self._bars = np.full(count, floor, np.float32)
        self._other_bars = self._bars if within else np.full(others, floor, np.float32)
        self._pairs = np.zeros((0, 3), np.int64)  # first, second, orientation
        self._alike = np.zeros(0, np.float32)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._room = max(_LEAST_ROOM, 2 * most * max(count, others))
        self._floor = floor

    def add(self, alike: np.ndarray, top: int, left: int, number: int) -> None:
        row_bars = self._bars[top : top + alike.shape[0]]
        column_bars = self._other_bars[left : left + alike.shape[1]]
        least = max(self._floor, min(row_bars.min(), column_bars.min()))
        rows, columns = np.divmod(np.flatnonzero(alike > least), alike.shape[1])
        values = alike[rows, columns]
        good = values > np.minimum(row_bars[rows], column_bars[columns])
        if self._within:
            good &= rows + top < columns + left
        rows, columns = rows[good] + top, columns[good] + left
        if len(rows):
            pairs = np.stack([rows, columns, np.full_like(rows, number)], axis=1)
            self._waiting.append((pairs, values[good]))
        if sum(len(values) for _, values in self._waiting) > self._room:
            self._prune()

    def finish(self) -> Candidates:
        self._prune()
        first, second, number = self._pairs.T
        return Candidates(
            first.astype(np.int32),
            second.astype(np.int32),
            number.astype(np.int8),
            self._alike,
        )

    def _prune(self) -> None:
        pairs = np.concatenate([self._pairs, *(p for p, _ in self._waiting)])
        alike = np.concatenate([self._alike, *(a for _, a in self._waiting)])
        self._waiting = []
        # Of a pair, the best orientation.
        order = np.lexsort((-alike, pairs[:, 1], pairs[:, 0]))
        pairs, alike = pairs[order], alike[order]
        new = np.ones(len(pairs), bool)
        new[1:] = (pairs[1:, :2] != pairs[:-1, :2]).any(axis=1)
        pairs, alike = pairs[new], alike[new]
        if self._within:
            both = np.concatenate([pairs[:, 0], pairs[:, 1]])
            ranks = _ranks(both, np.tile(alike, 2), self._bars, self._most)
            kept = ranks[: len(pairs)] | ranks[len(pairs) :]
        else:
            kept = _ranks(pairs[:, 0], alike, self._bars, self._most)
            kept |= _ranks(pairs[:, 1], alike, self._other_bars, self._most)
        self._pairs, self._alike = pairs[kept], alike[kept]


def _ranks(
    owners: np.ndarray, alike: np.ndarray, bars: np.ndarray, most: int
) -> np.ndarray:
    """Says which are among the `most` best of their owner; raises the owners' bars."""
    order = np.lexsort((-alike, owners))
    sorted_owners = owners[order]
    starts = np.searchsorted(sorted_owners, sorted_owners)
    places = np.arange(len(order)) - starts
    last = order[places == most - 1]
    bars[owners[last]] = alike[last]
    good = np.zeros(len(order), bool)
    good[order] = places < most
    return good
