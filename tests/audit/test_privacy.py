"""What a DICOM file says of its patient is found in the private manifest alone."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset

PLANTED = dict(
    PatientName='Quimby^Planted',
    PatientID='ID-77-PLANTED',
    PatientBirthDate='19370207',
    StudyDate='20190311',
    InstitutionName='Springfield General',
)


def write(path, seed):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = '1.2.3'
    ds = pydicom.dataset.FileDataset('', {}, file_meta=meta, preamble=b'\0' * 128)
    ds.Modality, ds.SeriesInstanceUID = 'MR', '1.2.840.7777.1'
    ds.Rows = ds.Columns = 24
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    stored = np.random.default_rng(seed).integers(0, 4096, (24, 24))
    ds.PixelData = stored.astype('<u2').tobytes()
    for name, value in PLANTED.items():
        setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def test_the_patient_is_named_in_the_manifest_alone(tmp_path):
    raw, data_dir = tmp_path / 'raw', tmp_path / 'data'
    for number in range(3):
        write(raw / 'Quimby_ward_9' / f'Planted_scan_{number}.dcm', number)
    whole = (raw / 'Quimby_ward_9' / 'Planted_scan_0.dcm').read_bytes()
    (raw / 'Quimby_ward_9' / 'Planted_cut.dcm').write_bytes(whole[:900])
    for bits, name in ((8, 'shallow'), (16, 'deep')):
        own = OwnFolder(name=name)
        prepared = prepare_dataset(
            'folder', [raw], data_dir, canvas=24, bits=bits, workers=1, own=own
        )
        manifest = pyarrow.parquet.read_table(
            prepared.folder / 'private' / 'manifest.parquet'
        ).to_pydict()
        assert PLANTED['PatientID'] in manifest['subject']
        assert any('Planted_scan_1' in path for path in manifest['path'])
    command = [sys.executable, '-m', 'jax_mrissl.audit', f'--data_dir={data_dir}']
    sets = ['--dataset=shallow', '--dataset=deep', f'--out={tmp_path / "audit"}']
    subprocess.run(command + sets, check=True, capture_output=True)
    told = [*PLANTED.values(), 'Quimby', 'Planted', '1.2.840.7777']
    searched = 0
    for path in [*data_dir.rglob('*'), *(tmp_path / 'audit').rglob('*')]:
        if path.is_file() and path.parent.name != 'private':
            content = path.read_bytes()
            searched += 1
            for words in told:
                assert words.encode() not in content, (path, words)
                assert words not in str(path)
    assert searched > 12
    for path in data_dir.rglob('private/*'):
        assert path.stat().st_mode & 0o077 == 0
