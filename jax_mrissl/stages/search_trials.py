"""The trials of a search, in a storage of Optuna that any number of workers share."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.stages.grid import Settings
from jax_mrissl.stages.search_space import Parameter, SearchPlan

# By the name of a setting: the validation loss of each fold.
Losses = Mapping[str, Sequence[float]]
# So often a trial may take its worker with it before it counts as failed.
_ATTEMPTS = 3
# What Optuna keeps of a trial beside its parameters.
_SLOT, _LOOKS, _GIVEN_UP, _LOSSES = 'slot', 'looks', 'given_up', 'losses'
_SECONDS, _REASON, _STOPPED = 'seconds', 'reason', 'stopped'


@dataclasses.dataclass(frozen=True)
class TrialFacts:
    """One trial, as far as it is known.

    Attributes:
        slot: its number among those of its arm; 0 has the config's own settings.
        state: 'complete', 'pruned', 'failed', or 'open'.
        settings: what it tried.
        looks: by number, what was found on the way.
        given_up: by setting, for each fold the look at which its own validation gave
            the trial up; None: it did not.
        losses: by setting; those that it did not come to the end of are not there.
        seconds: that its last start took, by the clock; 0: not known.
        reason: why it failed; '': it did not.
    """

    slot: int
    state: str
    settings: Settings
    looks: Mapping[int, Losses]
    given_up: Mapping[str, Sequence[int | None]]
    losses: Losses
    seconds: float
    reason: str

    def loss(self, setting: str, fold: int) -> float | None:
        """Gives what a fold may choose by; None: it has given the trial up, or must."""
        if setting not in self.losses:
            return None
        if setting in self.given_up and self.given_up[setting][fold] is not None:
            return None
        return self.losses[setting][fold]


def open_storage(where: str, default: Path) -> Any:
    """Opens what keeps the trials.

    Args:
        where: a file, or the address of a database as SQLAlchemy has them; '': the
            default.
        default: a file. Files are journals of Optuna, which many processes may write,
            also on a network's file system.

    Raises:
        UserError: Optuna is not installed, or cannot use the address.
    """
    optuna = _optuna()
    if '://' in where:
        try:
            return optuna.storages.RDBStorage(where)
        except Exception as error:
            raise UserError(
                f'--storage={where} cannot be opened: {error}\nGive a file, or an '
                'address such as sqlite:///FILE or postgresql://USER@HOST/NAME.'
            ) from error
    path = Path(where).expanduser() if where else default
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = optuna.storages.journal
    lock = journal.JournalFileSymlinkLock(str(path))
    _mend(path, lock)
    backend = journal.JournalFileBackend(str(path), lock_obj=lock)
    return optuna.storages.JournalStorage(backend)


def _mend(path: Path, lock: Any) -> None:
    """Cuts off a last line that a process died in, or the next would be lost in it."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with open(path, 'r+b') as file:
            whole = file.read()
            file.truncate(whole.rfind(b'\n') + 1)
    finally:
        lock.release()


