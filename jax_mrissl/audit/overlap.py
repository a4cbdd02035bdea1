"""What pretraining would see of the subjects that are tested."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.audit.findings import Part, find_between
from jax_mrissl.core.digest import digest
from jax_mrissl.data.manifest import read_manifest
from jax_mrissl.data.persons import persons, sessions
from jax_mrissl.likeness.pairs import KINDS, SAME_PERSON

_WORDS = {
    'exact': 'pixel by pixel',
    'twin': 'as twins (turned, mirrored, rescaled, re-encoded or of other brightness)',
    'near': 'as near as neighbouring slices of one subject are',
    'group': 'by their subject, who is in both',
    'person': 'by the person, whom published ids name in both',
}


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How many labelled images pretraining would see, and of how many subjects.

    Attributes:
        images: labelled images that are among those of pretraining, or show the same
            as one of them, or whose subject is on one.
        subjects: whose they are.
        seen: images of pretraining that show them.
        by_kind: labelled images by the strongest reason: 'exact', 'twin', 'near',
            'group' or 'person'.
        labelled_images, labelled_subjects: all there are.
        left_out: images of pretraining that were left out so that it sees no tested
            subject: those that show one, and all others of their subjects.
    """

    images: int = 0
    subjects: int = 0
    seen: int = 0
    by_kind: tuple[tuple[str, int], ...] = ()
    labelled_images: int = 0
    labelled_subjects: int = 0
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """Gives plain numbers."""
        return {**dataclasses.asdict(self), 'by_kind': dict(self.by_kind)}

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> 'Overlap':
        """Takes what `to_json` gave."""
        return cls(**{**told, 'by_kind': tuple(told['by_kind'].items())})

    @property
    def text(self) -> str:
        """Says it in a sentence without its end: '3 labelled images of 1 subject'."""
        images = 'image' if self.images == 1 else 'images'
        subjects = 'subject' if self.subjects == 1 else 'subjects'
        kinds = ', '.join(f'{n:,} {_WORDS[kind]}' for kind, n in self.by_kind)
        return (
            f'{self.images:,} labelled {images} of {self.subjects:,} {subjects}'
            f'{f" ({kinds})" if kinds else ""}'
        )

    def after_leaving_out(self, images: int) -> 'Overlap':
        """Gives what is left when all that it has found is left out: `images`."""
        return Overlap(
            labelled_images=self.labelled_images,
            labelled_subjects=self.labelled_subjects,
            left_out=images,
        )


def find_overlap(
    pretraining: Sequence[Part], labelled: Part, data_dir: Path, *, spare: Path
) -> Overlap:
    """Counts what `find_seen` finds; arguments are the same."""
    return find_seen(pretraining, labelled, data_dir, spare=spare)[0]


def find_seen(
    pretraining: Sequence[Part], labelled: Part, data_dir: Path, *, spare: Path
) -> tuple[Overlap, tuple[np.ndarray, ...]]:
    """Looks for the labelled images in those of pretraining.

    Near neighbours count from SAME_PERSON on: below it they may be of two people.
    Within one prepared set, subjects are compared by their hashes, too. Between two
    sets the keys of those differ, and pixels decide, or the ids that a study has
    published (data/persons.py): a volume of OASIS-1 shows the person of a Kaggle slice.

    Args:
        pretraining: the images of all pretraining.
        labelled: all images of the subjects that are tested, also those that are not
            used: another slice of a subject is the subject, too.
        data_dir: where prepared sets are, and what was found about them.
        spare: keeps what is found where `data_dir` cannot be written to.

    Returns: the counts; for each part of pretraining, which of its rows show a tested
        subject, bool [n].
    """
    tested = labelled.prepared
    tested_people = _people(labelled, data_dir)
    reasons = np.full(len(tested), 'none', 'U6')
    shown_by: dict[str, np.ndarray] = {}
    keys = [digest(part.identity()) for part in pretraining]
    for key, part in zip(keys, pretraining, strict=True):
        if key in shown_by:
            continue  # a chain may pretrain on it twice
        shows = np.zeros(len(part.prepared), bool)  # a tested subject
        if part.prepared.fingerprint == tested.fingerprint:
            shows = np.isin(part.prepared.groups, tested.groups)
            by_group = np.isin(tested.groups, part.prepared.groups[shows])
            reasons[by_group & (reasons == 'none')] = 'group'
            same = np.isin(tested.pixel_sha256, part.prepared.pixel_sha256[shows])
            reasons[same] = 'exact'
        people = _people(part, data_dir)
        shared = np.setdiff1d(np.intersect1d(people, tested_people), [''])
        by_person = np.isin(tested_people, shared)
        reasons[by_person & (reasons == 'none')] = 'person'

        # Subjects of one set that are not tested may still have twins among those.
        rest = np.flatnonzero(~shows)
        shows |= np.isin(people, shared)
        if len(rest):
            others = dataclasses.replace(part, prepared=part.prepared.select(rest))
            pairs = find_between([others], [labelled], data_dir, spare=spare)
            pairs = pairs.select(
                (pairs.kind != KINDS.index('near')) | (pairs.likeness >= SAME_PERSON)
            )
            shows[rest[pairs.first]] = True
            for kind in reversed(range(len(KINDS))):  # the strongest last, so it stays
                rows = pairs.second[pairs.kind == kind]
                stronger = KINDS[:kind]
                rows = rows[~np.isin(reasons[rows], stronger)]
                reasons[rows] = KINDS[kind]
        shown_by[key] = shows
    found = reasons != 'none'
    overlap = Overlap(
        images=int(found.sum()),
        subjects=len(np.unique(tested.groups[found])),
        seen=sum(int(shows.sum()) for shows in shown_by.values()),
        by_kind=tuple(
            (kind, int((reasons == kind).sum()))
            for kind in _WORDS
            if (reasons == kind).any()
        ),
        labelled_images=len(tested),
        labelled_subjects=len(np.unique(tested.groups)),
    )
    return overlap, tuple(shown_by[key] for key in keys)


def _people(part: Part, data_dir: Path) -> np.ndarray:
    """Gives the person on each image by published ids, text [n]; '' unknown."""
    manifest = read_manifest(data_dir, part.name)
    return persons(sessions(part.prepared, manifest))
