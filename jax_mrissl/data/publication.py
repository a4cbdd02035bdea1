"""What lies beside the shards of a prepared dataset, and how it gets its name."""

import dataclasses
import importlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from jax_mrissl.core.run_dir import write_atomically, write_json
from jax_mrissl.data import records
from jax_mrissl.data.card import card_text, rejects_text
from jax_mrissl.data.inventory import RawFile, derive_key
from jax_mrissl.data.item import Item
from jax_mrissl.data.planning import Plan
from jax_mrissl.data.sheet import choose_examples
from jax_mrissl.data.spec import DatasetSpec
from jax_mrissl.report.contact_sheet import SheetRow, contact_sheet

# Marks a folder that is not whole yet, and says what it will be.
IDENTITY = 'identity.json'

_ROWS_AT_ONCE = 1 << 14


@dataclasses.dataclass(frozen=True)
class Content:
    """All that is known of a dataset whose shards are written.

    Attributes:
        spec: its declaration.
        plan: what became of every image.
        files: all raw files.
        hashes: SHA-256 of each file's bytes.
        shards: of each split, in order.
        card: see `data/card.py`.
    """

    spec: DatasetSpec
    plan: Plan
    files: Sequence[RawFile]
    hashes: Sequence[bytes]
    shards: Mapping[str, Sequence[Path]]
    card: Mapping[str, Any]


def write_around(content: Content, folder: Path, *, keep_private: bool) -> None:
    """Writes all that lies beside the shards; dataset_info.json comes last."""
    spec, plan = content.spec, content.plan
    private = folder / 'private'
    shutil.rmtree(private, ignore_errors=True)  # of an earlier start
    if keep_private:
        _write_private(private, content)
    write_json(folder / 'card.json', content.card)
    write_atomically(folder / 'card.md', card_text(content.card))
    write_atomically(folder / 'rejects.csv', rejects_text(plan))
    write_atomically(folder / 'contact_sheet.png', _draw_sheet(content))
    from jax_mrissl.data import tfds_format

    tfds_format.write_metadata(
        folder,
        spec.name,
        spec.version,
        content.shards,
        channels=plan.channels,
        bits=content.card['bits'],
        description=f'{spec.title}. Source: {spec.source} Terms: {spec.terms}',
    )


def load() -> None:
    """Loads what `write_around` needs: a second that can pass while workers load.

    Never beside other work of this process: TFDS puts another `__import__` in place of
    the builtin while it loads, with which no thread can import relatively. A decoder
    that does would call a good image damaged.
    """
    importlib.import_module('jax_mrissl.data.tfds_format')
    pyarrow.table({'': ['']})  # loads pandas


def publish(staging: Path, folder: Path, *, replaced: Path) -> None:
    """Gives a whole dataset its name; an earlier one goes aside, then away.

    Args:
        staging: where it was written.
        folder: what it is called from now on.
        replaced: where an earlier one waits between the two renames.
    """
    for path in [*staging.rglob('*'), staging]:
        _fsync(path)
    if folder.exists():
        folder.rename(replaced)
    staging.rename(folder)
    _fsync(folder.parent)
    forget_work(folder)
    if replaced.exists():
        shutil.rmtree(replaced)


def forget_work(folder: Path) -> None:
    """Removes from a published dataset what only its making needed."""
    for path in [*folder.glob('*.array_record-*.json'), folder / IDENTITY]:
        path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_private(folder: Path, content: Content) -> None:
    folder.mkdir(mode=0o700)
    key = os.open(folder / 'key', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(key, 'w') as file:
        file.write(derive_key(content.hashes).hex() + '\n')
    manifest = os.open(
        folder / 'manifest.parquet', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
    )
    items = content.plan.items
    with open(manifest, 'wb') as stream:
        # In parts, so that a large set is not in memory a second time.
        parts = [_manifest(content, items[:_ROWS_AT_ONCE])]
        with pyarrow.parquet.ParquetWriter(stream, parts[0].schema) as writer:
            writer.write_table(parts.pop())
            for start in range(_ROWS_AT_ONCE, len(items), _ROWS_AT_ONCE):
                part = items[start : start + _ROWS_AT_ONCE]
                writer.write_table(_manifest(content, part))


def _manifest(content: Content, items: Sequence[Item]) -> pyarrow.Table:
    files, hashes = content.files, content.hashes
    columns: dict[str, list[Any]] = {
        'file_id': [item.file_id for item in items],
        'source': [files[item.file].source for item in items],
        'path': [_in_utf8(files[item.file].path) for item in items],
        'frame': [item.facts.frame if item.facts else 0 for item in items],
        'sha256': [hashes[item.file].hex() for item in items],
        'pixel_sha256': [i.facts.pixel_sha256 if i.facts else '' for i in items],
        'subject': [_in_utf8(item.subject) for item in items],
        'group': [item.group for item in items],
        'position': [item.position for item in items],
        'label': [item.label for item in items],
        'kept': [not item.reason for item in items],
        'window': [' '.join(f'{v:g}' for w in i.windows for v in w) for i in items],
        'reason': [item.reason for item in items],
        'detail': [_in_utf8(item.detail) for item in items],
    }
    return pyarrow.table(columns)


def _in_utf8(words: str) -> str:
    r"""Shows what is not UTF-8, in a file's name, as \udcff."""
    return words.encode(errors='backslashreplace').decode()


def _draw_sheet(content: Content) -> bytes:
    spec, card, shards = content.spec, content.card, content.shards
    rows = []
    for examples in choose_examples(spec, content.plan, content.files):
        images = [
            records.read_shown(shards[split], index) for split, index in examples.places
        ]
        rows.append(SheetRow(examples.title, examples.note, images))
    counts = card['counts']
    simulated = 'SIMULATED, no patients. ' if spec.simulated else ''
    return contact_sheet(
        spec.title,
        f'{simulated}{counts["images"]:,} images in {counts["groups"]:,} groups, '
        f'{"gray" if card["channels"] == 1 else "colour"}, '
        f'{card["canvas"]} x {card["canvas"]} pixels',
        rows,
        foot=f'{spec.name} {spec.version}, fingerprint {card["fingerprint"][:16]}. '
        'Research use; not a medical device.',
    )
