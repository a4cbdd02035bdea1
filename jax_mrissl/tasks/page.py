"""Gathers what a finished run's page and model cards say, and writes them."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path

from jax_mrissl import __version__
from jax_mrissl.core.results import UNDER_TRAINED, Estimate
from jax_mrissl.core.run_dir import CONFIG, MetricsLog, read_json, write_atomically
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.report.model_card import model_card
from jax_mrissl.report.run_facts import (
    METRIC_WORDS,
    CardFacts,
    ClassDetails,
    CurvePlot,
    FactTable,
    Gallery,
    NumberDetails,
    Picture,
    ResultRow,
    ResultTable,
    RunFacts,
    StageFacts,
    metric_parts,
    metric_words,
)
from jax_mrissl.report.run_page import run_page
from jax_mrissl.tasks import statements
from jax_mrissl.tasks.closer_look import look_closer, worst_mistakes
from jax_mrissl.tasks.foot import explained, interval_sentences, under_trained_words
from jax_mrissl.tasks.from_config import Experiment, Json
from jax_mrissl.tasks.group_tables import against_table, beyond_table, group_tables
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.methods_section import methods
from jax_mrissl.tasks.pooling import UNTRAINED, Arm
from jax_mrissl.tasks.saliency_section import saliency_section
from jax_mrissl.tasks.training_curves import pretraining_curves, validation_curves

PAGE = 'report/index.html'
MODEL_CARD = 'README.md'
# The order in which an arm is looked for that the page looks at closely: fixed before
# any result is known, so that the best one of a test is not picked.
_CLOSE_LOOK = ('full', 'linear', 'knn')
_HEADLINES = ('log_loss', 'r2', 'mae')
_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'scikit-learn')


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run whose `metrics.json` is written.

    Attributes:
        experiment: the plans.
        data: the labelled images.
        pretraining: the datasets of the chain, in its order.
        pretrain_folders: the folders of its stages.
        arms: what was finetuned.
        controls_folder: of the stage of baselines and controls.
        command: what repeats the run; '': not known.
    """

    experiment: Experiment
    data: LabelledData
    pretraining: tuple[PreparedSet, ...]
    pretrain_folders: tuple[Path, ...]
    arms: tuple[Arm, ...]
    controls_folder: Path
    command: str = ''


def write_page(run: FinishedRun, workdir: Path) -> None:
    """Writes `report/index.html`, and a model card beside each finetuned network."""
    facts = gather(run, workdir)
    _write_changed(workdir / PAGE, run_page(facts))
    for arm in run.arms:
        # Neighbours that vote leave no model.
        if arm.mode != 'knn':
            card = model_card(
                facts,
                label=arm.label,
                mode=arm.mode,
                pretrained=arm.name != UNTRAINED,
            )
            _write_changed(arm.folder / MODEL_CARD, card)


def _write_changed(path: Path, text: str) -> None:
    """Leaves a file alone that says this already: what is done is not touched."""
    if not path.exists() or path.read_text(encoding='utf-8') != text:
        write_atomically(path, text)


def gather(run: FinishedRun, workdir: Path) -> RunFacts:
    """Reads a run directory into the facts of its page.

    Args:
        run: what its files do not say.
        workdir: the run directory.
    """
    measured = read_json(workdir / 'metrics.json')
    plan, data = run.experiment.finetune, run.data
    tested = data.tested()
    failed = {
        (row['arm'], row['mode'])
        for row in measured['results']
        if UNDER_TRAINED in row['notes']
    }
    chosen = _chosen(run.arms, failed)
    tables = _tables(measured, chosen)
    headline = next((m for m in _HEADLINES if tables and m in tables[0].metrics), '')
    details = look_closer(chosen, data, measured) if chosen else None
    simulated = bool(measured['simulated'])
    told_by = statements.told_by(data)
    lead, *sentences = [
        *statements.by_age(chosen, data, plan),
        *statements.headline(tables, headline, chosen),
    ]
    galleries = []
    if run.experiment.report.pictures:
        stages = [arm.folder.name for arm in run.arms]
        galleries = [
            *_galleries(run, chosen, details),
            *saliency_section(
                workdir,
                stages,
                simulated=simulated,
                kind=data.task.kind,
                told_by=told_by,
                under_trained=[a.label for a in run.arms if (a.name, a.mode) in failed],
            ),
        ]
    return RunFacts(
        title=f'{run.experiment.name}: {_task_words(data)}',
        subtitle=f'Tested on {data.prepared.card["title"]}, '
        f'{len(set(data.prepared.groups[tested].tolist())):,} subjects, '
        f'{len(tested):,} slices.',
        simulated=simulated,
        lead=lead,
        headline=sentences,
        alarms=[
            *measured.get('warnings', ()),
            *statements.alarms(data, measured['overlap']),
        ],
        headline_metric=headline,
        tables=tables,
        table_notes=[
            *interval_sentences(data, plan.bootstrap_resamples),
            *([under_trained_words(data)] if failed else ()),
            *explained({r['arm']: r['role'] for r in measured['results']}, data),
        ],
        differences=[
            statements.difference(c, failed, simulated) for c in measured['comparisons']
        ],
        details=details,
        told_by=told_by,
        details_absent=_absent(run.arms),
        more=_more(measured),
        groups=group_tables(measured, chosen, failed),
        beyond=beyond_table(measured, failed),
        against=against_table(measured, failed),
        galleries=galleries,
        pictures_left_out=not run.experiment.report.pictures,
        curves=_curves(run),
        background=statements.background(data, plan),
        cards=_cards(run),
        leaks=statements.leaks(run.experiment, data, measured),
        stages=_stages(run),
        methods=methods(run.experiment, data, run.pretraining, measured),
        command=run.command,
        config=_config(workdir),
        versions=versions(),
    )


