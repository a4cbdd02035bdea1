"""The part of a run's page that shows saliency maps and what they are worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mrissl.core.run_dir import read_json
from jax_mrissl.report.montage import montage
from jax_mrissl.report.overlay import overlay
from jax_mrissl.report.run_facts import FactTable, Gallery, Picture
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.saliency_gallery import AVERAGED, MAPS, METHODS, NUMBERS

NAMES = {
    'grad_cam': 'Grad-CAM',
    'integrated_gradients': 'integrated gradients',
    'smooth_grad': 'SmoothGrad',
}
# Maps that are this alike, whatever a network learned, show the image and not it.
ALIKE = 0.7
_CELL = 144
_TARGETS = (
    'Here integrated gradients are of the class that was told, in the worst and best '
    'cases; the others of the true class, as in the means.'
)


def saliency_section(
    workdir: Path,
    stages: Sequence[str],
    *,
    simulated: bool,
    kind: str,
    told_by: str,
    under_trained: Sequence[str] = (),
) -> list[Gallery]:
    """Gives the section; nothing where no map of these stages was made.

    Args:
        workdir: the run directory.
        stages: the names of the folders of the page's arms.
        simulated: whether no patient is on the pictures.
        kind: of the task.
        told_by: which networks tell a subject.
        under_trained: the labels of arms that are no result.
    """
    if not (workdir / NUMBERS).exists() or not (workdir / MAPS).exists():
        return []
    told = read_json(workdir / NUMBERS)
    if told['made_of'] not in stages:  # of networks that are not these
        return []
    with np.load(workdir / MAPS, allow_pickle=False) as stored:
        arrays = {name: stored[name].astype(np.float32) for name in stored.files}
    word = 'simulated ' if simulated else ''
    pictures = [
        _case(case, row, arrays, word) for row, case in enumerate(told['cases'])
    ]
    numbers = kind == 'regression'
    failed = told['arm'] in under_trained
    pictures.append(_averages(told['groups'], arrays, word, numbers))
    notes: tuple[str, ...] = (
        _reading(told, told_by, numbers),
        _completeness(told),
        _random(told, conclude=not failed),
    )
    if failed:
        notes = (
            f'{told["arm"]} is under-trained: these maps show how a network looks at '
            'slices that learned next to nothing.',
            *notes,
        )
    gallery = Gallery(
        'What the network looked at',
        notes,
        tuple(pictures),
        sheet=True,
        table=_table(told, numbers),
    )
    return [gallery]


def _case(case: Json, row: int, arrays: dict[str, np.ndarray], word: str) -> Picture:
    image = arrays['images'][row]
    panels: list[np.ndarray] = [image]
    panels += [overlay(image, arrays[f'map_{method}'][row]) for method in METHODS]
    kind = 'Among the worst told' if case['kind'] == 'worst' else 'Among the best told'
    words = f'true {case["truth"]}, told {case["told"]}'
    names = ', '.join(NAMES[method] for method in METHODS)
    return Picture(
        montage([panels], ['slice', *(NAMES[m] for m in METHODS)], cell=_CELL),
        f'The central {word}slice of subject {case["subject"]} ({words}), and laid '
        f'over it: {names}.',
        (f'{kind}: {words}.', f'Subject {case["subject"]}, fold {case["fold"] + 1}.'),
    )


def _averages(
    groups: Sequence[str], arrays: dict[str, np.ndarray], word: str, numbers: bool
) -> Picture:
    rows = []
    for index in range(len(groups)):
        image = arrays['average_images'][index]
        maps = [arrays[f'average_{method}'][index] for method in AVERAGED]
        rows.append([image, *(overlay(image, one) for one in maps)])
    names = ' and '.join(NAMES[method] for method in AVERAGED)
    what = 'number, in bands' if numbers else 'class; maps are of what speaks for it'
    return Picture(
        montage(rows, ['mean slice', *(NAMES[m] for m in AVERAGED)], cell=_CELL),
        f'For each {"band" if numbers else "class"} a row, {", ".join(groups)}: the '
        f'mean of the central {word}slices, and on it the mean of {names}.',
        (
            f'Means over subjects by true {what}. From above: {", ".join(groups)}.',
            'They mean something as far as slices lie alike in the picture.',
        ),
    )


def _reading(told: Json, told_by: str, numbers: bool) -> str:
    rows, columns = told['grad_cam_grid']
    what = 'raises the number' if numbers else 'speaks for the class'
    return (
        f'Central slices, explained by {told["arm"]}, each subject by {told_by}: what '
        f'{what} that was told. Grad-CAM: where the last layer does so, on a grid of '
        f'{rows} x {columns}. '
        'Integrated gradients: what each pixel adds (orange) or takes away (blue), '
        'against the same slice blurred. SmoothGrad: how much the answer depends on '
        'each pixel. A map shows what moved this network; it shows no disease.'
    )


def _completeness(told: Json) -> str:
    found = told['completeness']
    return (
        f'Integrated gradients add up to the change of the score within '
        f'{100 * found["tolerance"]:.0f} % in {found["within"]} of {found["images"]} '
        f'pictures (largest gap {100 * found["largest_gap"]:.2g} %).'
    )


def _random(told: Json, *, conclude: bool) -> str:
    """Holds maps against those of random networks; `conclude` says what follows."""
    found = told['random_networks']
    likeness = {NAMES[m]: found[m]['rank_correlation'] for m in METHODS}
    values = '; '.join(f'{name} {_number(value)}' for name, value in likeness.items())
    text = (
        'With random numbers in place of what the network learned, maps resemble these '
        f'by a rank correlation of: {values} (mean, inside the brain or head; 1: the '
        'same).'
    )
    if not conclude:
        return text
    known = {name: value for name, value in likeness.items() if value is not None}
    alike = [name for name, value in known.items() if value > ALIKE]
    unlike = [name for name in known if name not in alike]
    if len(unlike) == len(METHODS):
        return f'{text} So they depend on what was learned.'
    if alike:
        verb = 'depends' if len(alike) == 1 else 'depend'
        text += (
            f' {" and ".join(alike)} hardly {verb} on what was learned: read nothing '
            'into it.'
        )
    lost = [name for name in likeness if name not in known]
    if lost:
        text += f' Of {" and ".join(lost)} it cannot be told: a map was empty.'
    return text


def _table(told: Json, numbers: bool) -> FactTable:
    rows = []
    for method in METHODS:
        shares = told['shares'][method]
        rows.append(
            (
                NAMES[method],
                f'{shares["inside"]["images"]:,}',
                _percent(shares['inside']['attribution']),
                _percent(shares['inside']['area']),
                _percent(shares['dark']['attribution']),
                _percent(shares['dark']['area']),
                _number(told['random_networks'][method]['rank_correlation']),
            )
        )
    return FactTable(
        'Where saliency lies',
        (
            'method',
            'slices',
            'in the brain or head',
            'its share of the area',
            'in dark regions of it',
            'their share of the area',
            'likeness to random networks',
        ),
        tuple(rows),
        (
            'Shares of the absolute attribution. Brain or head: the largest region '
            "above Otsu's threshold, filled. Dark: below 60 of 255 in it, ventricles "
            'and sulci. A share above that of the area: looked at more than by chance.',
            *(() if numbers else (_TARGETS,)),
        ),
    )


def _percent(value: Any) -> str:
    return 'undefined' if value is None else f'{100 * value:.1f} %'


def _number(value: Any) -> str:
    return 'undefined' if value is None else f'{value:.2f}'
