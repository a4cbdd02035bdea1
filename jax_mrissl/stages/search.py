"""Searches hyper-parameters of pretraining: for every arm of a study's grid as many.

A trial pretrains and fits linear probes, as ordinary stages of the study's store. All
of its networks are kept, so that each fold may choose among them by its own validation.
"""

import contextlib
import dataclasses
import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import logging

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import duration
from jax_mrissl.core.run_dir import write_atomically, write_json
from jax_mrissl.stages.claims import Claims, forget, forget_old
from jax_mrissl.stages.demo import prepare_simulated
from jax_mrissl.stages.grid import (
    AFTER,
    Encoder,
    Grid,
    Setting,
    Settings,
    StudyConfig,
    experiment_of,
    read_grid,
    settings_of,
    trained_as,
)
from jax_mrissl.stages.plan import (
    Job,
    PlannedArm,
    PlannedExperiment,
    Shelf,
    plan_experiment,
)
from jax_mrissl.stages.run import STAGES
from jax_mrissl.stages.search_results import (
    SearchedArm,
    SearchFacts,
    folds_digest,
    search_json,
    search_markdown,
)
from jax_mrissl.stages.search_space import SearchPlan, read_search
from jax_mrissl.stages.search_trials import ArmTrials, RunningTrial, open_storage
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.stages.work import do_jobs
from jax_mrissl.tasks.from_config import Experiment
from jax_mrissl.tasks.pretrain import Follow
from jax_mrissl.train.state import TrainState

SEARCH, JOURNAL = 'search', 'trials.journal'
_MODE = 'linear'
_LOOK_AGAIN_S = 2.0
# Shares of a run are quotients of whole numbers: what is due at 1/3 is due there.
_ROUNDING = 1e-9


class GivenUp(Exception):
    """Every fold has given up the trial that is being pretrained.

    Attributes:
        stage: the stage that was.
    """

    def __init__(self, stage: Stage):
        super().__init__(stage.address)
        self.stage = stage


@dataclasses.dataclass(frozen=True, eq=False)
class _Arm:
    """An arm of the grid, and its trials."""

    encoder: Encoder
    trials: ArmTrials
    folder: Path


def run_search(
    config: StudyConfig,
    workdir: Path,
    *,
    storage: str = '',
    retry_failed: bool = False,
    claims: Claims | None = None,
) -> str:
    """Runs the trials that are not done yet, and writes what was found.

    Args:
        config: as `configs/study.py` makes it.
        workdir: the study's; gets `stages/`, `search.json`, `search.md`.
        storage: a file or a database that keeps the trials; '': a file in `workdir`.
        retry_failed: whether trials that failed before are tried again.
        claims: how other processes are told of; None: the usual.

    Returns: what was found, as text for a terminal.

    Raises:
        UserError: a mistake in the config, Optuna is not installed, or no arm of the
            grid can be run.
    """
    search = Search(config, workdir, storage=storage, claims=claims)
    search.run(retry_failed=retry_failed)
    return search.write()


