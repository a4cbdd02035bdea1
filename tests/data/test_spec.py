import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import catalog
from jax_mrissl.data.spec import FolderLevel, PathPattern


def test_pattern_takes_its_bracket():
    rule = PathPattern(r'(sub-\d+)_')
    assert rule.find('scans/sub-012_T1.png') == 'sub-012'
    assert rule.find('scans/T1.png') is None


def test_pattern_without_bracket_is_a_mistake():
    with pytest.raises(UserError, match='no bracket'):
        PathPattern(r'sub-\d+')
    with pytest.raises(UserError, match='no regular expression'):
        PathPattern('(')


def test_folder_levels_keep_what_is_above():
    rule = FolderLevel(2)
    assert rule.find('ill/01/a.png') == 'ill/01'
    assert rule.find('well/01/a.png') == 'well/01'
    assert rule.find('ill/a.png') is None


@pytest.mark.parametrize('folder', ['Non_Demented', 'NonDemented', 'non demented'])
def test_copies_may_spell_classes_differently(folder):
    spec = catalog.find('alzheimer_mri')
    assert spec.label_of(f'train/{folder}/a.jpg') == 0
    assert spec.split_of(f'train/{folder}/a.jpg') == 'train'


def test_the_deepest_class_folder_counts():
    spec = catalog.find('brain_mri')
    assert spec.classes[spec.label_of('no/pituitary_tumor/a.jpg')] == 'pituitary_tumor'
    assert spec.classes[spec.label_of('no/a.jpg')] == 'no_tumor'
    assert spec.label_of('dicom/a.dcm') == -1


def test_unknown_dataset_is_corrected():
    with pytest.raises(UserError, match="Did you mean 'brain_mri'"):
        catalog.find('brain_mir')


def test_advice_has_source_terms_layout_and_command():
    words = catalog.advice('alzheimer_mri', 'data')
    for part in ('kaggle.com', 'ODbL', 'train/NonDemented', '--data_dir=data'):
        assert part in words
    assert '--name=mine' in catalog.advice('mine', 'data')


@pytest.mark.parametrize('name', catalog.DATASETS)
def test_targets_rise_with_the_class(name):
    targets = catalog.find(name).targets
    assert list(targets) == sorted(targets)
