"""NIfTI and Analyze: volumes to axial slices."""

import contextlib
import functools
import gzip
import math
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.slice import UNKNOWN, Slice

# 1,024 slices of 512 x 512; larger volumes are atlases of microscopes, or traps.
_MAX_VOXELS = 1 << 28
# Deflate packs at most 1,032 bytes into one.
_MAX_INFLATION = 1032
# Megabytes behind the voxels that are read for the sake of the checksum.
_MAX_TAIL = 2048
_GZIP = b'\x1f\x8b'
# How much of a file tells what it is.
START = 352
PAIR = 'belongs to the .hdr file beside it'


def kind(start: bytes) -> str:
    """Gives the format of a file by its first 352 bytes; '' if it is none of these.

    'NIfTI-1' and 'NIfTI-2' hold their voxels; 'NIfTI-1 pair', 'NIfTI-2 pair' and
    'Analyze' are headers. Analyze has no mark but its own length and sane numbers.
    """
    if len(start) < 348:
        return ''
    for order in ('<', '>'):
        size = np.frombuffer(start, f'{order}i4', 1)[0]
        if size == 540 and start[4:7] in (b'n+2', b'ni2'):
            return 'NIfTI-2' if start[4:7] == b'n+2' else 'NIfTI-2 pair'
        dimensions = np.frombuffer(start, f'{order}i2', 1, 40)[0]
        if size == 348 and 1 <= dimensions <= 7:
            marks = {b'n+1\0': 'NIfTI-1', b'ni1\0': 'NIfTI-1 pair'}
            return marks.get(start[344:348], 'Analyze')
    return ''


def inflated_start(path: Path) -> bytes:
    """Gives the first 352 bytes of what a gzip file holds.

    Raises:
        UnreadableFile: 'truncated' or 'damaged'.
    """
    try:
        with gzip.open(path) as file:
            return file.read(START)
    except EOFError as error:
        raise UnreadableFile(path, 'truncated', str(error)) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableFile(path, 'damaged', str(error)) from error


def header_of(path: Path) -> Path | None:
    """Gives the .hdr file that an .img file belongs to, or None."""
    name, packed = (path.stem, '.gz') if path.suffix == '.gz' else (path.name, '')
    if not name.casefold().endswith('.img'):
        return None
    for suffix in ('.hdr', '.HDR'):
        for end in dict.fromkeys((packed, '', '.gz')):
            header = path.with_name(name[:-4] + suffix + end)
            if header.is_file():
                return header
    return None


def read(path: Path, frame: int | None = None) -> Iterator[Slice]:
    """Reads a NIfTI-1, NIfTI-2 or Analyze file, slice by slice from the feet up.

    The volume is turned to its nearest axial orientation and shown as radiologists
    do: anterior at the top, the patient's right on the left of the picture. Analyze
    does not store an orientation; as its readers do, it is taken for axial with the
    patient's right first. Of several volumes (4-D) the first is taken. A slice whose
    voxels are all equal is not skipped here: planning tells 'blank image'.

    Yields:
        One slice for each axial plane: float32 [H, W], NaN where the file has no
        finite number; spacing and position in mm.

    Raises:
        UnreadableFile: 'image too large', 'truncated', 'its .img file is missing',
            'unsupported format: NIfTI of this kind' or 'damaged'.
    """
    try:
        state = path.stat()
        volume, affine = _load(path, state.st_mtime_ns, state.st_size)
    except (UnreadableFile, MemoryError, PermissionError):
        raise
    except EOFError as error:
        raise UnreadableFile(path, 'truncated', repr(error)) from error
    except Exception as error:  # its parsers have no common base class of errors
        words = repr(error)
        cut = 'Expected' in words and 'bytes' in words
        raise UnreadableFile(path, 'truncated' if cut else 'damaged', words) from error
    count = volume.shape[2]
    if frame is not None and frame >= count:
        raise UnreadableFile(path, 'damaged', f'it has no slice {frame}')
    row_mm, column_mm = (float(np.linalg.norm(affine[:3, axis])) for axis in (1, 0))
    known = row_mm > 0 and column_mm > 0
    for index in range(count) if frame is None else (frame,):
        # Rows run from anterior to posterior, columns from the patient's right to left.
        pixels = np.array(volume[::-1, ::-1, index].T, np.float32)
        pixels[~np.isfinite(pixels)] = np.nan
        yield Slice(
            pixels=pixels,
            frame=index,
            spacing_mm=(row_mm, column_mm) if known else (UNKNOWN, UNKNOWN),
            position=_position(affine, index),
        )


