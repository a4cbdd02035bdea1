"""What reading the raw files leaves on disk for the writing of the records.

A file is decoded once, and what its images need later is appended to a file here: the
image, encoded as its record will have it where its own header decides about its window,
else its decoded values; and what is known of its values, which would be too much to
hold in memory for all files of a large set. A row of facts tells the place.

Images are here only where the disk has room for them; without, they are decoded again.
Everything here is removed before a dataset appears under its name.
"""

import json
import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from jax_mrissl.data.canvas import Encoded
from jax_mrissl.likeness.filters import PIXELS
from jax_mrissl.readers.slice import Slice

FILES_PER_JOB = 64

# Bytes of: quantiles, small picture, words about the image, image.
_LENGTHS = struct.Struct('<IIIQ')


class SpoolWriter:
    """Appends to the file of one job; use as a context manager.

    Args:
        path: the file. What a process that died left there stays.
        keep_free: bytes of the disk that are for other things than images.
    """

    def __init__(self, path: Path, *, keep_free: int):
        self._path, self._keep_free = path, keep_free

    def __enter__(self) -> 'SpoolWriter':
        self._file = open(self._path, 'ab', buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(
        self,
        image: Encoded | Slice | None,
        *,
        quantiles: np.ndarray,
        small: np.ndarray | None,
    ) -> int:
        """Appends what belongs to one image; gives its place.

        Args:
            image: encoded, or its values; None: it has to be decoded again.
            quantiles: float32 [n], of its values.
            small: uint8 [64, 64], or None.

        Raises:
            OSError: the disk is full.
        """
        words, content = _packed(image) if image else (b'', b'')
        if len(content) > self._free() - self._keep_free:
            words, content = b'', b''
        parts = (
            quantiles.astype('<f4').tobytes(),
            b'' if small is None else bytes(small),
        )
        lengths = _LENGTHS.pack(*map(len, (*parts, words)), len(content))
        place = self._file.seek(0, os.SEEK_END)
        whole = b''.join([lengths, *parts, words, content])
        if self._file.write(whole) < len(whole):
            raise OSError(28, 'No space left on device', str(self._path))
        return place

    def _free(self) -> int:
        disk = os.fstatvfs(self._file.fileno())
        return disk.f_bavail * disk.f_frsize


class Spool:
    """The files of all jobs.

    Args:
        folder: where they are; made here, and nobody else may read it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(mode=0o700)

    def remove(self) -> None:
        """Gives its room back."""
        shutil.rmtree(self._folder)

    def path(self, job: int) -> Path:
        """Gives the file of a job."""
        return self._folder / f'{job:06d}'

    def path_of(self, file: int) -> Path:
        """Gives the file that holds what is of a raw file, by place in the list."""
        return self.path(file // FILES_PER_JOB)

    def quantiles(self, file: int, place: int) -> np.ndarray:
        """Reads the quantiles of an image, float32 [n]."""
        with open(self.path_of(file), 'rb') as stream:
            length, *_ = _read_lengths(stream, place)
            return np.frombuffer(stream.read(length), '<f4')

    def small_pictures(self, places: Iterable[tuple[int, int]]) -> np.ndarray:
        """Gathers small pictures, uint8 [n, 64, 64], mapped into memory.

        Args:
            places: of each image, the raw file and the place.
        """
        whole = self._folder / 'small pictures'
        with open(whole, 'wb') as gathered:
            for file, place in places:
                with open(self.path_of(file), 'rb') as stream:
                    skipped, length, *_ = _read_lengths(stream, place)
                    stream.seek(skipped, os.SEEK_CUR)
                    gathered.write(stream.read(length))
        if not whole.stat().st_size:  # nothing can be mapped
            return np.zeros((0, PIXELS, PIXELS), np.uint8)
        return np.memmap(whole, np.uint8, 'r').reshape(-1, PIXELS, PIXELS)


def read_image(path: Path, place: int) -> Encoded | Slice | None:
    """Reads the image at a place; None where there is none."""
    with open(path, 'rb') as stream:
        quantiles, small, words, content = _read_lengths(stream, place)
        if not words:
            return None
        stream.seek(quantiles + small, os.SEEK_CUR)
        return _unpacked(json.loads(stream.read(words)), stream.read(content))


def _read_lengths(stream: BinaryIO, place: int) -> tuple[int, int, int, int]:
    stream.seek(place)
    lengths = _LENGTHS.unpack(stream.read(_LENGTHS.size))
    return lengths[0], lengths[1], lengths[2], lengths[3]


def _packed(image: Encoded | Slice) -> tuple[bytes, bytes]:
    if isinstance(image, Encoded):
        about = {
            'windows': image.windows,
            'channels': image.channels,
            'window': image.window,
            'box': image.box,
            'spacing_mm': image.spacing_mm,
            'moments': image.moments,
        }
        return json.dumps(about).encode(), image.png
    pixels = _small_as_can_be(image.pixels)
    about = {
        'dtype': pixels.dtype.str,
        'stood_for': image.pixels.dtype.str,
        'shape': pixels.shape,
        'spacing_mm': image.spacing_mm,
    }
    return json.dumps(about).encode(), pixels.tobytes()


def _small_as_can_be(pixels: np.ndarray) -> np.ndarray:
    """Stores floats as 16 bits where that loses nothing: half the disk."""
    if pixels.dtype == np.float32:
        lowest, highest = pixels.min(), pixels.max()
        for dtype in (np.uint16, np.int16):
            limits = np.iinfo(dtype)
            if lowest >= limits.min and highest <= limits.max:  # not if one is NaN
                whole = pixels.astype(dtype)
                return whole if (whole == pixels).all() else pixels
    return pixels


def _unpacked(about: dict[str, Any], content: bytes) -> Encoded | Slice:
    spacing_mm = tuple(about['spacing_mm'])
    if 'dtype' in about:
        pixels = np.frombuffer(content, about['dtype']).reshape(about['shape'])
        return Slice(
            pixels=pixels.astype(about['stood_for'], copy=False), spacing_mm=spacing_mm
        )
    return Encoded(
        png=content,
        channels=about['channels'],
        windows=tuple((low, high) for low, high in about['windows']),
        window=tuple(about['window']),
        box=tuple(about['box']),
        spacing_mm=spacing_mm,
        moments=about['moments'],
    )
