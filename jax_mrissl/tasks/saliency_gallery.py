"""Saliency of a finished run: worst and best cases, averages, and what maps are worth.

Written into the run as `saliency/maps.npz` (arrays) and `saliency/saliency.json`
(numbers, and hashes of subjects); the page reads them.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging

from jax_mrissl.augment.intensity import Normalize
from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.build import build
from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import read_json, write_atomically, write_json
from jax_mrissl.data.pipeline import resident
from jax_mrissl.models import ENCODERS
from jax_mrissl.saliency.maps import Explainer, Integrated, Network
from jax_mrissl.saliency.regions import (
    blurred,
    dark_inside,
    foreground,
    rank_correlation,
    share,
)
from jax_mrissl.tasks.fold_network import FoldNetwork
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.labelled import LabelledData
from jax_mrissl.tasks.opened_run import OpenedArm, OpenedRun
from jax_mrissl.tasks.pooling import Arm, pool

FOLDER = 'saliency'
MAPS, NUMBERS = f'{FOLDER}/maps.npz', f'{FOLDER}/saliency.json'
METHODS = ('grad_cam', 'integrated_gradients', 'smooth_grad')
# Those that are cheap enough for every subject.
AVERAGED = ('grad_cam', 'smooth_grad')
# How much the sum of integrated gradients may miss of the change that it explains.
TOLERANCE = 0.01
# Of a class, so many subjects at most are averaged.
_MOST_AVERAGED = 40
_DRAWS = {'case': 16, 'average': 4}
_BATCH_SIZE = 32
# Of a subject's hash, enough to tell it from the others.
_SHORT = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One subject, by its central tested slice.

    Attributes:
        kind: 'worst' or 'best' told of all; 'average' for one of many.
        row: of the labelled data.
        fold: which tested it; the network of that fold is explained.
        subject: a short hash.
        truth, told: its true and its most probable class, or numbers.
        target: the class that is explained; of a number, 0.
        loss: of the subject.
    """

    kind: str
    row: int
    fold: int
    subject: str
    truth: str
    told: str
    target: int
    loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class SaliencyGallery:
    """What a network looked at, and whether such maps can be believed.

    Attributes:
        arm: whose networks.
        cases: the worst told subjects, the worst first, then the best told.
        images: float32 [n, S, S], what the network saw of each case, in [0, 1].
        maps: by method, float32 [n, S, S]; of `integrated_gradients` signed.
        groups: the classes, or bands, that averages are over.
        average_images: float32 [k, S, S].
        average_maps: by method, float32 [k, S, S]; each image's map adds up to one.
        numbers: JSON: shares of attribution, completeness, and the likeness of maps
            to those of random networks.
    """

    arm: OpenedArm
    cases: tuple[Case, ...]
    images: np.ndarray
    maps: Mapping[str, np.ndarray]
    groups: tuple[str, ...]
    average_images: np.ndarray
    average_maps: Mapping[str, np.ndarray]
    numbers: Json


