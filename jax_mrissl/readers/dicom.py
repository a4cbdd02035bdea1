"""DICOM: stored values to the scan's own unit, and what the header says of them."""

import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers import codecs
from jax_mrissl.readers.image import gray_if_equal
from jax_mrissl.readers.slice import UNKNOWN, Slice

codecs.register()

# No detector has more; a header that claims more is damaged or a trap.
_MAX_FRAME_PIXELS = 1 << 27
# A deflated file is at most 1,032 times as large when inflated; no series is larger.
_MAX_INFLATED_BYTES = 1 << 31
# How makers call an overview image, in the value of ImageType that tells the kind, or
# in a name.
_LOCALIZER = re.compile(r'locali[sz]er|topogram|scout|scanogram|surview', re.I)
# Single frames, and the four kinds of several.
_SECONDARY_CAPTURE = re.compile(r'1\.2\.840\.10008\.5\.1\.4\.1\.1\.7(\.[1-4])?')


def read(path: Path, frame: int | None = None) -> Iterator[Slice]:
    """Reads a DICOM file, frame by frame, or one frame.

    Stored bits, sign, modality LUT or rescale, MONOCHROME1 (inverted) and pixel padding
    (NaN) are applied, in that order of the standard; a window is only reported. Colour
    images come as RGB pictures.

    Raises:
        UnreadableFile: 'DICOM object without pixels', 'DICOM segmentation',
            'unsupported compression', 'Siemens mosaic', 'image too large', 'truncated'
            or 'damaged'.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        # It logs what it mends; thousands of lines help nobody.
        logging.getLogger('pydicom').setLevel(logging.CRITICAL)
        header = _header(path)
        count = int(_number(header, 'NumberOfFrames', 1)) or 1
        for index in range(count) if frame is None else (frame,):
            yield _slice(path, header, index, count)


def _header(path: Path) -> pydicom.Dataset:
    _refuse_bomb(path)
    try:
        header = pydicom.dcmread(path, force=True)
    except EOFError as error:
        raise UnreadableFile(path, 'truncated', str(error)) from error
    except Exception as error:  # its parser has no common base class of errors
        raise UnreadableFile(path, 'damaged', repr(error)) from error
    kinds = ('PixelData', 'FloatPixelData', 'DoubleFloatPixelData')
    if not any(kind in header for kind in kinds):
        raise UnreadableFile(path, 'DICOM object without pixels')
    if header.get('Modality') == 'SEG':  # its pixels are numbers of organs
        raise UnreadableFile(path, 'DICOM segmentation')
    if 'TransferSyntaxUID' not in header.file_meta:  # a file without its preamble
        implicit, little = header.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian
        plain = explicit if little else pydicom.uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else plain
        )
    rows, columns = (_number(header, side, 0) for side in ('Rows', 'Columns'))
    if rows <= 0 or columns <= 0:
        raise UnreadableFile(path, 'damaged', 'no rows or columns')
    if rows * columns > _MAX_FRAME_PIXELS:
        raise UnreadableFile(path, 'image too large', f'{rows} x {columns}')
    if 'MOSAIC' in _texts(header, 'ImageType'):
        raise UnreadableFile(path, 'Siemens mosaic')
    return header


def _refuse_bomb(path: Path) -> None:
    """Inflates a deflated file step by step, without keeping it, up to the bound."""
    with open(path, 'rb') as file:
        start = file.read(1024)
        if DeflatedExplicitVRLittleEndian.encode() not in start:
            return
        # (0002,0000) is the first element; its value counts from byte 144.
        file.seek(144 + int.from_bytes(start[140:144], 'little'))
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        data = file.read(1 << 16)
        try:
            while data and not inflate.eof:
                size += len(inflate.decompress(data, 1 << 24))
                data = inflate.unconsumed_tail or file.read(1 << 16)
                if size > _MAX_INFLATED_BYTES:
                    raise UnreadableFile(path, 'image too large', 'inflated')
        except zlib.error as error:
            raise UnreadableFile(path, 'damaged', str(error)) from error


def _slice(path: Path, header: pydicom.Dataset, index: int, count: int) -> Slice:
    try:
        stored = pixel_array(header, index=index)
    except (RuntimeError, NotImplementedError, AttributeError, KeyError) as error:
        known = header.file_meta.TransferSyntaxUID.is_transfer_syntax
        words = str(error)
        # Plug-ins that tried and failed are another matter than plug-ins that lack.
        tried = 'exceptions were raised' in words
        lacking = not tried and ('plugin' in words or 'decoder' in words)
        lacking = lacking or not known
        reason = 'unsupported compression' if lacking else 'damaged'
        raise UnreadableFile(path, reason, str(error)) from error
    except Exception as error:  # each codec has errors of its own
        words = str(error)
        cut = 'less than expected' in words or 'length of the pixel data' in words
        raise UnreadableFile(path, 'truncated' if cut else 'damaged', words) from error
    pixels, window = _in_units(header, stored, index)
    return Slice(
        pixels=pixels,
        frame=index,
        spacing_mm=_spacing_mm(header, index),
        position=_position(header, index, count),
        window=window,
        modality=str(header.get('Modality') or ''),
        series=str(header.get('SeriesInstanceUID') or ''),
        localizer=_is_localizer(header),
        burnt_in=_is_burnt_in(header),
        subject=str(
            header.get('PatientID')
            or header.get('PatientName')
            or header.get('StudyInstanceUID')
            or ''
        ).strip(),
    )


def _is_localizer(header: pydicom.Dataset) -> bool:
    kinds = _texts(header, 'ImageType')
    if len(kinds) < 3:  # the third value would tell
        kinds = [*kinds, *_texts(header, 'SeriesDescription')]
    return any(_LOCALIZER.search(kind) for kind in kinds)


def _is_burnt_in(header: pydicom.Dataset) -> bool:
    if str(header.get('BurnedInAnnotation') or '').strip().upper() == 'YES':
        return True
    # Of a scanner, a screenshot: a dose report, a table of perfusion. Radiographs and
    # ultrasound are stored as this class, too, where a film or video was digitised.
    captured = _SECONDARY_CAPTURE.fullmatch(str(header.get('SOPClassUID') or ''))
    return bool(captured) and header.get('Modality') in ('CT', 'MR')


def _in_units(
    header: pydicom.Dataset, stored: np.ndarray, index: int
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Applies the header's rules to stored values, [H, W] or [H, W, 3]."""
    photometric = str(header.get('PhotometricInterpretation') or 'MONOCHROME2')
    if photometric == 'PALETTE COLOR':
        stored = apply_color_lut(stored, header)
    if stored.ndim == 3:
        if stored.dtype != np.uint8:
            bits = 16 if photometric == 'PALETTE COLOR' else int(header.BitsStored)
            stored = (stored >> max(bits - 8, 0)).astype(np.uint8)
        return gray_if_equal(stored), None
    padding = _padding(header, stored)
    if np.issubdtype(stored.dtype, np.integer):
        stored, lowest, highest = _stored_bits(header, stored)
    else:
        lowest, highest = float(np.min(stored)), float(np.max(stored))
    if header.get('ModalityLUTSequence'):
        # Signed, as the table may begin below 0.
        values = stored.astype(np.int64) if stored.dtype.kind in 'iu' else stored
        pixels = np.asarray(apply_modality_lut(values, header), np.float32)
        lowest, highest = float(pixels.min()), float(pixels.max())
    else:
        slope = _number(header, 'RescaleSlope', 1.0, index) or 1.0
        intercept = _number(header, 'RescaleIntercept', 0.0, index)
        if (slope, intercept) == (1, 0):
            pixels = stored.astype(np.float32)
        else:
            pixels = (stored * slope + intercept).astype(np.float32)
        lowest, highest = (v * slope + intercept for v in (lowest, highest))
    window = _window(header, index)
    if photometric == 'MONOCHROME1':
        # About the middle of what could be stored: the same for all of a series.
        pixels = np.float32(lowest + highest) - pixels
        if window:
            window = lowest + highest - window[1], lowest + highest - window[0]
    if padding is not None:
        pixels[padding] = np.nan
    return pixels, window


