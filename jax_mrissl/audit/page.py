"""Puts findings into words and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mrissl.audit.findings import Part, Side, inside
from jax_mrissl.likeness import orientation
from jax_mrissl.likeness.pairs import KINDS, Pairs
from jax_mrissl.report.audit_page import (
    CountRow,
    PairPicture,
    PairSection,
    audit_page,
)

Json = Any

_KIND_WORDS = {
    'exact': 'Equal pixels',
    'twin': 'Twins',
    'near': 'Near neighbours',
}
_EXPLANATION = (
    'Equal pixels: the raw images were equal, pixel by pixel. Within a dataset prepare '
    'has left such repeats out already. Twins: the same picture, perhaps turned, '
    'mirrored, rescaled, re-encoded, or of another brightness or contrast. Near '
    'neighbours: nearly the same picture, such as the next slice of a volume, or a '
    'twin that lost much detail.',
    'Near neighbours within one subject are what a volume is made of, and no fault. '
    'Pairs across subjects, splits or datasets mean that one person, or one picture, '
    'is on two sides that a test may take for independent.',
)


def verdict(told: Mapping[str, Json]) -> str:
    """Says in a few lines what was found."""
    lines = []
    for kind in KINDS:
        counts = [row for row in told['counts'] if row['kind'] == kind]
        total = sum(row['pairs'] for row in counts)
        if not total:
            continue
        apart = sum(row['pairs'] for row in counts if not row['same_group'])
        between = sum(
            row['pairs'] for row in counts if len(set(_names(told, row['parts']))) > 1
        )
        lines.append(
            f'{_KIND_WORDS[kind]}: {_number(total, "pair")}, {apart:,} of them across '
            f'subjects or groups, {between:,} across datasets.'
        )
    for shared in told['shared_groups']:
        first, second = (_title(told, part) for part in shared['parts'])
        lines.append(
            f'{first} and {second} have {shared["groups"]:,} subjects or groups in '
            'common.'
        )
    images = sum(part['images'] for part in told['parts'])
    return '\n'.join(lines or [f'No two of {images:,} images show the same.'])


def page(
    parts: Sequence[Part], pairs: Pairs, told: Mapping[str, Json], *, pictures: int
) -> str:
    """Writes the page.

    Args:
        parts: the images.
        pairs: what was found among them.
        told: the same as `describe` tells it.
        pictures: how many pairs are shown of each kind, two parts and same or other
            subject.
    """
    side = Side(tuple(parts))
    of, groups = side.of, side.groups
    same = groups[pairs.first] == groups[pairs.second]
    sections = []
    # What may be a fault first, what a volume is made of last.
    for count in sorted(told['counts'], key=lambda row: row['same_group']):
        a, b = count['parts']
        which = np.flatnonzero(
            (pairs.kind == KINDS.index(count['kind']))
            & (of[pairs.first] == a)
            & (of[pairs.second] == b)
            & (same == count['same_group'])
        )
        steps = np.linspace(0, len(which) - 1, min(pictures, len(which)))
        shown = which[steps.astype(int)]
        sections.append(
            PairSection(
                title=_section_title(told, count),
                note=_note(count),
                pairs=[_picture(side, pairs, int(pair)) for pair in shown],
                count=len(which),
            )
        )
    faults = any(not row['same_group'] for row in told['counts'])
    return audit_page(
        verdict=' '.join(verdict(told).split('\n')),
        warn=faults or bool(told['shared_groups']),
        explanation=_EXPLANATION,
        parts=[
            CountRow(
                (_title(told, i), part['fingerprint'][:16]),
                (part['images'], part['groups']),
            )
            for i, part in enumerate(told['parts'])
        ],
        counts=[
            CountRow(
                (
                    _KIND_WORDS[row['kind']],
                    *(_title(told, part) for part in row['parts']),
                    'one subject' if row['same_group'] else 'different subjects',
                ),
                (row['pairs'], *row['images'], *row['groups']),
            )
            for row in told['counts']
        ],
        sections=sections,
        foot=(
            'Twins correlate in their details at '
            f'{told["thresholds"]["twin"]} or more, near neighbours at '
            f'{told["thresholds"]["near"]} or more. "Different '
            'subjects" may be one: the hashes of subjects of two datasets cannot be '
            'compared, and pictures without a known subject are their own group. Of '
            'each image the most alike are looked at, not every near neighbour.',
            'Files and subjects are told by keyed hashes; the private/ folder of a '
            'dataset says which they are.',
        ),
    )


def _picture(side: Side, pairs: Pairs, pair: int) -> PairPicture:
    rows = int(pairs.first[pair]), int(pairs.second[pair])
    pixels, lines = [], []
    for row in rows:
        index, own = side.place(row)
        part = side.parts[index]
        pixels.append(inside(part.prepared, own))
        group = part.prepared.groups[own][:12]
        lines.append(
            f'{part.title}, file {part.prepared.file_ids[own][:12]}, group {group}'
        )
    number = int(pairs.orientation[pair])
    turned = orientation.turned(pixels[0].transpose(2, 0, 1), number)
    name = orientation.NAMES[number]
    left = '' if number == 0 else f' Left: {name} here.'
    likeness = f'Details correlate at {pairs.likeness[pair]:.4f}.{left}'
    return PairPicture(
        first=np.ascontiguousarray(turned.transpose(1, 2, 0)),
        second=pixels[1],
        alt=(f'First of a pair, {name}: {lines[0]}', f'Second of it: {lines[1]}'),
        caption=(likeness, *lines),
    )


def _section_title(told: Mapping[str, Json], count: Mapping[str, Json]) -> str:
    first, second = (_title(told, part) for part in count['parts'])
    where = f'within {first}' if first == second else f'between {first} and {second}'
    whose = 'of one subject' if count['same_group'] else 'of different subjects'
    return f'{_KIND_WORDS[count["kind"]]} {where}, {whose}'


def _note(count: Mapping[str, Json]) -> str:
    first, second = (
        f'{_number(images, "image")} of {_number(groups, "group")}'
        for images, groups in zip(count['images'], count['groups'], strict=True)
    )
    pairs = _number(count['pairs'], 'pair')
    if len(set(count['parts'])) == 1:  # both sides are one
        return f'{pairs}: {first}.'
    return f'{pairs}: {first} on the one side, {second} on the other.'


def _number(count: int, what: str) -> str:
    return f'{count:,} {what}{"" if count == 1 else "s"}'


def _title(told: Mapping[str, Json], part: int) -> str:
    row = told['parts'][part]
    return f'{row["name"]}/{row["split"]}'


def _names(told: Mapping[str, Json], parts: Sequence[int]) -> list[str]:
    return [told['parts'][part]['name'] for part in parts]
