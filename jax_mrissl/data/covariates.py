"""What a table says of the subjects besides their label: age, sex, brain volume."""

import csv
import dataclasses
import hashlib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data.inventory import without_suffix
from jax_mrissl.data.manifest import Manifest
from jax_mrissl.data.persons import persons, sessions
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.table import MISSING

# Columns that may say who a row is about; of those that fit equally well the first
# counts. Case and spaces do not.
_KEYS = (
    'session',
    'mri id',
    'subject',
    'subject id',
    'ptid',
    'patient',
    'patient id',
    'group',
    'id',
    'file',
    'image',
    'image index',
    'path',
)
_NAMES = {'m/f': 'sex', 'gender': 'sex'}
# By more words than these, a column of text is no category.
_MOST_LEVELS = 20
_CLAUSE = re.compile(r'\s*([^<>=!]+?)\s*(>=|<=|==|!=|=|>|<)\s*(.+?)\s*')
_OPERATORS = {
    '>=': operator.ge,
    '<=': operator.le,
    '>': operator.gt,
    '<': operator.lt,
    '==': operator.eq,
    '=': operator.eq,
    '!=': operator.ne,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Covariates:
    """Columns of a table, joined with images.

    Attributes:
        values: by column, float64 [n], NaN where unknown; of a column of words, the
            number of the word in `levels`.
        levels: the words of such a column, sorted.
        key: the column that it was joined by.
        matched: of how many subjects it speaks.
    """

    values: Mapping[str, np.ndarray]
    levels: Mapping[str, tuple[str, ...]]
    key: str
    matched: int

    def select(self, rows: np.ndarray) -> 'Covariates':
        """Gives those of some images."""
        values = {name: column[rows] for name, column in self.values.items()}
        return dataclasses.replace(self, values=values)

    @property
    def digest(self) -> str:
        """The SHA-256 of all values."""
        found = hashlib.sha256()
        for name in sorted(self.values):
            found.update(f'{name} {self.levels.get(name, ())}'.encode())
            found.update(np.ascontiguousarray(self.values[name], '<f8').data)
        return found.hexdigest()

    def where(self, text: str) -> np.ndarray:
        """Tells which images a condition holds for, bool [n]; unknown is not held.

        Args:
            text: 'age>=60', or several with 'and' between: 'age>=60 and sex==F'.

        Raises:
            UserError: no such column or word, or no condition.
        """
        held = np.ones(len(next(iter(self.values.values()))), bool)
        for clause in re.split(r'\s+and\s+', text.strip(), flags=re.IGNORECASE):
            held &= self._clause(clause)
        return held

    def _clause(self, clause: str) -> np.ndarray:
        match = _CLAUSE.fullmatch(clause)
        if not match:
            raise UserError(
                f'finetune.where: {clause!r} is no condition. As in: age>=60 and sex==F'
            )
        name, sign, value = match.groups()
        name = _plain(name)
        expect_known(name, self.values, 'column in finetune.where')
        column = self.values[name]
        if name in self.levels:
            if sign not in ('=', '==', '!='):
                raise UserError(
                    f'finetune.where: {name} is a word, which is == or != another.'
                )
            word = value.strip('\'"')
            expect_known(word, self.levels[name], f'{name} in finetune.where')
            wanted = float(self.levels[name].index(word))
        else:
            try:
                wanted = float(value)
            except ValueError as error:
                raise UserError(
                    f'finetune.where: {name} is a number, and {value!r} is none.'
                ) from error
        return np.isfinite(column) & _OPERATORS[sign](column, wanted)


def read_covariates(
    path: str | Path, prepared: PreparedSet, manifest: Manifest | None
) -> Covariates:
    """Joins a CSV file with images.

    Its separator is a comma, a semicolon or a tab; with semicolons, numbers may have
    decimal commas. The column that says who a row is about (session, ID, subject,
    group, file and the like) may hold the published session or person, the subject as
    the raw files name it, or the file's path, name or stem; it is the one that fits
    most images. Files, and subjects as the raw files name them, need the dataset's
    private manifest. Words with the case of the table; names of columns without it.
    'M/F' is called sex.

    Args:
        path: of the file, UTF-8.
        prepared: the images.
        manifest: its private one, or None.

    Raises:
        UserError: no such file, no column of that kind, no row that fits, two rows
            that contradict each other, a file's name that several subjects have, or
            words in a column of numbers.
    """
    sheet = _read(Path(path).expanduser())
    names = sheet.names
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'{path}: the column {doubled[0]!r} is there twice.')
    keys = [name for name in _KEYS if name in names]
    if not keys:
        raise UserError(
            f'{path} has no column that says who a row is about: '
            f'{", ".join(_KEYS[:3])}, group or file. It has: {", ".join(sheet.header)}.'
        )
    meanings = _meanings(prepared, manifest)
    joined = [_join(sheet, key, meaning) for key in keys for meaning in meanings]
    best = max(joined, key=lambda join: (join.certain, join.matched))
    if not best.matched:
        raise UserError(
            f'No row of {path} fits an image of {prepared.name}: {keys[0]!r} holds '
            f'{sheet.cells(keys[0])[0]!r} and the like.'
            + (
                ''
                if manifest
                else ' The private manifest of this dataset, which would tell files '
                'and subjects, was not kept.'
            )
        )
    if best.doubt:
        raise UserError(best.doubt)
    return _columns(sheet, best.line_of, best.key, prepared.groups)


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """A table as it is written.

    Attributes:
        path: of the file.
        header: the names of its columns.
        lines: the rows, all as long as the header.
        numbers: of each row, the line in the file.
        decimal: what stands before the decimals of a number.
    """

    path: Path
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    numbers: Sequence[int]
    decimal: str

    @property
    def names(self) -> list[str]:
        """The names of the columns, plain."""
        return [_plain(name) for name in self.header]

    def cells(self, name: str) -> list[str]:
        """Gives the cells of a column."""
        place = self.names.index(name)
        return [line[place].strip() for line in self.lines]

    def number(self, cell: str) -> float:
        """Reads a cell as a number; NaN if it is none."""
        try:
            return float(cell.replace(self.decimal, '.'))
        except ValueError:
            return math.nan