def _stored_bits(
    header: pydicom.Dataset, stored: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Drops the bits that are not the image's, such as old overlays."""
    bits = int(_number(header, 'BitsStored', 8 * stored.itemsize))
    bits = bits if 0 < bits < 8 * stored.itemsize else 8 * stored.itemsize
    if bits == 8 * stored.itemsize:  # all of them are the image's
        limits = np.iinfo(stored.dtype)
        return stored, float(limits.min), float(limits.max)
    wide: type[np.signedinteger[Any]] = np.int64 if stored.itemsize > 2 else np.int32
    values = stored.astype(wide)
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        values >>= max(int(_number(header, 'HighBit', bits - 1)) - bits + 1, 0)
    values &= (1 << bits) - 1
    if np.issubdtype(stored.dtype, np.unsignedinteger):
        return values, 0.0, float((1 << bits) - 1)
    half = 1 << (bits - 1)
    return (values ^ half) - half, float(-half), float(half - 1)


def _padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Finds the pixels that only fill the rectangle, bool [H, W]; None: none do."""
    first = _number(header, 'PixelPaddingValue', UNKNOWN)
    if np.isnan(first):
        return None
    last = _number(header, 'PixelPaddingRangeLimit', first)
    if np.issubdtype(stored.dtype, np.integer):
        # The tag's sign may contradict the pixels': 63536 then means -2000.
        span, limits = 1 << (8 * stored.itemsize), np.iinfo(stored.dtype)
        first, last = (
            v - span if v > limits.max else v + span if v < limits.min else v
            for v in (first, last)
        )
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _window(header: pydicom.Dataset, index: int) -> tuple[float, float] | None:
    """Gives the ends of the first window; those of width 0 are placeholders.

    Of a file that has a table instead (VOI LUT), the range in which the table rises.
    """
    centre = _number(header, 'WindowCenter', UNKNOWN, index)
    width = _number(header, 'WindowWidth', UNKNOWN, index)
    if width > 0 and not np.isnan(centre):
        return centre - width / 2, centre + width / 2
    tables = header.get('VOILUTSequence') or []
    if not tables:
        return None
    try:
        _, first, _ = (int(v) for v in tables[0].LUTDescriptor)
        data = tables[0].LUTData
        table = np.frombuffer(data, '<u2') if isinstance(data, bytes) else data
        heights = np.asarray(table, float)
    except (AttributeError, TypeError, ValueError):
        return None
    lowest, highest = float(heights.min()), float(heights.max())
    margin = (highest - lowest) / 100
    rising = (heights > lowest + margin) & (heights < highest - margin)
    inside = np.flatnonzero(rising)
    if not len(inside):
        return None
    return float(first + inside[0]), float(first + inside[-1] + 1)


def _spacing_mm(header: pydicom.Dataset, index: int) -> tuple[float, float]:
    for keyword in ('PixelSpacing', 'ImagerPixelSpacing'):
        row, column = _numbers(header, keyword, index, count=2)
        if row > 0 and column > 0:
            return row, column
    return UNKNOWN, UNKNOWN


def _position(header: pydicom.Dataset, index: int, count: int) -> float:
    """Projects the slice's corner on the normal of its plane, in mm."""
    corner = _numbers(header, 'ImagePositionPatient', index, count=3)
    axes = _numbers(header, 'ImageOrientationPatient', index, count=6)
    if not np.isnan([*corner, *axes]).any():
        return round(float(np.dot(np.cross(axes[:3], axes[3:]), corner)), 3)
    if count > 1:
        return float(index)
    return _number(header, 'InstanceNumber', UNKNOWN)


# The groups of each frame, and of all: Per-frame and Shared Functional Groups Sequence.
_PER_FRAME, _SHARED = Tag(0x5200, 0x9230), Tag(0x5200, 0x9229)
# Where multi-frame objects keep what single-frame ones have at the top.
_GROUPS = {
    'ImagePositionPatient': 'PlanePositionSequence',
    'ImageOrientationPatient': 'PlaneOrientationSequence',
    'PixelSpacing': 'PixelMeasuresSequence',
    'RescaleSlope': 'PixelValueTransformationSequence',
    'RescaleIntercept': 'PixelValueTransformationSequence',
    'WindowCenter': 'FrameVOILUTSequence',
    'WindowWidth': 'FrameVOILUTSequence',
}


def _values(header: pydicom.Dataset, keyword: str, index: int) -> list[Any]:
    """Gives the values of a tag: the frame's own, all frames', or the object's."""
    places: list[pydicom.Dataset] = []
    if keyword in _GROUPS:
        groups: list[pydicom.Dataset] = []
        if _PER_FRAME in header:
            groups.extend((header[_PER_FRAME].value or [])[index : index + 1])
        if _SHARED in header:
            groups.extend((header[_SHARED].value or [])[:1])
        for group in groups:
            places.extend((group.get(_GROUPS[keyword]) or [])[:1])
    for place in [*places, header]:
        if keyword not in place:  # quicker than to ask for it and to fail
            continue
        try:
            value = place.get(keyword)
        except Exception:  # a value that its own type does not allow
            continue
        if value is not None and value != '':
            many = isinstance(value, list | tuple | pydicom.multival.MultiValue)
            return list(value) if many else [value]
    return []


def _numbers(
    header: pydicom.Dataset, keyword: str, index: int, *, count: int
) -> list[float]:
    """Gives `count` numbers; all NaN unless all of them are there and finite."""
    try:
        numbers = [float(v) for v in _values(header, keyword, index)[:count]]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) < count or not np.isfinite(numbers).all():
        return [UNKNOWN] * count
    return numbers


def _number(
    header: pydicom.Dataset, keyword: str, missing: float, index: int = 0
) -> float:
    number = _numbers(header, keyword, index, count=1)[0]
    return missing if np.isnan(number) else number


def _texts(header: pydicom.Dataset, keyword: str) -> list[str]:
    return [str(value) for value in _values(header, keyword, 0)]
