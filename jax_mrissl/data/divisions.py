"""How labelled images are divided into training, validation and test."""

import dataclasses

import numpy as np

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.splits import (
    Fold,
    fold_around,
    folds,
    group_labels,
    missing_classes,
)

DIVISIONS = ('subject', 'site', 'image', 'shipped')
# With these, images of one subject stand on both sides.
LEAKY = ('image', 'shipped')


@dataclasses.dataclass(frozen=True, eq=False)
class Division:
    """Folds, and what they are made of.

    Attributes:
        kind: of `DIVISIONS`.
        units: text [n], by image what the folds name: its subject, or in a leaky
            division the image itself.
        folds: of those units.
        warnings: what a reader of the results must know.
    """

    kind: str
    units: np.ndarray
    folds: tuple[Fold, ...]
    warnings: tuple[str, ...]


def divide(
    kind: str,
    prepared: PreparedSet,
    labels: np.ndarray,
    classes: tuple[str, ...],
    *,
    count: int,
    seed: int,
) -> Division:
    """Divides the labelled images.

    Args:
        kind: 'subject': folds of subjects, stratified by class. 'site': each site is
            tested once, by what was learned at the others. For comparison, and leaky:
            'image', folds of images, whoever is on them; 'shipped', the set's own
            split called test, by the others.
        prepared: the images.
        labels: int [n], class numbers.
        classes: their names.
        count: how many folds; by site and as shipped it only says which share
            validates, one in so many.
        seed: of the division.

    Raises:
        UserError: the set has no such division, is too small for it, or has a subject
            with two labels.
    """
    expect_known(kind, DIVISIONS, 'finetune.division')
    leaky = kind in LEAKY
    units = prepared.file_ids if leaky else prepared.groups
    if leaky:  # folds of subjects look themselves
        group_labels(prepared.groups, labels)
    told = (units, labels, prepared.pixel_sha256)
    if kind in ('subject', 'image'):
        made, warnings = folds(*told, classes=classes, count=count, seed=seed)
    else:
        parts = _by_site(prepared) if kind == 'site' else [_shipped_test(prepared)]
        made = tuple(
            fold_around(test, *told, count=count, salt=(seed, index))
            for index, test in enumerate(parts)
        )
        own = dict(zip(map(str, units), map(int, labels), strict=True))
        warnings = missing_classes(made, own, classes)
    if leaky:
        warnings = [
            'LEAKY: images of one subject are in training and in test, so these '
            'numbers say how well subjects are recognised, not how well disease is.',
            *warnings,
        ]
    return Division(kind, units, made, tuple(warnings))


def _by_site(prepared: PreparedSet) -> list[set[str]]:
    """Gives the subjects of each site, sites in order of their hashes."""
    found: dict[str, set[str]] = {}
    for site, group in zip(prepared.sites, prepared.groups, strict=True):
        found.setdefault(str(site), set()).add(str(group))
    unknown = len(found.pop('', ()))
    if unknown:
        raise UserError(
            f'finetune.division=site: {unknown} subjects have no site. A table with a '
            'column `site` brings them: python -m jax_mrissl.prepare --help.'
        )
    if len(found) < 2:
        raise UserError('finetune.division=site needs two sites; there is one.')
    torn = sum(map(len, found.values())) - len(set().union(*found.values()))
    if torn:
        raise UserError(
            f'finetune.division=site: {torn} subjects were seen at two sites, and '
            'would be on both sides. Correct the table.'
        )
    return [found[site] for site in sorted(found)]


def _shipped_test(prepared: PreparedSet) -> set[str]:
    names = sorted(set(map(str, prepared.splits)))
    if 'test' not in names or len(names) < 2:
        raise UserError(
            'finetune.division=shipped needs a set with a split called test and '
            f'another; {prepared.name} has {", ".join(names)}. '
            '--config.finetune.data.split=all takes them all.'
        )
    return set(map(str, prepared.file_ids[prepared.splits == 'test']))