class Search:
    """A search over the arms of a study.

    Args:
        config, workdir, storage, claims: as in `run_search`.

    Raises:
        UserError: as `run_search`.
    """

    def __init__(
        self,
        config: StudyConfig,
        workdir: Path,
        *,
        storage: str = '',
        claims: Claims | None = None,
    ):
        self._config, self._workdir = config, workdir
        self._grid: Grid = read_grid(config)
        self._plan: SearchPlan = read_search(config)
        self._claims = claims or Claims()
        self._store = Store(workdir / STAGES)
        self._settings = settings_of(self._grid)
        self._shelf = Shelf(finetuners=len(self._settings))
        self._folds: dict[str, str] = {}
        self._simulated = False
        self.refused: dict[str, str] = {}
        folder = workdir / SEARCH
        folder.mkdir(parents=True, exist_ok=True)
        with self._alone(folder):  # making a database's tables twice at once fails
            opened = open_storage(storage, folder / JOURNAL)
            self._arms = [
                arm
                for chain in self._grid.chains
                for method in self._grid.methods
                if (arm := self._arm(Encoder(method, chain), opened))
            ]
        if not self._arms:
            reasons = dict.fromkeys(self.refused.values())
            raise UserError('\n'.join(reasons) or 'config.study has no arm to search.')

    def run(self, *, retry_failed: bool = False) -> None:
        """Runs trials until all have ended, here or elsewhere."""
        left = list(self._arms)
        again = set(left) if retry_failed else set()
        while left:
            worked = False
            for arm in list(left):
                with contextlib.ExitStack() as held:
                    trial = self._next(arm, held, retry_failed=arm in again)
                    again.discard(arm)
                    if trial is not None:
                        self._run_trial(arm, trial)
                        forget(arm.folder / f'trial-{trial.slot}')
                        worked = True
                        break
                if arm.trials.is_finished():
                    left.remove(arm)
            if left and not worked:
                time.sleep(_LOOK_AGAIN_S)

    def facts(self) -> SearchFacts:
        """Gives what was found."""
        return SearchFacts(
            name=self._config.name,
            simulated=self._simulated,
            seed=self._grid.seeds[0],
            plan=self._plan,
            settings=tuple(setting.name for setting in self._settings),
            folds=self._folds,
            arms=tuple(self._searched(arm) for arm in self._arms),
            refused=tuple(self.refused.items()),
        )

    def write(self) -> str:
        """Writes `search.json` and `search.md`; gives the latter."""
        facts = self.facts()
        write_json(self._workdir / 'search.json', search_json(facts))
        text = search_markdown(facts)
        write_atomically(self._workdir / 'search.md', text)
        return text

    def _searched(self, arm: _Arm) -> SearchedArm:
        encoder, trials = arm.encoder, tuple(arm.trials.facts())
        return SearchedArm(
            encoder.method,
            encoder.chain,
            self._plan.space[encoder.method],
            trials,
            tuple(
                {
                    setting.name: trained_as(
                        self._experiment(encoder, setting, trial.settings)
                    )
                    for setting in self._settings
                    if setting.name in trial.losses
                }
                for trial in trials
            ),
        )

    def _arm(self, encoder: Encoder, storage: object) -> _Arm | None:
        """Opens the trials of an arm; None: it cannot be run."""
        try:
            planned = self._planned(encoder, {})
        except UserError as error:
            self.refused[encoder.name] = str(error)
            logging.warning('%s cannot be searched: %s', encoder.name, error)
            return None
        for name, one in planned.items():
            self._folds[name] = folds_digest(one.data.folds)
            self._simulated |= bool(one.whole.card['simulated'])
        identity = [_own(one).stage.address for one in planned.values()]
        trials = ArmTrials(
            storage,
            encoder.name,
            identity,
            self._plan,
            self._plan.space[encoder.method],
            self._grid.seeds[0],
            first=self._settings[0].name,
        )
        name = encoder.name.replace(' ', '_').replace(AFTER, '-then-')
        return _Arm(encoder, trials, self._workdir / SEARCH / name)

    def _planned(
        self, encoder: Encoder, settings: Settings, trial: RunningTrial | None = None
    ) -> dict[str, PlannedExperiment]:
        """Lays out what a trial trains, for everything that is asked."""
        planned: dict[str, PlannedExperiment] = {}
        for setting in self._settings:
            experiment = self._experiment(encoder, setting, settings)
            prepare_simulated(experiment)
            follower = None
            if trial is not None:
                follower = _Follower(
                    trial, setting, planned, self._shelf, self._plan.looks
                )
            planned[setting.name] = plan_experiment(
                experiment,
                self._store,
                spare=self._workdir / 'audit',
                shelf=self._shelf,
                follow=follower.of_stage if follower else None,
            )
        return planned

    def _experiment(
        self, encoder: Encoder, setting: Setting, settings: Settings
    ) -> Experiment:
        return experiment_of(
            self._config,
            encoder,
            setting,
            self._grid.seeds[0],
            (_MODE,),
            settings=settings,
        )

    def _next(
        self, arm: _Arm, held: contextlib.ExitStack, *, retry_failed: bool
    ) -> RunningTrial | None:
        """Takes a trial, and holds its claim; None: there is none to be had."""
        arm.folder.mkdir(parents=True, exist_ok=True)

        def folder(slot: int) -> Path:
            return arm.folder / f'trial-{slot}'

        def is_alive(slot: int) -> bool:
            return bool(self._claims.owner(folder(slot)))

        with self._alone(arm.folder):
            arm.trials.prepare(is_alive, retry_failed=retry_failed)
            trial = arm.trials.take()
            if trial is None:
                return None
            folder(trial.slot).mkdir(exist_ok=True)
            if not held.enter_context(self._claims.take(folder(trial.slot))):
                raise RuntimeError(f'{folder(trial.slot)} has a claim, and no trial.')
        return trial

    @contextlib.contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Waits until no other process is in such a block of this folder."""
        while True:
            with self._claims.take(folder) as ours:
                if ours:
                    yield
                    forget_old(folder)
                    return
            time.sleep(_LOOK_AGAIN_S / 10)

    def _run_trial(self, arm: _Arm, trial: RunningTrial) -> None:
        told = ', '.join(f'{k} {_short(v)}' for k, v in trial.settings.items())
        what = f'{arm.encoder.name}, trial {trial.slot + 1} of {self._plan.trials}'
        logging.info('%s: %s.', what, told)
        began = time.monotonic()
        first = self._settings[0].name
        try:
            losses = self._losses(arm, trial)
        except Exception as error:
            words = str(error) if isinstance(error, UserError) else ''
            words = words or traceback.format_exc()
            trial.fail(words, time.monotonic() - began)
            logging.error('%s: FAILED: %s', what, words)
            return
        except BaseException:  # SIGTERM, Ctrl-C: no fault of the trial
            trial.stop()
            raise
        seconds = time.monotonic() - began
        trial.end(losses, seconds)
        if first in losses:
            mean = math.fsum(losses[first]) / len(losses[first])
            logging.info(
                '%s: validation loss %.4f, in %s.', what, mean, duration(seconds)
            )
        else:
            logging.info('%s: given up, after %s.', what, duration(seconds))

    def _losses(self, arm: _Arm, trial: RunningTrial) -> dict[str, list[float]]:
        """Trains; gives the validation losses of what was not given up."""
        planned = self._planned(arm.encoder, trial.settings, trial)
        losses: dict[str, list[float]] = {}
        gone: list[Stage] = []
        for name, one in planned.items():
            # What is asked of one set shares its training.
            if any(stage in gone for stage in one.chain):
                continue
            own = _own(one)
            try:
                do_jobs(_jobs(one, own.stage), self._store, claims=self._claims)
            except GivenUp as end:
                gone.append(end.stage)
                continue
            folds = self._store.facts(own.stage)['folds']
            losses[name] = [float(fold['validation_loss']) for fold in folds]
        return losses


@dataclasses.dataclass(frozen=True, eq=False)
class _Follower:
    """Looks at a trial while it is pretrained, by every fold's own validation.

    Attributes:
        trial: which.
        setting: for which it is pretrained; others may share the training.
        planned: all of the trial.
        shelf: has the finetuners.
        looks: how many there are over the whole chain, at equal distances.
    """

    trial: RunningTrial
    setting: Setting
    planned: Mapping[str, PlannedExperiment]
    shelf: Shelf
    looks: int

    def of_stage(self, number: int) -> Follow:
        """Gives who looks on at a stage of the chain."""

        def follow(
            state: TrainState, *, before: float, now: float
        ) -> Mapping[str, float]:
            chain = self.planned[self.setting.name].chain

            def due(share: float) -> int:
                done = (number + share) / len(chain)
                return int(done * (self.looks + 1) + _ROUNDING)

            look = due(now)
            if look == due(before) or look > self.looks:
                return {}
            losses = self._validate(state, number)
            if self.trial.look(look, losses):
                raise GivenUp(chain[number])
            own = losses[self.setting.name]
            return {'linear_validation_loss': math.fsum(own) / len(own)}

        return follow

    def _validate(self, state: TrainState, number: int) -> dict[str, list[float]]:
        """Fits probes for all that this training is for."""
        stage = self.planned[self.setting.name].chain[number]
        losses = {}
        for name, one in self.planned.items():
            if one.chain[number] == stage:
                plan, common = one.experiment.finetune, one.experiment.common
                finetuner = self.shelf.finetuner(plan, common, one.data)
                losses[name] = finetuner.validate_encoder(
                    state.params, state.model_state
                )
        return losses


def _own(planned: PlannedExperiment) -> PlannedArm:
    """Gives the pretrained arm."""
    [arm] = [a for a in planned.arms if a.name == planned.experiment.name]
    return arm


def _jobs(planned: PlannedExperiment, stage: Stage) -> Sequence[Job]:
    """Gives the jobs of a stage and of all that it needs."""
    needed = [stage]
    for one in needed:
        needed += one.inputs
    addresses = {one.address for one in needed}
    return [job for job in planned.jobs if job.stage.address in addresses]


def _short(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else f'{value}'
