"""From the facts of all raw files to the rows of the dataset: what is kept, and how."""

import dataclasses
import hmac
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.records import Row
from jax_mrissl.data.scan import FileFacts, SliceFacts
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
from jax_mrissl.likeness.pairs import KINDS, Pictures, find_pairs
from jax_mrissl.readers.image import luma
from jax_mrissl.readers.read import read

DUPLICATE = 'pixels repeat another file'
TWIN = 'twin of another image'
LOCALIZER = 'localizer (scout, topogram)'
# Hounsfield units reach below this wherever there is air; no other unit does.
_AIR = -500.0
# The greatest number of 16 bits.
_HIGHEST = 65535


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of a raw file, kept or not; a row of the private manifest.

    Attributes:
        file_id: keyed hash of its file's bytes and its place among equal files.
        file: which raw file, by place in the list.
        facts: of the image; None for a file that cannot be read.
        reason: why it is not kept; '' if it is.
        detail: more on that, private.
        split, label, target, position, site: as stored.
        subject: who is on it, as the raw files say it: private.
        group: the keyed hash of that.
        windows: the values that become 0 and 255; (): it is a picture.
        levels: as in `Row`.
    """

    file_id: str
    file: int
    facts: SliceFacts | None
    reason: str = ''
    detail: str = ''
    split: str = ''
    label: int = -1
    target: float = math.nan
    position: float = math.nan
    site: str = ''
    subject: str = ''
    group: str = ''
    windows: tuple[tuple[float, float], ...] = ()
    levels: tuple[float, ...] = ()

    def row(self, raw: RawFile) -> Row:
        """Gives what is needed to write its record."""
        assert self.facts
        return Row(
            file=str(raw.file),
            frame=self.facts.frame,
            windows=self.windows,
            levels=self.levels,
            label=self.label,
            target=self.target,
            group=self.group,
            position=self.position,
            site=self.site,
            source=raw.source,
            file_id=self.file_id,
            pixel_sha256=self.facts.pixel_sha256,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of every image.

    Attributes:
        items: all, ordered by the `file_id` of each file's first image: images of
            one file lie together, so that it is read once.
        channels: of all stored images.
        turned_gray: colour images that are stored gray.
        subjects_by: how subjects were found, a sentence for the card.
        gap: of the pixel rule, if it was used: least correlation within a subject and
            greatest between two.
    """

    items: tuple[Item, ...]
    channels: int
    turned_gray: int
    subjects_by: str
    gap: tuple[float, float] | None

    def kept(self, split: str) -> list[Item]:
        """Gives the records of a split, in their order."""
        return [item for item in self.items if not item.reason and item.split == split]

    @property
    def splits(self) -> list[str]:
        """The names of the splits that hold anything."""
        return sorted({item.split for item in self.items if not item.reason})


