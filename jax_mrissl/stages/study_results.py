"""What a study found: measured over all of its seeds, compared, and written."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jax_mrissl.core.results import SIMULATED, Estimate, Unit
from jax_mrissl.core.run_dir import write_atomically, write_json
from jax_mrissl.metrics.bootstrap import Bootstrap, difference, holm
from jax_mrissl.report.run_facts import LOWER_IS_BETTER, metric_words
from jax_mrissl.report.study_facts import (
    SettingFacts,
    StudyArm,
    StudyFacts,
    warnings_of,
)
from jax_mrissl.report.study_page import study_page
from jax_mrissl.report.study_table import (
    study_csv,
    study_latex,
    study_markdown,
    study_text,
    transfers,
)
from jax_mrissl.report.table import estimate_text, interval_notes
from jax_mrissl.stages.grid import STARTED, Cell, Encoder, Grid, Setting
from jax_mrissl.stages.plan import PlannedArm, PlannedExperiment, told_collapses
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.controls import baseline_arms
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.measured import CLASS_PRIOR, UNITS, Measured, measure, prior_rows
from jax_mrissl.tasks.page import PAGE, versions
from jax_mrissl.tasks.pooling import Arm

# What `write_study` makes.
TABLES = (
    *('study.txt', 'study.md', 'study.csv', 'study.tex', 'study.json'),
    PAGE,
)
# The student report's log losses by slice, of four classes; design of its split: see
# docs/decisions.md. The class prior alone has 1.0353.
PUBLISHED: Mapping[tuple[str, str], float] = {
    ('simclr', 'natural'): 1.445,
    ('barlow', 'natural'): 0.993,
    ('swav', 'natural'): 1.032,
    ('simclr', 'brain'): 2.329,
    ('barlow', 'brain'): 1.008,
    ('swav', 'brain'): 1.050,
    ('simclr', 'masked'): 1.585,
    ('barlow', 'masked'): 1.102,
    ('swav', 'masked'): 1.183,
    ('simclr', 'xray'): 1.700,
    ('barlow', 'xray'): 1.098,
    ('swav', 'xray'): 1.191,
    ('simclr', 'ct'): 1.206,
    ('barlow', 'ct'): 1.092,
    ('swav', 'ct'): 1.275,
    ('barlow', 'natural>brain'): 1.021,
    ('', ''): 1.106,
}
_PUBLISHED_TASK = ('alzheimer_mri', 'severity4')
_SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class StudiedCell:
    """One cell, and how far it came.

    Attributes:
        cell: which.
        planned: its experiment; None: it cannot be run.
        error: why it has no result; '': it has one.
        made_of: a digest of all that its result comes from; '': it cannot be run.
    """

    cell: Cell
    planned: PlannedExperiment | None
    error: str
    made_of: str


@dataclasses.dataclass(frozen=True, eq=False)
class StudyContent:
    """A study whose stages were done, as far as they could be.

    Attributes:
        name: its own.
        grid: its cells, as asked for.
        cells: all, in the order of the tables.
        command: what repeats it; '': not known.
        unranked: encoders that could not be among the finalists, as results of them
            are missing.
        notes: what a reader of its tables must know besides.
    """

    name: str
    grid: Grid
    cells: tuple[StudiedCell, ...]
    command: str
    unranked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Measurer:
    """Measures arms, each once.

    Args:
        store: where their stages are.
    """

    def __init__(self, store: Store):
        self._store = store
        self._known: dict[str, Measured] = {}

    def arm(self, planned: PlannedExperiment, arm: PlannedArm) -> Measured | None:
        """Measures an arm; None: its stage is not done."""
        if not self._store.is_done(arm.stage):
            return None
        if arm.stage.address not in self._known:
            folder = self._store.folder(arm.stage)
            self._known[arm.stage.address] = self._measure(
                planned,
                Arm(arm.name, arm.mode, folder),
                self._store.facts(arm.stage)['folds'],
            )
        return self._known[arm.stage.address]

    def baselines(self, planned: PlannedExperiment) -> list[Measured]:
        """Measures what has no network; []: its stage is not done."""
        if not self._store.is_done(planned.controls):
            return []
        arms = baseline_arms(planned.data, self._store.folder(planned.controls))
        return [self._measure(planned, a, ()) for a in arms if a.role == 'baseline']

    def seconds(self, arm: PlannedArm) -> float | None:
        """Adds up what an arm's stages took by the clock; None: not known."""
        found: dict[str, float | None] = {}
        left = [arm.stage]
        while left:
            stage = left.pop()
            seconds = self._store.facts(stage).get('seconds_of_last_start')
            found[stage.address] = seconds
            left += stage.inputs
        known = found.values()
        return None if None in known else float(sum(filter(None, known)))

    def collapsed(self, planned: PlannedExperiment) -> bool:
        """Tells whether a stage of an experiment's pretraining ended collapsed."""
        return bool(told_collapses(planned, self._store))

    def devices(self, cells: Sequence[StudiedCell]) -> list[str]:
        """Gives what the stages ran on, each once."""
        found: dict[str, None] = {}
        for studied in cells:
            for job in studied.planned.jobs if studied.planned else ():
                if self._store.is_done(job.stage):
                    found[self._store.facts(job.stage).get('device', '')] = None
        return [device for device in found if device and device != 'host']

    def _measure(
        self, planned: PlannedExperiment, arm: Arm, facts: Sequence[Json]
    ) -> Measured:
        # All with one seed: so every arm is tried on the same resamples, also those
        # that were trained with different seeds.
        plan = planned.experiment.finetune
        return measure(arm, facts, planned.data, plan, seed=plan.fold_seed)


