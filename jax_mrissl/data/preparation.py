"""Raw folders to a prepared dataset on disk, in one piece or not at all."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data import catalog, records
from jax_mrissl.data.card import make_card
from jax_mrissl.data.demo import write_raw
from jax_mrissl.data.inventory import (
    RawFile,
    derive_key,
    hash_files,
    list_files,
    named,
    raw_digest,
)
from jax_mrissl.data.own import OwnFolder, own_spec, with_classes
from jax_mrissl.data.planning import Plan, make_plan
from jax_mrissl.data.publication import (
    IDENTITY,
    Content,
    forget_work,
    publish,
    write_around,
)
from jax_mrissl.data.scan import FileFacts, from_json
from jax_mrissl.data.spec import DatasetSpec
from jax_mrissl.data.table import Table, find_table, read_table, read_titles
from jax_mrissl.data.workers import Job, perform, skip_file

_FILES_PER_JOB = 64
# What a stored image takes at most, of its canvas: brain slices take a third.
_BYTES_PER_PIXEL = 0.7


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare_dataset` leaves.

    Attributes:
        folder: the prepared dataset.
        card: its card.
        was_there: it had been prepared before, and nothing was done.
    """

    folder: Path
    card: dict[str, Any]
    was_there: bool


def prepare_dataset(
    name: str,
    raw_dirs: Sequence[str | Path],
    data_dir: str | Path,
    *,
    canvas: int,
    bits: int = 8,
    version: str = '',
    workers: int = 0,
    overwrite: bool = False,
    keep_private: bool = True,
    own: OwnFolder | None = None,
    windows: Sequence[str] = (),
) -> Prepared:
    """Prepares a dataset of the catalog.

    Killed at any moment and called again, it goes on and ends with the same bytes. The
    new set appears under its name when all of it is on the disk, and an earlier one
    stays as it is until then.

    Args:
        name: of the catalog.
        raw_dirs: folders of raw files, in any order; () for a simulated set, which
            is then made in DATA_DIR/raw/NAME.
        data_dir: where prepared datasets are.
        canvas: height and width of the stored images, in pixels.
        bits: of the stored pixels. 8: scans are stored as they are shown. 16: with all
            of their values, so that their window can vary in training; gray sets.
        version: of the prepared dataset; '': as the catalog says.
        workers: processes; 0: one for each CPU.
        overwrite: replace an earlier set that differs.
        keep_private: write private/, which alone tells files and patients.
        own: what is said of the files of 'folder'; a table, of other sets, too.
        windows: of CT, by name: one, or three as channels; (): as the catalog says.

    Raises:
        UserError: a mistake of use, other data under this name, or a full disk.
    """
    spec = catalog.find(name)
    own = own or OwnFolder()
    if name == 'folder':
        spec = own_spec(spec, own)
    elif dataclasses.replace(own, table=None) != OwnFolder():
        raise UserError('Only --dataset=folder takes a name, classes or a group.')
    elif own.table and not spec.table:
        raise UserError(f'{name} takes no table: --table is for sets that have one.')
    if windows:
        intensity = dataclasses.replace(spec.intensity, hounsfield=tuple(windows))
        spec = dataclasses.replace(spec, intensity=intensity)
    spec = dataclasses.replace(spec, version=version or spec.version)
    if not tfds.core.Version.is_valid(spec.version):
        raise UserError(f'--version={spec.version!r} is not of the form 1.0.0.')
    if bits not in (8, 16):
        raise UserError(f'--bits={bits} is neither 8 nor 16.')
    if not 8 <= canvas <= 4096:
        raise UserError(f'--canvas={canvas} is not between 8 and 4096 pixels.')
    home = Path(data_dir).expanduser() / spec.name
    workers = workers or os.cpu_count() or 1
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home, spec.version):
            folders = _raw_folders(spec, raw_dirs, Path(data_dir).expanduser())
            task = _Task(
                spec, folders, home, canvas, bits, workers, overwrite, keep_private, own
            )
            return task.run()
    except OSError as error:
        raise _explained(error, home) from error


