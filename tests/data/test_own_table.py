"""Tables: what they say of files, and what is wrong with them."""

import math
from pathlib import Path

import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.spec import PathPattern, TableColumns
from jax_mrissl.data.table import read_table

PATHS = ('a/1.png', 'a/2.png', 'b/2.png', 'b/Jörg.png')
FILES = [RawFile('own', path, Path('/raw')) for path in PATHS]
OWN = TableColumns()


def read(tmp_path, text, columns=OWN, files=FILES, encoding='utf-8'):
    path = tmp_path / 'facts.csv'
    path.write_bytes(text.encode(encoding))
    return read_table(path, files, columns)


@pytest.mark.parametrize('separator', [',', ';', '\t'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_separators_marks_and_line_ends(tmp_path, separator, encoding, end):
    lines = [['File', 'Group', 'Target', 'Notes'], ['a/1.png', 'P1', '0.5', 'x']]
    lines.append(['Jörg', 'P2', '', ''])
    text = end.join(separator.join(line) for line in lines) + end
    table = read(tmp_path, text, encoding=encoding)
    assert table.columns == ('file', 'group', 'target')
    assert table.rows[0].group == 'P1' and table.rows[0].target == 0.5
    assert table.rows[3].group == 'P2' and math.isnan(table.rows[3].target)
    assert (table.unmatched, table.silent) == (0, 2)


def test_quoted_cells_and_ragged_rows(tmp_path):
    text = 'file,label,group\n"a/1.png","mild, or so",P1\na/2.png,x\n\nb/2.png,y,P2,,\n'
    rows = read(tmp_path, text).rows
    assert rows[0].label == 'mild, or so'
    assert (rows[1].label, rows[1].group) == ('x', '')
    assert (rows[2].label, rows[2].group) == ('y', 'P2')


def test_unknown_rows_are_counted(tmp_path):
    # Spreadsheets leave rows whose cell is empty.
    text = 'file,group\n1.png,P1\ngone.png,P2\n,P3\n.,P4\n'
    table = read(tmp_path, text)
    assert list(table.rows) == [0] and table.unmatched == 3 and table.silent == 3


def test_other_suffixes_paths_of_windows_and_bare_names(tmp_path):
    names = ('a/1.png', './a/1.png', 'a\\1.png', '1', '1.png', '1.dcm', '1.nii.gz')
    for name in (*names, 'a/1', 'a/1.nii'):
        assert list(read(tmp_path, f'file,group\n{name},P1\n').rows) == [0]
    volumes = [RawFile('own', 'sub-1_T1.v2.nii.gz', Path('/raw'))]
    for name in ('sub-1_T1.v2', 'sub-1_T1.v2.nii', 'sub-1_T1.v2.png'):
        assert read(tmp_path, f'file,group\n{name},P1\n', files=volumes).rows


def test_files_of_two_raw_folders(tmp_path):
    paths = (('x', '1.png'), ('y', '1.png'), ('y', 'a/2.png'))
    two = [RawFile(source, path, Path('/raw')) for source, path in paths]
    for name in ('1.png', '1', '1.dcm'):
        with pytest.raises(UserError, match='line 2: 2 files have this') as error:
            read(tmp_path, f'file,group\n{name},P1\n', files=two)
        assert 'with the name of that folder: x/1.png' in str(error.value)
    text = 'file,group\nx/1.png,P1\ny\\1,P2\na/2.png,P3\n'
    rows = read(tmp_path, text, files=two).rows
    assert [rows[index].group for index in range(3)] == ['P1', 'P2', 'P3']
    # Of one folder the name is no part of a path.
    with pytest.raises(UserError, match='No row'):
        read(tmp_path, 'file,group\nx/1.png,P1\n', files=two[:1])


def test_a_dot_in_a_name_begins_no_suffix(tmp_path):
    uids = ('1.2.840.1', '9.9.840.3', '9.9.840.4')
    files = [RawFile('own', path, Path('/raw')) for path in uids]
    text = 'file,group\n1.2.840.7,P1\n9.9.840.3,P2\n9.9.840.4.dcm,P3\n'
    table = read(tmp_path, text, files=files)
    assert {i: row.group for i, row in table.rows.items()} == {1: 'P2', 2: 'P3'}
    assert (table.unmatched, table.silent) == (1, 1)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'no column "file"'),
        ('name,group\na/1.png,P1\n', 'found: name, group'),
        ('file,file,group\na/1.png,a/1.png,P1\n', 'column "file" twice'),
        ('file,group\n2.png,P1\n', 'line 2: 2 files have this name'),
        ('file,target\na/1.png,much\n', "line 2: the target 'much' is no number"),
        ('file,group\na/1.png,P1\n\na/1.png,P2\n', 'line 4: line 2 is of the same'),
        ('file,group\nx.png,P1\n', 'No row of the table'),
    ],
)
def test_mistakes_are_told(tmp_path, text, words):
    with pytest.raises(UserError, match='facts') as error:
        read(tmp_path, text)
    assert words in str(error.value)


