"""What a DICOM file says of its patient is found in the private manifest alone."""

import zipfile

import numpy as np
import pyarrow.parquet
from array_record.python import array_record_module
from conftest import dicom_of, run_module, smoke_config

from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.from_config import read_experiment

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


# All that tells the patient: tags, folders and files that are named so, the series.
TOLD = [*PLANTED.values(), 'Quimby', 'Planted', '1.2.840.7777']


def unpacked(path):
    """Gives a file's bytes, and what it packs: records, and arrays of NumPy."""
    yield path.read_bytes()
    if '.array_record-' in path.name and path.suffix != '.json':
        reader = array_record_module.ArrayRecordReader(str(path))
        yield from reader.read_all()
    if path.suffix == '.npz':
        with zipfile.ZipFile(path) as whole:
            yield from (whole.read(name) for name in whole.namelist())


def search(*folders):
    """Looks into every file that is not private; gives how many there are."""
    searched = 0
    for path in (path for folder in folders for path in folder.rglob('*')):
        if path.is_file() and path.parent.name != 'private':
            searched += 1
            for content in unpacked(path):
                for words in TOLD:
                    assert words.encode() not in content, (path, words)
                    # As texts are kept in arrays, four bytes a letter.
                    assert words.encode('utf-32-le') not in content, (path, words)
            assert not any(words in str(path) for words in TOLD)
    return searched


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
    assert search(data_dir, tmp_path / 'audit') > 12
    for path in data_dir.rglob('private/*'):
        assert path.stat().st_mode & 0o077 == 0


def test_a_run_names_nobody(tmp_path, capfd):
    """Prepare, audit and main, from subjects that the files name to a page."""
    raw, data_dir = tmp_path / 'raw', tmp_path / 'data'
    rng = np.random.default_rng(0)
    for person in range(12):
        names = dict(PatientName=f'Quimby^Planted{person}', PatientID=f'ID-77-{person}')
        for number in range(2):
            stored = rng.integers(0, 4096, (24, 24)).astype('<u2')
            folder = raw / ('ill' if person % 2 else 'well') / f'Quimby_{person}'
            folder.mkdir(parents=True, exist_ok=True)
            series = dict(SeriesInstanceUID=f'1.2.840.7777.{person}')
            scan = dicom_of(stored, **{**PLANTED, **names, **series})
            path = folder / f'Planted_scan_{number}.dcm'
            scan.save_as(path, enforce_file_format=True)
    own = OwnFolder(name='own', classes=('well', 'ill'))
    prepared = prepare_dataset('folder', [raw], data_dir, canvas=24, workers=1, own=own)
    assert prepared.card['counts']['groups'] == 12
    audit = run_module(
        'audit',
        f'--data_dir={data_dir}',
        '--dataset=own',
        f'--out={tmp_path / "audit"}',
    )
    assert audit.returncode == 0, audit.stderr
    config = smoke_config(
        data_dir,
        overlap='allow',
        finetune__task='classes',
        finetune__data__name='own',
        finetune__data__split='all',
        pretrain__data__name='own',
        pretrain__data__split='all',
        pretrain__batch_size=8,
        pretrain__watch__images=8,
        pretrain__watch__probe_every_epochs=0,
        finetune__modes=('linear',),
        pretrain__epochs=1,
        finetune__folds=3,
    )
    run_experiment(read_experiment(config), tmp_path / 'run')
    assert (tmp_path / 'run' / 'report' / 'index.html').exists()
    assert search(data_dir, tmp_path / 'audit', tmp_path / 'run') > 30
    printed = audit.stdout + audit.stderr + ''.join(capfd.readouterr())
    assert not any(words in printed for words in TOLD)
