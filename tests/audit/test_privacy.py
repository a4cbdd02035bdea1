"""What a DICOM file says of its patient is found in the private manifest alone."""

import numpy as np
import pyarrow.parquet
from conftest import dicom_of, run_module

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
    stored = np.random.default_rng(seed).integers(0, 4096, (24, 24)).astype('<u2')
    path.parent.mkdir(parents=True, exist_ok=True)
    series = dict(SeriesInstanceUID='1.2.840.7777.1')
    dicom_of(stored, **series, **PLANTED).save_as(path, enforce_file_format=True)


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
    sets = '--dataset=shallow', '--dataset=deep'
    out = f'--out={tmp_path / "audit"}'
    ran = run_module('audit', f'--data_dir={data_dir}', *sets, out)
    assert ran.returncode == 0, ran.stderr
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