def _task_words(data: LabelledData) -> str:
    if data.task.kind == 'regression':
        return 'a number of each subject'
    return f'{data.task.name} ({", ".join(data.task.classes)})'


def _chosen(arms: tuple[Arm, ...], failed: set[tuple[str, str]]) -> Arm | None:
    """Gives the arm to look at closely; None: no arm is a result."""
    able = [arm for arm in arms if (arm.name, arm.mode) not in failed]
    order = {mode: place for place, mode in enumerate(_CLOSE_LOOK)}
    able.sort(key=lambda arm: (arm.name == UNTRAINED, order.get(arm.mode, len(order))))
    return able[0] if able else None


def _absent(arms: tuple[Arm, ...]) -> str:
    return (
        f'No arm is a result: {"; ".join(arm.label for arm in arms)} are all '
        'under-trained. Train longer, or with another learning rate.'
    )


def _tables(measured: Json, chosen: Arm | None) -> list[ResultTable]:
    tables = []
    for unit in ('subject', 'slice'):
        rows = [row for row in measured['results'] if row['unit'] == unit]
        if not rows:
            continue
        # What is an estimate is a column; the first ones are known by their words.
        names = [n for n, v in rows[0].items() if isinstance(v, Mapping) and 'low' in v]
        metrics = [n for n in METRIC_WORDS if n in names]
        metrics += [n for n in names if n not in metrics]
        prior = next((row.get('prior_log_loss') for row in rows), None)
        tables.append(
            ResultTable(
                unit=unit,
                count=rows[0]['subjects' if unit == 'subject' else 'slices'],
                metrics=tuple(metrics),
                rows=tuple(_row(row, metrics, chosen) for row in rows),
                prior=prior if 'log_loss' in metrics else None,
            )
        )
    return tables


def _row(row: Json, metrics: list[str], chosen: Arm | None) -> ResultRow:
    label = f'{row["arm"]}, {row["mode"]}' if row['mode'] else row['arm']
    notes = [note for note in row['notes'] if note != UNDER_TRAINED]
    failure = ''
    if UNDER_TRAINED in row['notes']:
        loss, share = row['training_log_loss'], row['training_error_share']
        ended = 'ended at a loss that is not finite'
        if loss is not None:
            ended = f'loss ended at {loss:.4f}'
        elif share is not None:
            ended = f'error ended at {share:.3f} of the variance'
        failure = f'under-trained, no result: its training {ended}'
    return ResultRow(
        label=label,
        role=row['role'],
        estimates={n: Estimate(**row[n]) for n in metrics if row.get(n)},
        failure=failure,
        notes=tuple(notes),
        chosen=bool(chosen and (row['arm'], row['mode']) == (chosen.name, chosen.mode)),
    )


def _more(measured: Json) -> list[FactTable]:
    """Gives the metrics that the table has no room for."""
    found = []
    for unit in ('subject', 'slice'):
        arms = [arm for arm in measured['details'] if isinstance(arm.get(unit), dict)]
        names = [n for n in METRIC_WORDS if any(n in arm[unit] for arm in arms)]
        if not names:
            continue
        rows = [
            (
                f'{arm["arm"]}, {arm["mode"]}' if arm['mode'] else arm['arm'],
                *(' '.join(_parts(n, arm[unit].get(n))).strip() for n in names),
            )
            for arm in arms
        ]
        heads = ('arm', *map(metric_words, names))
        title = f'All metrics by {unit}, also of under-trained arms'
        notes = statements.detection_notes(measured) if 'ppv' in names else ()
        found.append(FactTable(title, heads, tuple(rows), notes))
    return found


