"""From small pictures to pairs that show the same, and of what kind they are."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jax_mrissl.core.progress import Progress
from jax_mrissl.likeness import orientation
from jax_mrissl.likeness.compare import details_alike
from jax_mrissl.likeness.hashes import hash_pictures
from jax_mrissl.likeness.search import find_candidates

# By how little must they differ? Measured (docs/decisions.md): of 6,200 neighbouring
# slices of the Kaggle Alzheimer set none is above 0.9863, of 44 slices of a DICOM
# series of 1 mm none above 0.985; all 143 twins of that set are above 0.999.
TWIN = 0.987
# Worth a look. Slices of two people: none above 0.869 within the Kaggle Alzheimer set,
# none above 0.857 between it and other pictures of OASIS-1. Twins that were halved and
# coded as JPEG of quality 50 at 64 pixels: one in a hundred below 0.9.
NEAR = 0.88
# One person's, then. All 6,200 neighbours of the Kaggle set are above 0.93; the most
# alike slices of two people that were seen, through the vertex of the head, where there
# is little but skull, have 0.913.
SAME_PERSON = 0.93

Kind = Literal['exact', 'twin', 'near']
KINDS: tuple[Kind, ...] = ('exact', 'twin', 'near')
_PER_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pictures that show the same.

    Attributes:
        first, second: int32 [n], rows.
        kind: int8 [n], into KINDS: equal pixels; the same picture, transformed; a
            neighbouring slice, or a twin that lost much.
        orientation: int8 [n], that the first has to be brought into.
        likeness: float32 [n], the correlation of details; 1 for equal pixels.
    """

    first: np.ndarray
    second: np.ndarray
    kind: np.ndarray
    orientation: np.ndarray
    likeness: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def select(self, which: np.ndarray) -> 'Pairs':
        """Gives some of the pairs."""
        fields = (getattr(self, f.name)[which] for f in dataclasses.fields(self))
        return Pairs(*fields)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Small pictures, and the identity of their pixels at full size.

    Attributes:
        small: uint8 [n, 64, 64], gray; may be a file mapped into memory.
        identities: n texts, equal where all pixels are.
    """

    small: np.ndarray
    identities: Sequence[str]


def find_pairs(
    pictures: Pictures,
    others: Pictures | None = None,
) -> Pairs:
    """Finds all pairs that show the same, in any of the eight orientations.

    Args:
        pictures: n of them.
        others: pairs are one of `pictures` and one of these. None: within `pictures`.

    Returns: pairs, ordered by kind and then by likeness, the most alike first.
    """
    hashes = hash_pictures(pictures.small)
    other_hashes = None if others is None else hash_pictures(others.small)
    with Progress('Comparing', len(hashes), unit='images') as rows:
        found = find_candidates(hashes, other_hashes, advance=rows.advance)
    right = pictures if others is None else others
    likeness = np.zeros(len(found), np.float32)
    with Progress('Looking closer', len(found), unit='pairs') as looked:
        for number in range(orientation.COUNT):
            turned = np.flatnonzero(found.orientation == number)
            for start in range(0, len(turned), _PER_BLOCK):
                part = turned[start : start + _PER_BLOCK]
                likeness[part] = details_alike(
                    orientation.turned(pictures.small[found.first[part]], number),
                    right.small[found.second[part]],
                )
                looked.advance(len(part))
    kinds = np.where(likeness >= TWIN, KINDS.index('twin'), KINDS.index('near'))
    pairs = Pairs(
        found.first, found.second, kinds.astype(np.int8), found.orientation, likeness
    )
    exact = _exact(pictures, others)
    known = set(zip(exact.first.tolist(), exact.second.tolist(), strict=True))
    found_pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    again = np.array([pair in known for pair in found_pairs], bool)
    rest = pairs.select(~again & (likeness >= NEAR))
    fields = (f.name for f in dataclasses.fields(Pairs))
    both = Pairs(
        *(np.concatenate([getattr(exact, f), getattr(rest, f)]) for f in fields)
    )
    order = np.lexsort((both.second, both.first, -both.likeness, both.kind))
    return both.select(order)


def _exact(pictures: Pictures, others: Pictures | None) -> Pairs:
    """Pairs pictures with equal pixels."""
    right = pictures if others is None else others
    places: dict[str, list[int]] = {}
    for row, identity in enumerate(right.identities):
        places.setdefault(identity, []).append(row)
    pairs = [
        (row, partner)
        for row, identity in enumerate(pictures.identities)
        for partner in places.get(identity, ())
        if others is not None or row < partner
    ]
    first, second = np.array(pairs, np.int32).reshape(-1, 2).T
    zeros = np.zeros(len(first), np.int8)
    return Pairs(first, second, zeros, zeros, np.ones(len(first), np.float32))
