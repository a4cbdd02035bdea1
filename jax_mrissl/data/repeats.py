"""Which images show the same, and which one of them is kept."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.spool import Spool
from jax_mrissl.likeness.pairs import KINDS, Pictures, find_pairs

DUPLICATE = 'pixels repeat another file'
TWIN = 'twin of another image'


def drop_duplicates(items: list[Item], files: Sequence[RawFile]) -> list[Item]:
    """Keeps one of the images with equal pixels."""
    first: dict[bytes, int] = {}
    repeated: dict[bytes, list[int]] = {}
    for index, item in enumerate(items):
        if item.facts and not item.reason:
            pixels = item.facts.pixels
            before = first.setdefault(pixels, index)
            if before != index:
                repeated.setdefault(pixels, [before]).append(index)
    return _keep_one(items, files, list(repeated.values()), DUPLICATE)


def drop_twins(items: list[Item], files: Sequence[RawFile], spool: Spool) -> list[Item]:
    """Keeps one of the images that are the same but for turns, size, tones or coding.

    Slices of one series are never twins, however alike: a scanner made them one by one.
    """
    rows = [i for i, item in enumerate(items) if item.facts and not item.reason]
    if len(rows) < 2:
        return items
    facts = [items[row].facts for row in rows]
    small = spool.small_pictures(
        (items[row].file, f.place) for row, f in zip(rows, facts, strict=True) if f
    )
    pairs = find_pairs(Pictures(small, [f.pixel_sha256 for f in facts if f]))
    alike: dict[int, set[int]] = {}
    for a, b, kind in zip(pairs.first, pairs.second, pairs.kind, strict=True):
        one, two = facts[a], facts[b]
        assert one and two
        if KINDS[kind] == 'twin' and not (one.series and one.series == two.series):
            joined = alike.get(a, {int(a)}) | alike.get(b, {int(b)})
            for row in joined:
                alike[row] = joined
    groups = {min(joined): joined for joined in alike.values()}
    sets = [[rows[i] for i in sorted(group)] for group in groups.values()]
    return _keep_one(items, files, sets, TWIN)


def _keep_one(
    items: list[Item], files: Sequence[RawFile], sets: list[list[int]], reason: str
) -> list[Item]:
    """Keeps one of each set of copies: labelled first, the larger, then by path.

    Copies that contradict each other in their label or number are no evidence for
    either: the one that is kept has none.
    """
    result = list(items)
    for copies in sets:
        copies.sort(
            key=lambda i: (
                items[i].label < 0,
                -_area(items[i]),
                _order(items[i], files),
            )
        )
        labels = {items[i].label for i in copies} - {-1}
        targets = {t for i in copies if not math.isnan(t := items[i].target)}
        if len(labels) > 1 or len(targets) > 1:
            first = items[copies[0]]
            result[copies[0]] = dataclasses.replace(first, label=-1, target=math.nan)
        for index in copies[1:]:
            result[index] = dataclasses.replace(items[index], reason=reason)
    return result


def _area(item: Item) -> int:
    return item.facts.height * item.facts.width if item.facts else 0


def _order(item: Item, files: Sequence[RawFile]) -> tuple[Any, ...]:
    frame = item.facts.frame if item.facts else 0
    return files[item.file].source, files[item.file].path, frame
