"""Where stages keep their results, by content address."""

from pathlib import Path
from typing import Any

from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.stages.stage import Stage

_FAILED = 'failed.json'


class Store:
    """A folder with one folder for each stage."""

    def __init__(self, root: Path):
        self._root = root

    def folder(self, stage: Stage) -> Path:
        """Gives the stage's folder, made if need be, with its `stage.json`."""
        folder = self._path(stage)
        about = folder / 'stage.json'
        if not about.exists():
            write_json(about, stage.to_json())
        return folder

    def is_done(self, stage: Stage) -> bool:
        """Says whether the stage was finished."""
        return (self._path(stage) / 'done.json').exists()

    def mark_done(self, stage: Stage, facts: Any) -> None:
        """Records that the stage is finished; `facts` is JSON about its run."""
        write_json(self.folder(stage) / 'done.json', facts)
        self.retry(stage)

    def mark_failed(self, stage: Stage, error: str) -> None:
        """Records that the stage cannot be finished, and why."""
        write_json(self.folder(stage) / _FAILED, {'error': error})

    def failure(self, stage: Stage) -> str:
        """Says why the stage cannot be finished; '': nobody failed at it."""
        path = self._path(stage) / _FAILED
        return read_json(path)['error'] if path.exists() else ''

    def retry(self, stage: Stage) -> None:
        """Forgets that the stage failed."""
        (self._path(stage) / _FAILED).unlink(missing_ok=True)

    def facts(self, stage: Stage) -> Any:
        """Reads what was recorded when the stage was finished."""
        return read_json(self.folder(stage) / 'done.json')

    def _path(self, stage: Stage) -> Path:
        return self._root / f'{stage.kind}-{stage.address[:12]}'
