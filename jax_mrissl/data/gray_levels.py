"""How the values of scans become gray: windows, percentiles, levels of 16 bits."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.scan import SliceFacts
from jax_mrissl.data.spec import DatasetSpec
from jax_mrissl.data.spool import Spool

# Hounsfield units reach below this wherever there is air; no other unit does.
_AIR = -500.0
# The greatest number of 16 bits.
_HIGHEST = 65535


def with_limits(
    spec: DatasetSpec,
    items: list[Item],
    files: Sequence[RawFile],
    bits: int,
    spool: Spool,
) -> list[Item]:
    """Sets the range of values of each scan, by its series."""

    def series(item: Item) -> tuple[str, ...]:
        assert item.facts
        if item.facts.series:
            return files[item.file].source, item.facts.series
        return files[item.file].source, files[item.file].path

    members: dict[tuple[str, ...], list[int]] = {}
    for index, item in enumerate(items):
        if item.facts and not item.facts.picture and not item.facts.blank:
            members.setdefault(series(item), []).append(index)
    result = list(items)
    for some in members.values():
        facts = [f for i in some if (f := items[i].facts)]
        values = np.sort(
            np.concatenate(
                [
                    spool.quantiles(items[index].file, one.place)
                    for index, one in zip(some, facts, strict=True)
                ]
            )
        )
        low, high = (
            float(v) for v in np.percentile(values, spec.intensity.percentiles)
        )
        levels = _levels(facts) if bits == 16 else ()
        lowest = min(one.lowest for one in facts)
        for index, one in zip(some, facts, strict=True):
            if items[index].reason:
                continue
            windows = _windows(spec, one, (low, high), lowest)
            if all(first < last for first, last in windows):
                fields: dict[str, Any] = {'windows': windows, 'levels': levels}
            else:
                fields = {'reason': 'blank image'}
            result[index] = dataclasses.replace(items[index], **fields)
    return result


def _levels(series: Sequence[SliceFacts]) -> tuple[float, float]:
    """Says how the values of a series are stored in 16 bits: the least, and a step.

    Whole numbers are stored as they are, from 0 or the least of them on; others, and
    those that span more, by as small steps as the bits allow.
    """
    lowest = min(facts.lowest for facts in series)
    highest = max(facts.highest for facts in series)
    least = min(lowest, 0.0)
    if all(facts.integral for facts in series) and highest - least <= _HIGHEST:
        return least, 1.0
    return lowest, (highest - lowest) / _HIGHEST


def _windows(
    spec: DatasetSpec, facts: SliceFacts, limits: tuple[float, float], lowest: float
) -> tuple[tuple[float, float], ...]:
    """Gives the values of a scan that become 0 and 255, one pair or three."""
    untold_ct = not facts.modality and spec.modality == 'CT' and lowest < _AIR
    modality = 'CT' if untold_ct else facts.modality
    return spec.intensity.told_windows(modality, facts.window) or (limits,)
