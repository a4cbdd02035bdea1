import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.covariates import read_covariates
from jax_mrissl.data.manifest import Manifest
from jax_mrissl.data.persons import persons, sessions

IDS = np.array(['a', 'b', 'c', 'd'])
PATHS = [
    'x/OAS1_0001_MR1_70.png',
    'x/OAS1_0001_MR1_71.png',
    'y/OAS1_0002_MR1.png',
    'z/9.png',
]
MANIFEST = Manifest(
    paths=dict(zip(IDS, PATHS, strict=True)),
    subjects=dict(zip(IDS, ['p1', 'p1', 'p2', 'p3'], strict=True)),
)
# Of slice 19 of a subject that the shipped link knows.
LINKED = '29a1782ee9901ebf72b42adf88d25954a20baa0c430905603ab2860d36fab91f'


class Rows:
    name = 'a_set'
    file_ids = IDS
    groups = np.array(['g1', 'g1', 'g2', 'g3'])
    pixel_sha256 = np.array(['0', '1', '2', '3'])

    def __len__(self):
        return 4


def read(tmp_path, text, manifest=MANIFEST):
    path = tmp_path / 'table.csv'
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_covariates(path, Rows(), manifest)


@pytest.mark.parametrize(
    'text',
    [
        'ID,Age,M/F\nOAS1_0001_MR1,74,F\nOAS1_0002_MR1,55,M\n',
        '\ufeffsession;age;sex\nOAS1_0001_MR1;74;F\nOAS1_0002_MR1;55;M\n',
        'subject\tAge\tSex\np1\t74\tF\np2\t55\tM\np9\t1\tM\n',
        'subject,age,sex\nOAS1_0001,74,F\nOAS1_0002,55,M\n',
        'file,age,sex\nOAS1_0001_MR1_70.png,74,F\nx/OAS1_0001_MR1_71.png,74,F\n'
        'OAS1_0002_MR1,55,M\n',
        # Of a subject with several sessions, those tell.
        'subject,id,age,sex\nOAS1_0001,OAS1_0001_MR1,74,F\n'
        'OAS1_0001,OAS1_0001_MR2,99,F\nOAS1_0002,OAS1_0002_MR1,55,M\n',
    ],
)
def test_joins_by_session_person_subject_or_file(tmp_path, text):
    found = read(tmp_path, text)
    np.testing.assert_array_equal(found.values['age'], [74, 74, 55, np.nan])
    assert found.levels['sex'] == ('F', 'M')
    np.testing.assert_array_equal(found.values['sex'], [0, 0, 1, np.nan])
    assert found.matched == 2  # subjects


NUMBERED = Manifest(
    paths=dict(zip(IDS, ['p1/1.png', 'p1/2.png', 'p2/1.png', 'p3/2.png'], strict=True)),
    subjects=dict(zip(IDS, ['p1', 'p1', 'p2', 'p3'], strict=True)),
)


@pytest.mark.parametrize(
    'text',
    [
        # Numbers of rows are not of files, nor are people who are not in the set.
        'id,subject,age\n1,p3,30\n2,p1,74\n3,p2,55\n',
        'id,group,age\n1,p3,30\n2,p1,74\n3,p2,55\n4,1,99\n',
        'file,image,age\n9.png,p1/1.png,74\n8.png,p1/2,74\n,p1/2.png,74\n'
        ',p2/1.png,55\n,p3/2.png,30\n',
    ],
)
def test_the_column_that_fits_most_images_joins(tmp_path, text):
    found = read(tmp_path, text, NUMBERED)
    np.testing.assert_array_equal(found.values['age'], [74, 74, 55, 30])


def test_of_columns_that_fit_alike_the_subject_joins(tmp_path):
    paths = ['p1/1.png', 'p1/2.png', 'p2/3.png', 'p3/4.png']
    manifest = Manifest(dict(zip(IDS, paths, strict=True)), NUMBERED.subjects)
    text = 'id,subject,age\n1,p3,30\n2,p1,74\n3,p2,55\n4,p9,1\n'
    found = read(tmp_path, text, manifest)
    np.testing.assert_array_equal(found.values['age'], [74, 74, 55, 30])


