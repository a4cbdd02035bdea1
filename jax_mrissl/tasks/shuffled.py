"""The control of shuffled labels: whether arms tell more than chance allows."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_mrissl.core.results import SIMULATED
from jax_mrissl.metrics.classification import by_subject
from jax_mrissl.metrics.panel import subject_means
from jax_mrissl.metrics.permutation import Permuted, permuted_auroc, permuted_spearman
from jax_mrissl.report.run_facts import metric_words
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.measured import Measured
from jax_mrissl.tasks.pooling import Pooled

PERMUTATIONS = 2000


def chances(measured: Sequence[Measured], data: LabelledData, seed: int) -> list[Json]:
    """Looks where each arm's ranking of subjects lies among permuted labels.

    Args:
        measured: all arms; those that tell one and the same of all are left out.
        data: whose labels were shuffled.
        seed: of the permutations.

    Returns: of each: `arm` and `mode`; `metric`, by subject; `value`, `low`, `high`
    and `p` as in `Permuted`; `is_inside`; and how many `permutations`.
    """
    metric, among = ('macro_auroc', _of_classes)
    if data.task.kind == 'regression':
        metric, among = ('spearman', _of_numbers)
    found = []
    for one in measured:
        shown = not one.arm.only or metric in one.arm.only
        where = among(one.pooled, data, seed) if shown else None
        if where:
            found.append(
                {
                    'arm': one.arm.name,
                    'mode': one.arm.mode,
                    'unit': 'subject',
                    'metric': metric,
                    'permutations': PERMUTATIONS,
                    **dataclasses.asdict(where),
                    'is_inside': where.is_inside,
                }
            )
    return found


def _of_classes(pooled: Pooled, data: LabelledData, seed: int) -> Permuted | None:
    labels, groups = data.labels[pooled.rows], data.prepared.groups[pooled.rows]
    whole = by_subject(pooled.columns['probabilities'], labels, groups)
    if _is_constant(whole.probabilities):
        return None
    return permuted_auroc(
        whole.probabilities, whole.labels, permutations=PERMUTATIONS, seed=seed
    )


def _of_numbers(pooled: Pooled, data: LabelledData, seed: int) -> Permuted | None:
    _, member = np.unique(data.prepared.groups[pooled.rows], return_inverse=True)
    told, truth = (
        subject_means(pooled.columns[name], member)
        for name in ('predictions', 'targets')
    )
    if _is_constant(told):
        return None
    return permuted_spearman(told, truth, permutations=PERMUTATIONS, seed=seed)


def _is_constant(told: np.ndarray) -> bool:
    return float(np.ptp(told, axis=0).max()) < 1e-9


def chance_texts(found: Sequence[Json], data: LabelledData) -> list[str]:
    """Says in a paragraph what `chances` found; none if that is nothing."""
    if not found:
        return []
    mark = f' ({SIMULATED})' if data.prepared.card['simulated'] else ''
    arms = '; '.join(
        f'{one["arm"]}{", " if one["mode"] else ""}{one["mode"]} {one["value"]:.3f}, '
        f'{"inside" if one["is_inside"] else "OUTSIDE"} [{one["low"]:.3f}, '
        f'{one["high"]:.3f}]'
        for one in found
    )
    text = (
        f'Shuffled labels, {metric_words(found[0]["metric"])} by subject{mark}, and '
        f'the middle 95 % of {found[0]["permutations"]:,} permutations of the tested '
        f'labels: {arms}.'
    )
    if any(one['value'] > one['high'] for one in found):
        text += (
            ' Above it, an arm knows whose image it sees: other images of tested '
            'subjects were trained on.'
            if data.is_leaky
            else ' By chance about one arm in twenty lies above it, as nothing is '
            'trained again for a permutation; more of them, or far above, would mean '
            'that subjects leak.'
        )
    return [text]
