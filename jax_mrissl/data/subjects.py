"""Who is on which slice: by the names of the Kaggle set, or by pixels."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jax_mrissl.core.errors import UserError

# The Kaggle set: slices of each subject; of these, the first 25 all in train/.
_SLICES = 32
_TRAIN_SLICES = 25

# A gap counts if distances beyond it are at least this many times those before it;
# measured: 2.0 on the Kaggle set, at most 1.04 elsewhere within its distances.
_LEAST_GAP_RATIO = 1.4
# Slices without any neighbour are noise, or the set holds few slices of a subject.
_MOST_ALONE = 0.05
_FEWEST_SLICES = 3
# All pairs of a class are compared: 20,000 slices need 1.6 GB.
_MOST_SLICES = 20_000


def slices_by_name(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Reads subject and slice from the file names of one class of the Kaggle set.

    `26 (19).jpg` is slice 26 of subject 19, without a bracket of subject 1. The others,
    `mildDem0.jpg` and so on, count slice by slice, and within one the subjects in the
    order of their original names.

    Args:
        names: of all files of one class, in train and test, without folders.

    Returns:
        (subject, slice) by name, both from 1; {} if the names do not fit the rule, so
        that each subject has each slice once.

    Source: measured (specs/protocol.md, section 1).
    """
    told: dict[str, tuple[int, int]] = {}
    counted: dict[int, str] = {}
    for name in names:
        stem = name.rpartition('.')[0]
        if match := re.fullmatch(r'(\d+)(?: \((\d+)\))?', stem):
            told[name] = int(match[2] or 1), int(match[1])
        elif match := re.fullmatch(r'[A-Za-z]+(\d+)', stem):
            counted[int(match[1])] = name
        else:
            return {}
    subject_count, rest = divmod(len(told) + len(counted), _SLICES)
    if rest or not subject_count or sorted(counted) != list(range(len(counted))):
        return {}
    # As strings: (10) before (2), and the bare name of subject 1 last.
    order = [*sorted(range(2, subject_count + 1), key=lambda s: f'({s})'), 1]
    left = {s for s, number in told.values() if number == _TRAIN_SLICES + 1}
    places = [(s, n + 1) for n in range(_TRAIN_SLICES) for s in order]
    places += [(s, _TRAIN_SLICES + 1) for s in order if s not in left]
    if len(places) != len(counted):
        return {}
    told.update((counted[j], place) for j, place in enumerate(places))
    every = {(s, n) for s in order for n in range(1, _SLICES + 1)}
    return told if set(told.values()) == every else {}


@dataclasses.dataclass(frozen=True, eq=False)
class PixelGroups:
    """The subjects of a set of slices, found by likeness.

    Attributes:
        groups: int [n], the number of each slice's group.
        ranks: int [n], the place of each slice within its group, from either end.
        within: the least correlation that joins two slices of one group.
        between: the greatest correlation of slices of two groups.
    """

    groups: np.ndarray
    ranks: np.ndarray
    within: float
    between: float

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(np.unique(self.groups))


def groups_by_pixels(images: Sequence[np.ndarray], kinds: Sequence) -> PixelGroups:
    """Joins neighbouring slices of volumes, of which nothing else is known.

    Neighbouring slices of one volume are more alike than slices of two. Slices are
    joined, within a kind, that correlate above a threshold; the threshold lies in the
    widest gap between the correlations that join anything (the edges of the maximum
    spanning tree), measured as the ratio of distances 1 - r, among the gaps whose
    groups could be subjects.

    Args:
        images: n gray images at full resolution: at a quarter of it the gap closes.
        kinds: n keys: slices of two kinds are never joined, so a key must be the same
            for all slices of a subject. Images of two sizes are not joined either.

    Raises:
        UserError: there is no gap; with the histogram of distances.
    """
    kinds = [(kind, image.shape) for kind, image in zip(kinds, images, strict=True)]
    members = {
        kind: np.flatnonzero(_equal(kinds, kind)) for kind in dict.fromkeys(kinds)
    }
    trees = {}
    for kind, rows in members.items():
        if len(rows) > _MOST_SLICES:
            raise UserError(
                f'{len(rows):,} slices of one size are too many to compare all pairs '
                f'(at most {_MOST_SLICES:,}): name the subjects by --group or --table.'
            )
        trees[kind] = _tree(_correlations([images[int(row)] for row in rows]))
    threshold, within, between = _find_gap(trees, members)
    groups = np.zeros(len(kinds), np.int64)
    ranks = np.zeros(len(kinds), np.int64)
    count = 0
    for kind, rows in members.items():
        parts = _components(len(rows), trees[kind], threshold)
        for part in np.unique(parts):
            group = rows[parts == part]
            groups[group] = count
            ranks[group] = _ranks(_correlations([images[int(row)] for row in group]))
            count += 1
    return PixelGroups(groups, ranks, round(1 - within, 4), round(1 - between, 4))