_IMAGES = {
    'NIfTI-1': nibabel.Nifti1Image,
    'NIfTI-1 pair': nibabel.Nifti1Pair,
    'NIfTI-2': nibabel.Nifti2Image,
    'NIfTI-2 pair': nibabel.Nifti2Pair,
    'Analyze': nibabel.Spm2AnalyzeImage,
}


# The records of a volume's slices are written one after the other, each by a call.
@functools.lru_cache(maxsize=1)
def _load(path: Path, changed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives the voxels, [right, anterior, superior], and their affine matrix in mm."""
    del changed, size  # they only tell that a file is another one than before
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        header, start = _open(path, stack)
        form = kind(start)
        voxels = path if form in ('NIfTI-1', 'NIfTI-2') else _voxels_of(path)
        data = header if voxels == path else _open(voxels, stack)[0]
        holders = {
            'header': FileHolder(fileobj=header),
            'image': FileHolder(fileobj=data),
            'mat': FileHolder(filename=''),  # a file of MATLAB's: not read
        }
        loader = _IMAGES[form]
        image = loader.from_file_map({n: holders[n] for n in _needs(loader)})
        _refuse_bomb(path, voxels, image)
        axes = len(image.shape)
        first = (slice(None),) * min(axes, 3) + (0,) * (axes - 3)
        found = np.asarray(image.dataobj[first])
        _check_sum(data)
        if found.dtype.kind not in 'biuf':
            raise UnreadableFile(
                path, 'unsupported format: NIfTI of this kind', str(found.dtype)
            )
        if found.dtype.itemsize > 4:
            found = found.astype(np.float32)
        while found.ndim < 3:
            found = found[..., None]
        canonical = nibabel.as_closest_canonical(
            nibabel.Nifti1Image(found, image.affine, dtype=found.dtype)
        )
        affine = np.asarray(canonical.affine, float)
        return np.asanyarray(canonical.dataobj), affine


def _needs(loader: type) -> list[str]:
    return [name for name, _ in loader.files_types]  # type: ignore[attr-defined]


def _open(path: Path, stack: contextlib.ExitStack) -> tuple[Any, bytes]:
    """Opens a file, inflating it if need be; gives its first bytes, too."""
    with open(path, 'rb') as raw:
        packed = raw.read(2) == _GZIP
    stream: Any = gzip.open(path) if packed else open(path, 'rb')  # noqa: SIM115
    stack.enter_context(stream)
    start = stream.read(START)
    stream.seek(0)
    return stream, start


def _voxels_of(header: Path) -> Path:
    name = header.name.casefold()
    stem = header.name[: name.rindex('.hdr')] if '.hdr' in name else header.stem
    for suffix in ('.img', '.IMG', '.img.gz'):
        voxels = header.with_name(stem + suffix)
        if voxels.is_file():
            return voxels
    raise UnreadableFile(header, 'its .img file is missing')


def _refuse_bomb(path: Path, voxels: Path, image: Any) -> None:
    """Compares what the header claims with what the file can hold."""
    shape = image.shape
    if not shape or min(shape) < 1:
        raise UnreadableFile(path, 'damaged', f'its shape is {shape}')
    if math.prod(shape[:3]) > _MAX_VOXELS:
        raise UnreadableFile(path, 'image too large', f'{shape}')
    size = voxels.stat().st_size
    with open(voxels, 'rb') as raw:
        size *= _MAX_INFLATION if raw.read(2) == _GZIP else 1
    width = image.get_data_dtype().itemsize
    # Of several volumes only the first one has to be there.
    if image.dataobj.offset + math.prod(shape[:3]) * width > size:
        raise UnreadableFile(path, 'truncated', f'{shape} does not fit the file')


def _check_sum(stream: Any) -> None:
    """Reads a gzip file to its end, where it tells whether all of it was right.

    What follows the voxels is as good as nothing, or further volumes. A bomb's tail is
    not waited for.
    """
    if isinstance(stream, gzip.GzipFile):
        for _ in range(_MAX_TAIL):
            if not stream.read(1 << 20):
                break


def _position(affine: np.ndarray, index: int) -> float:
    """Projects a slice's origin on the normal of its plane, upwards, in mm."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    length = float(np.linalg.norm(normal))
    if not length > 0:
        return float(index)
    corner = affine[:3, 3] + index * affine[:3, 2]
    return round(float(normal @ corner) / length, 3)
