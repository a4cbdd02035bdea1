"""A finished run, opened again: its arms, and what turns raw images into answers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jax_mrissl.augment import build_policy
from jax_mrissl.augment.policy import Policy
from jax_mrissl.core import processes
from jax_mrissl.core.build import build
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.results import UNDER_TRAINED, Estimate
from jax_mrissl.core.run_dir import CONFIG, read_json, write_json
from jax_mrissl.data.labels import LabelTask
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.raw_images import Reading
from jax_mrissl.models import ENCODERS
from jax_mrissl.objectives.networks import init_networks
from jax_mrissl.report.run_facts import metric_words
from jax_mrissl.report.table import estimate_text
from jax_mrissl.tasks.answers import head_of
from jax_mrissl.tasks.fold_network import FoldNetwork, open_full, open_linear
from jax_mrissl.tasks.from_config import DTYPES, Experiment, Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.programs import RowProgram, channels_of, embedding, shared
from jax_mrissl.train.parallel import MeshParallel
from jax_mrissl.train.start import Start
from jax_mrissl.train.state import TrainState

ARMS = 'arms.json'
# The modes whose networks can be asked again; neighbours are not kept.
ASKED = ('full', 'linear')
# Of a view, in what versions wrote that do not tell.
_CHANNELS = 3
# Of the keys of random networks: far from those of folds and of training.
_RANDOM = 1_000_003


@dataclasses.dataclass(frozen=True)
class OpenedArm:
    """One arm of a finished run.

    Attributes:
        name: the experiment's, or 'untrained'.
        mode: 'linear', 'knn' or 'full'.
        folder: where its folds are.
        start: what its encoder started from; None: random numbers.
        by_fold: the same of each fold, where folds chose different ones; else ().
    """

    name: str
    mode: str
    folder: Path
    start: Start | None
    by_fold: tuple[Start, ...] = ()

    @property
    def label(self) -> str:
        """Its name in sentences."""
        return f'{self.name}, {self.mode}'

    @property
    def is_asked(self) -> bool:
        """Whether its networks can be asked again."""
        return self.mode in ASKED


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run whose table is written.

    Attributes:
        workdir: its folder.
        told: what `write_arms` wrote.
    """

    workdir: Path
    told: Json

    @functools.cached_property
    def task(self) -> LabelTask:
        """What its networks tell."""
        stored = self.told['task']
        return LabelTask(
            stored['name'],
            tuple(stored['classes']),
            stored['kind'],
            tuple(stored['values']),
        )

    @functools.cached_property
    def reading(self) -> Reading:
        """How its labelled images were made of raw files."""
        return Reading.of_card(self.told['dataset'])

    @functools.cached_property
    def policy(self) -> Policy:
        """The view that its networks look at in evaluation."""
        return build_policy(self.told['evaluation_view'], where='evaluation_view')

    @functools.cached_property
    def encoder(self) -> Any:
        """The encoder network, without its numbers."""
        kind = build(ENCODERS, self.told['encoder'], where='encoder')
        return kind.module(DTYPES[self.told['dtype']])

    @functools.cached_property
    def parallel(self) -> MeshParallel:
        """Puts arrays on every device."""
        return MeshParallel(processes.devices())

    @functools.cached_property
    def arms(self) -> tuple[OpenedArm, ...]:
        """All arms, in the order of the table."""
        found = []
        for arm in self.told['arms']:
            start = None
            if arm['start']:
                path = self.workdir / arm['start']
                start = Start(path, '', None, is_file=arm['start_is_file'])
            by_fold = tuple(
                Start(self.workdir / path, '', None)
                for path in arm.get('start_by_fold', ())
            )
            folder = self.workdir / arm['folder']
            found.append(OpenedArm(arm['name'], arm['mode'], folder, start, by_fold))
        return tuple(found)

    @property
    def notes(self) -> list[str]:
        """What must be known of whatever its networks say."""
        found = []
        if self.told['dataset']['simulated']:
            found.append('SIMULATED: the networks were trained on no patient.')
        if self.told['labels_shuffled']:
            found.append('CONTROL: the labels were shuffled; answers mean nothing.')
        return found

    def standing(self, arm: OpenedArm) -> list[str]:
        """Says what an arm is worth by the run itself, in sentences."""
        pretrained = arm.start is not None or arm.by_fold
        # Files of earlier versions do not tell.
        collapses = self.told.get('collapses', ()) if pretrained else ()
        return [*collapses, *self._measured(arm)]

    def _measured(self, arm: OpenedArm) -> list[str]:
        for row in read_json(self.workdir / 'metrics.json')['results']:
            if (row['arm'], row['mode'], row['unit']) != (
                arm.name,
                arm.mode,
                'subject',
            ):
                continue
            if UNDER_TRAINED in row['notes']:
                return [
                    f'UNDER-TRAINED: the training of {arm.label} ended no better than '
                    'a constant guess, so what it says means nothing.'
                ]
            name = 'mae' if self.task.kind == 'regression' else 'log_loss'
            found = estimate_text(Estimate(**row[name]))
            prior = row.get('prior_log_loss')
            beside = '' if prior is None else f'; a constant guess {prior:.3f}'
            return [
                f'How good it was in the run, over {row["subjects"]:,} subjects: '
                f'{metric_words(name)} {found}{beside}.'
            ]
        return []

    def features(self, batch_size: int = 0) -> RowProgram:
        """Makes the program from rows of a resident set to embeddings.

        Args:
            batch_size: of the global batch; 0: as in the run.
        """
        size = batch_size or self.told['evaluation_batch_size']
        return RowProgram(embedding(self.encoder), self.policy, size)

    def choose(self, name: str = '', mode: str = '') -> OpenedArm:
        """Chooses an arm: the first of the table, in full rather than linear.

        It does not look at results: the best of several on the tested subjects would
        be a choice on the test.

        Raises:
            UserError: there is no such arm, or it cannot be asked again.
        """
        found = [
            arm
            for arm in self.arms
            if name in ('', arm.name) and mode in ('', arm.mode)
        ]
        asked = [arm for arm in found if arm.is_asked]
        known = '; '.join(arm.label for arm in self.arms if arm.is_asked) or 'none'
        if found and not asked:
            raise UserError(
                f'knn keeps no network to ask again. This run has: {known}.'
            )
        if not asked:
            wanted = ', '.join(filter(None, (name, mode)))
            raise UserError(f'This run has no arm {wanted!r}. It has: {known}.')
        first = [arm for arm in asked if arm.name == asked[0].name]
        return min(first, key=lambda arm: ASKED.index(arm.mode))

    def networks(self, arm: OpenedArm) -> list[FoldNetwork]:
        """Opens the network of each fold of an arm.

        Raises:
            UserError: its files are not there any more.
        """
        if not arm.folder.is_dir():
            raise UserError(f'{arm.folder} is gone: run the same `main` again.')
        count = self.told['folds']
        starts = arm.by_fold or (arm.start,) * count
        # Folds with one encoder share its numbers.
        fresh = {start: self._fresh(arm, start) for start in dict.fromkeys(starts)}
        open_one = {'full': open_full, 'linear': open_linear}[arm.mode]
        return [
            open_one(index, arm.folder / f'fold-{index}', self.task, fresh[start])
            for index, start in zip(range(count), starts, strict=True)
        ]

    def randomized(self, network: FoldNetwork, seed: int = 0) -> FoldNetwork:
        """Gives a fold's network with random numbers in place of what it learned.

        The encoder is drawn anew; the numbers of the head change places.
        """
        key = jax.random.fold_in(jax.random.key(self.told['seed']), _RANDOM + seed)
        encoder_key, head_key = jax.random.split(key)
        params, model_state = self._draw(encoder_key)
        leaves, tree = jax.tree.flatten(network.params['head'])
        keys = jax.random.split(head_key, len(leaves))
        mixed = [
            jax.random.permutation(key, leaf.ravel()).reshape(leaf.shape)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        head = jax.tree.unflatten(tree, mixed)
        return dataclasses.replace(
            network,
            params={'encoder': params['encoder'], 'head': head},
            model_state={**network.model_state, 'encoder': model_state['encoder']},
            probe=None,
        )

    def _draw(self, key: jax.Array) -> tuple[Any, Any]:
        size = self.told['image_size']
        shape = (size, size, self.told.get('channels', _CHANNELS))
        params, model_state = _draw_program(self.encoder, head_of(self.task), shape)(
            key
        )
        return params, model_state

    def _fresh(self, arm: OpenedArm, start: Start | None) -> TrainState:
        """Gives the state that folds of an arm began with, as `Finetuner` draws it."""
        key = jax.random.fold_in(jax.random.key(self.told['seed']), 0)
        params, model_state = self._draw(key)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=(),
        )
        state = self.parallel.replicate(state)
        if start is None or arm.mode == 'full':
            return state
        if not start.path.exists():
            raise UserError(
                f'The encoder of {arm.label} is in {start.path}, and nothing is there '
                'any more.'
            )
        return start.give_to(state)


