"""The making of one prepared dataset: raw files are read, planned, and written."""

import contextlib
import dataclasses
import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data import publication, records
from jax_mrissl.data.card import make_card
from jax_mrissl.data.inventory import (
    RawFile,
    derive_key,
    hash_files,
    list_files,
    named,
    raw_digest,
)
from jax_mrissl.data.item import Item
from jax_mrissl.data.own import OwnFolder, expect_files_of, with_classes
from jax_mrissl.data.planning import Plan, make_plan
from jax_mrissl.data.publication import IDENTITY, Content
from jax_mrissl.data.reading import read_facts
from jax_mrissl.data.scan import FileFacts, Storage
from jax_mrissl.data.spec import DatasetSpec
from jax_mrissl.data.spool import Spool
from jax_mrissl.data.table import find_table, read_table, read_titles
from jax_mrissl.data.workers import Crew, Job

# What a stored image takes at most, of its canvas: brain slices take a third.
_BYTES_PER_PIXEL = 0.7


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare_dataset` leaves.

    Attributes:
        folder: the prepared dataset.
        card: its card.
        was_there: it had been prepared before, and no record was written.
        note: what was done or is missing then; '': nothing.
    """

    folder: Path
    card: dict[str, Any]
    was_there: bool
    note: str = ''


@dataclasses.dataclass(frozen=True)
class Making:
    """How one dataset is to be made.

    Attributes:
        spec: its declaration.
        raw_dirs: folders of raw files, in the order of their names.
        home: the folder of its versions.
        canvas, bits, workers, overwrite, keep_private, own: as in `prepare_dataset`.
    """

    spec: DatasetSpec
    raw_dirs: list[Path]
    home: Path
    canvas: int
    bits: int
    workers: int
    overwrite: bool
    keep_private: bool
    own: OwnFolder

    @property
    def _folder(self) -> Path:
        return self.home / self.spec.version

    def _beside(self, purpose: str) -> Path:
        # Not of the form 1.0.0: nobody takes it for a version.
        return self.home / f'{purpose}-{self.spec.version.replace(".", "_")}'

    def run(self) -> Prepared:
        """Makes it, or finds it made.

        Raises:
            UserError: a mistake of use, or other data under this name.
            OSError: the disk.
        """
        self._recover()
        given = self.own.table
        files = list_files(
            self.spec,
            self.raw_dirs,
            leave_out=[self.home.parent, *([given] if given else [])],
        )
        path = given or find_table(self.spec, self.raw_dirs, files)
        columns = self.spec.table
        tables = columns.names if columns else ()
        files = [file for file in files if not named(file.path, tables)]
        table = None
        if path and columns:
            table = read_table(path, files, columns, self.spec.classes)
        spec = with_classes(self.spec, files, table)
        expect_files_of(self.own.classes, spec, files, table)
        titles = read_titles(spec, self.raw_dirs)
        spec = dataclasses.replace(spec, class_titles=titles)
        options = {
            'format': records.FORMAT,
            'name': spec.name,
            'version': spec.version,
            'canvas': self.canvas,
            'bits': self.bits,
            'declared': digest(_declared(spec)),
            'table': digest(table and [[i, repr(r)] for i, r in table.rows.items()]),
        }
        earlier = self._earlier(options, files)
        if earlier:
            return earlier
        with Crew(self.workers) as crew, self._spool() as spool:
            crew.start()
            # While the workers load, and before anything is read: see there.
            publication.load()
            facts = self._read(spec, files, spool, crew)
            hashes = [one.digest for one in facts]
            raw = raw_digest(files, hashes)
            logging.info('Telling subjects apart, and finding repeated images.')
            plan = make_plan(
                spec,
                files,
                facts,
                key=derive_key(hashes),
                table=table,
                spool=spool,
                bits=self.bits,
            )
            del facts
            staging = self._beside('incomplete')
            room = self._open_staging(staging, {'options': options, 'raw': raw}, plan)
            if not room:  # then without what was kept to save time
                spool.remove()
                self._refuse_if_full(staging, plan)
            shards = self._write_shards(
                spec, plan, files, staging, spool if room else None, crew
            )
        notes = []
        if table and table.unmatched:
            notes.append(f'Rows of the table that name no file: {table.unmatched:,}.')
        if table and table.silent:
            notes.append(f'Files without a row in the table: {table.silent:,}.')
        card = make_card(
            spec,
            plan,
            files,
            options=options,
            raw_digest=raw,
            shards={s: [records.read_facts(p) for p in ps] for s, ps in shards.items()},
            notes=notes,
        )
        publication.write_around(
            Content(spec, plan, files, hashes, shards, card),
            staging,
            keep_private=self.keep_private,
        )
        publication.publish(staging, self._folder, replaced=self._beside('replaced'))
        return Prepared(self._folder, card, was_there=False)

    def _recover(self) -> None:
        """Mends what a kill between two renames left."""
        replaced = self._beside('replaced')
        if replaced.exists() and not self._folder.exists():
            replaced.rename(self._folder)
        elif replaced.exists():
            shutil.rmtree(replaced)
        if self._folder.is_dir():
            publication.forget_work(self._folder)

    @contextlib.contextmanager
    def _spool(self) -> Iterator[Spool]:
        """Makes a place for what is known of the images until they are written."""
        folder = self._beside('spool')
        shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed
        try:
            yield Spool(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _earlier(
        self, options: dict[str, Any], files: Sequence[RawFile]
    ) -> Prepared | None:
        """Gives the set that is there if it is the one asked for."""
        if not (self._folder / 'dataset_info.json').is_file():
            if self._folder.exists() and not self.overwrite:
                raise UserError(
                    f'{self._folder} holds something that is no prepared dataset. '
                    'Remove it, or use --overwrite.'
                )
            return None
        with Progress('Looking at files', len(files), unit='files') as bar:
            hashes = hash_files(files, workers=self.workers, advance=bar.advance)
        raw = raw_digest(files, hashes)
        card = {}
        with contextlib.suppress(OSError, ValueError):
            card = read_json(self._folder / 'card.json')
        was = card.get('options', {})
        asked = options
        if was.get('format') in records.READABLE:
            asked = options | {'format': was['format']}
        if was == asked and card.get('raw_digest') == raw:
            private = self._folder / 'private'
            note = ''
            if self.keep_private and not private.is_dir():
                if self.overwrite:
                    return None
                note = (
                    'It has no private/, which would tell raw files and patients: '
                    '--overwrite makes it again, with it.'
                )
            elif not self.keep_private and private.is_dir():
                shutil.rmtree(private)
                note = 'Its private/ was removed.'
            return Prepared(self._folder, card, was_there=True, note=note)
        if self.overwrite:
            return None
        differences = [] if card.get('raw_digest') == raw else ['other raw files']
        for key, words in {
            'canvas': 'canvas {}',
            'bits': '{} bits',
            'declared': 'another declaration (classes, subjects)',
            'table': 'another table',
            'format': 'another format of records',
        }.items():
            if was.get(key) != asked[key]:
                differences.append(words.format(was.get(key)))
        raise UserError(
            f'{self._folder} was prepared from or with: {", ".join(differences)}. It '
            'stays as it is. Use another --data_dir, another --version, or --overwrite '
            'to replace it.'
        )

    def _read(
        self, spec: DatasetSpec, files: Sequence[RawFile], spool: Spool, crew: Crew
    ) -> list[FileFacts]:
        """Reads all files, once each; gives what is known of them, in their order."""
        channels = 1 if spec.channels == 1 else 3
        storage = Storage(
            canvas=self.canvas,
            bits=self.bits,
            channels=spec.channels,
            intensity=spec.intensity,
            small=spec.drop_twins,
            keep_free=self._stored_bytes(len(files), channels),
        )
        return read_facts(files, spool, storage, crew)

    def _stored_bytes(self, images: int, channels: int) -> int:
        pixels = images * self.canvas**2 * channels
        return round(pixels * _BYTES_PER_PIXEL * self.bits / 8)

    def _open_staging(
        self, staging: Path, identity: dict[str, Any], plan: Plan
    ) -> bool:
        """Keeps what an earlier start left there, if it was for the same dataset.

        Returns: whether there is room for the rest.
        """
        if staging.exists():
            before = None
            with contextlib.suppress(OSError, ValueError):
                before = read_json(staging / IDENTITY)
            if before != identity:
                shutil.rmtree(staging)
        staging.mkdir(exist_ok=True)
        for torn in staging.glob('.*.tmp'):
            torn.unlink()
        write_json(staging / IDENTITY, identity)
        return self._has_room(staging, plan)

    def _has_room(self, staging: Path, plan: Plan) -> bool:
        kept = sum(not item.reason for item in plan.items)
        there = sum(path.stat().st_size for path in staging.glob('*'))
        needed = self._stored_bytes(kept, plan.channels) - there
        return needed / 1e6 <= free_mb(self.home)

    def _refuse_if_full(self, staging: Path, plan: Plan) -> None:
        if not self._has_room(staging, plan):
            raise OSError(errno.ENOSPC, 'No space left on device', str(self.home))

    def _write_shards(
        self,
        spec: DatasetSpec,
        plan: Plan,
        files: Sequence[RawFile],
        staging: Path,
        spool: Spool | None,
        crew: Crew,
    ) -> dict[str, list[Path]]:
        parts: list[tuple[Path, list[Item]]] = []
        shards: dict[str, list[Path]] = {}
        done = total = 0
        for split in plan.splits:
            kept = plan.kept(split)
            total += len(kept)
            count = records.shard_count(len(kept))
            for index in range(count):
                # Shards of equal size, to one image.
                part = kept[
                    index * len(kept) // count : (index + 1) * len(kept) // count
                ]
                shard = staging / records.shard_name(spec.name, split, index, count)
                shards.setdefault(split, []).append(shard)
                if records.is_finished(shard):
                    done += len(part)
                else:
                    parts.append((shard, part))
        if done:
            logging.info('%d images were written by an earlier start.', done)

        def jobs() -> Iterator[Job]:
            for shard, part in parts:
                rows = (item.row(files[item.file], spool) for item in part)
                arguments = {
                    'path': str(shard),
                    'rows': [list(row.fields()) for row in rows],
                    'canvas': self.canvas,
                    'channels': plan.channels,
                    'bits': self.bits,
                }
                yield 'write', arguments

        with Progress('Writing records', total, done=done, unit='images') as bar:
            crew.perform(jobs(), on_answer=lambda _, count: bar.advance(count))
        return shards


def free_mb(home: Path) -> float:
    """Gives the free megabytes of the disk that a folder is, or will be, on."""
    while not home.exists():
        home = home.parent
    return shutil.disk_usage(home).free / 1e6


def _declared(spec: DatasetSpec) -> dict[str, Any]:
    """Gives what decides about records; words about the source do not.

    What is left at its default is not told: a declaration does not change when
    declarations learn something new.
    """
    words = {'title', 'source', 'terms', 'layout', 'name', 'version', 'class_titles'}
    return {
        f.name: repr(getattr(spec, f.name))
        for f in dataclasses.fields(spec)
        if f.name not in words and getattr(spec, f.name) != f.default
    }
