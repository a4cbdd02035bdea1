"""The table of a dataset: what a CSV file says of each raw file."""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.inventory import (
    RawFile,
    named,
    too_high,
    wanted,
    without_suffix,
)
from jax_mrissl.data.spec import DatasetSpec, TableColumns, plain

_FACTS = ('file', 'group', 'label', 'target', 'site')
# Cells, without case, that say that nothing is known.
MISSING = {'', 'na', 'n/a', 'nan', 'none', 'null', '.'}
# How far above the raw folder a table is looked for, to say that it is there.
_LEVELS_ABOVE = 2


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row; '' and NaN where its cell is empty or the column is missing."""

    group: str = ''
    label: str = ''
    target: float = math.nan
    site: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, matched with the raw files.

    Attributes:
        rows: by the place of the raw file in the list it was matched with.
        unmatched: rows whose file was not found.
        silent: raw files of which no row speaks.
        columns: those it has, of file, group, label, target, site.
    """

    rows: dict[int, TableRow]
    unmatched: int
    silent: int
    columns: tuple[str, ...]

    def labels(self) -> tuple[str, ...]:
        """Gives all labels, sorted."""
        return tuple(sorted({row.label for row in self.rows.values()} - {''}))


def find_table(
    spec: DatasetSpec, raw_dirs: Sequence[Path], files: Sequence[RawFile]
) -> Path | None:
    """Finds the table of a dataset among its raw files; None if there is none.

    Raises:
        UserError: there are several, or it is needed and missing or elsewhere.
    """
    columns = spec.table
    if not columns or not columns.names:
        return None
    found = [file.file for file in files if named(file.path, columns.names)]
    if len(found) > 1:
        told = ', '.join(str(path) for path in found[:5])
        raise UserError(f'There are {len(found)} tables: {told}. Say which by --table.')
    if not spec.needs_table:
        return found[0] if found else None
    if not found:
        for folder in raw_dirs:
            for above in list(folder.resolve().parents)[:_LEVELS_ABOVE]:
                near = [
                    p for p in sorted(above.glob('*')) if named(p.name, columns.names)
                ]
                if near:
                    raise UserError(
                        f'The raw folder {folder} is too deep: the table '
                        f'{near[0].name} lies above it.\nUse --raw_dir="{above}", or '
                        f'--table="{near[0]}".'
                    )
        raise UserError(
            f'{spec.name} needs a table, {" or ".join(columns.names)}, and the raw '
            f'folder has none. Put it there, or name it by --table.\n{wanted(spec)}'
        )
    place = found[0].parent.resolve()
    for folder in (folder.resolve() for folder in raw_dirs):
        inside = [f for f in files if f.file.is_relative_to(folder)]
        meant = [f for f in inside if columns.key and columns.key.find(f.path)]
        if (
            meant
            and place != folder
            and all(f.file.is_relative_to(place) for f in meant)
        ):
            raise too_high(folder, place, f'{spec.name} with its table is')
    return found[0]


def read_table(
    path: Path,
    files: Sequence[RawFile],
    columns: TableColumns,
    classes: Sequence[str] = (),
) -> Table:
    """Reads a table; its separator is a comma, a semicolon or a tab.

    Unless the columns say otherwise, `file` is a path relative to the raw folder, of
    several with the folder's name before it where more than one has such a path, or a
    bare name that only one file has; with its suffix, another one or none. Rows of
    files that are not there, or of none, are counted, as are files without a row. A
    row may be there twice if it says the same.

    Args:
        path: of the table.
        files: all raw files.
        columns: which of its columns tell what.
        classes: that are declared; one of these is a label though it may be called
            `none`, which otherwise means, as `NA` does, that nothing is known.

    Raises:
        UserError: no such file, not UTF-8, no column `file`, a column twice, rows that
            contradict each other, a target that is no number, a name that two files
            have, or no row that fits any file.
    """
    header, lines = _lines(path, columns)
    places = _places(files, columns)
    told: dict[int, tuple[int, TableRow]] = {}
    unmatched = 0
    for number, line in lines:
        cells = {
            fact: line[place].strip() if place < len(line) else ''
            for fact, place in header.items()
        }
        name = cells['file']
        if not columns.key:
            name = name.replace('\\', '/').removeprefix('./')
        found = places.get(name, [])
        if not found and not columns.key:
            # Copies of a set are often stored in another format.
            found = places.get(without_suffix(name), [])
        if len(found) > 1 and not columns.key:
            several = len({files[index].source for index in found}) > 1
            example = f'{files[found[0]].source}/{files[found[0]].path}'
            raise UserError(
                f'{path}, line {number}: {len(found)} files have this name. Write the '
                'path relative to the raw folder'
                + (f', with the name of that folder: {example}.' if several else '.')
            )
        unmatched += not found
        row = _row(cells, columns, classes, f'{path}, line {number}')
        for index in found:
            earlier = told.setdefault(index, (number, row))
            if repr(earlier[1]) != repr(row):
                raise UserError(
                    f'{path}, line {number}: line {earlier[0]} is of the same '
                    f'{"file" if not columns.key else "images"} and says otherwise. '
                    'Leave one of them.'
                )
    if not told:
        what = 'hold paths relative to that folder, or bare file names'
        if columns.key:
            what = f'hold what {columns.key.pattern!r} finds in the paths of files'
        raise UserError(
            f'No row of the table {path} names a file of the raw folder. Its column '
            f'"{columns.file[0]}" must {what}.'
        )
    return Table(
        rows={index: row for index, (_, row) in told.items()},
        unmatched=unmatched,
        silent=len(files) - len(told),
        columns=tuple(fact for fact in _FACTS if fact in header),
    )


