"""What a search found: each fold's choice, the trials, and how it may be believed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax_mrissl.core.digest import digest
from jax_mrissl.core.progress import duration
from jax_mrissl.core.results import SIMULATED
from jax_mrissl.data.splits import Fold
from jax_mrissl.report.study_facts import words_of
from jax_mrissl.report.table import escaped_markdown
from jax_mrissl.stages.search_space import Parameter, SearchPlan
from jax_mrissl.stages.search_trials import TrialFacts

# Raised by hand when `search.json` would say other things.
FORMAT = 2


@dataclasses.dataclass(frozen=True, eq=False)
class SearchedArm:
    """One arm of the grid, and its trials.

    Attributes:
        method, chain: which.
        parameters: what was searched.
        trials: in order.
        trained_as: of each trial, by setting that it came to the end of: how it was
            trained and probed.
    """

    method: str
    chain: str
    parameters: tuple[Parameter, ...]
    trials: tuple[TrialFacts, ...]
    trained_as: tuple[Mapping[str, str], ...]

    def count(self, state: str) -> int:
        """Counts the trials of one state."""
        return sum(trial.state == state for trial in self.trials)

    def by_fold(self, setting: str, folds: int) -> list[int | None]:
        """Gives the trial that each fold chooses by its own validation subjects.

        Args:
            setting: what is asked.
            folds: how many there are.

        Returns: slots; None where no trial came to its end.
        """
        return [
            self._best([(trial, trial.loss(setting, fold)) for trial in self.trials])
            for fold in range(folds)
        ]

    def on_average(self, setting: str) -> int | None:
        """Gives the trial with the least mean validation loss over all folds."""
        return self._best([(trial, mean_loss(trial, setting)) for trial in self.trials])

    def _best(self, tried: Sequence[tuple[TrialFacts, float | None]]) -> int | None:
        known = [(loss, trial.slot) for trial, loss in tried if loss is not None]
        return min(known)[1] if known else None


@dataclasses.dataclass(frozen=True, eq=False)
class SearchFacts:
    """A search, as far as it came.

    Attributes:
        name: the study's.
        simulated: whether the labelled images are.
        seed: of training and of the draws.
        plan: how it went about it.
        settings: what is asked, names; the first decides whether a trial is complete.
        folds: by setting, a digest of its folds.
        arms: those that could be run.
        refused: names of the others, and why.
    """

    name: str
    simulated: bool
    seed: int
    plan: SearchPlan
    settings: tuple[str, ...]
    folds: Mapping[str, str]
    arms: tuple[SearchedArm, ...]
    refused: tuple[tuple[str, str], ...]


def folds_digest(folds: Sequence[Fold]) -> str:
    """Tells folds from others: who chooses and who tests."""
    return digest([[sorted(f.validation), sorted(f.test)] for f in folds])


def mean_loss(trial: TrialFacts, setting: str) -> float | None:
    """Gives the mean of a trial's validation losses; None: it did not come so far."""
    if setting not in trial.losses:
        return None
    losses = trial.losses[setting]
    return math.fsum(losses) / len(losses)


def search_json(facts: SearchFacts) -> dict[str, Any]:
    """Gives what was found as JSON values; `study --tuned` reads them."""
    return {
        'format': FORMAT,
        'study': facts.name,
        'simulated': facts.simulated,
        'seed': facts.seed,
        'trials': facts.plan.trials,
        'sampler': facts.plan.sampler,
        'pruner': facts.plan.pruner,
        'startup_trials': facts.plan.startup_trials,
        'looks': facts.plan.looks,
        'settings': list(facts.settings),
        'folds': dict(facts.folds),
        'arms': [_arm_json(arm, facts) for arm in facts.arms],
        'refused': dict(facts.refused),
    }


def _arm_json(arm: SearchedArm, facts: SearchFacts) -> dict[str, Any]:
    chosen = {}
    for setting in facts.settings:
        folds = _folds(arm, setting)
        best = arm.on_average(setting)
        chosen[setting] = {
            'by_fold': arm.by_fold(setting, folds),
            'on_average': best,
            'validation_losses': [
                None if slot is None else arm.trials[slot].losses[setting][fold]
                for fold, slot in enumerate(arm.by_fold(setting, folds))
            ],
            'validation_loss_on_average': None
            if best is None
            else mean_loss(arm.trials[best], setting),
        }
    return {
        'method': arm.method,
        'chain': arm.chain,
        'space': {one.name: one.to_json() for one in arm.parameters},
        'complete': arm.count('complete'),
        'pruned': arm.count('pruned'),
        'failed': arm.count('failed'),
        'seconds': round(sum(trial.seconds for trial in arm.trials), 1),
        'chosen': chosen,
        'trials': [
            {
                'slot': trial.slot,
                'state': trial.state,
                'settings': dict(trial.settings),
                'validation_losses': {k: list(v) for k, v in trial.losses.items()},
                'given_up_at_look': {k: list(v) for k, v in trial.given_up.items()},
                'seconds': trial.seconds,
                'reason': trial.reason,
                'trained_as': dict(trained_as),
            }
            for trial, trained_as in zip(arm.trials, arm.trained_as, strict=True)
        ],
    }


