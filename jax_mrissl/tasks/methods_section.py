"""Sentences for a methods section: what TRIPOD+AI and CLAIM ask and a program knows.

Sources: Collins et al. 2024, TRIPOD+AI (doi 10.1136/bmj-2023-078378); Tejani et al.
2024, CLAIM 2024 update (doi 10.1148/ryai.240300).
"""

from collections.abc import Sequence

import numpy as np

from jax_mrissl import __version__
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.report.run_facts import PRETRAINING
from jax_mrissl.tasks.from_config import Experiment, FinetunePlan, Json, PretrainPlan
from jax_mrissl.tasks.labelled import LabelledData


def methods(
    experiment: Experiment,
    data: LabelledData,
    pretraining: Sequence[PreparedSet],
    measured: Json,
) -> list[tuple[str, str]]:
    """Writes the paragraphs, each with its topic.

    Args:
        experiment: the plans.
        data: the labelled images.
        pretraining: the datasets of the chain.
        measured: `metrics.json`.
    """
    plan = experiment.finetune
    software = (
        f'jax_mrissl {__version__}; seed {experiment.common.seed}. The command, the '
        'config and the SHA-256 of every stage and dataset are given with the result.'
    )
    return [
        ('Data', _data(data, plan)),
        ('Outcome', _outcome(data)),
        ('Preprocessing', _preprocessing(data, plan)),
        ('Model', _model(experiment)),
        *(
            (PRETRAINING, _pretraining(stage, prepared))
            for stage, prepared in zip(experiment.chain, pretraining, strict=True)
        ),
        *(('Settings of pretraining', note) for note in experiment.notes),
        ('Finetuning', _finetuning(data, plan)),
        ('Split', _split(data, plan)),
        ('Statistics', _statistics(measured)),
        ('Software', software),
    ]


def _data(data: LabelledData, plan: FinetunePlan) -> str:
    prepared = data.prepared
    card = prepared.card
    counts = card['counts']
    rejected = sum(counts['rejected'].values())
    slices = np.unique(prepared.groups, return_counts=True)[1]
    many = (
        f'{slices.min()}'
        if slices.min() == slices.max()
        else (f'{slices.min()} to {slices.max()}')
    )
    kind = 'Simulated images, of no patient' if card['simulated'] else 'Images'
    text = (
        f'{kind}: {card["title"]} ({card["source"].rstrip(".")}). Of '
        f'{counts["files"]:,} files, '
        f'{rejected:,} images could not be used and {counts["duplicates"]:,} were '
        f'repeated; {len(prepared):,} labelled slices of {len(slices):,} subjects were '
        f'analysed, {many} a subject.'
    )
    tested = data.tested()
    if len(tested) < len(prepared):
        subjects = len(set(prepared.groups[tested].tolist()))
        text += f' {len(tested):,} slices of {subjects:,} subjects were tested.'
    if plan.slices_per_group:
        text += (
            f' Of each subject the {plan.slices_per_group} central slices were used.'
        )
    if plan.where:
        text += f' Inclusion was restricted to {plan.where}.'
    return f'{text} Subjects: {card["subjects"]["found"]}'


def _outcome(data: LabelledData) -> str:
    if data.task.kind == 'regression':
        numbers = data.targets
        return (
            f'A number of each subject, from {np.nanmin(numbers):.3g} to '
            f'{np.nanmax(numbers):.3g}; images without it were left out.'
        )
    _, first = np.unique(data.prepared.groups, return_index=True)
    labels = data.labels[first]
    shares = ', '.join(
        f'{name} {int((labels == i).sum()):,}'
        for i, name in enumerate(data.task.classes)
    )
    ordered = ', ordered,' if data.task.kind == 'ordinal' else ''
    return (
        f'{len(data.task.classes)} classes{ordered} by subject: {shares}. '
        'Images without a label were left out; nothing was imputed.'
    )


