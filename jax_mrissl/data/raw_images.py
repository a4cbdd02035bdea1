"""Raw files that belong to no dataset, read as those of a prepared one were."""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.core.errors import UnreadableFile, UserError
from jax_mrissl.data import catalog
from jax_mrissl.data.canvas import Placed, place
from jax_mrissl.data.card import reading_of
from jax_mrissl.data.gray_levels import with_limits
from jax_mrissl.data.inventory import RawFile, derive_key, walk
from jax_mrissl.data.item import Item
from jax_mrissl.data.planning import keyed_hash
from jax_mrissl.data.reading import read_facts
from jax_mrissl.data.scan import FileFacts, Storage
from jax_mrissl.data.spec import (
    DatasetSpec,
    FileRule,
    FolderLevel,
    HeaderSubject,
    Intensity,
    PathPattern,
    file_rule_of_json,
)
from jax_mrissl.data.spool import FILES_PER_JOB, Spool
from jax_mrissl.data.workers import Crew
from jax_mrissl.readers.read import read

SUBJECT_RULES = ('auto', 'header', 'folder', 'file')


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the images of a prepared dataset were made of raw files.

    Attributes:
        canvas, bits, channels: of a stored image.
        intensity: how scans become gray.
        modality: of volumes that do not tell it; '': unknown.
        subject: the rules by which a file tells its subject, the first to ask first.
        folders: how many folders its files lay deep in the raw folder; None: unknown,
            or not all alike.
    """

    canvas: int
    bits: int
    channels: int
    intensity: Intensity
    modality: str
    subject: tuple[FileRule, ...] = ()
    folders: int | None = None

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> 'Reading':
        """Reads it off the card of a prepared dataset.

        Raises:
            UserError: a card of an earlier version, of a dataset of one's own.
        """
        told = card.get('reading')
        if told is None:
            if card['name'] not in catalog.DATASETS:
                raise UserError(
                    f'The card of {card["name"]} does not say how its files were read: '
                    'an earlier version wrote it. Prepare it again, with --overwrite.'
                )
            told = reading_of(catalog.find(card['name']))
        rules = told['subject'] or ()
        if isinstance(rules, str):  # a pattern was all that earlier versions kept
            rules = [{'pattern': rules}]
        return cls(
            canvas=card['canvas'],
            bits=card['bits'],
            channels=card['channels'],
            intensity=Intensity(
                percentiles=tuple(told['percentiles']),
                windowed=tuple(told['windowed']),
                hounsfield=tuple(told['hounsfield']),
            ),
            modality=told['modality'],
            subject=tuple(map(file_rule_of_json, rules)),
            folders=told.get('folders'),
        )


@dataclasses.dataclass(frozen=True)
class RawImages:
    """Images of raw files: all that is known of them but their pixels.

    Attributes:
        files: all files, also those without an image.
        items: the images that can be shown, in the order of the files.
        subjects: for each of `items` a keyed hash of who is on it.
        unreadable: files and images that cannot be shown: path, reason.
    """

    files: tuple[RawFile, ...]
    items: tuple[Item, ...]
    subjects: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    reading: Reading

    def path(self, item: Item) -> str:
        """Gives the path of an image's file, as the user named it."""
        return self.files[item.file].path

    def placed(self, items: Sequence[Item]) -> Iterator[Placed | None]:
        """Reads images and puts each on its canvas; None: it cannot be read again.

        A file of many images is read once, as its images lie together.
        """
        reading = self.reading
        opened: tuple[int, Iterator[Any]] | None = None
        for item in items:
            assert item.facts
            if opened is None or opened[0] != item.file:
                opened = item.file, read(self.files[item.file].file)
            found = None
            with contextlib.suppress(UnreadableFile):
                # Frames come in their order, and so do the items of a file.
                found = next(
                    (s for s in opened[1] if s.frame == item.facts.frame), None
                )
            if found is None:
                yield None
                continue
            yield place(
                found,
                windows=item.windows,
                canvas=reading.canvas,
                channels=reading.channels,
                bits=reading.bits,
                levels=item.levels,
            )


def find_raw_images(
    given: Sequence[Path], reading: Reading, *, subject: str = 'auto', workers: int = 0
) -> RawImages:
    """Finds the images in files and folders; each file is read once, for its facts.

    The values of a scan become gray by the percentiles of its whole series, as far as
    it is among these files: of a series that is given in part, of that part.

    Args:
        given: files, and folders that are walked.
        reading: of the dataset that they are to be treated like.
        subject: how subjects are told. 'header': by DICOM's PatientID; 'folder': by
            the folder that a file is in; 'file': each file is one; else a regular
            expression with a bracket, searched in the path. 'auto': by the dataset's
            own rule, where it is one for files, else PatientID, else the file.
        workers: processes; 0: one for each CPU.

    Raises:
        UserError: nothing is there, or `subject` is none of these.
    """
    pattern = _pattern(subject)
    files, within = _list(given)
    workers = workers or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / 'spool')
        facts = _scan(files, spool, workers, reading)
        items, unreadable = _items(files, facts, reading, spool)
    unreadable += [
        (files[item.file].path, item.reason) for item in items if item.reason
    ]
    kept = tuple(item for item in items if not item.reason)
    key = derive_key([one.digest for one in facts])
    who = _who(subject, pattern, reading, within)
    return RawImages(
        tuple(files),
        kept,
        # A hash, so that neither screen nor table names a patient.
        tuple(keyed_hash(key, 'subject', who(files[i.file], i))[:12] for i in kept),
        tuple(unreadable),
        reading,
    )


