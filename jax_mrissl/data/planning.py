"""From the facts of all raw files to the rows of the dataset: what is kept, and how."""

import dataclasses
import hmac
import math
import posixpath
from collections import Counter
from collections.abc import Sequence

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.gray_levels import with_limits
from jax_mrissl.data.grouping import by_path, with_subjects
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.repeats import drop_duplicates, drop_twins
from jax_mrissl.data.scan import FileFacts, SliceFacts
from jax_mrissl.data.spec import DatasetSpec, FolderLevel, PathPattern
from jax_mrissl.data.spool import Spool
from jax_mrissl.data.table import Table

LOCALIZER = 'localizer (scout, topogram)'
BURNT_IN = 'burnt-in words (so says its header, or a secondary capture of CT or MR)'


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
    facts: Sequence[FileFacts],
    *,
    key: bytes,
    table: Table | None,
    spool: Spool,
    bits: int = 8,
) -> Plan:
    """Decides about every image; the order of the files changes nothing.

    Args:
        spec: the declaration.
        files: all raw files.
        facts: of each file.
        key: of the keyed hashes.
        table: what a CSV file says of the raw files, or None.
        spool: where the rest of what is known of each image is.
        bits: of the stored images; with 16, scans keep all of their values.

    Raises:
        UserError: nothing is left, or the subjects cannot be found.
    """
    items = _described(spec, files, facts, key, table)
    if isinstance(spec.subject, PathPattern | FolderLevel):
        items = [by_path(spec.subject, item, files[item.file], table) for item in items]
    items = drop_duplicates(items, files)
    if spec.drop_twins:
        items = drop_twins(items, files, spool)
    if all(item.reason for item in items):
        reasons = Counter(item.reason for item in items)
        told = ', '.join(f'{count} x {reason}' for reason, count in reasons.items())
        raise UserError(f'No image can be used. Of {len(files)} files: {told}.')
    items, subjects_by, gap = with_subjects(spec, items, files, table)
    items = with_limits(spec, items, files, bits, spool)
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
    for index, item in enumerate(items):
        # Without a subject, an image stands for itself, and a volume for its slices.
        who = item.subject or (item.facts and f'image {item.facts.pixel_sha256}') or ''
        if not item.subject and len(facts[item.file].slices) > 1:
            who = f'file {facts[item.file].sha256}'
        group = '' if item.reason else keyed_hash(key, 'subject', who)
        items[index] = dataclasses.replace(item, group=group)
    first: dict[int, str] = {}
    for item in items:
        first.setdefault(item.file, item.file_id)
    items.sort(key=lambda i: (first[i.file], i.file, i.facts.frame if i.facts else 0))
    return Plan(
        items=tuple(items),
        channels=channels,
        turned_gray=coloured if channels == 1 else 0,
        subjects_by=subjects_by,
        gap=gap,
    )


def keyed_hash(key: bytes, kind: str, value: str) -> str:
    """Gives the HMAC-SHA256 of a value, 32 hex digits: enough for any set."""
    return hmac.digest(
        key, f'{kind}\0{value}'.encode(errors='surrogateescape'), 'sha256'
    ).hex()[:32]


def _described(
    spec: DatasetSpec,
    files: Sequence[RawFile],
    facts: Sequence[FileFacts],
    key: bytes,
    table: Table | None,
) -> list[Item]:
    """Gives the images of all files with what path and table say of each."""
    twins: Counter[bytes] = Counter()
    told_masks = {(raw.source, _mask_of(spec, raw.path)) for raw in files if spec.masks}
    masked = {(source, image) for source, image in told_masks if image}
    images = {
        path
        for raw in files
        if masked and (path := (raw.source, _without_suffix(raw.path))) in masked
    }
    # Files of one folder share what their path tells.
    labels = {
        folder: spec.label_of(posixpath.join(folder, 'x'))
        for folder in {_folder(raw) for raw in files}
    }
    items = []
    for number, (raw, found) in enumerate(zip(files, facts, strict=True)):
        twins[found.digest] += 1
        identity = f'{found.sha256} {twins[found.digest]}'
        told = table.rows.get(number) if table else None
        label = labels[_folder(raw)]
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
    return posixpath.splitext(path.removesuffix('.gz'))[0]


def _folder(raw: RawFile) -> str:
    return posixpath.dirname(raw.path)


def _unfit(spec: DatasetSpec, image: SliceFacts) -> str:
    if image.blank:
        return 'blank image'
    if image.burnt_in:
        return BURNT_IN
    return LOCALIZER if image.localizer and spec.skip_localizers else ''