class ArmTrials:
    """The trials of one arm.

    Their settings are drawn from their number and the seed, so that any number of
    workers tries the same ones. What changes the storage ('prepare', 'take') must be
    done by one worker at a time.

    Args:
        storage: of `open_storage`.
        name: of the arm, for people.
        identity: JSON of all that decides what a trial finds.
        plan: how the search goes about it.
        parameters: what may be changed.
        seed: of the draws.
        first: the setting that decides whether a trial is complete or pruned, and which
            'tpe' goes by.
    """

    def __init__(
        self,
        storage: Any,
        name: str,
        identity: Any,
        plan: SearchPlan,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        first: str,
    ):
        self._optuna, self.first = _optuna(), first
        self._plan, self._parameters = plan, parameters
        space = {parameter.name: parameter.to_json() for parameter in parameters}
        how = [plan.sampler, plan.pruner, plan.startup_trials, plan.looks, seed]
        key = digest([identity, space, how])
        self._seed = digest([name, seed])
        self._study = self._optuna.create_study(
            storage=storage,
            study_name=f'{name} {key[:12]}',
            direction='minimize',
            load_if_exists=True,
        )

    def facts(self) -> list[TrialFacts]:
        """Gives all trials of the plan, in order; of repeated ones the last."""
        latest = {t.user_attrs[_SLOT]: t for t in self._study.get_trials()}
        return [
            self._facts(latest[slot])
            for slot in sorted(latest)
            if slot < self._plan.trials
        ]

    def is_finished(self) -> bool:
        """Says whether every trial of the plan has ended."""
        found = self.facts()
        ended = [trial for trial in found if trial.state != 'open']
        return len(ended) == self._plan.trials

    def prepare(
        self, is_alive: Callable[[int], bool], *, retry_failed: bool = False
    ) -> None:
        """Makes trials that are missing, and again those whose worker died.

        Args:
            is_alive: says of a trial's number whether a worker is at it.
            retry_failed: whether those that failed are made again, too.
        """
        by_slot: dict[int, list[Any]] = {}
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials():
            slot = trial.user_attrs[_SLOT]
            if trial.state == states.RUNNING and not is_alive(slot):
                self._study.tell(trial.number, state=states.FAIL)
            by_slot.setdefault(slot, []).append(trial)
        latest = {trial.number: trial for trial in self._study.get_trials()}
        for slot in range(self._plan.trials):
            before = [latest[trial.number] for trial in by_slot.get(slot, [])]
            if not before:
                own = {p.name: p.default for p in self._parameters}
                self._study.enqueue_trial({} if slot else own, user_attrs={_SLOT: slot})
                continue
            last = before[-1]
            if last.state != states.FAIL:
                continue
            if _REASON in last.user_attrs:
                if retry_failed:
                    self._again(last)
            elif retry_failed or self._lost(before) < _ATTEMPTS:
                self._again(last)

    def take(self) -> 'RunningTrial | None':
        """Takes the next trial that nobody is at; None: there is none."""
        states = self._optuna.trial.TrialState
        while waiting := self._study.get_trials(states=(states.WAITING,)):
            # Optuna takes the first of them, too.
            slot = waiting[0].user_attrs[_SLOT]
            self._study.sampler = self._sampler(slot)
            trial = self._study.ask()
            if slot < self._plan.trials:
                settings = {p.name: _suggest(trial, p) for p in self._parameters}
                return RunningTrial(self, trial, slot, settings)
            self._study.tell(trial, state=states.FAIL)  # of a plan that had more
        return None

    def gives_up(
        self,
        setting: str,
        fold: int,
        looks: Mapping[int, Losses],
        others: Sequence[TrialFacts],
    ) -> bool:
        """Says whether a fold's own validation gives a trial up.

        It compares with trials that came to their end and that the same fold did not
        give up; it knows of nothing that other folds found.

        Args:
            setting, fold: whose validation.
            looks: of the trial, by number.
            others: all trials of the arm; those that are not at their end do not count.
        """
        if self._plan.pruner == 'none':
            return False
        trials = self._optuna.trial
        judge = self._optuna.create_study(direction='minimize')
        for other in others:
            loss = other.loss(setting, fold)
            if loss is not None:
                judge.add_trial(
                    trials.create_trial(
                        value=loss, intermediate_values=_of(other.looks, setting, fold)
                    )
                )
        own = trials.create_trial(
            state=trials.TrialState.RUNNING,
            intermediate_values=_of(looks, setting, fold),
        )
        pruner = self._optuna.pruners.MedianPruner(self._plan.startup_trials)
        return bool(pruner.prune(judge, own))

    def tell(self, trial: Any, losses: Losses) -> None:
        """Ends a trial: complete if it has a loss for the first setting."""
        states = self._optuna.trial.TrialState
        if self.first in losses:
            self._study.tell(trial, _mean(losses[self.first]))
        else:
            self._study.tell(trial, state=states.PRUNED)

    def tell_failed(self, trial: Any) -> None:
        """Ends a trial without a result."""
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _again(self, trial: Any) -> None:
        """Queues a trial's settings once more, with what was found on the way."""
        fixed = trial.system_attrs.get('fixed_params', {})
        whole = len(trial.params) == len(self._parameters)
        kept = (_SLOT, _LOOKS, _GIVEN_UP)
        self._study.enqueue_trial(
            trial.params if whole else fixed,
            user_attrs={k: v for k, v in trial.user_attrs.items() if k in kept},
        )

    def _lost(self, trials: Sequence[Any]) -> int:
        fail = self._optuna.trial.TrialState.FAIL
        on_its_own = {_REASON, _STOPPED}
        return sum(
            t.state == fail and not on_its_own & t.user_attrs.keys() for t in trials
        )

    def _sampler(self, slot: int) -> Any:
        seed = int(digest([self._seed, slot])[:8], 16)
        samplers = self._optuna.samplers
        if self._plan.sampler == 'random':
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(
            seed=seed, n_startup_trials=self._plan.startup_trials
        )

    def _facts(self, trial: Any) -> TrialFacts:
        states = self._optuna.trial.TrialState
        state = {
            states.COMPLETE: 'complete',
            states.PRUNED: 'pruned',
            states.FAIL: 'failed',
        }.get(trial.state, 'open')
        told = trial.user_attrs
        reason = told.get(_REASON, 'its worker died' if state == 'failed' else '')
        return TrialFacts(
            slot=told[_SLOT],
            state=state,
            settings={p.name: trial.params.get(p.name) for p in self._parameters},
            looks={int(n): found for n, found in told.get(_LOOKS, {}).items()},
            given_up=told.get(_GIVEN_UP, {}),
            losses=told.get(_LOSSES, {}),
            seconds=told.get(_SECONDS, 0.0),
            reason=reason,
        )