def _items(
    files: Sequence[RawFile], facts: Sequence[FileFacts], reading: Reading, spool: Spool
) -> tuple[list[Item], list[tuple[str, str]]]:
    """Gives all images, each with its range of values, and what has none."""
    items, unreadable = [], []
    for number, (raw, found) in enumerate(zip(files, facts, strict=True)):
        if not found.slices:
            unreadable.append((raw.path, found.reason))
        for image in found.slices:
            items.append(
                Item(
                    file_id=f'{number}/{image.frame}',
                    file=number,
                    facts=image,
                    reason='blank image' if image.blank else '',
                    position=image.position,
                )
            )
    as_dataset = DatasetSpec(
        name='given',
        title='',
        source='',
        terms='',
        layout='',
        intensity=reading.intensity,
        modality=reading.modality,
    )
    return with_limits(as_dataset, items, files, reading.bits, spool), unreadable


def _pattern(subject: str) -> PathPattern | None:
    if subject in SUBJECT_RULES:
        return None
    try:
        return PathPattern(subject)
    except UserError as error:
        raise UserError(
            f'--subject={subject!r} is none of {", ".join(SUBJECT_RULES)}, and as a '
            f'regular expression: {error}'
        ) from error


def _who(
    subject: str,
    pattern: PathPattern | None,
    reading: Reading,
    within: Mapping[str, int],
) -> Callable[[RawFile, Item], str]:
    """Gives the function that says who is on an image: private, to be hashed."""

    def who(raw: RawFile, item: Item) -> str:
        assert item.facts
        own = f'file {raw.path}'
        header = item.facts.subject and f'header {item.facts.subject}'
        if subject == 'folder':
            return f'folder {raw.file.parent}'
        if subject == 'header':
            return header or own
        if subject == 'auto':
            for rule in reading.subject:
                if isinstance(rule, HeaderSubject):
                    found = header
                else:
                    found = _search(rule, raw, reading.folders, within[raw.path])
                if found:
                    return found
            return header or own
        named = pattern.find(raw.path) if pattern else None
        return f'path {named}' if named else own

    return who


def _search(
    rule: PathPattern | FolderLevel, raw: RawFile, folders: int | None, within: int
) -> str:
    """Gives what a dataset's rule finds in the path of a file not of it; '': nothing.

    The rule is for paths from the raw folder, and may count on where they begin. So
    it gets as many of the file's folders as those of the dataset lay deep, or else
    those below the folder that the user named; then one more at a time, up to that
    folder. Those above it, such as a home directory, tell no subject. Where more of
    the folders that the user named would change what is found, they are part of it:
    rather one subject as two than two as one.
    """
    parts = Path(os.path.abspath(raw.file)).parts[1:]
    least = within if folders is None else folders
    for count in range(least, max(least, within + 1) + 1):
        own, above = parts[-count - 1 :], parts[-within - 1 : -count - 1]
        found = rule.find('/'.join(own))
        if found:
            certain = rule.find('/'.join((*above, *own))) == found
            return f'path {found if certain else "/".join((*above, found))}'
    return ''


def _list(given: Sequence[Path]) -> tuple[list[RawFile], dict[str, int]]:
    """Lists files, each once; a path is told as the user began it.

    Returns: the files; by path, how many folders lie between the file and what was
        given: 0 for a file that was.
    """
    found: dict[Path, RawFile] = {}
    within: dict[str, int] = {}
    for path in given:
        path = path.expanduser()
        if path.is_dir():
            names = list(walk(path))
            files = [path / name for name in names]
            depths = [name.count('/') for name in names]
            if not files:
                raise UserError(f'There are no files in the folder {path}.')
        elif path.exists():
            files, depths = [path], [0]
        else:
            raise UserError(f'There is nothing at {path}. Give files or folders.')
        for file, depth in zip(files, depths, strict=True):
            found.setdefault(file.resolve(), RawFile('', str(file), Path.cwd()))
            within.setdefault(str(file), depth)
    if not found:
        raise UserError('Give files or folders of images.')
    return sorted(found.values(), key=lambda raw: raw.path), within


def _scan(
    files: Sequence[RawFile], spool: Spool, workers: int, reading: Reading
) -> list[FileFacts]:
    """Reads each file, in processes that a broken one may crash."""
    storage = Storage(
        canvas=reading.canvas,
        bits=reading.bits,
        channels=1 if reading.channels == 1 else 3,
        intensity=reading.intensity,
        small=False,
        keep_free=sys.maxsize,  # facts alone: no image is kept on disk
    )
    jobs = -(-len(files) // FILES_PER_JOB)
    with Crew(max(2, min(workers, jobs))) as crew:
        return read_facts(files, spool, storage, crew)


def stacked(placed: Sequence[Placed]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives images [n, H, W, C], boxes int32 [n, 4], windows float32 [n, 2]."""
    return (
        np.stack([one.pixels for one in placed]),
        np.array([one.box for one in placed], np.int32),
        np.array([one.window for one in placed], np.float32),
    )