def read_titles(spec: DatasetSpec, raw_dirs: Sequence[Path]) -> Mapping[str, str]:
    """Reads what the classes are called, from a file of the raw folders if it is there.

    Raises:
        UserError: the file is not UTF-8.
    """
    titles: dict[str, str] = {}
    for folder in raw_dirs if spec.titles_file else ():
        path = folder / spec.titles_file
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding='utf-8-sig').splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f'{path} is not UTF-8: {error}.') from error
        for line in lines:
            name, _, title = line.partition('\t')
            if name in spec.classes:
                titles[name] = title.strip()
    return titles


def _lines(
    path: Path, columns: TableColumns
) -> tuple[dict[str, int], list[tuple[int, list[str]]]]:
    """Gives the place of each fact's column, and the rows with their line numbers."""
    try:
        with open(path, newline='', encoding='utf-8-sig') as stream:
            start = stream.readline()
            stream.seek(0)
            separator = max(',;\t', key=start.count)
            reader = csv.reader(stream, delimiter=separator)
            lines = [(reader.line_num, line) for line in reader if any(line)]
    except UnicodeDecodeError as error:
        raise UserError(
            f'The table {path} is not UTF-8: {error}. In a spreadsheet program, '
            'save it as "CSV UTF-8".'
        ) from error
    except (OSError, csv.Error) as error:
        raise UserError(f'The table {path} cannot be read: {error}.') from error
    names = list(columns.header)
    if not names and lines:
        names = lines.pop(0)[1]
    known = [plain(name) for name in names]
    header: dict[str, int] = {}
    for fact in _FACTS:
        for name in getattr(columns, fact):
            places = [i for i, one in enumerate(known) if one == plain(name)]
            if len(places) > 1:
                raise UserError(f'The table {path} has the column "{name}" twice.')
            if places:
                header.setdefault(fact, places[0])
    if 'file' not in header:
        optional = [getattr(columns, fact)[:1] for fact in _FACTS[1:]]
        raise UserError(
            f'The table {path} has no column "{columns.file[0]}". It needs that one, '
            f'and may have {", ".join(name for some in optional for name in some)}; '
            f'found: {", ".join(n.strip() for n in names if n) or "nothing"}.'
        )
    return header, lines


def _row(
    cells: Mapping[str, str], columns: TableColumns, classes: Sequence[str], where: str
) -> TableRow:
    known = {
        fact: cell
        for fact, cell in cells.items()
        if cell not in columns.missing
        and (cell.casefold() not in MISSING or (fact == 'label' and cell in classes))
    }
    label = known.get('label', '')
    if columns.several and columns.several in label:
        label = ''
    target = known.get('target', '')
    try:
        number = float(target) if target else math.nan
    except ValueError as error:
        raise UserError(f'{where}: the target {target!r} is no number.') from error
    return TableRow(
        group=known.get('group', ''),
        label=label,
        target=number,
        site=known.get('site', ''),
    )


def _places(files: Sequence[RawFile], columns: TableColumns) -> dict[str, list[int]]:
    """Maps all that may stand in a table for a file to the files it may mean."""
    places: dict[str, list[int]] = {}
    whole: dict[str, list[int]] = {}
    merged = len({file.source for file in files}) > 1
    for index, file in enumerate(files):
        if columns.key:
            places.setdefault(columns.key.find(file.path) or '', []).append(index)
            continue
        paths = {file.path} | ({f'{file.source}/{file.path}'} if merged else set())
        for name in paths:
            whole.setdefault(name, []).append(index)
        meanings = paths | {file.path.rpartition('/')[2]}
        meanings |= {without_suffix(name) for name in meanings}
        for name in meanings:
            places.setdefault(name, []).append(index)
    if columns.key:
        places.pop('', None)
        return places
    # A whole path means that file, though another's bare name may read the same.
    return places | whole
