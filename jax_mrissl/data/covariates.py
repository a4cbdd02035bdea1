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

# Columns that may say who a row is about, in this order; case and spaces do not count.
_KEYS = (
    'session',
    'id',
    'mri id',
    'subject',
    'subject id',
    'ptid',
    'patient',
    'patient id',
    'group',
    'file',
    'image',
    'image index',
    'path',
)
_NAMES = {'m/f': 'sex', 'gender': 'sex'}
_MISSING = {'', 'na', 'n/a', 'nan', 'none', 'null', '.'}
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
        matched: of how many images it speaks.
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

    Its separator is a comma, a semicolon or a tab. The column that says who a row is
    about (session, ID, subject, group, file and the like) may hold the published
    session or person, the subject as the raw files name it, or the file's path, name
    or stem; it is the first such column that fits any image. The last ones need the
    dataset's private manifest. Words with the case of the table; names of columns
    without it. 'M/F' is called sex.

    Args:
        path: of the file, UTF-8.
        prepared: the images.
        manifest: its private one, or None.

    Raises:
        UserError: no such file, no column of that kind, no row that fits, or two rows
            that contradict each other.
    """
    header, lines = _read(Path(path).expanduser())
    names = [_plain(name) for name in header]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'{path}: the column {doubled[0]!r} is there twice.')
    keys = [name for name in _KEYS if name in names]
    if not keys:
        raise UserError(
            f'{path} has no column that says who a row is about: '
            f'{", ".join(_KEYS[:4])}, group or file. It has: {", ".join(header)}.'
        )
    rows_of = _names_of(prepared, manifest)
    for key in keys:
        place = names.index(key)
        found = [rows_of.get(line[place].strip(), []) for line in lines]
        if any(found):
            break
    else:
        raise UserError(
            f'No row of {path} fits an image of {prepared.name}: {keys[0]!r} holds '
            f'{lines[0][names.index(keys[0])]!r} and the like.'
            + (
                ''
                if manifest
                else ' The private manifest of this dataset, which would tell files '
                'and subjects, was not kept.'
            )
        )
    line_of = np.full(len(prepared), -1)
    for number, rows in enumerate(found):
        for row in rows:
            other = line_of[row]
            if other >= 0 and lines[other] != lines[number]:
                raise UserError(
                    f'{path}: two rows are of {lines[number][place]!r} and say '
                    'different things. Leave one.'
                )
            line_of[row] = number
    return _columns(names, lines, line_of, key)


def _columns(
    names: Sequence[str],
    lines: Sequence[Sequence[str]],
    line_of: np.ndarray,
    key: str,
) -> Covariates:
    values: dict[str, np.ndarray] = {}
    levels: dict[str, tuple[str, ...]] = {}
    known = line_of >= 0
    for place, name in enumerate(names):
        if name == key:
            continue
        cells = [line[place].strip() for line in lines]
        cells = ['' if cell.casefold() in _MISSING else cell for cell in cells]
        said = {cells[line] for line in line_of[known]} - {''}
        numbers = {cell: _number(cell) for cell in said}
        if any(math.isnan(number) for number in numbers.values()):
            if len(said) > _MOST_LEVELS:
                continue
            levels[name] = tuple(sorted(said))
            numbers = {word: float(i) for i, word in enumerate(levels[name])}
        column = np.full(len(line_of), math.nan)
        column[known] = [numbers.get(cells[line], math.nan) for line in line_of[known]]
        if np.isfinite(column).any():
            values[name] = column
    return Covariates(values, levels, key, int(known.sum()))


def _names_of(prepared: PreparedSet, manifest: Manifest | None) -> dict[str, list[int]]:
    """Gives the images that each name may mean; the more precise meaning wins."""
    found = sessions(prepared, manifest)
    kinds: list[Sequence[str]] = [list(found), list(persons(found))]
    if manifest:
        kinds.append([manifest.subjects.get(i, '') for i in prepared.file_ids])
        paths = [manifest.paths.get(i, '') for i in prepared.file_ids]
        kinds += [
            paths,
            [Path(path).name for path in paths],
            [without_suffix(Path(path).name) for path in paths],
        ]
    names: dict[str, list[int]] = {}
    for kind in kinds:
        own: dict[str, list[int]] = {}
        for row, name in enumerate(kind):
            if name:
                own.setdefault(name, []).append(row)
        names = {**own, **names}
    return names


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
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
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    if len(rows) < 2:
        raise UserError(f'{path} is empty: a header and at least one row are needed.')
    header, *lines = rows
    return header, [(line + [''] * len(header))[: len(header)] for line in lines]


def _plain(name: str) -> str:
    name = ' '.join(name.replace('_', ' ').split()).casefold()
    return _NAMES.get(name, name)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
