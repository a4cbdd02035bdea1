"""Who is on each image: by paths, headers, tables, or likeness."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.spec import (
    DatasetSpec,
    EachImage,
    FirstOf,
    FolderLevel,
    HeaderSubject,
    NeighbouringSlices,
    PathPattern,
)
from jax_mrissl.data.subjects import groups_by_pixels, same_partition, slices_by_name
from jax_mrissl.data.table import Table
from jax_mrissl.readers.image import luma
from jax_mrissl.readers.read import read


def with_subjects(
    spec: DatasetSpec, items: list[Item], files: Sequence[RawFile], table: Table | None
) -> tuple[list[Item], str, tuple[float, float] | None]:
    """Finds the subject of every image by the declaration's rule, then the table's.

    Returns: the images; how subjects were found, a sentence for the card; and the gap
    of the pixel rule, where it was used.

    Raises:
        UserError: the pixels do not tell subjects apart.
    """
    rule = spec.subject
    gap = None
    if isinstance(rule, NeighbouringSlices):
        items, told, gap = _by_likeness(rule, items, files)
    elif isinstance(rule, PathPattern | FolderLevel):
        told = 'Groups are subjects, read from the paths of the files.'
    elif isinstance(rule, HeaderSubject):
        items = [
            dataclasses.replace(item, subject=item.facts.subject if item.facts else '')
            for item in items
        ]
        told = (
            'Groups are the PatientID of DICOM; a picture, its subject unknown, is '
            'its own group.'
        )
    elif isinstance(rule, FirstOf):
        items = [_by_first(rule, item, files[item.file]) for item in items]
        told = (
            'Groups are subjects, read from paths or DICOM headers; an image or volume '
            'whose subject neither tells is its own group.'
        )
    else:
        assert isinstance(rule, EachImage)
        told = 'Each image is its own group: nothing tells more.'
    if table and 'group' in table.columns:
        rows = {number: row.group for number, row in table.rows.items() if row.group}
        items = [
            dataclasses.replace(item, subject=rows.get(item.file, item.subject))
            for item in items
        ]
        told = f'Groups are read from the table; where it is silent: {told}'
    return items, told, gap


def by_path(
    rule: PathPattern | FolderLevel, item: Item, raw: RawFile, table: Table | None
) -> Item:
    """Reads the subject from the path; rejects an image that has none, nor a row's."""
    subject = rule.find(raw.path)
    row = table.rows.get(item.file) if table else None
    if subject is None and not item.reason and not (row and row.group):
        # Without its subject an image fits no fold.
        return dataclasses.replace(item, reason='no subject in its path')
    return dataclasses.replace(item, subject=subject or '')


def _by_first(rule: FirstOf, item: Item, raw: RawFile) -> Item:
    for one in rule.rules:
        if isinstance(one, HeaderSubject):
            subject = item.facts.subject if item.facts else ''
        else:
            subject = one.find(raw.path) or ''
        if subject:
            return dataclasses.replace(item, subject=subject)
    return item


def _by_likeness(
    rule: NeighbouringSlices, items: list[Item], files: Sequence[RawFile]
) -> tuple[list[Item], str, tuple[float, float] | None]:
    """Finds subjects by names and pixels; names are believed unless contradicted."""
    # In an order that no name decides, so that renamed copies give the same numbers.
    rows = sorted(
        (i for i, item in enumerate(items) if not item.reason),
        key=lambda i: items[i].facts.pixel_sha256,  # type: ignore[union-attr]
    )
    of_kaggle = rule.names == 'kaggle_alzheimer'
    named = _by_names(items, files) if of_kaggle else {}
    by_name = all(row in named for row in rows)
    # Of the Kaggle set it is known that a subject has one label. Elsewhere a volume
    # with slices of two classes must stay whole: its halves would be two subjects.
    kinds = [items[row].label if of_kaggle else 0 for row in rows]
    failure = ''
    try:
        found = groups_by_pixels([_gray(items[row], files) for row in rows], kinds)
    except UserError as error:
        if not by_name:
            raise
        failure = str(error).partition('\n')[0]
    if by_name and failure:
        told = (
            f'Groups are subjects, told by file names; unchecked by pixels: {failure}'
        )
        return _named(items, named), told, None
    gap = found.between, found.within
    words = (
        f'slices of one subject correlate at {found.within:.4f} or more with a '
        f'neighbour, slices of two at {found.between:.4f} or less'
    )
    if by_name and same_partition(
        [named[row][0] for row in rows], found.groups.tolist()
    ):
        told = f'Groups are subjects, told by file names; the pixels agree: {words}.'
        return _named(items, named), told, gap
    first: dict[int, str] = {}
    for row, group in zip(rows, found.groups, strict=True):
        first.setdefault(int(group), items[row].facts.pixel_sha256)  # type: ignore[union-attr]
    result = list(items)
    for row, group, rank in zip(rows, found.groups, found.ranks, strict=True):
        result[row] = dataclasses.replace(
            items[row], subject=f'pixels {first[int(group)]}', position=float(rank + 1)
        )
    why = 'contradict the pixels' if by_name else 'do not tell them'
    return (
        result,
        f'Groups are subjects, found by pixels, as file names {why}: {words}.',
        gap,
    )


def _by_names(
    items: list[Item], files: Sequence[RawFile]
) -> dict[int, tuple[str, float]]:
    """Gives subject and slice number by the rule of the Kaggle set, where it fits."""
    by_class: dict[int, dict[str, int]] = {}
    for index, item in enumerate(items):
        name = Path(files[item.file].path).name
        if name in by_class.setdefault(item.label, {}):
            return {}
        by_class[item.label][name] = index
    told = {}
    for label, places in by_class.items():
        for name, (subject, number) in slices_by_name(places).items():
            told[places[name]] = f'class {label} subject {subject}', float(number)
    return told


def _named(items: list[Item], named: dict[int, tuple[str, float]]) -> list[Item]:
    result = list(items)
    for row, (subject, number) in named.items():
        result[row] = dataclasses.replace(items[row], subject=subject, position=number)
    return result


def _gray(item: Item, files: Sequence[RawFile]) -> np.ndarray:
    assert item.facts
    pixels = next(iter(read(files[item.file].file, item.facts.frame))).pixels
    return np.nan_to_num(luma(pixels) if pixels.ndim == 3 else pixels)