# For each name that may stand in a table, the images that it may mean.
_Meaning = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Join:
    """Rows and images, joined by one column in one meaning of its cells.

    Attributes:
        key: the column.
        line_of: the row that is of each image, int [n]; -1: none is.
        certain: of how many images one row speaks, and no other.
        doubt: what is wrong with the others; '' if there are none.
    """

    key: str
    line_of: np.ndarray
    certain: int
    doubt: str

    @property
    def matched(self) -> int:
        """The number of images that any row may be of."""
        return int((self.line_of >= 0).sum())


def _join(sheet: _Sheet, key: str, meaning: tuple[_Meaning, Sequence[str]]) -> _Join:
    rows_of, who = meaning
    line_of = np.full(len(who), -1)
    doubtful: set[int] = set()
    doubt = ''
    for number, cell in enumerate(sheet.cells(key)):
        where = f'{sheet.path}, line {sheet.numbers[number]}'
        rows = rows_of.get(cell, ())
        if len({who[row] for row in rows}) > 1:
            doubtful.update(rows)
            doubt = doubt or (
                f'{where}: {len(rows)} files have this name, and are of several '
                'subjects. Write the path relative to the raw folder.'
            )
        for row in rows:
            other = line_of[row]
            if other >= 0 and sheet.lines[other] != sheet.lines[number]:
                doubtful.add(row)
                doubt = doubt or (
                    f'{where}: line {sheet.numbers[other]} is of {cell!r}, too, and '
                    'says otherwise. Leave one of them.'
                )
            line_of[row] = number
    certain = int((line_of >= 0).sum()) - len(doubtful)
    return _Join(key, line_of, certain, doubt)


