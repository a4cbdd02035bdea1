"""Reads any raw file: the reader is chosen by content, not by suffix."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.slice import Reader, Slice

# Modules here whose `read` is the reader. They are imported by the first file of their
# kind: pydicom and nibabel take a second to load, which a folder of JPEG need not pay.
KINDS = {
    'JPEG': 'image',
    'PNG': 'image',
    'TIFF': 'tiff',
    'DICOM': 'dicom',
    'NIfTI': 'nifti',
}

# How much of a file tells what it is: the header of NIfTI is the longest.
_START = 352

# Little and big endian, with offsets of 32 and of 64 bits.
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')

# What is met in folders of images and cannot be read, by how it begins.
_REFUSED = (
    (b'GIF8', 'unsupported format: GIF'),
    (b'BM', 'unsupported format: BMP'),
    (b'PK\x03\x04', 'an archive: unpack it first'),
    (b'\x1f\x8b', 'an archive: unpack it first'),
    (b'version https://git-lfs', 'a Git LFS pointer instead of the file'),
    (b'<!DOCTYPE html', 'a web page instead of the file'),
    (b'<html', 'a web page instead of the file'),
)


def read(path: Path, frame: int | None = None) -> Iterator[Slice]:
    """Yields the slices of a file, or the one with index `frame`.

    Raises:
        UnreadableFile: whatever is wrong with the file; no other error.
        ImportError: a reader, or what it is made with, cannot be loaded, which is no
            fault of the file.
    """
    with _faults_of(path):
        start = _start_of(path)
        kind = _kind(start)
    if not kind:
        nifti = _module('NIfTI')
        with _faults_of(path):
            kind = _rarer_kind(path, start, nifti)
    reader: Reader = _module(kind).read
    with _faults_of(path):
        for image in reader(path, frame):
            shape = image.pixels.shape
            if not (image.pixels.size and (len(shape) == 2 or shape[2:] == (3,))):
                raise UnreadableFile(path, 'damaged', f'an image of shape {shape}')
            yield image


@contextlib.contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Makes an UnreadableFile of whatever goes wrong with a file."""
    try:
        yield
    except UnreadableFile:
        raise
    except PermissionError as error:
        raise UnreadableFile(path, 'no permission to read it') from error
    except MemoryError as error:
        raise UnreadableFile(path, 'image too large', 'out of memory') from error
    except Exception as error:  # a damaged file may break a decoder in any way
        raise UnreadableFile(path, 'damaged', repr(error)) from error
    except BaseException as error:
        # A decoder written in Rust panics, which Python does not count as an Exception.
        if type(error).__name__ != 'PanicException':
            raise
        raise UnreadableFile(path, 'damaged', repr(error)) from error


def _module(kind: str) -> Any:
    return importlib.import_module(f'jax_mrissl.readers.{KINDS[kind]}')


def _start_of(path: Path) -> bytes:
    if not path.is_file():  # a pipe or a device would block for ever
        raise UnreadableFile(path, 'not a file')
    with open(path, 'rb') as file:
        start = file.read(_START)
    if not start:
        raise UnreadableFile(path, 'empty file')
    return start


def _kind(start: bytes) -> str:
    """Gives the kind that the first bytes tell beyond doubt; else ''."""
    if start.startswith(b'\xff\xd8\xff'):
        return 'JPEG'
    if start.startswith(b'\x89PNG\r\n\x1a\n'):
        return 'PNG'
    # Before TIFF: a DICOM file's preamble may make it a TIFF file as well.
    if start[128:132] == b'DICM':
        return 'DICOM'
    return 'TIFF' if start.startswith(_TIFF) else ''


def _rarer_kind(path: Path, start: bytes, nifti: Any) -> str:
    """Gives the kind of any other file, told by the module that reads NIfTI too."""
    if nifti.header_of(path):
        raise UnreadableFile(path, nifti.PAIR)
    # Without its preamble a DICOM file begins with an element of group 2 or 8.
    if _begins_with_element(start):
        return 'DICOM'
    packed = start.startswith(b'\x1f\x8b')
    if nifti.kind(nifti.inflated_start(path) if packed else start):
        return 'NIfTI'
    for magic, reason in _REFUSED:
        if start.startswith(magic):
            raise UnreadableFile(path, reason)
    raise UnreadableFile(path, 'not an image')


def _begins_with_element(start: bytes) -> bool:
    group, element = start[:2], start[2:4]
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    if group == b'\0\x08' and element[:1] == b'\0':
        return explicit  # big endian always tells the kinds of its values
    if group not in (b'\x02\0', b'\x08\0') or len(start) < 8:
        return False
    return element[1:] == b'\0' and (explicit or start[6:8] == b'\0\0')