def _explained(error: OSError, home: Path) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or 'written whole' in str(error)
    if full:
        return UserError(
            f'The disk of {home} is full ({_free_mb(home):,.0f} MB are left). What was '
            'prepared before is as it was. Make room, or take another --data_dir, and '
            'start the same command again: it goes on where it stopped.'
        )
    return UserError(f'{error.strerror or error}: {error.filename or home}.')


def _free_mb(home: Path) -> float:
    while not home.exists():
        home = home.parent
    return shutil.disk_usage(home).free / 1e6


def _raw_folders(
    spec: DatasetSpec, raw_dirs: Sequence[str | Path], data_dir: Path
) -> list[Path]:
    if raw_dirs:
        # An order of names, so that the order of flags changes nothing.
        return sorted(Path(folder).expanduser() for folder in raw_dirs)
    if not spec.simulated:
        raise UserError(
            f'--raw_dir is missing: where are the raw files of {spec.name}?\n'
            + catalog.advice(spec.name, data_dir)
        )
    folder = data_dir / 'raw' / spec.name
    if not folder.exists():  # it appears only when it is complete
        logging.info('Simulating %s in %s.', spec.name, folder)
        write_raw(folder, seed=0, small=spec.name == 'smoke')
    return [folder]


@contextlib.contextmanager
def _alone(home: Path, version: str) -> Iterator[None]:
    """Holds a lock that the system takes back when the process dies."""
    with open(home / f'.lock-{version}', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f'Another prepare is writing {home / version} at this moment.'
            ) from error
        yield