def _columns(
    sheet: _Sheet, line_of: np.ndarray, key: str, groups: np.ndarray
) -> Covariates:
    values: dict[str, np.ndarray] = {}
    levels: dict[str, tuple[str, ...]] = {}
    known = line_of >= 0
    for name in sheet.names:
        if name == key:
            continue
        cells = sheet.cells(name)
        cells = ['' if cell.casefold() in MISSING else cell for cell in cells]
        said = {cells[line] for line in line_of[known]} - {''}
        numbers = {cell: sheet.number(cell) for cell in said}
        odd = {cell for cell, number in numbers.items() if math.isnan(number)}
        if odd:
            told = [line for line in np.unique(line_of[known]) if cells[line]]
            odd_ones = [line for line in told if cells[line] in odd]
            if len(odd_ones) < len(told) / 2 and name not in _KEYS:
                missing = ', '.join(sorted(MISSING - {''}))
                raise UserError(
                    f'{sheet.path}, line {sheet.numbers[odd_ones[0]]}: most of the '
                    f'column {name!r} are numbers, and {cells[odd_ones[0]]!r} is none. '
                    f'Write a number, or what means that it is missing: nothing, or '
                    f'one of {missing}.'
                )
            if len(said) > _MOST_LEVELS:
                continue
            levels[name] = tuple(sorted(said))
            numbers = {word: float(i) for i, word in enumerate(levels[name])}
        column = np.full(len(line_of), math.nan)
        column[known] = [numbers.get(cells[line], math.nan) for line in line_of[known]]
        if np.isfinite(column).any():
            values[name] = column
    return Covariates(values, levels, key, len(set(groups[known].tolist())))


def _meanings(
    prepared: PreparedSet, manifest: Manifest | None
) -> list[tuple[_Meaning, Sequence[str]]]:
    """Gives what a column may hold: names of people, or of files.

    Returns: for each, the images of each name, of which the more precise meaning wins;
        and for each image, who must be one where a name means several.
    """
    found = sessions(prepared, manifest)
    people: list[Sequence[str]] = [list(found), list(persons(found))]
    if not manifest:
        return [(_rows_of(people), [''] * len(prepared))]
    people.append([manifest.subjects.get(i, '') for i in prepared.file_ids])
    paths = [manifest.paths.get(i, '') for i in prepared.file_ids]
    names = [Path(path).name for path in paths]
    files = [paths, names, [without_suffix(name) for name in names]]
    return [
        (_rows_of(people), [''] * len(prepared)),
        (_rows_of(files), prepared.groups.tolist()),
    ]


def _rows_of(kinds: Sequence[Sequence[str]]) -> _Meaning:
    names: dict[str, list[int]] = {}
    for kind in kinds:
        own: dict[str, list[int]] = {}
        for row, name in enumerate(kind):
            if name:
                own.setdefault(name, []).append(row)
        names = {**own, **names}
    return names


def _read(path: Path) -> _Sheet:
    try:
        text = path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UserError(
            f'finetune.covariates: {path}: {error.strerror or error}.'
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8. Save it as CSV UTF-8.') from error
    first = text.partition('\n')[0]
    separator = max(',;\t', key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=separator)
    rows = [(reader.line_num, row) for row in reader if row]
    if len(rows) < 2:
        raise UserError(f'{path} is empty: a header and at least one row are needed.')
    (_, header), *found = rows
    return _Sheet(
        path,
        header,
        [(row + [''] * len(header))[: len(header)] for _, row in found],
        [number for number, _ in found],
        # Where a comma separates no columns, it may separate decimals.
        decimal=',' if separator == ';' else '.',
    )


def _plain(name: str) -> str:
    name = ' '.join(name.replace('_', ' ').split()).casefold()
    return _NAMES.get(name, name)