def write_study(content: StudyContent, measurer: Measurer, workdir: Path) -> None:
    """Writes `study.txt`, `study.md`, `study.csv`, `study.tex`, `study.json`, a page.

    Args:
        content: the study.
        measurer: measures its arms.
        workdir: gets the files.
    """
    facts = gather_study(content, measurer)
    write_atomically(workdir / 'study.txt', study_text(facts))
    write_atomically(workdir / 'study.md', study_markdown(facts))
    write_atomically(workdir / 'study.csv', study_csv(facts))
    write_atomically(workdir / 'study.tex', study_latex(facts))
    write_json(workdir / 'study.json', _json(facts))
    write_atomically(workdir / PAGE, study_page(facts))


def gather_study(content: StudyContent, measurer: Measurer) -> StudyFacts:
    """Measures and compares all arms of a study."""
    grid = content.grid
    settings = [
        found
        for setting in dict.fromkeys(studied.cell.setting for studied in content.cells)
        if (found := _setting(setting, content, measurer))
    ]
    simulated = any(
        prepared.card['simulated']
        for studied in content.cells
        if studied.planned
        for prepared in (studied.planned.whole, *studied.planned.pretraining)
    )
    return StudyFacts(
        name=content.name,
        simulated=simulated,
        methods=grid.methods,
        chains=grid.chains,
        shares=grid.pretraining_fractions,
        settings=tuple(settings),
        findings=tuple(s for one in settings for s in _findings(one, simulated)),
        notes=tuple(_notes(content, settings)),
        failures=tuple(
            (studied.cell.folder, studied.error)
            for studied in content.cells
            if studied.error
        ),
        provenance=tuple(_provenance(content, measurer)),
        command=content.command,
    )


def _setting(
    setting: Setting, content: StudyContent, measurer: Measurer
) -> SettingFacts | None:
    """Measures what is compared; None: there is nothing yet."""
    cells = [s for s in content.cells if s.cell.setting == setting]
    able = [s for s in cells if s.planned]
    if not able:
        return None
    first = able[0].planned
    assert first
    made = _arms(able, measurer)
    if not made:
        return None
    headline = 'mae' if first.data.task.kind == 'regression' else 'log_loss'
    arms = _compared(made, headline, len(content.grid.seeds))
    baselines = [
        (row.arm, row.unit, row.estimates[headline])
        for row in prior_rows(first.data)
        if headline in row.estimates
    ]
    for measured in measurer.baselines(first):
        for unit in UNITS:
            found = measured.estimates(unit)
            if headline in found:
                baselines.append((measured.arm.name, unit, found[headline]))
    by_name: dict[str, dict[Unit, Estimate]] = {}
    for name, unit, estimate in baselines:
        by_name.setdefault(name, {})[unit] = estimate
    plan = first.experiment.finetune
    asked = (plan.data.name, plan.task)
    bootstrapped = next(iter(next(iter(made.values())).found.values()))
    return SettingFacts(
        target=setting.target,
        dataset=plan.data.name,
        title=f'{plan.task} on {first.data.prepared.card["title"]}',
        label_fraction=setting.label_fraction,
        subjects=bootstrapped.subjects,
        slices=bootstrapped.slices,
        headline=headline,
        arms=tuple(arms),
        baselines=tuple(by_name.items()),
        published=PUBLISHED if asked == _PUBLISHED_TASK else {},
        leaky=first.data.is_leaky,
        shuffled=plan.shuffle_labels,
        warnings=first.data.warnings,
    )


@dataclasses.dataclass(eq=False)
class _Made:
    """An arm over its seeds, before it is compared; `found` is by seed."""

    encoder: Encoder
    mode: str
    found: dict[int, Bootstrap] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    seen: int = 0
    collapsed: bool = False
    seconds: list[float | None] = dataclasses.field(default_factory=list)
    page: str = ''