@dataclasses.dataclass(frozen=True)
class _Task:
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
        self._recover()
        given = self.own.table
        files = list_files(self.spec, self.raw_dirs, leave_out=[given] if given else [])
        path = given or find_table(self.spec, self.raw_dirs, files)
        columns = self.spec.table
        tables = columns.names if columns else ()
        files = [file for file in files if not named(file.file, tables)]
        with Progress('Looking at files', len(files), unit='files') as bar:
            hashes = hash_files(files, workers=self.workers, advance=bar.advance)
        table = read_table(path, files, columns) if path and columns else None
        spec = with_classes(self.spec, files, table)
        titles = read_titles(spec, self.raw_dirs)
        spec = dataclasses.replace(spec, class_titles=titles)
        raw = raw_digest(files, hashes)
        options = {
            'format': records.FORMAT,
            'name': spec.name,
            'version': spec.version,
            'canvas': self.canvas,
            'bits': self.bits,
            'declared': digest(_declared(spec)),
            'table': digest(table and [[i, repr(r)] for i, r in table.rows.items()]),
        }
        earlier = self._earlier(options, raw)
        if earlier:
            return earlier
        plan = self._plan(spec, files, hashes, table)
        staging = self._beside('incomplete')
        identity = {'options': options, 'raw': raw}
        self._open_staging(staging, identity, plan)
        shards = self._write_shards(spec, plan, files, staging)
        notes = []
        if table and table.unmatched:
            notes.append(f'{table.unmatched} rows of the table named no file.')
        if table and table.silent:
            notes.append(f'{table.silent} files have no row in the table.')
        card = make_card(
            spec,
            plan,
            files,
            options=options,
            raw_digest=raw,
            shards={s: [records.read_facts(p) for p in ps] for s, ps in shards.items()},
            notes=notes,
        )
        write_around(
            Content(spec, plan, files, hashes, shards, card),
            staging,
            keep_private=self.keep_private,
        )
        publish(staging, self._folder, replaced=self._beside('replaced'))
        return Prepared(self._folder, card, was_there=False)

    def _recover(self) -> None:
        """Mends what a kill between two renames left."""
        replaced = self._beside('replaced')
        if replaced.exists() and not self._folder.exists():
            replaced.rename(self._folder)
        elif replaced.exists():
            shutil.rmtree(replaced)
        if self._folder.is_dir():
            forget_work(self._folder)

    def _earlier(self, options: dict[str, Any], raw: str) -> Prepared | None:
        """Gives the set that is there if it is the one asked for."""
        if not (self._folder / 'dataset_info.json').is_file():
            if self._folder.exists() and not self.overwrite:
                raise UserError(
                    f'{self._folder} holds something that is no prepared dataset. '
                    'Remove it, or use --overwrite.'
                )
            return None
        card = {}
        with contextlib.suppress(OSError, ValueError):
            card = read_json(self._folder / 'card.json')
        if card.get('options') == options and card.get('raw_digest') == raw:
            return Prepared(self._folder, card, was_there=True)
        if self.overwrite:
            return None
        differences = [] if card.get('raw_digest') == raw else ['other raw files']
        was = card.get('options', {})
        for key, words in {
            'canvas': 'canvas {}',
            'bits': '{} bits',
            'declared': 'another declaration (classes, subjects)',
            'table': 'another table',
            'format': 'another format of records',
        }.items():
            if was.get(key) != options[key]:
                differences.append(words.format(was.get(key)))
        raise UserError(
            f'{self._folder} was prepared from or with: {", ".join(differences)}. It '
            'stays as it is. Use another --data_dir, another --version, or --overwrite '
            'to replace it.'
        )

    def _plan(
        self,
        spec: DatasetSpec,
        files: Sequence[RawFile],
        hashes: Sequence[str],
        table: Table | None,
    ) -> Plan:
        starts = range(0, len(files), _FILES_PER_JOB)
        jobs: list[Job] = [
            (
                'scan',
                {
                    'paths': [str(f.file) for f in files[s : s + _FILES_PER_JOB]],
                    'small': spec.drop_twins,
                },
            )
            for s in starts
        ]
        found: list[list[FileFacts]] = [[] for _ in jobs]
        with Progress('Reading images', len(files), unit='files') as bar:

            def keep(job: int, answer: dict[str, Any]) -> None:
                found[job].append(from_json(answer))
                bar.advance(1)

            perform(jobs, workers=self.workers, on_answer=keep, heir=skip_file)
        facts = [one for some in found for one in some]
        logging.info('Telling subjects apart, and finding repeated images.')
        key = derive_key(hashes)
        return make_plan(
            spec, files, hashes, facts, key=key, table=table, bits=self.bits
        )

    def _open_staging(
        self, staging: Path, identity: dict[str, Any], plan: Plan
    ) -> None:
        """Keeps what an earlier start left there, if it was for the same dataset."""
        mark = staging / IDENTITY
        if staging.exists():
            before = None
            with contextlib.suppress(OSError, ValueError):
                before = read_json(mark)
            if before != identity:
                shutil.rmtree(staging)
        kept = sum(not item.reason for item in plan.items)
        there = (
            sum(p.stat().st_size for p in staging.glob('*')) if staging.exists() else 0
        )
        size = kept * self.canvas**2 * plan.channels * _BYTES_PER_PIXEL * self.bits / 8
        if (size - there) / 1e6 > _free_mb(self.home):
            raise OSError(errno.ENOSPC, 'No space left on device', str(self.home))
        staging.mkdir(exist_ok=True)
        for torn in staging.glob('.*.tmp'):
            torn.unlink()
        write_json(mark, identity)

    def _write_shards(
        self, spec: DatasetSpec, plan: Plan, files: Sequence[RawFile], staging: Path
    ) -> dict[str, list[Path]]:
        jobs: list[Job] = []
        shards: dict[str, list[Path]] = {}
        done = total = 0
        for split in plan.splits:
            rows = [item.row(files[item.file]) for item in plan.kept(split)]
            total += len(rows)
            count = -(-len(rows) // records.IMAGES_PER_SHARD)
            for index in range(count):
                # Shards of equal size, to one image.
                part = rows[
                    index * len(rows) // count : (index + 1) * len(rows) // count
                ]
                shard = staging / records.shard_name(spec.name, split, index, count)
                shards.setdefault(split, []).append(shard)
                if records.is_finished(shard):
                    done += len(part)
                    continue
                arguments = {
                    'path': str(shard),
                    'rows': [dataclasses.asdict(row) for row in part],
                    'canvas': self.canvas,
                    'channels': plan.channels,
                    'bits': self.bits,
                }
                jobs.append(('write', arguments))
        if done:
            logging.info('%d images were written by an earlier start.', done)
        with Progress('Writing records', total, done=done, unit='images') as bar:
            perform(
                jobs,
                workers=self.workers,
                on_answer=lambda _, count: bar.advance(count),
            )
        return shards


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