@pytest.mark.parametrize('name', ['1.png', '1'])
def test_a_name_of_files_of_several_subjects_is_refused(tmp_path, name):
    with pytest.raises(UserError, match='line 2: 2 files have this name') as error:
        read(tmp_path, f'file,age\n{name},70\np3/2.png,40\n', NUMBERED)
    assert 'Write the path relative to the raw folder' in str(error.value)


def test_numbers_with_decimal_commas(tmp_path):
    found = read(tmp_path, 'subject;age;sex\np1;74,5;F\np2;55.25;M\np3;-1;M\n')
    np.testing.assert_array_equal(found.values['age'], [74.5, 74.5, 55.25, -1])


def test_a_word_among_numbers_is_refused(tmp_path):
    for word in ('90+', '12/1'):
        text = f'subject,age\np1,74\np2,{word}\np3,30\nnobody,x\n'
        with pytest.raises(UserError, match='line 3: most of the column') as error:
            read(tmp_path, text)
        for part in (
            "'age'",
            repr(word),
            'nothing, or one of ., n/a, na, nan, none, null',
        ):
            assert part in str(error.value)
    # Among words, or where a column says who it is, numbers are words.
    found = read(tmp_path, 'subject,id,grade\np1,7,2\np2,8,2a\np3,9b,3a\n')
    assert found.levels['grade'] == ('2', '2a', '3a')
    assert read(tmp_path, 'subject,age\np1,74\np2,N/A\np3,.\n').values['age'][0] == 74


def test_conditions(tmp_path):
    found = read(tmp_path, 'subject,age,sex\np1,74,F\np2,55,M\np3,,M\n')
    for text, expected in (
        ('age>=60', [1, 1, 0, 0]),
        ('age < 60', [0, 0, 1, 0]),
        ('Sex==M', [0, 0, 1, 1]),
        ('sex != F AND age>50', [0, 0, 1, 0]),
        ('age=74', [1, 1, 0, 0]),
    ):
        np.testing.assert_array_equal(found.where(text), np.array(expected, bool))
    for text, message in (
        ('agee>=60', "mean 'age'"),
        ('sex==f', 'Known: F, M'),
        ('sex>F', 'is a word'),
        ('age>=old', 'is a number'),
        ('age', 'no condition'),
        ('', 'no condition'),
    ):
        with pytest.raises(UserError, match=message):
            found.where(text)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('age\n1\n', 'no column that says who'),
        ('subject,age\nnobody,1\n', "No row of .* fits an image of a_set: 'subject'"),
        ('subject,age,Age\np1,1,2\n', "'age' is there twice"),
        ('subject,age\np1,1\np1,2\n', 'line 3: line 2 is of .p1., too, and says'),
        ('subject,age\n', 'is empty'),
        (b'subject,age\np1,\xff\n', 'not UTF-8'),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_missing_file_and_a_missing_manifest_are_said(tmp_path):
    with pytest.raises(UserError, match='No such file'):
        read_covariates(tmp_path / 'none.csv', Rows(), None)
    with pytest.raises(UserError, match=r'private manifest .* not kept'):
        read(tmp_path, 'subject,age\np1,1\n', manifest=None)


def test_values_that_differ_have_another_digest(tmp_path):
    one = read(tmp_path, 'subject,age\np1,74\np2,55\n')
    assert one.digest == read(tmp_path, 'subject;age\np2;55.0\np1;74\n').digest
    assert one.digest != read(tmp_path, 'subject,age\np1,74\np2,56\n').digest
    assert len(one.select(np.array([0, 2])).values['age']) == 2


def test_sessions_come_from_paths_or_from_the_pixels_of_one_slice():
    found = sessions(Rows(), MANIFEST)
    assert found.tolist() == ['OAS1_0001_MR1', 'OAS1_0001_MR1', 'OAS1_0002_MR1', '']
    assert persons(found).tolist() == ['OAS1_0001', 'OAS1_0001', 'OAS1_0002', '']
    assert sessions(Rows(), None).tolist() == [''] * 4
    # One linked slice is enough for all of its subject.
    linked = Rows()
    linked.pixel_sha256 = np.array(['0', LINKED, '2', '3'])
    found = sessions(linked, None)
    assert found.tolist() == ['OAS1_0134_MR1', 'OAS1_0134_MR1', '', '']
    assert persons(np.array(['002_S_0295', 'OAS1_0134_MR1'])).tolist() == [
        '002_S_0295',
        'OAS1_0134',
    ]
