"""Checkpoints: asynchronous, atomic, with their lineage."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Where a state comes from.

    Attributes:
        address: the content address of the stage that made it.
        params: JSON of all that decided its numbers: settings, dataset fingerprints.
        parents: the lineages, as JSON, of what it started from: the whole story, so
            that a checkpoint that was copied alone still tells it.
        code: the version of the package that made it.
    """

    address: str
    params: Any
    parents: tuple[Any, ...]
    code: str

    def to_json(self) -> dict[str, Any]:
        """Gives the lineage as JSON values."""
        return {
            'address': self.address,
            'params': self.params,
            'parents': list(self.parents),
            'code': self.code,
        }


_PARTS = ('params', 'model_state')


class Checkpoints:
    """The checkpoints of one run, in one folder; use as a context manager.

    A checkpoint appears under its step only when it is whole: one that was being
    written when the process died is not seen again. Several processes write their parts
    of it into one folder, on a disk that they share; inside of `processes.share` one
    alone may read.
    """

    def __init__(self, folder: Path, lineage: Lineage, *, keep: int = 1):
        self._lineage = lineage
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=_among().active_processes is None,
                enable_async_checkpointing=True,
                multiprocessing_options=_among(),
            ),
        )

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where one of several processes fails, the others do not come to close with it.
        if kind is None or processes.count() == 1:
            self._manager.close()

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Starts to write `state`; returns once it is copied from the devices.

        Args:
            step: the number of updates made.
            state: a pytree of arrays.
            extra: small JSON values that belong to it.
        """
        newest = self.latest()
        if newest is not None and newest >= step:
            return  # a run that goes on from before it was killed passes it again
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                lineage=ocp.args.JsonSave(self._lineage.to_json()),
                extra=ocp.args.JsonSave(dict(extra)),
            ),
        )

    def latest(self) -> int | None:
        """Gives the newest whole checkpoint's step, or None."""
        return processes.share(self._manager.latest_step)

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads the checkpoint of `step` (None: the newest).

        Args:
            like: the tree that is expected, with shapes, types and shardings.
            step: which one.

        Returns: the state; the `extra` that was saved with it.
        """
        if step is None:
            step = self.latest()
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract(like)),
                extra=ocp.args.JsonRestore(),
            ),
        )
        return restored['state'], restored['extra'] or {}

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises what went wrong."""
        self._manager.wait_until_finished()


def _among() -> ocp.options.MultiprocessingOptions:
    """Says which processes take part: all, or one that works by itself."""
    if processes.count() == 1 or not processes.is_alone():
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix='alone'
    )


def abstract(tree: Any) -> Any:
    """Gives shapes, types and shardings of a tree of arrays."""

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, 'sharding', None)
        )

    return jax.tree.map(of, tree)


def read_lineage(folder: Path) -> dict[str, Any]:
    """Reads the lineage, as JSON, of a run's newest checkpoint.

    Raises:
        UserError: no checkpoint.
    """
    step = newest_step(folder)
    options = ocp.CheckpointManagerOptions(
        create=False, multiprocessing_options=_among()
    )
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        restored = manager.restore(
            step, args=ocp.args.Composite(lineage=ocp.args.JsonRestore())
        )
    return restored['lineage']


def newest_step(folder: Path) -> int:
    """Gives the step of a run's newest checkpoint.

    Raises:
        UserError: no checkpoint.
    """
    steps = ocp.utils.checkpoint_steps(folder.absolute()) if folder.is_dir() else []
    if not steps:
        raise UserError(f'No whole checkpoint in {folder}: has its stage been run?')
    return max(steps)


def read_encoder(folder: Path, like: Any) -> Any:
    """Reads the encoder of a pretraining run's newest checkpoint.

    Args:
        folder: the run's folder of checkpoints.
        like: the encoder that is expected: `params` and `model_state`, each a tree.

    Returns: a tree as `like`, on the devices of `like`.

    Raises:
        UserError: no checkpoint, or leaves are missing, extra or of another shape;
            all are named.
    """
    saved = folder.absolute() / str(newest_step(folder)) / 'state'
    wanted = {part: {'encoder': abstract(like[part])} for part in _PARTS}
    found = ocp.PyTreeCheckpointHandler().metadata(epath.Path(saved)).tree
    _check(_shapes(wanted), _shapes({p: _encoder(found, p) for p in _PARTS}), folder)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_among())
    with ocp.Checkpointer(handler, multiprocessing_options=_among()) as reader:
        restored = reader.restore(
            saved,
            args=ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )
    return {part: restored[part]['encoder'] for part in _PARTS}


def _encoder(tree: Any, part: str) -> dict:
    return {'encoder': tree[part]['encoder']}


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in _leaves(tree)}


def _leaves(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(tuple(_name(k) for k in path), leaf) for path, leaf in flat]


def _name(key: Any) -> str:
    for field in ('key', 'name', 'idx'):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def _check(wanted: dict, saved: dict, folder: Path) -> None:
    """Raises UserError, naming each leaf, unless both hold the same."""

    def listed(paths: list) -> str:
        names = ['/'.join(path) for path in sorted(paths)]
        more = f' and {len(names) - 8} more' if len(names) > 8 else ''
        return ', '.join(names[:8]) + more

    complaints = []
    if missing := [p for p in wanted if p not in saved]:
        complaints.append(f'missing: {listed(missing)}')
    if extra := [p for p in saved if p not in wanted]:
        complaints.append(f'not expected: {listed(extra)}')
    shapes = [
        f'{"/".join(p)} is {saved[p]}, expected {wanted[p]}'
        for p in sorted(wanted)
        if p in saved and saved[p] != wanted[p]
    ]
    if shapes:
        complaints.append('other shapes: ' + '; '.join(shapes[:8]))
    if complaints:
        raise UserError(
            f'The checkpoint in {folder} holds another encoder than the config asks '
            f'for (config.encoder). ' + '. '.join(complaints) + '.'
        )