def saliency_gallery(
    run: OpenedRun, arm: OpenedArm, data: LabelledData, *, cases: int = 4
) -> SaliencyGallery:
    """Explains what an arm's networks said of subjects that they did not train on.

    Args:
        run: a finished one.
        arm: in full or linear; of a linear probe its encoder and the probe together.
        data: the labelled images of the run.
        cases: how many of the worst and how many of the best.
    """
    subjects = _subjects(arm, data)
    order = sorted(subjects, key=lambda case: (-case.loss, case.subject))
    count = min(cases, len(order) // 2)
    chosen = [
        *(dataclasses.replace(case, kind='worst') for case in order[:count]),
        *(dataclasses.replace(case, kind='best') for case in order[::-1][:count]),
    ]
    averaged = _some_of_each(subjects, data)
    studio = _Studio(run, run.networks(arm))
    views = studio.views(data, [case.row for case in (*chosen, *averaged)])
    images, others = views[: len(chosen)], views[len(chosen) :]
    with Progress('Saliency maps', len(views), unit='images') as bar:
        maps, integrated = studio.explain(chosen, images, bar)
        random_maps, _ = studio.explain(chosen, images, bar=None, random=True)
        cheap = studio.explain_cheaply(averaged, others, bar)
    inside = np.array([foreground(image.mean(-1)) for image in images])
    groups, average_images, average_maps = _averages(averaged, others, cheap, data)
    return SaliencyGallery(
        arm=arm,
        cases=tuple(chosen),
        images=images.mean(-1),
        maps=maps,
        groups=groups,
        average_images=average_images,
        average_maps=average_maps,
        numbers={
            'shares': _shares(others, cheap) | _shares(images, maps, cases_only=True),
            'completeness': _completeness(integrated),
            'grad_cam_grid': studio.grid(images),
            'random_networks': {
                method: _likeness(maps[method], random_maps[method], inside)
                for method in METHODS
            },
        },
    )


def write_gallery(gallery: SaliencyGallery, run: OpenedRun) -> None:
    """Writes `saliency/maps.npz`, then `saliency/saliency.json`."""
    arrays = {
        'images': gallery.images,
        'average_images': gallery.average_images,
        **{f'map_{name}': maps for name, maps in gallery.maps.items()},
        **{f'average_{name}': maps for name, maps in gallery.average_maps.items()},
    }
    buffer = io.BytesIO()
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    np.savez_compressed(buffer, allow_pickle=False, **halves)
    write_atomically(run.workdir / MAPS, buffer.getvalue())
    write_json(
        run.workdir / NUMBERS,
        {
            'made_of': _made_of(gallery.arm),
            'arm': gallery.arm.label,
            'cases': [
                {k: v for k, v in vars(case).items() if k not in ('row', 'target')}
                for case in gallery.cases
            ],
            'groups': list(gallery.groups),
            **gallery.numbers,
        },
    )


def is_written(arm: OpenedArm, told: Json) -> bool:
    """Says whether `saliency.json` is of this arm's networks."""
    return told.get('made_of') == _made_of(arm)


def _made_of(arm: OpenedArm) -> str:
    # A stage's folder is named by its content.
    return arm.folder.name


def _subjects(arm: OpenedArm, data: LabelledData) -> list[Case]:
    """Gives a case for every tested subject."""
    pooled = pool(Arm(arm.name, arm.mode, arm.folder), data)
    fold_of = np.full(len(data.labels), -1)
    for index, fold in enumerate(data.folds):
        fold_of[data.rows(fold.test)] = index
    prepared, groups = data.prepared, data.prepared.groups[pooled.rows]
    found = []
    for group in np.unique(groups):
        own = groups == group
        rows = pooled.rows[own]
        order = np.lexsort((prepared.file_ids[rows], prepared.positions[rows]))
        row = int(rows[order][len(rows) // 2])
        label = int(data.labels[row])
        if data.task.kind == 'regression':
            truth = float(pooled.columns['targets'][own].mean())
            number = float(pooled.columns['predictions'][own].mean())
            words, target, loss = (
                (f'{truth:.3g}', f'{number:.3g}'),
                0,
                abs(truth - number),
            )
        else:
            told = pooled.columns['probabilities'][own].mean(0)
            target = int(told.argmax())
            loss = -float(np.log(max(told[label], 1e-7)))
            words = data.task.classes[label], data.task.classes[target]
        case = Case(
            'average', row, int(fold_of[row]), group[:_SHORT], *words, target, loss
        )
        found.append(case)
    return found


def _some_of_each(subjects: Sequence[Case], data: LabelledData) -> list[Case]:
    """Takes subjects of every class, by their hashes; each is asked for its own."""
    found = []
    for label in range(len(data.task.classes)):
        own = [case for case in subjects if data.labels[case.row] == label]
        target = 0 if data.task.kind == 'regression' else label
        found += [
            dataclasses.replace(case, target=target)
            for case in sorted(own, key=lambda case: case.subject)[:_MOST_AVERAGED]
        ]
    return found


class _Studio:
    """Makes maps of cases, each by the network of its fold."""

    def __init__(self, run: OpenedRun, networks: Sequence[FoldNetwork]):
        self._run, self._networks = run, networks
        self._view, normalize = _split(run.policy)
        kind = build(ENCODERS, run.told['encoder'], where='encoder')
        devices = run.parallel.device_count
        self._explainer = Explainer(
            # In float32, also where training was not: gradients are added up.
            encoder=kind.module(),
            head=networks[0].head,
            normalize=normalize,
            tells_number=run.task.kind == 'regression',
            place=run.parallel.place_feed,
            batch_size=-(-_BATCH_SIZE // devices) * devices,
        )

    def views(self, data: LabelledData, rows: Sequence[int]) -> np.ndarray:
        """Gives what a network is shown of rows, before it is normalised.

        Returns: float32 [n, S, S, C] in [0, 1].
        """
        some = data.prepared.select(np.array(rows))
        source = resident(some)
        made = jax.jit(self._view)(
            jax.random.key(0),
            source.image,
            source.box,
            np.arange(len(rows), dtype=np.int32),
            source.window,
        )
        return np.asarray(made, np.float32)

    def grid(self, images: np.ndarray) -> list[int]:
        """Gives rows and columns that Grad-CAM tells apart."""
        return list(self._explainer.grid(self._network(0), images))

    def explain(
        self,
        cases: Sequence[Case],
        images: np.ndarray,
        bar: Progress | None,
        *,
        random: bool = False,
    ) -> tuple[dict[str, np.ndarray], list[Integrated]]:
        """Makes all maps; `random`: of networks that learned nothing."""
        shape = images.shape[:3]
        maps = {method: np.zeros(shape, np.float32) for method in METHODS}
        parts = []
        for fold, rows in self._by_fold(cases):
            network = self._network(fold, random=random)
            given = network, images[rows], _targets(cases, rows)
            maps['grad_cam'][rows] = self._explainer.grad_cam(*given)
            maps['smooth_grad'][rows] = self._explainer.smooth_grad(
                *given, draws=_DRAWS['case']
            )
            part = self._explainer.integrated_gradients(
                *given,
                baselines=blurred(images[rows]),
                tolerance=np.inf if random else TOLERANCE,
            )
            maps['integrated_gradients'][rows] = part.maps
            parts.append(part)
            if bar:
                bar.advance(len(rows))
        return maps, parts

    def explain_cheaply(
        self, cases: Sequence[Case], images: np.ndarray, bar: Progress
    ) -> dict[str, np.ndarray]:
        """Makes those maps that cost little."""
        maps = {m: np.zeros(images.shape[:3], np.float32) for m in AVERAGED}
        for fold, rows in self._by_fold(cases):
            given = self._network(fold), images[rows], _targets(cases, rows)
            maps['grad_cam'][rows] = self._explainer.grad_cam(*given)
            maps['smooth_grad'][rows] = self._explainer.smooth_grad(
                *given, draws=_DRAWS['average']
            )
            bar.advance(len(rows))
        return maps

    def _by_fold(self, cases: Sequence[Case]) -> list[tuple[int, np.ndarray]]:
        folds = np.array([case.fold for case in cases])
        return [(int(f), np.flatnonzero(folds == f)) for f in np.unique(folds)]

    @functools.lru_cache(maxsize=2)  # noqa: B019  (as short-lived as its run)
    def _network(self, fold: int, *, random: bool = False) -> Network:
        network = self._networks[fold]
        if random:
            network = self._run.randomized(network, seed=fold)
        replicate = self._run.parallel.replicate
        return Network(replicate(network.params), replicate(network.model_state))


def _split(policy: Policy) -> tuple[Policy, Callable[[jax.Array], jax.Array]]:
    """Splits a view into what is seen and how that is normalised."""
    last = policy.ops[-1] if policy.ops else None
    if not isinstance(last, Normalize):
        return policy, lambda view: view
    key = jax.random.key(0)  # it draws nothing
    return Policy(policy.crop, policy.ops[:-1]), lambda view: last(key, view)


def _targets(cases: Sequence[Case], rows: np.ndarray) -> np.ndarray:
    return np.array([cases[row].target for row in rows], np.int32)


def _shares(
    images: np.ndarray, maps: Mapping[str, np.ndarray], *, cases_only: bool = False
) -> Json:
    """Gives the mean shares of attribution in regions, and of their area."""
    inside = np.array([foreground(image.mean(-1)) for image in images])
    dark = np.array(
        [
            dark_inside(image.mean(-1), region)
            for image, region in zip(images, inside, strict=True)
        ]
    )
    found = {}
    for method, own in maps.items():
        if cases_only and method in AVERAGED:
            continue
        of = {}
        for name, regions in (('inside', inside), ('dark', dark)):
            values = [share(m, r) for m, r in zip(own, regions, strict=True)]
            of[name] = {
                'attribution': _mean(values),
                'area': float(regions.mean()),
                'images': int(np.isfinite(values).sum()),
            }
        found[method] = of
    return found


def _completeness(parts: Sequence[Integrated]) -> Json:
    gaps = np.concatenate([part.gap for part in parts])
    return {
        'images': len(gaps),
        'tolerance': TOLERANCE,
        'within': int((gaps <= TOLERANCE).sum()),
        'largest_gap': float(gaps.max()),
        'median_gap': float(np.median(gaps)),
        'most_points': int(max(part.points.max() for part in parts)),
    }


def _likeness(maps: np.ndarray, others: np.ndarray, inside: np.ndarray) -> Json:
    """Gives the mean rank correlation of maps, and between which it lies."""
    found = [
        rank_correlation(a, b, region)
        for a, b, region in zip(maps, others, inside, strict=True)
    ]
    known = [value for value in found if np.isfinite(value)]
    return {
        'rank_correlation': _mean(found),
        'least': min(known, default=None),
        'largest': max(known, default=None),
        'images': len(known),
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _averages(
    cases: Sequence[Case],
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    data: LabelledData,
) -> tuple[tuple[str, ...], np.ndarray, dict[str, np.ndarray]]:
    labels = data.labels[[case.row for case in cases]]
    shown = np.unique(labels)
    whole = {
        method: own / np.maximum(own.sum((1, 2), keepdims=True), 1e-12)
        for method, own in maps.items()
    }
    return (
        tuple(data.task.classes[label] for label in shown),
        np.stack([images[labels == k].mean((0, -1)) for k in shown]),
        {
            method: np.stack([own[labels == k].mean(0) for k in shown])
            for method, own in whole.items()
        },
    )


def ensure_gallery(run: OpenedRun, data: LabelledData) -> None:
    """Writes the gallery of the arm that `OpenedRun.choose` gives, unless it is there.

    A run whose arms are all of neighbours has none.
    """
    if not any(arm.is_asked for arm in run.arms):
        return
    arm = run.choose()
    path: Path = run.workdir / NUMBERS
    if path.exists() and is_written(arm, read_json(path)):
        return
    logging.info('Making saliency maps (%s).', arm.label)
    write_gallery(saliency_gallery(run, arm, data), run)