class RunningTrial:
    """A trial that this process is at.

    Attributes:
        slot: its number.
        settings: what it tries.
    """

    def __init__(self, arm: ArmTrials, trial: Any, slot: int, settings: Settings):
        self._arm, self._trial = arm, trial
        self._reported: set[int] = set()
        self.slot, self.settings = slot, settings

    def look(self, number: int, losses: Losses) -> bool:
        """Takes note of what was found on the way.

        Args:
            number: of the look, from 1.
            losses: of the settings that this training is for.

        Returns: whether every fold of these settings has given the trial up.
        """
        told = self._trial.user_attrs
        looks = {int(n): found for n, found in told.get(_LOOKS, {}).items()}
        looks[number] = {**looks.get(number, {}), **losses}
        given_up = dict(told.get(_GIVEN_UP, {}))
        others = self._arm.facts()
        for setting, own in losses.items():
            before = given_up.get(setting, [None] * len(own))
            given_up[setting] = [
                number
                if gone is None and self._arm.gives_up(setting, fold, looks, others)
                else gone
                for fold, gone in enumerate(before)
            ]
        self._trial.set_user_attr(_LOOKS, {str(n): f for n, f in looks.items()})
        self._trial.set_user_attr(_GIVEN_UP, given_up)
        # For samplers, and for whoever looks at the storage with Optuna's own tools.
        if self._arm.first in losses and number not in self._reported:
            self._reported.add(number)
            self._trial.report(_mean(losses[self._arm.first]), number)
        return all(gone is not None for setting in losses for gone in given_up[setting])

    def end(self, losses: Losses, seconds: float) -> None:
        """Ends the trial with the settings that it came to the end of.

        Args:
            losses: theirs.
            seconds: what it took.
        """
        self._trial.set_user_attr(_LOSSES, dict(losses))
        self._trial.set_user_attr(_SECONDS, round(seconds, 1))
        self._arm.tell(self._trial, losses)

    def stop(self) -> None:
        """Ends the trial, to be made again: its worker was told to end."""
        self._trial.set_user_attr(_STOPPED, True)
        self._arm.tell_failed(self._trial)

    def fail(self, reason: str, seconds: float) -> None:
        """Ends the trial without a result, and says why."""
        self._trial.set_user_attr(_REASON, reason)
        self._trial.set_user_attr(_SECONDS, round(seconds, 1))
        self._arm.tell_failed(self._trial)


def _suggest(trial: Any, parameter: Parameter) -> Any:
    name = parameter.name
    if parameter.choices:
        return trial.suggest_categorical(name, parameter.choices)
    draw = trial.suggest_int if parameter.is_whole else trial.suggest_float
    return draw(name, parameter.low, parameter.high, log=parameter.log)


def _of(looks: Mapping[int, Losses], setting: str, fold: int) -> dict[int, float]:
    return {n: own[setting][fold] for n, own in looks.items() if setting in own}


def _mean(losses: Sequence[float]) -> float:
    return math.fsum(losses) / len(losses)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "The search needs Optuna: pip install -e '.[search]'"
        ) from error
    # It would tell of every trial what the search tells itself.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
