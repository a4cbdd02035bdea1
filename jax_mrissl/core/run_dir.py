"""The names and formats of the files in a run directory.

Of several processes the first alone writes them. What the others need to know of them
it looks up and tells (`core/processes.py`).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_mrissl.core import processes
from jax_mrissl.core.digest import digest

# What a run or a study was started with.
CONFIG = 'config.json'


def write_atomically(path: Path, content: str | bytes) -> None:
    r"""Writes a file that is there whole or not at all, even after a power cut.

    Of text, what is not Unicode, as in names of old files, is written as \udcff.
    """
    if not processes.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    if isinstance(content, str):
        content = content.encode(errors='backslashreplace')
    with open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people and programs: indented, sorted, a newline at the end."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_atomically(path, text + '\n')


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes what a run or a study is started with, unless it says so already."""
    path = workdir / CONFIG
    if not path.exists() or read_json(path) != json.loads(json.dumps(config)):
        write_json(path, config)


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text())


def read_json_if_any(path: Path) -> Any:
    """Reads a JSON file; None: there is none. In the first of several processes."""
    return processes.share(lambda: read_json(path) if path.exists() else None)


def choose_workdir(given: str | None, config: Mapping[str, Any]) -> Path:
    """Gives the folder of a run: what the user named, or runs/NAME-DIGEST.

    Args:
        given: by the user; None: nothing.
        config: all of its fields. Where data are, what the page shows, and how a study
            is searched, make no other run.
    """
    if given:
        return Path(given).expanduser()
    not_of_it = ('data_dir', 'report', 'search')
    identity = {k: v for k, v in config.items() if k not in not_of_it}
    return Path('runs') / f'{config["name"]}-{digest(identity)[:8]}'


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with the `step` it ends at."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, step: int) -> None:
        """Drops what was written after update number `step`, and a torn last line."""
        if not processes.is_first():
            return
        kept = [row for row in self.rows() if row['step'] <= step]
        lines = ''.join(json.dumps(row) + '\n' for row in kept)
        write_atomically(self._path, lines)

    def rows(self) -> list[dict[str, Any]]:
        """Reads all whole lines."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the process died while it wrote this line
        return rows

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line."""
        if not processes.is_first():
            return
        with open(self._path, 'a') as file:
            file.write(json.dumps({'step': step, **values}) + '\n')