@shared
def _draw_program(
    encoder: Any, head: Any, image_shape: tuple[int, int, int]
) -> Callable[[jax.Array], tuple[Any, Any]]:
    return jax.jit(lambda key: init_networks(key, encoder, head, image_shape))


def write_arms(
    experiment: Experiment,
    data: LabelledData,
    arms: Sequence[OpenedArm],
    pretraining: Sequence[tuple[PreparedSet, str]],
    collapses: Sequence[str],
    workdir: Path,
) -> OpenedRun:
    """Writes what a finished run's networks are, and how images get to them.

    With it `predict` needs neither the config nor the labelled set.

    Args:
        experiment: the plans.
        data: the labelled images.
        arms: all, in the order of the table.
        pretraining: the sets of the chain, and their splits.
        collapses: a sentence on each stage of pretraining that ended collapsed.
        workdir: gets `arms.json`; paths within it are relative to it.
    """
    plan, common, card = experiment.finetune, experiment.common, data.prepared.card

    def relative(path: Path) -> str:
        path, home = path.absolute(), workdir.absolute()
        return str(path.relative_to(home) if path.is_relative_to(home) else path)

    told = {
        'experiment': experiment.name,
        'dataset': {
            **_some(card, ('name', 'title', 'fingerprint', 'simulated', 'reading')),
            **_some(card, ('canvas', 'bits', 'channels')),
            'split': plan.data.split,
        },
        'pretrained_on': [
            {
                'name': part.name,
                'split': split,
                'fingerprint': part.fingerprint,
                'left_out': list(part.left_out),
            }
            for part, split in pretraining
        ],
        'collapses': list(collapses),
        'task': dataclasses.asdict(data.task),
        'labels_shuffled': plan.shuffle_labels,
        'division': data.division,
        'image_size': plan.image_size,
        'evaluation_view': plan.sized_evaluation_view(),
        'channels': channels_of(
            plan.build_evaluation_policy(), data.prepared.image_shape
        ),
        'evaluation_batch_size': plan.evaluation_batch_size,
        'bootstrap_resamples': plan.bootstrap_resamples,
        'encoder': common.encoder,
        'dtype': common.dtype,
        'seed': common.seed,
        'folds': len(data.folds),
        'arms': [
            {
                'name': arm.name,
                'mode': arm.mode,
                'folder': relative(arm.folder),
                'start': arm.start and relative(arm.start.path),
                'start_is_file': bool(arm.start and arm.start.is_file),
                'start_by_fold': [relative(start.path) for start in arm.by_fold],
            }
            for arm in arms
        ],
    }
    write_json(workdir / ARMS, told)
    return OpenedRun(workdir, read_json(workdir / ARMS))


def _some(card: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    # The card of an earlier version does not say how its files were read.
    return {name: card[name] for name in names if name in card}


def open_run(workdir: Path) -> OpenedRun:
    """Opens a finished run.

    Raises:
        UserError: there is none, or it has not come to its end.
    """
    if not workdir.is_dir():
        raise UserError(f'There is no folder {workdir}. --workdir is that of `main`.')
    if (workdir / ARMS).exists():
        return OpenedRun(workdir, read_json(workdir / ARMS))
    if (workdir / 'metrics.json').exists():
        raise UserError(
            f'{workdir} was finished by an earlier version. Start the same `main` once '
            'more: it writes what is missing, and trains nothing again.'
        )
    if (workdir / CONFIG).exists():
        raise UserError(
            f'The run in {workdir} is not finished. Start the same `main` again: it '
            'goes on where it stopped.'
        )
    raise UserError(f'{workdir} is no run: it has no {CONFIG}. Give that of `main`.')
