"""Which raw files there are, and whether the folder is the right one."""

import dataclasses
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.spec import DatasetSpec, plain

# What operating systems and archives leave behind.
_LITTER = {'thumbs.db', 'desktop.ini', '__macosx'}
_HASHED_AT_ONCE = 4096
# Names that are not UTF-8, as old archives have them, keep their bytes.
_AS_IT_IS = 'surrogateescape'
# Files up to so many bytes are read in one go; most are.
_SMALL = 1 << 20
# Of images, also of those that are not read: copies of a set are often converted.
_SUFFIXES = {
    *(
        '.jpg',
        '.jpeg',
        '.jpe',
        '.jp2',
        '.png',
        '.tif',
        '.tiff',
        '.bmp',
        '.gif',
        '.webp',
    ),
    *('.dcm', '.dicom', '.ima', '.nii', '.hdr', '.img', '.mgz', '.mgh', '.mnc', '.mha'),
    *('.mhd', '.nrrd', '.npy'),
}
# How far below the given folder the right one is looked for.
_SEARCH_LEVELS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a raw folder.

    Attributes:
        source: which raw folder it is from.
        path: relative to that folder, with '/'.
        folder: that folder, from the root.
        part: what the folder is called outside private/: as the set, or of several by
            its number, since its own name may be a patient's.
    """

    source: str
    path: str
    folder: Path
    part: str = ''

    @property
    def file(self) -> Path:
        """Where it is; made when asked for, as a path takes 1 kB of memory."""
        return self.folder / self.path


def list_files(
    spec: DatasetSpec, raw_dirs: Sequence[Path], *, leave_out: Iterable[Path] = ()
) -> list[RawFile]:
    """Lists the files of all raw folders, in an order that the disk does not choose.

    Args:
        spec: the declaration.
        raw_dirs: the raw folders.
        leave_out: files, and folders with all that is in them, that are not raw: a
            table, and where prepared datasets go.

    Raises:
        UserError: a folder is missing, empty, left out or not the one that the dataset
            expects.
    """
    out = frozenset(path.resolve() for path in leave_out)
    no_images = {path for path in out if not path.is_dir()}
    files = []
    sources = _source_names(spec, raw_dirs)
    for source, folder in zip(sources, raw_dirs, strict=True):
        number = sorted(sources).index(source) + 1
        part = f'folder {number}' if len(sources) > 1 else source
        check_folder(spec, folder)
        whole = folder.resolve()
        if whole in out:
            raise UserError(
                f'The raw folder {folder} is where prepared datasets go, too, which '
                'would be read as raw files. Use another --data_dir.'
            )
        found = [
            RawFile(source, name, whole, part)
            for name in walk(folder, seen=out)
            if not named(name, spec.beside)
        ]
        if no_images:
            found = [raw for raw in found if raw.file.resolve() not in no_images]
        if not found:
            raise UserError(f'There are no files in {folder}.\n{wanted(spec)}')
        files.extend(found)
    return sorted(files, key=lambda f: (f.source, f.path))


def check_folder(spec: DatasetSpec, folder: Path) -> None:
    """Raises UserError, naming the right folder if it is near, unless this is it."""
    if not folder.is_dir():
        what = 'is a file, not a folder' if folder.exists() else 'does not exist'
        raise UserError(f'The raw folder {folder} {what}.\n{wanted(spec)}')
    here = folder.resolve()
    if spec.landmarks:
        _check_landmarks(spec, folder)
    if not spec.needs_class_folders:
        if (
            spec.label_of_folder(here.name) >= 0
            and _count_classes(spec, here.parent) > 1
        ):
            raise _too_deep(folder, here.parent)
        return
    above = next((p for p in here.parents if _is_complete(spec, p)), None)
    if _fits(spec, folder) and not (above and plain(here.name) in _splits(spec)):
        return
    if above is None and spec.label_of_folder(here.name) >= 0:
        above = here.parent if _has_classes(spec, here.parent) else None
    if above:
        raise _too_deep(folder, above)
    below = next((p for p in _below(folder, _SEARCH_LEVELS) if _fits(spec, p)), None)
    if below:
        raise too_high(folder, below, 'the class folders are')
    raise UserError(
        f'The raw folder {folder} has none of the class folders that {spec.name} '
        f'consists of.\n{wanted(spec)}'
    )


def _check_landmarks(spec: DatasetSpec, folder: Path) -> None:
    def fits(place: Path) -> bool:
        return any(next(place.glob(mark), None) for mark in spec.landmarks)

    if fits(folder):
        return
    above = list(folder.resolve().parents)[:_SEARCH_LEVELS]
    if right := next((p for p in above if fits(p)), None):
        raise _too_deep(folder, right)
    if right := next((p for p in _below(folder, _SEARCH_LEVELS) if fits(p)), None):
        raise too_high(folder, right, f'{spec.name} is')
    raise UserError(
        f'The raw folder {folder} has nothing of what {spec.name} consists of.\n'
        f'{wanted(spec)}'
    )


def _too_deep(folder: Path, right: Path) -> UserError:
    return UserError(
        f'The raw folder {folder} is too deep: it is inside the folder that is '
        f'expected, {right}.\nUse --raw_dir="{right}".'
    )


def too_high(folder: Path, right: Path, what: str) -> UserError:
    """Makes the error of a folder whose content lies further down."""
    return UserError(
        f'The raw folder {folder} is too high: {what} further down.\n'
        f'Use --raw_dir="{right}".'
    )


def named(path: str, patterns: Sequence[str]) -> bool:
    """Says whether a file's name fits one of some patterns with * and ?."""
    name = path.rpartition('/')[2].casefold() if patterns else ''
    return any(fnmatch.fnmatchcase(name, p.casefold()) for p in patterns)


