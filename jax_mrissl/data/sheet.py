"""Which images a dataset's contact sheet shows."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.planning import Plan
from jax_mrissl.data.spec import DatasetSpec

_COLUMNS = 8
_ROWS = 8

# A record: its split, and its place there.
Place = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Examples:
    """One row of the contact sheet: images of one class of one part of the set."""

    title: str
    note: str
    places: list[Place]


def choose_examples(
    spec: DatasetSpec, plan: Plan, files: Sequence[RawFile]
) -> list[Examples]:
    """Chooses up to eight images of each class and part, of different subjects.

    Parts are the raw folders of a merged set, else the splits; where that makes too
    many rows, splits are put together.
    """
    merged = len({file.part for file in files}) > 1
    kept = {split: plan.kept(split) for split in plan.splits}
    members: dict[tuple[str, int], list[Place]] = {}
    for split, items in kept.items():
        for index, item in enumerate(items):
            part = files[item.file].part if merged else split
            members.setdefault((part, item.label), []).append((split, index))
    if len(members) > _ROWS and not merged:
        joined: dict[tuple[str, int], list[Place]] = {}
        for (_, label), some in members.items():
            joined.setdefault(('', label), []).extend(some)
        members = joined
    # Unlabelled images, of which there may be most, come last.
    keys = sorted(members, key=lambda key: (key[1] < 0, key[1], key[0]))
    rows = []
    for part, label in keys[: 2 * _ROWS]:
        some = members[part, label]
        known = spec.title_of(label) if label >= 0 else 'unlabelled'
        several_parts = len({part for part, _ in keys}) > 1
        count = f'{len(some):,} images'
        if not several_parts:
            rows.append(Examples(known, count, _spread(some, kept)))
        elif label >= 0:
            rows.append(Examples(known, f'{count}, {part}', _spread(some, kept)))
        else:
            rows.append(Examples(part, count, _spread(some, kept)))
    return rows


def _spread(
    members: Sequence[Place], kept: Mapping[str, Sequence[Item]]
) -> list[Place]:
    """Takes the middle slice of subjects from all over the set.

    Of few subjects it takes several slices each, from one end to the other.
    """

    def group(place: Place) -> str:
        split, index = place
        return kept[split][index].group

    def order(place: Place) -> tuple[str, float, str]:
        split, index = place
        item = kept[split][index]
        position = 0.0 if math.isnan(item.position) else item.position
        return item.group, position, item.file_id

    each = max(1, -(-_COLUMNS // len({group(place) for place in members})))
    places = []
    for _, some in itertools.groupby(sorted(members, key=order), key=group):
        slices = list(some)
        # Ends are left out: the middles of equal stretches.
        few = min(each, len(slices))
        middles = (np.arange(few) + 0.5) / few * len(slices)
        places += [slices[int(middle)] for middle in middles]
    few = min(_COLUMNS, len(places))
    return [places[i] for i in np.linspace(0, len(places) - 1, few).astype(int)]
