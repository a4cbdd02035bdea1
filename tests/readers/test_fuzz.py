"""Damaged files of every format: each ends as an image or as a reason, and soon."""

import collections
import dataclasses
import gzip
import io

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from conftest import dicom_of
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from jax_mrissl.data.scan import Storage, from_json
from jax_mrissl.data.spec import Intensity
from jax_mrissl.data.workers import Crew, skip_file

# What a damaged image may be called; a worker that died of one is none of these.
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
SYNTAXES = {
    'implicit': ImplicitVRLittleEndian,
    'big endian': ExplicitVRBigEndian,
    'deflated': DeflatedExplicitVRLittleEndian,
    'RLE': RLELossless,
    'JPEG 2000': JPEG2000Lossless,
}


def pixels(dtype=np.uint8):
    ramp = np.add.outer(np.arange(40), 2 * np.arange(36)).astype(float)
    noise = np.random.default_rng(0).random((40, 36)) * 20
    return ((ramp + noise) * (1 if dtype == np.uint8 else 20)).astype(dtype)


def picture(kind, **options):
    file = io.BytesIO()
    image = pixels(options.pop('dtype', np.uint8))
    if options.pop('colour', False):
        image = np.stack([image, image.T.copy().reshape(image.shape), image // 2], -1)
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def dicom(syntax):
    stored = pixels(np.uint16)
    tags = dict(Modality='CT', BitsStored=12, HighBit=11)
    ds = dicom_of(stored, **tags, RescaleSlope='1', RescaleIntercept='-1024')
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = stored.astype('>u2').tobytes()
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    encoding = dict(
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    pydicom.dcmwrite(file, ds, enforce_file_format=True, **encoding)
    return file.getvalue()


def tiff(**options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels(), **options)
    return file.getvalue()


def nifti():
    volume = np.stack([pixels(), pixels()[::-1]], axis=2).astype(np.int16)
    return nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()


SEEDS = {
    'JPEG': [picture('JPEG'), picture('JPEG', colour=True, progressive=True)],
    'PNG': [picture('PNG'), picture('PNG', dtype=np.uint16)],
    'TIFF': [
        tiff(),
        tiff(compression='lzw'),
        tiff(compression='deflate', tile=(16, 16)),
    ],
    'DICOM': [dicom(syntax) for syntax in SYNTAXES.values()],
    'NIfTI': [nifti(), gzip.compress(nifti())],
}


def mutant(rng, data):
    """Damages a file in one of the ways in which files come to harm."""
    damaged = bytearray(data)
    kind = rng.integers(6)
    place = int(rng.integers(len(damaged)))
    some = int(rng.integers(1, 9))
    if kind == 0:  # bits that flipped
        for i in rng.integers(len(damaged), size=some):
            damaged[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:  # bytes of chance
        damaged[place : place + some] = rng.bytes(some)
    elif kind == 2:  # an end that is missing
        del damaged[place:]
    elif kind == 3:  # a sector that was never written
        length = int(rng.integers(1, 65))
        damaged[place : place + length] = bytes(len(damaged[place : place + length]))
    elif kind == 4:  # a part that came twice
        damaged[place:place] = damaged[place : place + 8 * some]
    else:  # a number of the header that is far too large or small
        value = [b'\xff' * 4, b'\0' * 4, b'\x7f' + b'\xff' * 3, b'\0\0\0\x80'][some % 4]
        place = int(rng.integers(min(len(damaged), 1024)))
        damaged[place : place + 4] = value
    return bytes(damaged)


STORAGE = Storage(
    canvas=32,
    bits=8,
    channels='as found',
    intensity=Intensity(),
    small=True,
    keep_free=0,
)


@pytest.mark.parametrize('count', [40, pytest.param(800, marks=pytest.mark.slow)])
def test_a_damaged_file_ends_as_an_image_or_as_a_reason(tmp_path, count):
    """`count` mutants of each format; printed with -s."""
    rng = np.random.default_rng(count)
    jobs, expected = [], {}
    for kind, seeds in SEEDS.items():
        data = [mutant(rng, seeds[number % len(seeds)]) for number in range(count)]
        paths = [
            tmp_path / f'{kind}-{number:04d}' for number in range(len(data + seeds))
        ]
        for path, content in zip(paths, data + seeds, strict=True):
            path.write_bytes(content)
        scan = {
            'paths': list(map(str, paths)),
            'spool': str(tmp_path / f'{kind}.spool'),
        }
        jobs.append(('scan', {**scan, 'storage': dataclasses.asdict(STORAGE)}))
        expected[kind] = len(paths)
    found = [[] for _ in jobs]
    with Crew(2) as crew:
        crew.perform(
            jobs,
            on_answer=lambda job, told: found[job].extend(map(from_json, told)),
            heir=skip_file,
        )
    images = 0
    for (kind, seeds), facts in zip(SEEDS.items(), found, strict=True):
        assert len(facts) == expected[kind]
        outcomes = collections.Counter(
            'an image' if one.slices else one.reason for one in facts
        )
        print(f'{kind}: {dict(outcomes.most_common())}')
        assert set(outcomes) <= REASONS | {'an image'}
        whole = facts[-len(seeds) :]
        assert all(one.slices for one in whole)
        images += outcomes['an image'] - len(whole)
    assert images >= count * len(SEEDS) / 3
