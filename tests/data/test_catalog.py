"""Every dataset of the catalog on small files of its layout: labels, groups, errors."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import catalog, spec
from jax_mrissl.data.inventory import check_folder
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset

RNG = np.random.default_rng(0)


def picture(path, shape=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(path)


def volume(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(1, 999, (16, 16, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


class Found:
    """The features of all records of a prepared set."""

    def __init__(self, prepared):
        self.classes = tuple(prepared.card['classes'])
        decoders = {'image': tfds.decode.SkipDecoding()}
        builder = tfds.builder_from_directory(prepared.folder)
        rows = [
            row
            for split in builder.info.splits
            for row in builder.as_data_source(split, decoders=decoders)
        ]
        for name in ('label', 'target', 'position'):
            setattr(self, name, np.array([row[name] for row in rows]))


def prepare(name, raw, tmp_path, **options):
    prepared = prepare_dataset(
        name, [raw], tmp_path / 'data', canvas=16, workers=1, **options
    )
    return prepared, Found(prepared)


def tiny_imagenet(root):
    for wnid in ('n00000001', 'n00000002'):
        for index in range(2):
            picture(root / f'train/{wnid}/images/{wnid}_{index}.JPEG', (16, 16, 3))
        (root / f'train/{wnid}/{wnid}_boxes.txt').write_text('boxes')
    for index in range(3):
        picture(root / f'val/images/val_{index}.JPEG', (16, 16, 3))
    (root / 'val/val_annotations.txt').write_text(
        'val_0.JPEG\tn00000002\t0\t0\t9\t9\nval_1.JPEG\tn00000003\t0\t0\t9\t9\n'
        'val_9.JPEG\tn00000009\t0\t0\t9\t9\n'
    )
    (root / 'words.txt').write_text('n00000001\tox, bull\nn09999999\tcat\n')
    return root


def test_tiny_imagenet(tmp_path):
    raw = tiny_imagenet(tmp_path / 'tiny-imagenet-200')
    prepared, data = prepare('tiny_imagenet', raw, tmp_path)
    # Those of the folders and of the validation images that are here.
    assert data.classes == ('n00000001', 'n00000002', 'n00000003')
    splits = prepared.card['counts']['splits']
    assert splits['train']['images'] == 4 and splits['val']['images'] == 3
    assert splits['val']['classes']['n00000003'] == 1
    assert splits['val']['classes']['unlabelled'] == 1
    assert prepared.card['counts']['rejected'] == {}
    assert prepared.card['channels'] == 3


@pytest.mark.parametrize(
    ('given', 'words'), [('x', 'too high'), ('x/tiny/train', 'too deep')]
)
def test_tiny_imagenet_one_level_off(tmp_path, given, words):
    right = tiny_imagenet(tmp_path / 'x' / 'tiny')
    with pytest.raises(UserError, match=words) as error:
        check_folder(catalog.find('tiny_imagenet'), tmp_path / given)
    assert f'--raw_dir="{right}"' in str(error.value)


def test_class_folders_without_their_parent_are_too_deep(tmp_path):
    for name in ('yes', 'no'):
        picture(tmp_path / 'kaggle' / name / '1.png')
    with pytest.raises(UserError, match='too deep') as error:
        check_folder(catalog.find('brain_mri'), tmp_path / 'kaggle' / 'yes')
    assert f'--raw_dir="{tmp_path / "kaggle"}"' in str(error.value)
    check_folder(catalog.find('brain_mri'), tmp_path / 'kaggle')


def test_chest_xray(tmp_path):
    raw = tmp_path / 'raw'
    names = ('00000001_000', '00000001_001', '00000022_000', 'p7_1')
    for name in names:
        picture(raw / 'images_001' / f'{name}.png')
    (raw / 'Data_Entry_2017.csv').write_text(
        'Image Index,Finding Labels,Follow-up #,Patient ID,View Position\n'
        '00000001_000.png,Cardiomegaly,0,1,PA\n'
        '00000022_000.png,Mass|Nodule,0,22,AP\n'
    )
    prepared, data = prepare('chest_xray', raw, tmp_path)
    # The second image of patient 1 is not in the table: its name tells.
    assert prepared.card['counts']['groups'] == 3
    assert sorted(data.classes[i] for i in data.label if i >= 0) == ['Cardiomegaly']
    assert prepared.card['notes'] == ['Files without a row in the table: 2.']


def oasis(root):
    for session in ('OAS1_0001_MR1', 'OAS1_0001_MR2', 'OAS1_0002_MR1'):
        volume(root / 'volumes' / f'{session}.nii.gz')
    (root / 'oasis_cross-sectional.csv').write_text(
        'ID,M/F,CDR\nOAS1_0001_MR1,F,0.5\nOAS1_0001_MR2,F,1\nOAS1_0002_MR1,M,\n'
    )
    return root


def test_oasis1(tmp_path):
    prepared, data = prepare('oasis1', oasis(tmp_path / 'raw'), tmp_path)
    counts = prepared.card['counts']
    assert counts['images'] == 9 and counts['groups'] == 2
    assert counts['classes']['VeryMildDemented'] == 3
    assert counts['classes']['MildDemented'] == 3
    assert counts['classes']['unlabelled'] == 3
    known = data.target[data.label >= 0]
    assert sorted(known) == [0.5] * 3 + [1.0] * 3
    assert np.isnan(data.target[data.label < 0]).all()


@pytest.mark.parametrize(
    ('given', 'words'), [('x', 'too high'), ('x/oasis/volumes', 'too deep')]
)
def test_oasis1_one_level_off(tmp_path, monkeypatch, given, words):
    right = oasis(tmp_path / 'x' / 'oasis')
    (tmp_path / 'x' / 'notes.txt').write_text('Notes.')
    with pytest.raises(UserError, match=words) as error:
        prepare('oasis1', tmp_path / given, tmp_path)
    assert f'--raw_dir="{right}"' in str(error.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        prepare('oasis1', Path(given), tmp_path)
    # Named, the table may lie anywhere.
    own = OwnFolder(table=right / 'oasis_cross-sectional.csv')
    prepared, _ = prepare('oasis1', right / 'volumes', tmp_path, own=own)
    assert prepared.card['counts']['images'] == 9


def test_a_table_that_is_needed_and_missing(tmp_path):
    volume(tmp_path / 'a' / 'b' / 'raw' / 'OAS1_0001_MR1.nii')
    with pytest.raises(UserError, match='needs a table') as error:
        prepare('oasis1', tmp_path / 'a' / 'b' / 'raw', tmp_path)
    for part in ('oasis_cross-sectional*.csv', 'oasisbrains', '--table'):
        assert part in str(error.value)


def test_adni(tmp_path):
    raw = tmp_path / 'raw'
    for subject in ('002_S_0295', '002_S_0413', '011_S_0002'):
        volume(raw / 'ADNI' / subject / 'T1.nii')
    (raw / 'ADNI.csv').write_text(
        'PTID;Age;Sex;Site;CDR-SB\n002_S_0295;84;M;2;4.5\n002_S_0413;76;F;2;-4\n'
        '011_S_0002;70;F;11;0\n'
    )
    prepared, data = prepare('adni_cdrsb', raw, tmp_path)
    assert prepared.card['counts']['groups'] == 3
    known = data.target[~np.isnan(data.target)]
    assert sorted(known) == [0.0] * 3 + [4.5] * 3
    (raw / 'other.csv').write_text('PTID,CDR-SB\n')
    with pytest.raises(UserError, match='2 tables'):
        prepare('adni_cdrsb', raw, tmp_path)


def test_brain_mri_masked(tmp_path):
    raw = tmp_path / 'raw'
    for number in (1, 2):
        stem = raw / 'TCGA_CS_4941_19960909' / f'TCGA_CS_4941_19960909_{number}'
        picture(stem.with_name(f'{stem.name}.tif'), (16, 16, 3))
        picture(stem.with_name(f'{stem.name}_mask.tif'))
    volume(raw / 'OAS1_0001_MR1_masked_gfc.nii.gz')
    volume(raw / 'own.nii.gz')
    prepared, data = prepare('brain_mri_masked', raw, tmp_path)
    counts = prepared.card['counts']
    assert counts['images'] == 8 and counts['groups'] == 3
    assert counts['rejected'] == {'mask of another image': 2}
    assert {1.0, 2.0} <= set(data.position)


def test_ct_of_volumes(tmp_path):
    raw = tmp_path / 'raw'
    for case in ('case_00000', 'case_00001'):
        for name in ('imaging', 'late', 'segmentation', 'aggregated_AND_seg'):
            volume(raw / case / f'{name}.nii.gz')
    volume(raw / 'volume-0.nii')
    volume(raw / 'segmentation-0.nii')
    prepared, _ = prepare('ct', raw, tmp_path)
    counts = prepared.card['counts']
    assert (counts['files'], counts['images'], counts['groups']) == (5, 15, 3)


@pytest.mark.parametrize(
    'name', [n for n, declared in catalog.DATASETS.items() if not declared.simulated]
)
def test_missing_data_is_answered(tmp_path, name):
    declared = catalog.find(name)
    for raw_dirs in ([], [tmp_path / 'none']):
        with pytest.raises(UserError) as error:
            prepare_dataset(name, raw_dirs, tmp_path / 'data', canvas=16)
        told = str(error.value)
        layout = declared.layout.splitlines()
        for part in (declared.source, declared.terms, f'--dataset={name}', *layout):
            assert part in told, part


def test_every_file_of_the_catalog_is_found():
    folder = Path(catalog.__file__).parent
    files = {path.stem for path in folder.glob('[!_]*.py')}
    assert files <= set(catalog.DATASETS)
    assert all(name == one.name for name, one in catalog.DATASETS.items())


def test_the_declaration_in_the_readme_is_one():
    readme = Path(__file__).parents[2] / 'README.md'
    [block] = re.findall(
        r'```python\n(.*?\nHEAD_CT = .*?)```', readme.read_text(), re.S
    )
    names = {}
    exec(block, names)
    assert isinstance(names['HEAD_CT'], spec.DatasetSpec)


def test_what_no_set_takes(tmp_path):
    picture(tmp_path / 'raw' / 'a.png')
    (tmp_path / 'facts.csv').write_text('file,group\na.png,P1\n')
    own = OwnFolder(table=tmp_path / 'facts.csv')
    with pytest.raises(UserError, match='ct takes no table'):
        prepare('ct', tmp_path / 'raw', tmp_path, own=own)
    with pytest.raises(UserError, match='Only --dataset=folder'):
        prepare('ct', tmp_path / 'raw', tmp_path, own=OwnFolder(classes=('a',)))
    with pytest.raises(UserError, match="Did you mean 'lung'"):
        prepare('ct', tmp_path / 'raw', tmp_path, windows=('lungs',))
