"""Mutants of valid files of every format: an image or a listed reason, never else."""

import collections
import gzip
import io

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.read import read

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 40), np.uint8)
# All that a reader may say of a damaged file; pages of web sites and the like aside.
REASONS = {
    'DICOM object without pixels',
    'Siemens mosaic',
    'an archive: unpack it first',
    'damaged',
    'empty file',
    'image too large',
    'its .img file is missing',
    'not an image',
    'truncated',
    'unsupported compression',
    'unsupported format: NIfTI of this kind',
    'unsupported format: TIFF of this kind',
}


def picture(kind):
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind)
    return file.getvalue()


def tiff(**options):
    file = io.BytesIO()
    tifffile.imwrite(file, NOISE, **options)
    return file.getvalue()


def dicom():
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = '1.2.3'
    ds.Modality, ds.PatientID, ds.SeriesInstanceUID = 'MR', 'P7', '1.2'
    ds.PhotometricInterpretation, ds.SamplesPerPixel = 'MONOCHROME2', 1
    ds.Rows, ds.Columns = NOISE.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.PixelData = NOISE.astype(np.uint16).tobytes()
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nifti():
    volume = np.stack([NOISE, NOISE[::-1]], axis=2).astype(np.int16)
    return nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()


FORMATS = {
    'JPEG': lambda: picture('JPEG'),
    'PNG': lambda: picture('PNG'),
    'TIFF': tiff,
    'TIFF, LZW': lambda: tiff(compression='lzw'),
    'TIFF, tiles': lambda: tiff(compression='deflate', tile=(16, 16)),
    'DICOM': dicom,
    'NIfTI': nifti,
    'NIfTI, gzip': lambda: gzip.compress(nifti()),
}


def mutant(data, rng):
    """Changes a byte or a few, cuts the end off, repeats or removes a piece."""
    kind = rng.choice(
        ['byte', 'bytes', 'cut', 'repeat', 'remove'], p=[0.5, 0.2, *[0.1] * 3]
    )
    changed = bytearray(data)
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 64))
    if kind == 'cut':
        return bytes(changed[:start])
    if kind == 'repeat':
        return bytes(
            changed[:start] + changed[start : start + length] + changed[start:]
        )
    if kind == 'remove':
        return bytes(changed[:start] + changed[start + length :])
    for place in rng.integers(len(data), size=1 if kind == 'byte' else 4):
        changed[place] = rng.integers(256)
    return bytes(changed)


def fuzz(path, data, count):
    rng = np.random.default_rng(1)
    outcomes = collections.Counter()
    for _ in range(count):
        path.write_bytes(mutant(data, rng))
        try:
            outcomes['read' if list(read(path)) else 'nothing'] += 1
        except UnreadableFile as error:
            outcomes[error.reason] += 1
    return outcomes


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('count', [30, pytest.param(400, marks=pytest.mark.slow)])
def test_mutants_are_read_or_have_a_reason(tmp_path, name, count):
    path = tmp_path / 'a'
    outcomes = fuzz(path, FORMATS[name](), count)
    print(f'{name}: {dict(outcomes.most_common())}')
    assert outcomes.keys() <= REASONS | {'read'}
    # Deflate and gzip guard their content by checksums: what is changed is refused.
    guarded = name in ('PNG', 'TIFF, tiles', 'NIfTI, gzip')
    assert guarded or outcomes['read'] >= count / 3