def search_markdown(facts: SearchFacts) -> str:
    """Writes what was found for people."""
    simulated = f' ({SIMULATED.upper()})' if facts.simulated else ''
    lines = [f'# {escaped_markdown(facts.name)}: search{simulated}', '']
    head = ['arm', 'complete', 'pruned', 'failed', 'time']
    for setting in facts.settings:
        head += [f'{setting}: chosen, by fold', 'their validation loss']
        head += ["the config's own"]
    lines += [_row(head), '|---' * len(head) + '|']
    for arm in facts.arms:
        cells = [_name(arm), *(f'{arm.count(s)}' for s in _STATES)]
        cells.append(duration(sum(trial.seconds for trial in arm.trials)))
        for setting in facts.settings:
            slots = arm.by_fold(setting, _folds(arm, setting))
            losses = [
                arm.trials[slot].losses[setting][fold]
                for fold, slot in enumerate(slots)
                if slot is not None
            ]
            own = mean_loss(arm.trials[0], setting)
            cells += [
                ', '.join('–' if s is None else f'{s + 1}' for s in slots) or '–',
                f'{math.fsum(losses) / len(losses):.4f}' if losses else '–',
                '–' if own is None else f'{own:.4f}',
            ]
        lines.append(_row(cells))
    for arm in facts.arms:
        lines += ['', f'## {escaped_markdown(_name(arm))}', '', *_trials(arm, facts)]
    if facts.refused:
        lines += ['', '## Not done', '']
        lines += [f'- {escaped_markdown(f"{n}: {why}")}' for n, why in facts.refused]
    lines += ['', '## What to know', '']
    lines += [f'- {escaped_markdown(text)}' for text in _notes(facts)]
    return '\n'.join(lines) + '\n'


def how_chosen(trials: int, sampler: str) -> str:
    """Says how settings were chosen, in sentences for any table's foot."""
    guided = (
        'What was tried next was guided by the mean over all folds (TPE), so that '
        'other folds, in which tested subjects validate, decided what there was to '
        'choose from; not what was chosen.'
        if sampler == 'tpe'
        else 'What was tried, and when it was given up, was decided by nothing that '
        'other folds found.'
    )
    return (
        'Settings of pretraining were chosen in each fold by its own validation '
        f"subjects, among {trials} trials for every arm, the config's own settings "
        'among them: no label of a subject had a say in the network that is tested on '
        f'it. {guided} The untrained encoder has no such settings; finetuning was '
        'tuned alike for all.'
    )


_STATES = ('complete', 'pruned', 'failed')


def _trials(arm: SearchedArm, facts: SearchFacts) -> list[str]:
    names = [parameter.name for parameter in arm.parameters]
    head = ['trial', *names, *facts.settings, 'time', 'state']
    lines = [_row(head), '|---' * len(head) + '|']
    for trial in arm.trials:
        losses = [mean_loss(trial, setting) for setting in facts.settings]
        state = trial.state
        if trial.reason:
            state += f': {trial.reason.strip().splitlines()[-1]}'
        lines.append(
            _row(
                [
                    f'{trial.slot + 1}',
                    *(_value(trial.settings[name]) for name in names),
                    *('–' if loss is None else f'{loss:.4f}' for loss in losses),
                    duration(trial.seconds),
                    state,
                ]
            )
        )
    for setting in facts.settings:
        best = arm.on_average(setting)
        if best is not None:
            lines += [
                '',
                f'Least mean validation loss over all folds, {setting}: trial '
                f'{best + 1}. Take it to pretrain for other subjects; of these it is '
                'no test, and no table has it.',
            ]
    return lines


def _notes(facts: SearchFacts) -> list[str]:
    return [
        how_chosen(facts.plan.trials, facts.plan.sampler),
        'Losses are those of the linear probe by subject, the mean over folds, on '
        'validation. The least of several is too low: what the choice is worth, the '
        'tests of `study --tuned` tell.',
        f'A trial is looked at {facts.plan.looks} times on the way, and ends (pruned) '
        'when every fold has given it up: in its own validation it was above the '
        'median of what it had kept before. Time is that of the last start of each '
        'trial; stages that the study had done took none.',
        f'Seed {facts.seed}. Trial 1 has the settings of the config.',
    ]


def _folds(arm: SearchedArm, setting: str) -> int:
    return max((len(t.losses.get(setting, ())) for t in arm.trials), default=0)


def _name(arm: SearchedArm) -> str:
    return f'{arm.method} on {words_of(arm.chain)}'


def _value(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else f'{value}'


def _row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(map(escaped_markdown, cells))} |'