def make_plan(
    spec: DatasetSpec,
    files: Sequence[RawFile],
    hashes: Sequence[str],
    facts: Sequence[FileFacts],
    *,
    key: bytes,
    table: Table | None,
    bits: int = 8,
) -> Plan:
    """Decides about every image; the order of the files changes nothing.

    Args:
        spec: the declaration.
        files: all raw files.
        hashes: SHA-256 of each file's bytes.
        facts: of each file.
        key: of the keyed hashes.
        table: what a CSV file says of the raw files, or None.
        bits: of the stored images; with 16, scans keep all of their values.

    Raises:
        UserError: nothing is left, or the subjects cannot be found.
    """
    items = _described(spec, files, hashes, facts, key, table)
    if isinstance(spec.subject, PathPattern | FolderLevel):
        items = [_by_path(spec.subject, item, files[item.file]) for item in items]
    items = _drop_duplicates(items, files)
    if spec.drop_twins:
        items = _drop_twins(items, files)
    if all(item.reason for item in items):
        reasons = Counter(item.reason for item in items)
        told = ', '.join(f'{count} x {reason}' for reason, count in reasons.items())
        raise UserError(f'No image can be used. Of {len(files)} files: {told}.')
    items, subjects_by, gap = _with_subjects(spec, items, files, table)
    items = _with_limits(spec, items, files, bits)
    kept = [item.facts for item in items if not item.reason and item.facts]
    coloured = sum(facts.colour > 0 for facts in kept)
    channels = spec.channels
    if channels == 'as found':
        several = bits == 8 and any(len(item.windows) > 1 for item in items)
        channels = 3 if coloured or several else 1
    if bits == 16 and channels == 3:
        raise UserError(
            f'--bits=16 is for gray images; {coloured:,} here are in colour. Leave it '
            'out, or prepare the gray ones alone.'
        )
    grouped = []
    for item in items:
        # Without a subject, an image stands for itself, and a volume for its slices.
        who = item.subject or (item.facts and f'image {item.facts.pixel_sha256}') or ''
        if not item.subject and len(facts[item.file].slices) > 1:
            who = f'file {hashes[item.file]}'
        group = '' if item.reason else keyed_hash(key, 'subject', who)
        grouped.append(dataclasses.replace(item, group=group))
    first: dict[int, str] = {}
    for item in grouped:
        first.setdefault(item.file, item.file_id)
    frames = [item.facts.frame if item.facts else 0 for item in grouped]
    order = sorted(
        range(len(grouped)),
        key=lambda i: (first[grouped[i].file], grouped[i].file, frames[i]),
    )
    return Plan(
        items=tuple(grouped[i] for i in order),
        channels=channels,
        turned_gray=coloured if channels == 1 else 0,
        subjects_by=subjects_by,
        gap=gap,
    )


def keyed_hash(key: bytes, kind: str, value: str) -> str:
    """Gives the HMAC-SHA256 of a value, 32 hex digits: enough for any set."""
    return hmac.digest(key, f'{kind}\0{value}'.encode(), 'sha256').hex()[:32]


def _described(
    spec: DatasetSpec,
    files: Sequence[RawFile],
    hashes: Sequence[str],
    facts: Sequence[FileFacts],
    key: bytes,
    table: Table | None,
) -> list[Item]:
    """Gives the images of all files with what path and table say of each."""
    twins: Counter[str] = Counter()
    images = {(raw.source, _without_suffix(raw.path)) for raw in files}
    items = []
    for number, (raw, sha256, found) in enumerate(
        zip(files, hashes, facts, strict=True)
    ):
        twins[sha256] += 1
        identity = f'{sha256} {twins[sha256]}'
        told = table.rows.get(number) if table else None
        label = spec.label_of(raw.path)
        is_mask = (raw.source, _mask_of(spec, raw.path)) in images
        if not found.slices or is_mask:
            items.append(
                Item(
                    file_id=keyed_hash(key, 'file', identity),
                    file=number,
                    facts=None,
                    reason='mask of another image' if is_mask else found.reason,
                    detail=found.detail,
                    split=spec.split_of(raw.path),
                    label=label,
                )
            )
            continue
        if told and told.label:
            label = spec.classes.index(told.label)
        target = spec.targets[label] if spec.targets and label >= 0 else math.nan
        if told and not math.isnan(told.target):
            target = told.target
            if label < 0 and target in spec.targets:
                label = spec.targets.index(target)
        for image in found.slices:
            position = image.position
            if spec.position and (named := spec.position.find(raw.path)):
                position = float(named)
            items.append(
                Item(
                    file_id=keyed_hash(key, 'file', f'{identity} {image.frame}'),
                    file=number,
                    facts=image,
                    reason=_unfit(spec, image),
                    split=spec.split_of(raw.path),
                    label=label,
                    target=target,
                    position=position,
                    site=keyed_hash(key, 'site', told.site)
                    if told and told.site
                    else '',
                )
            )
    return items


def _mask_of(spec: DatasetSpec, path: str) -> str | None:
    return spec.masks.find(path) if spec.masks else None


def _without_suffix(path: str) -> str:
    return str(PurePosixPath(path.removesuffix('.gz')).with_suffix(''))


def _unfit(spec: DatasetSpec, image: SliceFacts) -> str:
    if image.blank:
        return 'blank image'
    return LOCALIZER if image.localizer and spec.skip_localizers else ''