def test_a_row_may_be_there_twice_if_it_says_the_same(tmp_path):
    text = 'file,group,target\na/1.png,P1,\na/1.png,P1,\n'
    assert read(tmp_path, text).rows[0].group == 'P1'


def test_other_encodings_are_told(tmp_path):
    with pytest.raises(UserError, match='CSV UTF-8'):
        read(tmp_path, 'file,group\nJörg.png,P1\n', encoding='cp1252')
    with pytest.raises(UserError, match='cannot be read'):
        read_table(tmp_path / 'none.csv', FILES, OWN)


SESSIONS = [
    RawFile('own', path, Path('/raw'))
    for path in ('OAS1_0001_MR1_1.png', 'OAS1_0001_MR1_2.png', 'OAS1_0002_MR1.nii')
]
BY_SESSION = TableColumns(
    file=('ID', 'Session'), key=PathPattern(r'(OAS1_\d{4}_MR\d)'), target=('CDR',)
)


def test_a_row_may_be_of_many_files(tmp_path):
    text = 'ID,M/F,CDR\nOAS1_0001_MR1,F,0.5\nOAS1_0002_MR1,M,N/A\nOAS1_0003_MR1,F,1\n'
    table = read(tmp_path, text, BY_SESSION, SESSIONS)
    assert [table.rows[i].target for i in (0, 1)] == [0.5, 0.5]
    assert math.isnan(table.rows[2].target) and table.unmatched == 1


def test_contradicting_rows_of_a_session(tmp_path):
    text = 'session;cdr\nOAS1_0001_MR1;0,5\n'
    with pytest.raises(UserError, match="'0,5' is no number"):
        read(tmp_path, text, BY_SESSION, SESSIONS)
    text = 'ID,CDR\nOAS1_0001_MR1,0.5\nOAS1_0001_MR1,1\n'
    with pytest.raises(UserError, match='same images and says otherwise'):
        read(tmp_path, text, BY_SESSION, SESSIONS)


def test_tables_without_header_and_codes_for_missing(tmp_path):
    columns = TableColumns(header=('file', 'label'), missing=('-4',))
    rows = read(tmp_path, '1.png\tn01\t3\t4\nb/2.png\t-4\t\t\n', columns).rows
    assert (rows[0].label, rows[2].label) == ('n01', '')


def test_words_for_missing_are_no_class_person_or_place(tmp_path):
    text = 'file,group,label,site\na/1.png,NA,none,n/a\nb/2.png,null,well,.\n'
    table = read(tmp_path, text)
    assert table.labels() == ('well',)
    assert [(row.group, row.site) for row in table.rows.values()] == [('', '')] * 2
    path = tmp_path / 'facts.csv'
    table = read_table(path, FILES, OWN, classes=('well', 'none'))
    assert table.labels() == ('none', 'well') and table.rows[0].group == ''


def test_several_labels_in_a_cell_are_none(tmp_path):
    columns = TableColumns(label=('Finding Labels',), several='|')
    text = 'file,Finding Labels\n1.png,Mass\nb/2.png,Mass|Nodule\n'
    table = read(tmp_path, text, columns)
    assert table.labels() == ('Mass',) and table.rows[2].label == ''