def _arms(
    able: Sequence[StudiedCell], measurer: Measurer
) -> dict[tuple[Encoder, str], _Made]:
    """Measures all arms whose stages are done, seed by seed; the untrained first."""
    made: dict[tuple[Encoder, str], _Made] = {}
    for studied in able:
        cell, planned = studied.cell, studied.planned
        assert planned
        collapsed = measurer.collapsed(planned)
        for arm in sorted(planned.arms, key=lambda arm: arm.origin.is_any):
            # Random weights stand in every cell; the untrained one's are those to
            # count, and beside them stand the weights that all started from.
            encoder = cell.encoder
            if arm.origin.is_any:
                encoder = encoder if encoder.method else STARTED
            elif encoder.method:
                continue
            measured = measurer.arm(planned, arm)
            if measured is None:
                continue
            key = encoder, arm.mode
            one = made.setdefault(key, _Made(*key))
            one.found[cell.seed] = measured.found
            if measured.training.failed:
                one.failures.append(f'seed {cell.seed}')
            if encoder.method:
                one.seen = max(one.seen, planned.overlap.subjects)
                one.collapsed |= collapsed
            one.seconds.append(measurer.seconds(arm))
            if not one.page and not studied.error:
                one.page = f'../experiments/{cell.folder}/{PAGE}'
    return made


def _compared(
    made: Mapping[tuple[Encoder, str], _Made], headline: str, seeds: int
) -> list[StudyArm]:
    """Compares each arm with the untrained one of its mode; corrects for all."""
    means = {key: _mean(list(one.found.values())) for key, one in made.items()}
    differences = {}
    for (encoder, mode), one in made.items():
        reference = made.get((Encoder(), mode))
        if not encoder.method or reference is None:
            continue
        # What is no result is not compared, and what has other seeds is another thing.
        if one.failures or reference.failures:
            continue
        if one.found.keys() != reference.found.keys():
            continue
        differences[encoder, mode] = difference(
            means[encoder, mode],
            means[Encoder(), mode],
            unit='subject',
            metric=headline,
        )
    corrected = dict(
        zip(differences, holm([d.p for d in differences.values()]), strict=True)
    )
    arms = []
    for key, one in made.items():
        encoder, mode = key
        values = [b.values['subject', headline] for b in one.found.values()]
        own = differences.get(key)
        arms.append(
            StudyArm(
                method=encoder.method,
                chain=encoder.chain,
                share=encoder.fraction,
                mode=mode,
                seeds=len(one.found),
                of_seeds=seeds,
                estimates={
                    place: means[key].estimate(*place) for place in means[key].values
                },
                spread=(min(values), max(values)) if len(values) > 1 else None,
                difference=own.estimate if own else None,
                holm_p=corrected.get(key),
                failure=f'under-trained: {", ".join(one.failures)}'
                if one.failures
                else '',
                seen=one.seen,
                collapsed=one.collapsed,
                seconds=None
                if None in one.seconds
                else float(sum(filter(None, one.seconds))),
                page=one.page,
            )
        )
    return arms


def _mean(found: Sequence[Bootstrap]) -> Bootstrap:
    """Averages metrics over seeds, resample by resample: they share the subjects."""
    first = found[0]
    if len(found) == 1:
        return first
    if len({one.drawn for one in found}) > 1:
        raise ValueError('Seeds were tested on different subjects.')
    return dataclasses.replace(
        first,
        values={k: float(np.mean([b.values[k] for b in found])) for k in first.values},
        resampled={
            k: np.mean([b.resampled[k] for b in found], axis=0) for k in first.resampled
        },
        influence={
            k: np.mean([b.influence[k] for b in found], axis=0) for k in first.influence
        },
    )


def _findings(setting: SettingFacts, simulated: bool) -> list[str]:
    """Says what the statistics support, and that they support nothing else."""
    compared = [arm for arm in setting.arms if arm.difference]
    if not compared:
        return []
    metric = metric_words(setting.headline)
    about = f'{setting.target}, {100 * setting.label_fraction:g} % of the labels'
    if simulated:
        about += f' ({SIMULATED})'
    about += setting.marks
    sentences = []
    for arm in compared:
        assert arm.difference
        value = arm.difference.value
        if arm.holm_p is None or arm.holm_p >= _SIGNIFICANT or value is None:
            continue
        lower = value < 0
        better = lower == (setting.headline in LOWER_IS_BETTER)
        seen = ' It has seen tested subjects, so this is no test.' if arm.seen else ''
        if arm.collapsed:
            seen += ' Its pretraining collapsed, so this says nothing of its method.'
        sentences.append(
            f'{about}, {arm.mode}: {arm.name} is {"better" if better else "worse"} '
            f'than the untrained encoder, {estimate_text(arm.difference)} in {metric} '
            f'by subject, p = {arm.holm_p:.2g} (Holm, {len(compared)} comparisons).'
            f'{seen}'
        )
    if not sentences:
        sentences.append(
            f'{about}: of {len(compared)} pretrained arms none is shown to be better '
            f'or worse than the untrained encoder in {metric} by subject (paired '
            'bootstrap, Holm, 5 %).'
        )
    return sentences


