"""The private manifest of a prepared dataset, read: which file is which record."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet

from jax_mrissl.data.prepared import find_prepared


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What the raw files say of each record; private, and stays on this machine.

    Attributes:
        paths: by file id, the path relative to the raw folder.
        subjects: by file id, the subject as the raw files name them.
    """

    paths: Mapping[str, str]
    subjects: Mapping[str, str]


def read_manifest(data_dir: str | Path, name: str) -> Manifest | None:
    """Reads the manifest of a dataset; None where it, or the set, was not kept."""
    if not (Path(data_dir).expanduser() / name).is_dir():
        return None
    folder, _ = find_prepared(data_dir, name)
    path = folder / 'private' / 'manifest.parquet'
    if not path.exists():
        return None
    columns = pyarrow.parquet.read_table(
        path, columns=['file_id', 'path', 'subject', 'kept']
    ).to_pydict()
    kept = [i for i, kept in enumerate(columns['kept']) if kept]
    ids = [columns['file_id'][i] for i in kept]
    return Manifest(
        paths=dict(zip(ids, (columns['path'][i] for i in kept), strict=True)),
        subjects=dict(zip(ids, (columns['subject'][i] for i in kept), strict=True)),
    )
