"""Raw folders to a prepared dataset on disk, in one piece or not at all."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import catalog
from jax_mrissl.data.making import Making, Prepared, free_mb
from jax_mrissl.data.own import OwnFolder, own_spec
from jax_mrissl.data.spec import DatasetSpec


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
    wait: bool = False,
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
        overwrite: replace an earlier set that differs, or has no private/ and should.
        keep_private: write private/, which alone tells files and patients; False also
            removes that of an earlier set.
        own: what is said of the files of 'folder'; a table, of other sets, too.
        windows: of CT, by name: one, or three as channels; (): as the catalog says.
        wait: for another process that prepares the same set; False: refuse.

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
    if not re.fullmatch(r'\d+\.\d+\.\d+', spec.version):
        raise UserError(f'--version={spec.version!r} is not of the form 1.0.0.')
    if bits not in (8, 16):
        raise UserError(f'--bits={bits} is neither 8 nor 16.')
    if not 8 <= canvas <= 4096:
        raise UserError(f'--canvas={canvas} is not between 8 and 4096 pixels.')
    home = Path(data_dir).expanduser() / spec.name
    workers = workers or os.cpu_count() or 1
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home, spec.version, wait=wait):
            folders = _raw_folders(spec, raw_dirs, Path(data_dir).expanduser())
            making = Making(
                spec, folders, home, canvas, bits, workers, overwrite, keep_private, own
            )
            return making.run()
    except OSError as error:
        raise _explained(error, home) from error


def _explained(error: OSError, home: Path) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or 'written whole' in str(error)
    if full:
        return UserError(
            f'The disk of {home} is full ({free_mb(home):,.0f} MB are left). What was '
            'prepared before is as it was. Make room, or take another --data_dir, and '
            'start the same command again: it goes on where it stopped.'
        )
    return UserError(f'{error.strerror or error}: {error.filename or home}.')


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
        from jax_mrissl.data.demo import write_raw  # it loads SciPy

        write_raw(folder, seed=0, small=spec.name == 'smoke')
    return [folder]


@contextlib.contextmanager
def _alone(home: Path, version: str, *, wait: bool) -> Iterator[None]:
    """Holds a lock that the system takes back when the process dies."""
    with open(home / f'.lock-{version}', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            words = f'Another prepare is writing {home / version} at this moment.'
            if not wait:
                raise UserError(words) from error
            logging.info('%s Waiting for it.', words)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
