"""Settings that a search chose, read for a study that runs with them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import duration
from jax_mrissl.core.run_dir import read_json
from jax_mrissl.stages.grid import Encoder, Setting, Settings, trained_as
from jax_mrissl.stages.search_results import FORMAT, how_chosen
from jax_mrissl.tasks.from_config import Experiment
from jax_mrissl.tasks.labelled import LabelledData


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
    """What `search.json` says.

    Attributes:
        path: the file.
        told: its content.
    """

    path: Path
    told: Mapping[str, Any]

    def settings(self, encoder: Encoder, setting: Setting) -> tuple[Settings, ...]:
        """Gives the settings that each fold chose.

        Raises:
            UserError: the search was not for this arm, or what is asked of it, or no
                trial of it came to its end.
        """
        return tuple(trial['settings'] for trial in self._chosen(encoder, setting))

    def notes(
        self, encoder: Encoder, setting: Setting, experiments: Sequence[Experiment]
    ) -> tuple[str, ...]:
        """Says how settings were chosen, and if for other training than this."""
        chosen = self._chosen(encoder, setting)
        same = all(
            trial['trained_as'][setting.name] == trained_as(experiment)
            for trial, experiment in zip(chosen, experiments, strict=True)
        )
        if same:
            return (self._how_chosen,)
        return (
            self._how_chosen,
            f'{encoder.name}, {setting.name}: trials were trained, or probed, in '
            'another way than this, by another config or version; what was best there '
            'need not be best here.',
        )

    def refusal(self, setting: Setting, data: LabelledData, digest: str) -> str:
        """Says why the choice may not be used with some folds; '': it may."""
        if self.told['folds'].get(setting.name) == digest:
            return ''
        return (
            f'{self.path} was searched with other folds of {data.prepared.name}: '
            'subjects that are tested now may have chosen. Search again.'
        )

    @property
    def cost(self) -> str:
        """Says how many trials there were of each arm, and what they took."""
        counts = [
            f'{arm["method"]} {arm["chain"]} {arm["complete"]} complete, '
            f'{arm["pruned"]} pruned, {arm["failed"]} failed, '
            f'{duration(arm["seconds"])}'
            for arm in self.told['arms']
        ]
        return f'Trials of the search: {"; ".join(counts)}.'

    @property
    def _how_chosen(self) -> str:
        return how_chosen(self.told['trials'], self.told['sampler'])

    def _chosen(self, encoder: Encoder, setting: Setting) -> list[Mapping[str, Any]]:
        """Gives the trial that each fold chose; raises as `settings` does."""
        arm = self._arm(encoder)
        if arm is None or setting.name not in arm['chosen']:
            raise UserError(
                f'{self.path} has no settings of {encoder.method} {encoder.chain} for '
                f'{setting.name}: search with this config first (python -m '
                'jax_mrissl.search).'
            )
        slots = arm['chosen'][setting.name]['by_fold']
        if not slots or None in slots:
            raise UserError(
                f'{self.path}: no trial of {encoder.method} {encoder.chain} came to '
                'its end in every fold; search.md says why.'
            )
        return [arm['trials'][slot] for slot in slots]

    def _arm(self, encoder: Encoder) -> Mapping[str, Any] | None:
        for arm in self.told['arms']:
            if (arm['method'], arm['chain']) == (encoder.method, encoder.chain):
                found: Mapping[str, Any] = arm
                return found
        return None


def read_tuned(path: Path) -> Tuned:
    """Reads what a search chose.

    Raises:
        UserError: there is no such file, or it is none of a search.
    """
    if path.is_dir():
        path = path / 'search.json'
    if not path.is_file():
        raise UserError(
            f'There is no {path}. --tuned is the search.json that python -m '
            'jax_mrissl.search wrote into its workdir.'
        )
    told = read_json(path)
    if not isinstance(told, dict) or told.get('format') != FORMAT:
        raise UserError(f'{path} is no search.json of this version: search again.')
    return Tuned(path, told)