def _preprocessing(data: LabelledData, plan: FinetunePlan) -> str:
    card = data.prepared.card
    ops = ', '.join(_op(op) for op in plan.evaluation_view)
    return (
        f'The longer side of an image was scaled to {card["canvas"]} '
        f'pixels and stored at {card["bits"]} bits. The network saw '
        f'{plan.image_size} x {plan.image_size} pixels after: {ops}.'
    )


def _model(experiment: Experiment) -> str:
    encoder = experiment.common.encoder
    start = 'random weights'
    if experiment.init_from:
        start = 'weights from outside'
    return (
        f'{encoder["name"]} (stem: {encoder["stem"]}) from {start}, computed in '
        f'{experiment.common.dtype}.'
    )


def _pretraining(plan: PretrainPlan, prepared: PreparedSet) -> str:
    views = ', '.join(dict.fromkeys(_op(op) for view in plan.views for op in view))
    return (
        f'{plan.method["name"]} on {len(prepared):,} images of '
        f'{prepared.card["title"]} without labels, {plan.epochs} epochs, batch '
        f'{plan.batch_size}, {plan.image_size} pixels, optimiser '
        f'{plan.optimizer["name"]}. Views of one {plan.positives} by: {views}.'
    )


def _finetuning(data: LabelledData, plan: FinetunePlan) -> str:
    number = data.task.kind == 'regression'
    probe = 'ridge' if number else 'multinomial logistic'
    trials = len(plan.full.trials(plan.build_optimizer()))
    texts = {
        'linear': f'{probe} regression on frozen features, fitted to '
        f'convergence, its L2 strength the best of {len(plan.linear.l2_strengths)} '
        'by validation',
        'knn': 'a weighted vote of the nearest neighbours among frozen features by '
        f'cosine, the best of {len(plan.knn.neighbours)} numbers of neighbours by '
        'validation',
        'full': f'all weights trained by {plan.full.optimizer["name"]}, at most '
        f'{plan.full.epochs} epochs at batch {plan.full.batch_size}, the best epoch '
        f'and the best of {trials} setting{"" if trials == 1 else "s"} by validation',
    }
    found = '; '.join(f'{mode}: {texts[mode]}' for mode in plan.modes)
    return f'{found}. Pretrained and untrained encoders had the same budget.' + (
        ''
        if number
        else ' Class probabilities were calibrated by one temperature, fitted to '
        'validation.'
    )


def _split(data: LabelledData, plan: FinetunePlan) -> str:
    leaky = '(leaky: subjects are on several sides)'
    unit = {
        'subject': 'subjects, stratified by class',
        'site': 'sites, each tested once',
        'image': f'images {leaky}',
        'shipped': f"the dataset's own split {leaky}",
    }[data.division]
    rest = f'one in {plan.folds} of the rest used for validation'
    if len(data.folds) == 1:
        text = f'One division, {unit}: one part tested, {rest}.'
    else:
        text = (
            f'{len(data.folds)} fixed folds over {unit}; in each, one part tested, '
            f'{rest}. Test predictions were pooled.'
        )
    if plan.label_fraction < 1:
        text += (
            f' {100 * plan.label_fraction:.0f} % of the training subjects were used.'
        )
    if plan.shuffle_labels:
        text += ' Labels were shuffled over subjects (control).'
    return text


def _statistics(measured: Json) -> str:
    drawn = measured['bootstrap']
    within = '' if measured['kind'] == 'regression' else ', stratified by class'
    return (
        'The unit of analysis is the subject, by the mean of its slices. '
        'Intervals are 95 % BCa intervals (Efron 1987) from '
        f'{drawn["resamples"]:,} bootstrap resamples of subjects{within} (n - 1 of n, '
        f'after Rao & Wu 1988; seed {drawn["seed"]}). Arms were compared with the '
        'untrained encoder on the same resamples, p by inversion of the interval of '
        'the difference, corrected by Holm. An arm whose training did not end below a '
        'constant guess is not reported as a result.'
    )


def _op(op: Json) -> str:
    return str(op['name']).replace('_', ' ')
