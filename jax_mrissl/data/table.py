"""The table of a dataset of one's own: what is known of each file."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.inventory import RawFile

_COLUMNS = ('file', 'group', 'label', 'target', 'site')


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row; '' and NaN where its cell is empty or the column is missing."""

    group: str = ''
    label: str = ''
    target: float = math.nan
    site: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file, matched with the raw files.

    Attributes:
        rows: by the place of the raw file in the list it was matched with.
        unmatched: rows whose file was not found.
        columns: those it has, of file, group, label, target, site.
    """

    rows: dict[int, TableRow]
    unmatched: int
    columns: tuple[str, ...]

    def labels(self) -> tuple[str, ...]:
        """Gives all labels, sorted."""
        return tuple(sorted({row.label for row in self.rows.values()} - {''}))


def read_table(path: Path, files: Sequence[RawFile]) -> Table:
    """Reads a CSV file with the columns file, and any of group, label, target, site.

    `file` is a path relative to the raw folder, or a bare name that only one file has,
    with its suffix or without.

    Raises:
        UserError: no such file, no column `file`, a target that is no number, a name
            that two files have, or no row that fits any file.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig') as stream:
            start = stream.read(4096)
            stream.seek(0)
            separator = max(',;\t', key=start.partition('\n')[0].count)
            lines = list(csv.DictReader(stream, delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'The table {path} cannot be read: {error}.') from error
    header = [name.strip().casefold() for name in (lines[0] if lines else ()) if name]
    if 'file' not in header:
        raise UserError(
            f'The table {path} has no column "file". It needs that one, and may have '
            f'{", ".join(_COLUMNS[1:])}; found: {", ".join(header) or "nothing"}.'
        )
    places = _places(files)
    rows: dict[int, TableRow] = {}
    unmatched = 0
    for number, line in enumerate(lines, 2):
        cells = {k.strip().casefold(): (v or '').strip() for k, v in line.items() if k}
        name = cells['file'].replace('\\', '/').removeprefix('./')
        found = places.get(name, [])
        if len(found) > 1:
            raise UserError(
                f'{path}, line {number}: {len(found)} files have this name. Write the '
                'path relative to the raw folder.'
            )
        if not found:
            unmatched += 1
            continue
        rows[found[0]] = TableRow(
            group=cells.get('group', ''),
            label=cells.get('label', ''),
            target=_target(cells.get('target', ''), path, number),
            site=cells.get('site', ''),
        )
    if not rows:
        raise UserError(
            f'No row of the table {path} names a file of the raw folder. Its column '
            '"file" must hold paths relative to that folder, or bare file names.'
        )
    return Table(rows, unmatched, tuple(name for name in _COLUMNS if name in header))


def _places(files: Sequence[RawFile]) -> dict[str, list[int]]:
    """Maps all that may stand in a table for a file to the files it may mean."""
    places: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        path = PurePosixPath(file.path)
        for name in {file.path, path.name, path.stem}:
            places.setdefault(name, []).append(index)
    # A whole path means that file, though another's bare name may read the same.
    places.update({file.path: [index] for index, file in enumerate(files)})
    return places


def _target(cell: str, path: Path, number: int) -> float:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(
            f'{path}, line {number}: the target {cell!r} is no number.'
        ) from error