def _notes(content: StudyContent, settings: Sequence[SettingFacts]) -> list[str]:
    notes: list[str] = []
    first = next((s.planned for s in content.cells if s.planned), None)
    if first is None:
        return notes
    plan = first.experiment.finetune
    if settings:
        notes += interval_notes(
            plan.bootstrap_resamples,
            min(setting.subjects for setting in settings),
            within=' (within their class, where there are classes)',
        )
        notes.append(_seed_words(content.grid))
    if first.outside:
        notes.append(
            f'{STARTED.name}: {first.outside.name}, from which all pretraining '
            'started; whether these weights have seen tested images is not known here. '
            'The untrained encoder has random ones.'
        )
    notes += warnings_of(settings)
    notes += content.notes
    if any(arm.failure for setting in settings for arm in setting.arms):
        notes.append(
            'under-trained: training did not end below the class prior, so this is no '
            'result, and it is not compared.'
        )
    if any(arm.seeds < arm.of_seeds for setting in settings for arm in setting.arms):
        notes.append(
            f'(... of {len(content.grid.seeds)} seeds): the others have no result. '
            'What lacks seeds is compared with the untrained encoder only where that '
            'has the same ones.'
        )
    if any(arm.seen for setting in settings for arm in setting.arms):
        notes.append(
            '(seen): pretraining has seen images of tested subjects, which the config '
            'allowed: what stands there is no test.'
        )
    if any(arm.collapsed for setting in settings for arm in setting.arms):
        notes.append(
            '(collapsed): a stage of its pretraining ended with signs of a collapse, '
            'which the page of the experiment names: its numbers say nothing of the '
            'method.'
        )
    if content.grid.final_modes:
        notes.append(
            f'{", ".join(content.grid.final_modes)}: of the untrained encoder and of '
            f'the best {content.grid.finalists} pretrained ones by validation loss in '
            f'{content.grid.modes[0]}.'
        )
    if content.unranked:
        notes.append(
            f'Not among those of whom the best were chosen, since results are missing: '
            f'{", ".join(content.unranked)}.'
        )
    if any(setting.published for setting in settings):
        notes.append(
            '(report: ...): the log loss that the student report published. It split '
            'by image, so every subject was in training and in test, and pretrained '
            'and trained for other times: the numbers stand beside ours, and are not '
            'comparable.'
        )
    for setting in settings:
        for name, found in setting.baselines:
            if name == CLASS_PRIOR:
                notes.append(
                    f'{setting.target}: a constant guess of the class shares has a '
                    f'log loss of {found["subject"].value:.4f} by subject, '
                    f'{found["slice"].value:.4f} by slice.'
                )
    return list(dict.fromkeys(notes))


def _seed_words(grid: Grid) -> str:
    if len(grid.seeds) == 1:
        return 'One training seed; the spread over seeds is not in the intervals.'
    return (
        f'Means over {len(grid.seeds)} training seeds; the spread over them is in '
        "study.csv and on the study's page, and not in the intervals."
    )


def _provenance(content: StudyContent, measurer: Measurer) -> list[tuple[str, str]]:
    found = [
        ('Seeds', ', '.join(map(str, content.grid.seeds))),
        ('Devices', '; '.join(measurer.devices(content.cells)) or 'not known'),
    ]
    fingerprints: dict[str, str] = {}
    for studied in content.cells:
        if studied.planned:
            for prepared in (studied.planned.whole, *studied.planned.pretraining):
                fingerprints[prepared.name] = prepared.fingerprint
    found += [(f'Data: {name}', value) for name, value in fingerprints.items()]
    return found + versions()


def _json(facts: StudyFacts) -> Json:
    """Gives all facts as JSON values."""
    found = dataclasses.asdict(facts)
    found['transfer'] = [
        {'title': matrix.title, 'head': matrix.head, 'rows': matrix.rows}
        for matrix in transfers(facts)
    ]
    for setting, made in zip(facts.settings, found['settings'], strict=True):
        made['published'] = [
            {'method': method, 'chain': chain, 'log_loss': value}
            for (method, chain), value in setting.published.items()
        ]
        for arm, own in zip(setting.arms, made['arms'], strict=True):
            own['estimates'] = {
                unit: {
                    metric: dataclasses.asdict(estimate)
                    for (of, metric), estimate in arm.estimates.items()
                    if of == unit
                }
                for unit in UNITS
            }
    return found