def _drop_duplicates(items: list[Item], files: Sequence[RawFile]) -> list[Item]:
    """Keeps one of the images with equal pixels."""
    by_pixels: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item.facts and not item.reason:
            by_pixels.setdefault(item.facts.pixel_sha256, []).append(index)
    return _keep_one(items, files, list(by_pixels.values()), DUPLICATE)


def _drop_twins(items: list[Item], files: Sequence[RawFile]) -> list[Item]:
    """Keeps one of the images that are the same but for turns, size, tones or coding.

    Slices of one series are never twins, however alike: a scanner made them one by one.
    """
    rows = [i for i, item in enumerate(items) if item.facts and not item.reason]
    facts = [items[row].facts for row in rows]
    small = np.stack([f.small for f in facts if f and f.small is not None])
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

    Copies that contradict each other in their label are no evidence for either: the
    one that is kept is unlabelled.
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
        if len(labels) > 1:
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


def _with_subjects(
    spec: DatasetSpec, items: list[Item], files: Sequence[RawFile], table: Table | None
) -> tuple[list[Item], str, tuple[float, float] | None]:
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


def _by_path(rule: PathPattern | FolderLevel, item: Item, raw: RawFile) -> Item:
    subject = rule.find(raw.path)
    if subject is None and not item.reason:
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
    named = _by_names(items, files) if rule.names == 'kaggle_alzheimer' else {}
    by_name = all(row in named for row in rows)
    labels = [items[row].label for row in rows]
    failure = ''
    try:
        found = groups_by_pixels([_gray(items[row], files) for row in rows], labels)
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


def _with_limits(
    spec: DatasetSpec, items: list[Item], files: Sequence[RawFile], bits: int
) -> list[Item]:
    """Sets the range of values of each scan, by its series."""

    def series(item: Item) -> tuple[str, ...]:
        assert item.facts
        if item.facts.series:
            return files[item.file].source, item.facts.series
        return files[item.file].source, files[item.file].path

    pooled: dict[tuple[str, ...], list[SliceFacts]] = {}
    for item in items:
        if item.facts and not item.facts.picture and not item.facts.blank:
            pooled.setdefault(series(item), []).append(item.facts)
    limits, levels = {}, {}
    for name, some in pooled.items():
        values = np.sort(np.concatenate([facts.quantiles for facts in some]))
        limits[name] = np.percentile(values, spec.intensity.percentiles)
        levels[name] = _levels(some) if bits == 16 else ()
    result = []
    for item in items:
        if item.facts and not item.facts.picture and not item.reason:
            low, high = (float(v) for v in limits[series(item)])
            lowest = min(facts.lowest for facts in pooled[series(item)])
            windows = _windows(spec, item.facts, (low, high), lowest)
            if all(first < last for first, last in windows):
                item = dataclasses.replace(
                    item, windows=windows, levels=levels[series(item)]
                )
            else:
                item = dataclasses.replace(item, reason='blank image')
        result.append(item)
    return result


def _levels(series: Sequence[SliceFacts]) -> tuple[float, float]:
    """Says how the values of a series are stored in 16 bits: the least, and a step.

    Whole numbers are stored as they are, from 0 or the least of them on; others, and
    those that span more, by as small steps as the bits allow.
    """
    lowest = min(facts.lowest for facts in series)
    highest = max(facts.highest for facts in series)
    least = min(lowest, 0.0)
    if all(facts.integral for facts in series) and highest - least <= _HIGHEST:
        return least, 1.0
    return lowest, (highest - lowest) / _HIGHEST


def _windows(
    spec: DatasetSpec, facts: SliceFacts, limits: tuple[float, float], lowest: float
) -> tuple[tuple[float, float], ...]:
    """Gives the values of a scan that become 0 and 255, one pair or three."""
    if facts.window and facts.modality in spec.intensity.windowed:
        return (facts.window,)
    untold_ct = not facts.modality and spec.modality == 'CT' and lowest < _AIR
    if facts.modality == 'CT' or untold_ct:
        return spec.intensity.hounsfield_windows()
    return (limits,)