def same_partition(first: Sequence, second: Sequence) -> bool:
    """Says whether two namings of the same rows put the same rows together."""
    pairs = len(set(zip(first, second, strict=True)))
    return pairs == len(set(first)) == len(set(second))


def _equal(kinds: Sequence, kind: object) -> np.ndarray:
    return np.fromiter((other == kind for other in kinds), bool, len(kinds))


def _correlations(images: Sequence[np.ndarray]) -> np.ndarray:
    """Correlates all pairs, float32 [n, n]."""
    rows = np.stack([image.ravel() for image in images]).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows @ rows.T


# Edges of a spanning tree: float [n - 1] distances, int [n - 1, 2] the slices joined.
_Tree = tuple[np.ndarray, np.ndarray]


def _tree(correlations: np.ndarray) -> _Tree:
    """Spans the slices by the shortest distances 1 - r (Prim's algorithm)."""
    count = len(correlations)
    nearest = 1 - correlations[0]
    joined_to = np.zeros(count, np.int64)
    outside = np.ones(count, bool)
    outside[0] = False
    lengths, edges = np.zeros(count - 1), np.zeros((count - 1, 2), np.int64)
    for edge in range(count - 1):
        new = int(np.argmin(np.where(outside, nearest, np.inf)))
        lengths[edge], edges[edge] = nearest[new], (joined_to[new], new)
        outside[new] = False
        distances = 1 - correlations[new]
        closer = distances < nearest
        nearest[closer] = distances[closer]
        joined_to[closer] = new
    # Rounding may put equal slices a little below zero.
    return np.maximum(lengths, 1e-6), edges


def _components(count: int, tree: _Tree, threshold: float) -> np.ndarray:
    """Numbers the parts that remain when edges beyond the threshold are cut."""
    parts = np.arange(count)
    for length, (a, b) in zip(*tree, strict=True):
        if length < threshold:
            parts[parts == parts[b]] = parts[a]
    return parts


def _find_gap(trees: Mapping, members: Mapping) -> tuple[float, float, float]:
    """Finds the threshold; with it, the distances on both sides of the gap."""
    lengths = np.sort(np.concatenate([tree[0] for tree in trees.values()] or [[]]))
    ratios = lengths[1:] / lengths[:-1]
    for index in np.argsort(-ratios, kind='stable'):
        if ratios[index] < _LEAST_GAP_RATIO:
            break
        within, between = float(lengths[index]), float(lengths[index + 1])
        threshold = (within * between) ** 0.5
        if _could_be_subjects(trees, members, threshold):
            return threshold, within, between
    raise UserError(
        'The subjects of these slices cannot be told by pixels: neighbouring slices of '
        'one subject are no more alike than slices of two. Name them by --group or '
        '--table.\n' + _histogram(lengths)
    )


def _could_be_subjects(trees: Mapping, members: Mapping, threshold: float) -> bool:
    """Asks for several slices of nearly every subject, and two subjects or more."""
    parts = [
        _components(len(rows), trees[kind], threshold) for kind, rows in members.items()
    ]
    # The size of the group that each slice is in.
    sizes = np.concatenate([np.bincount(p, minlength=len(p))[p] for p in parts])
    typical = np.median(sizes)
    largest_kind = max(len(rows) for rows in members.values())
    alone = np.mean(sizes == 1)
    return bool(alone <= _MOST_ALONE and _FEWEST_SLICES <= typical <= largest_kind / 2)


def _ranks(correlations: np.ndarray) -> np.ndarray:
    """Puts the slices of one volume in a row, from one end or the other.

    The second eigenvector of the Laplacian changes steadily along a chain of
    neighbours (Fiedler order). At power 64 it gives the true order of all 200 subjects
    of the Kaggle set; at power 8 of none.
    """
    weights = np.clip(correlations.astype(np.float64), 0, None) ** 64
    laplacian = np.diag(weights.sum(axis=1)) - weights
    along = np.linalg.eigh(laplacian)[1][:, min(1, len(weights) - 1)]
    ranks = np.empty(len(along), np.int64)
    ranks[np.argsort(along, kind='stable')] = np.arange(len(along))
    return ranks


def _histogram(lengths: np.ndarray) -> str:
    """Draws the distances that join slices, in steps of equal ratio."""
    if not len(lengths):
        return 'There are no two slices to compare.'
    edges = np.geomspace(lengths[0], max(lengths[-1], lengths[0] * 1.01), 21)
    counts = np.histogram(lengths, edges)[0]
    bars = np.ceil(40 * counts / max(counts.max(), 1)).astype(int)
    lines = ['correlation with the next slice, and how many slices have it:']
    lines += [
        f'  {1 - high:.4f} to {1 - low:.4f}  {count:6d}  {"#" * bar}'
        for low, high, count, bar in zip(edges, edges[1:], counts, bars, strict=False)
    ]
    return '\n'.join(lines)
