"""Runs a study: every stage of its grid once, then each experiment's page, its tables.

Any number of processes may run the same study on one disk, at any time: stages are
claimed one by one. What is done is found by its content, whoever did it.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from absl import logging

from jax_mrissl.core import processes
from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import read_json, write_config, write_json
from jax_mrissl.data.inventory import file_sha256
from jax_mrissl.stages.by_fold import plan_by_fold
from jax_mrissl.stages.claims import Claims, forget
from jax_mrissl.stages.demo import prepare_simulated
from jax_mrissl.stages.grid import (
    Cell,
    Encoder,
    Grid,
    Setting,
    StudyConfig,
    cells,
    read_grid,
)
from jax_mrissl.stages.plan import Job, PlannedExperiment, Shelf, plan_experiment
from jax_mrissl.stages.run import RESULTS, STAGES, write_results
from jax_mrissl.stages.search_results import folds_digest
from jax_mrissl.stages.store import Store
from jax_mrissl.stages.study_results import (
    TABLES,
    Measurer,
    StudiedCell,
    StudyContent,
    write_study,
)
from jax_mrissl.stages.tuned import Tuned
from jax_mrissl.stages.work import do_jobs

EXPERIMENTS = 'experiments'
# In a workdir: tables and pages of what a search chose, beside those of the config.
TUNED = 'tuned'
# In an experiment's folder, and the study's: what the files beside it were made of.
_WRITTEN = 'written.json'
# Raised by hand when tables or pages would be written in another way.
_WRITING_VERSION = 2
_LOOK_AGAIN_S = 1.0


def run_study(
    config: StudyConfig,
    workdir: Path,
    *,
    command: str = '',
    retry_failed: bool = False,
    claims: Claims | None = None,
    tuned: Tuned | None = None,
) -> str:
    """Runs what is not done yet, and writes the tables.

    Args:
        config: as `configs/study.py` makes it.
        workdir: gets `stages/`, `experiments/`, the tables and the page; with `tuned`
            all but the stages within `tuned/`.
        command: what repeats this, for the page; '': no command does.
        retry_failed: whether what failed before is tried again.
        claims: how other processes are told of; None: the usual.
        tuned: settings that a search chose, in place of the config's; None: those.

    Returns: the tables, as text for a terminal.

    Raises:
        UserError: a mistake in the config, or no experiment of the grid can be run.
    """
    study = Study(config, workdir, claims=claims, tuned=tuned)
    write_config(workdir, config.to_dict())
    study.do_stages(retry_failed=retry_failed)
    return processes.share(lambda: study.write(command))


class Study:
    """A grid of experiments in one work folder.

    Attributes:
        results: the folder of its tables and pages.

    Args:
        config, workdir, claims, tuned: as in `run_study`.

    Raises:
        UserError: a mistake in the config, or no experiment of the grid can be run.
    """

    def __init__(
        self,
        config: StudyConfig,
        workdir: Path,
        *,
        claims: Claims | None = None,
        tuned: Tuned | None = None,
    ):
        self._config, self._workdir = config, workdir
        self._tuned = tuned
        self.results = workdir / TUNED if tuned else workdir
        self._grid: Grid = read_grid(config)
        self._store = Store(workdir / STAGES)
        self._claims = claims or Claims()
        self._shelf = Shelf()
        # By the folder of its cell; text: why it cannot be run.
        self._planned: dict[str, PlannedExperiment | str] = {}
        self.cells = self._lay_out({})
        self._refuse_if_nothing_can_run()

    @property
    def jobs(self) -> list[Job]:
        """All stages of the experiments that can be run, those of pretraining first."""
        jobs = [job for planned in self.planned for job in planned.jobs]
        # Most has to wait for pretraining, and workers should not wait for each other.
        return sorted(jobs, key=lambda job: job.stage.kind != 'pretrain')

    @property
    def refused(self) -> dict[str, str]:
        """Why experiments cannot be run, by the folder of their cell."""
        return {k: why for k, why in self._planned.items() if isinstance(why, str)}

    @property
    def planned(self) -> list[PlannedExperiment]:
        """The experiments that can be run."""
        found = [self._planned[cell.folder] for cell in self.cells]
        return [planned for planned in found if isinstance(planned, PlannedExperiment)]

    def counts(self) -> tuple[int, int]:
        """Gives how many different stages there are, and how many are done."""
        stages = {job.stage.address: job.stage for job in self.jobs}
        done = sum(self._store.is_done(stage) for stage in stages.values())
        return len(stages), done

    def is_done(self, job: Job) -> bool:
        """Says whether a stage is done."""
        return self._store.is_done(job.stage)

    def failure(self, job: Job) -> str:
        """Says why a stage failed; '': it did not."""
        return self._store.failure(job.stage)

    def do_stages(self, *, retry_failed: bool = False) -> None:
        """Does all stages: of every cell, then those of the finalists alone.

        Args:
            retry_failed: whether what failed before is tried again, each stage once.
        """
        first = {job.stage.address for job in self.jobs}
        if retry_failed:
            self._forget_failures(but=set())
        do_jobs(self.jobs, self._store, go_on=True, claims=self._claims)
        extra = self._final_modes()
        if extra:
            self.cells = self._lay_out(extra)
            if retry_failed:
                self._forget_failures(but=first)
            do_jobs(self.jobs, self._store, go_on=True, claims=self._claims)

    def write(self, command: str = '') -> str:
        """Writes each experiment's page, and the study's tables and page."""
        content = self._content(command)
        done = [studied for studied in content.cells if not studied.error]
        for number, studied in enumerate(done, 1):
            assert studied.planned
            planned = studied.planned
            folder = self.results / EXPERIMENTS / studied.cell.folder
            what = f'Table and page {number} of {len(done)}'

            def results(
                planned: PlannedExperiment = planned,
                folder: Path = folder,
                what: str = what,
            ) -> None:
                logging.info('%s.', what)
                write_results(planned, self._store, folder, command='')

            self._once(folder, studied.made_of, RESULTS, results)
        made_of = [
            _WRITING_VERSION,
            command,
            content.notes,
            content.unranked,
            [[cell.cell.folder, cell.made_of, cell.error] for cell in content.cells],
            dataclasses.asdict(self._grid),
        ]
        self._once(
            self.results,
            digest(made_of),
            TABLES,
            lambda: write_study(content, Measurer(self._store), self.results),
        )
        return (self.results / 'study.txt').read_text()

    def _forget_failures(self, *, but: Set[str]) -> None:
        """Lets stages be tried again, but for those of some addresses."""

        def forget_them() -> None:
            for job in self.jobs:
                if job.stage.address not in but:
                    self._store.retry(job.stage)

        processes.share(forget_them)

    def _lay_out(self, extra: Mapping[Encoder, Sequence[str]]) -> list[Cell]:
        found = cells(self._config, self._grid, extra=extra, chosen=self._tuned)
        for cell in found:
            known = self._planned.get(cell.folder)
            if isinstance(known, PlannedExperiment):
                if known.experiment == cell.experiment:
                    continue
            elif known:
                continue
            processes.share(functools.partial(prepare_simulated, cell.experiment))
            try:
                self._planned[cell.folder] = self._plan(cell)
            except UserError as error:
                self._planned[cell.folder] = str(error)
                logging.warning('%s cannot be run: %s', cell.folder, error)
        return found

    def _plan(self, cell: Cell) -> PlannedExperiment:
        """Lays a cell out.

        Raises:
            UserError: it cannot be run.
        """
        spare = self._workdir / 'audit'
        if cell.refused:
            raise UserError(cell.refused)
        if not cell.by_fold:
            return plan_experiment(
                cell.experiment, self._store, spare=spare, shelf=self._shelf
            )
        planned = plan_by_fold(
            cell.by_fold, self._store, spare=spare, shelf=self._shelf
        )
        assert self._tuned
        folds = folds_digest(planned.data.folds)
        if refusal := self._tuned.refusal(cell.setting, planned.data, folds):
            raise UserError(refusal)
        return planned

    def _refuse_if_nothing_can_run(self) -> None:
        reasons = list(dict.fromkeys(self.refused.values()))
        if len(self.refused) == len(self.cells):
            raise UserError('\n'.join(reasons))

    def _final_modes(self) -> dict[Encoder, Sequence[str]]:
        """Says which encoders are finetuned in more modes."""
        if not self._grid.final_modes:
            return {}
        chosen = processes.share(lambda: [e.name for e in self._ranking()[0]])
        chosen = chosen[: self._grid.finalists]
        for name in chosen:
            logging.info('Among the best by validation: %s.', name)
        encoders = {cell.encoder.name: cell.encoder for cell in self.cells}
        finalists = [encoders[name] for name in chosen]
        return dict.fromkeys([Encoder(), *finalists], self._grid.final_modes)

    def _ranking(self) -> tuple[list[Encoder], list[Encoder]]:
        """Orders the pretrained encoders by validation, never by test.

        Returns: the best first; those that cannot be ranked, since they lack a result
            that another one has.
        """
        grid = self._grid
        mode = grid.modes[0]
        # By what is asked, with which seed.
        losses: dict[Encoder, dict[tuple[Setting, int], float]] = {}
        for cell in self.cells:
            if not cell.encoder.method or cell.setting.target != grid.targets[0]:
                continue
            planned = self._planned[cell.folder]
            own = losses.setdefault(cell.encoder, {})
            if isinstance(planned, str):
                continue
            for arm in planned.arms:
                if arm.name != cell.experiment.name or arm.mode != mode:
                    continue
                if self._store.is_done(arm.stage):
                    folds = self._store.facts(arm.stage)['folds']
                    own[cell.setting, cell.seed] = sum(
                        fold['validation_loss'] for fold in folds
                    ) / len(folds)
        wanted = {one for own in losses.values() for one in own}
        whole = [e for e, own in losses.items() if own and own.keys() == wanted]
        best = sorted(whole, key=lambda e: sum(losses[e].values()))
        return best, [encoder for encoder in losses if encoder not in whole]

    def _made_of(self, planned: PlannedExperiment) -> str:
        return digest(
            [
                _WRITING_VERSION,
                [job.stage.address for job in planned.jobs],
                planned.overlap.to_json(),
                planned.experiment.notes,
                dataclasses.asdict(planned.experiment.report),
                planned.experiment.finetune.bootstrap_resamples,
                planned.experiment.finetune.prevalence,
            ]
        )

    def _content(self, command: str) -> StudyContent:
        found = []
        for cell in self.cells:
            planned = self._planned[cell.folder]
            if isinstance(planned, str):
                found.append(StudiedCell(cell, None, planned, ''))
                continue
            errors = [
                error
                for job in planned.jobs
                if (error := self._store.failure(job.stage))
            ]
            missing = not all(self._store.is_done(job.stage) for job in planned.jobs)
            error = errors[0] if errors else 'It is not done.' if missing else ''
            found.append(StudiedCell(cell, planned, error, self._made_of(planned)))
        return StudyContent(
            name=self._config.name,
            grid=self._grid,
            cells=tuple(found),
            command=command,
            unranked=tuple(e.name for e in self._ranking()[1])
            if self._grid.final_modes
            else (),
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        """Gives what readers must know of settings that a search chose."""
        if not self._tuned:
            return ()
        own = [note for cell in self.cells for note in cell.experiment.notes]
        return tuple(dict.fromkeys([*own, self._tuned.cost]))

    def _once(
        self,
        folder: Path,
        made_of: str,
        files: Sequence[str],
        write: Callable[[], Any],
    ) -> None:
        """Writes files that are not there as they were written of this.

        Waits for another process that does. `main` with this workdir, or a person, may
        have put others in their place.
        """
        about = folder / _WRITTEN

        def told() -> dict[str, Any]:
            written = {name: file_sha256(folder / name) for name in files}
            return {'made_of': made_of, 'files': written}

        def is_written() -> bool:
            return about.exists() and read_json(about) == told()

        folder.mkdir(parents=True, exist_ok=True)
        while not is_written():
            with self._claims.take(folder) as ours:
                if ours and not is_written():
                    write()
                    write_json(about, told())
                    forget(folder)
            if not ours:
                time.sleep(_LOOK_AGAIN_S)