def _parts(name: str, value: Json) -> tuple[str, str]:
    return metric_parts(name, Estimate(**value) if value else None)


def _galleries(
    run: FinishedRun, chosen: Arm | None, details: ClassDetails | NumberDetails | None
) -> list[Gallery]:
    found = []
    if chosen and details and (pictures := worst_mistakes(chosen, run.data)):
        found.append(
            Gallery(
                'Worst mistakes',
                (
                    f'{_wrongly(chosen.label, run.data)}, by their central slice. '
                    'Look for what they share: an artefact, another contrast, a label '
                    'that may be wrong.',
                ),
                tuple(pictures),
            )
        )
    sheets = []
    for folder, prepared in zip(run.pretrain_folders, run.pretraining, strict=True):
        views = folder / 'samples' / 'views.png'
        if views.exists():
            title = prepared.card['title']
            sheets.append(
                Picture(
                    views.read_bytes(),
                    f'A table of pictures: images of {title} in the first column, '
                    'beside each the augmented views that pretraining compares.',
                    (f'{title}: an image, and its views.',),
                )
            )
    if sheets:
        found.append(
            Gallery(
                'What pretraining saw',
                (
                    'Views of one image should have its anatomy in common, and nothing '
                    'that tells images apart without it.',
                ),
                tuple(sheets),
                sheet=True,
            )
        )
    return found


def _wrongly(label: str, data: LabelledData) -> str:
    if data.task.kind == 'regression':
        return f'The subjects whose numbers {label} missed by most'
    return f'The subjects of whom {label} was most sure and wrong'


def _curves(run: FinishedRun) -> list[CurvePlot]:
    found = []
    for folder, prepared in zip(run.pretrain_folders, run.pretraining, strict=True):
        rows = MetricsLog(folder / 'metrics.jsonl').rows()
        found += pretraining_curves(rows, prepared.card['title'])
    full = {}
    for arm in run.arms:
        if arm.mode == 'full':
            full[arm.label] = [
                MetricsLog(fold / f'trial-{best}' / 'metrics.jsonl').rows()
                for fold in sorted(arm.folder.glob('fold-*'))
                if (best := read_json(fold / 'done.json')['trial']) is not None
            ]
    return [*found, *validation_curves(full)]


def _cards(run: FinishedRun) -> list[CardFacts]:
    uses: dict[str, tuple[PreparedSet, list[str]]] = {}
    for stage, prepared in zip(run.experiment.chain, run.pretraining, strict=True):
        use = f'pretraining (split {stage.data.split}, {len(prepared):,} images)'
        uses.setdefault(prepared.fingerprint, (prepared, []))[1].append(use)
    tested, split = run.data.prepared, run.experiment.finetune.data.split
    use = f'finetuning and test (split {split}, {len(tested):,} images used)'
    uses.setdefault(tested.fingerprint, (tested, []))[1].append(use)
    return [
        CardFacts(
            name=prepared.name,
            title=prepared.card['title'],
            use=f'Used in {" and ".join(words)}.',
            tested=prepared.fingerprint == tested.fingerprint,
            simulated=bool(prepared.card['simulated']),
            fingerprint=prepared.fingerprint,
            facts=statements.card_facts(prepared.card),
        )
        for prepared, words in uses.values()
    ]


def _stages(run: FinishedRun) -> list[StageFacts]:
    found = []
    for prepared, folder in zip(run.pretraining, run.pretrain_folders, strict=True):
        found.append(_stage(f'pretraining on {prepared.card["title"]}', folder, ''))
    for arm in run.arms:
        found.append(_stage(f'finetuning: {arm.label}', arm.folder, arm.label))
    found.append(_stage('baselines and controls', run.controls_folder, ''))
    return found


def _stage(name: str, folder: Path, arm: str) -> StageFacts:
    done = read_json(folder / 'done.json')
    return StageFacts(
        name=name,
        address=read_json(folder / 'stage.json')['address'],
        device=done['device'],
        seconds=float(done['seconds_of_last_start']),
        arm=arm,
    )


def _config(workdir: Path) -> str:
    path = workdir / CONFIG
    if not path.exists():
        return 'The run was not started from a config file.'
    config = {k: v for k, v in read_json(path).items() if k != 'data_dir'}
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)


def versions() -> list[tuple[str, str]]:
    """Gives what the program is made of, with its versions."""
    return [
        ('jax_mrissl', __version__),
        ('Python', platform.python_version()),
        *((name, importlib.metadata.version(name)) for name in _PACKAGES),
    ]