def without_suffix(path: str) -> str:
    """Gives a path without the suffix of an image; '.nii.gz' is one.

    Other ends of a name are a part of it, as in '1.2.840.7'.
    """
    whole = PurePosixPath(path)
    for suffixes in ({'.gz'}, _SUFFIXES):
        if whole.suffix.casefold() in suffixes:
            whole = whole.with_suffix('')
    return str(whole) if whole.name else path


def hash_files(
    files: Sequence[RawFile], *, workers: int, advance: Callable[[int], None]
) -> list[bytes]:
    """Gives the SHA-256 of each file's bytes; b'' for a file that cannot be read."""

    def sha256(file: RawFile) -> bytes:
        return bytes.fromhex(file_sha256(file.file))

    hashes = []
    with ThreadPoolExecutor(workers) as pool:
        # Not all at once: what waits in the pool takes memory, for each file.
        for start in range(0, len(files), _HASHED_AT_ONCE):
            for value in pool.map(sha256, files[start : start + _HASHED_AT_ONCE]):
                hashes.append(value)
                advance(1)
    return hashes


def file_sha256(path: Path) -> str:
    """Gives the SHA-256 of a file's bytes; '' if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would block for ever
            return ''
        with open(path, 'rb', buffering=0) as stream:
            start = stream.read(_SMALL)
            if len(start) < _SMALL:
                return hashlib.sha256(start).hexdigest()
            stream.seek(0)
            return hashlib.file_digest(stream, 'sha256').hexdigest()
    except OSError:
        return ''


def raw_digest(files: Sequence[RawFile], hashes: Sequence[bytes]) -> str:
    """Gives the identity of all raw files: their bytes and where they lie."""
    digest = hashlib.sha256(b'raw files\n')
    for file, sha256 in zip(files, hashes, strict=True):
        digest.update(
            f'{file.source}\0{file.path}\0{sha256.hex()}\n'.encode(errors=_AS_IT_IS)
        )
    return digest.hexdigest()


def derive_key(hashes: Iterable[bytes]) -> bytes:
    """Derives the key of all keyed hashes from the bytes of the raw files.

    Who has all files can derive it, and knows their names anyway; nobody else can
    guess it. It is the same on every copy, so that a set can be prepared again.
    """
    content = '\n'.join(sorted(sha256.hex() for sha256 in hashes)).encode()
    return hmac.digest(b'jax_mrissl key of a prepared dataset', content, 'sha256')


def _source_names(spec: DatasetSpec, raw_dirs: Sequence[Path]) -> list[str]:
    """Names each folder; alone, it is called as the set, whatever its own name says."""
    if len(raw_dirs) == 1:
        return [spec.name]
    paths = [folder.resolve() for folder in raw_dirs]
    if len(set(paths)) < len(paths):
        raise UserError('The same --raw_dir is given twice.')
    for folder in paths:
        if outer := next((p for p in paths if p in folder.parents), None):
            raise UserError(f'--raw_dir={folder} is inside --raw_dir={outer}.')
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f'{path.parent.name}/{path.name}' for path in paths]
    if len(set(names)) < len(names):
        names = [f'{i}/{path.name}' for i, path in enumerate(paths, 1)]
    return names


def walk(
    folder: Path, above: str = '', seen: frozenset[Path] = frozenset()
) -> Iterator[str]:
    """Yields the paths of all files below, but not in folders that were `seen`.

    Follows links, and not round in circles.
    """
    seen |= {folder.resolve()}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError as error:
        raise UserError(
            f'There is no permission to read the folder {folder}.'
        ) from error
    for entry in entries:
        if entry.name.startswith('.') or entry.name.casefold() in _LITTER:
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself: it will be a file that cannot be read
            is_folder = False
        if not is_folder:
            yield above + entry.name
        elif (inner := Path(entry.path)).resolve() not in seen:
            yield from walk(inner, f'{above}{entry.name}/', seen)


def _splits(spec: DatasetSpec) -> set[str]:
    return {plain(split) for split in spec.splits}


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError:
        return []


def _count_classes(spec: DatasetSpec, folder: Path) -> int:
    found = {spec.label_of_folder(p.name) for p in _subfolders(folder)} - {-1}
    return len(found)


def _has_classes(spec: DatasetSpec, folder: Path) -> bool:
    """Says whether at least half of the classes have a folder right here."""
    count = _count_classes(spec, folder)
    return count > 0 and 2 * count >= len(spec.classes)


def _fits(spec: DatasetSpec, folder: Path) -> bool:
    return _has_classes(spec, folder) or _is_complete(spec, folder)


def _is_complete(spec: DatasetSpec, folder: Path) -> bool:
    """Says whether there are split folders here, with class folders in them."""
    inside = [p for p in _subfolders(folder) if plain(p.name) in _splits(spec)]
    return any(_has_classes(spec, p) for p in inside)


def _below(folder: Path, levels: int) -> Iterator[Path]:
    """Yields folders below, nearest first; link loops end with the levels."""
    level = [folder]
    for _ in range(levels):
        level = [child for parent in level for child in _subfolders(parent)]
        yield from level


def wanted(spec: DatasetSpec) -> str:
    """Tells what a raw folder must look like, and where its files come from."""
    layout = spec.layout.replace('\n', '\n  ')
    return (
        f'Expected is this layout:\n  {layout}\n'
        f'Source: {spec.source}\nTerms: {spec.terms}\n'
        f'Then: python -m jax_mrissl.prepare --dataset={spec.name} --raw_dir=DIR '
        '--data_dir=DIR'
    )
