"""A dataset of one's own: the declaration that flags and a table complete."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data import catalog
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.spec import DatasetSpec, SubjectRule
from jax_mrissl.data.table import Table

# Folders that an error names.
_MOST_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class OwnFolder:
    """What a user says of a dataset of their own (`--dataset=folder`).

    Attributes:
        name: of the prepared dataset.
        classes: folder names that are the classes; (): those of the table, if any.
        subject: how subjects are found; None: as the catalog says.
        table: a CSV file (`data/table.py`), or None. Other sets may take one, too.
    """

    name: str = 'folder'
    classes: tuple[str, ...] = ()
    subject: SubjectRule | None = None
    table: Path | None = None


def own_spec(spec: DatasetSpec, own: OwnFolder) -> DatasetSpec:
    """Gives the declaration of 'folder' with what its user says."""
    valid = own.name.isidentifier() and own.name.isascii() and own.name.islower()
    if not valid or (own.name != 'folder' and own.name in catalog.DATASETS):
        raise UserError(
            f'--name={own.name!r} cannot be the name of a dataset of your own: small '
            'letters, digits and _ only, and none of the catalog.'
        )
    spec = dataclasses.replace(spec, name=own.name, classes=own.classes)
    return dataclasses.replace(spec, subject=own.subject) if own.subject else spec


def with_classes(
    spec: DatasetSpec, files: Sequence[RawFile], table: Table | None
) -> DatasetSpec:
    """Takes the classes from paths or the table where no others are declared.

    Raises:
        UserError: the table has a label that is no class.
    """
    if spec.classes_from:
        found = {spec.classes_from.find(file.path) or '' for file in files} - {''}
        found |= set(table.labels() if table else ())
        return dataclasses.replace(spec, classes=tuple(sorted(found)))
    if not table or not table.labels():
        return spec
    if not spec.classes:
        return dataclasses.replace(spec, classes=table.labels())
    for label in table.labels():
        expect_known(label, spec.classes, 'label in the table')
    return spec


def expect_files_of(
    classes: Sequence[str],
    spec: DatasetSpec,
    files: Sequence[RawFile],
    table: Table | None,
) -> None:
    """Raises UserError if a class that the user named has no file: a typo, mostly."""
    there = {spec.label_of(raw.path) for raw in files} if classes else set()
    named = table.labels() if table else ()
    unused = [
        name
        for number, name in enumerate(classes)
        if number not in there and name not in named
    ]
    if unused:
        folders = {part for raw in files for part in raw.path.split('/')[:-1]}
        shown = ', '.join(sorted(folders)[:_MOST_SHOWN])
        raise UserError(
            f'No file is of the class {", ".join(unused)}: no folder has this name'
            + (' and no row of the table. ' if table else '. ')
            + (f'Folders are: {shown}. ' if shown else '')
            + 'Correct --classes.'
        )
