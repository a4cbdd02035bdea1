"""How the values of scans become gray: windows, percentiles, levels of 16 bits."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.scan import SliceFacts
from jax_mrissl.data.spec import DatasetSpec

# Hounsfield units reach below this wherever there is air; no other unit does.
_AIR = -500.0
# The greatest number of 16 bits.
_HIGHEST = 65535


def with_limits(
    spec: DatasetSpec, items: list[Item], files: Sequence[RawFile], bits: int
) -> list[Item]:
    """Sets the range of values of each scan, by its series."""

    def series(item: Item) -> tuple[str, ...]:
        assert item.facts
        if item.facts.series:
            return files[item.file].source, item.facts.series
        return files[item.file].source, files[item.file].path

    pooled: dict[tuple[str, ...], list[SliceFacts]] = {}
    for item in items:
        if item.facts and not item.facts.picture and not item.facts.blank:
            pooled.setdefault(series(item), []).append(item.facts)
    limits, levels = {}, {}
    for name, some in pooled.items():
        values = np.sort(np.concatenate([facts.quantiles for facts in some]))
        limits[name] = np.percentile(values, spec.intensity.percentiles)
        levels[name] = _levels(some) if bits == 16 else ()
    result = []
    for item in items:
        if item.facts and not item.facts.picture and not item.reason:
            low, high = (float(v) for v in limits[series(item)])
            lowest = min(facts.lowest for facts in pooled[series(item)])
            windows = _windows(spec, item.facts, (low, high), lowest)
            if all(first < last for first, last in windows):
                item = dataclasses.replace(
                    item, windows=windows, levels=levels[series(item)]
                )
            else:
                item = dataclasses.replace(item, reason='blank image')
        result.append(item)
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
    if facts.window and facts.modality in spec.intensity.windowed:
        return (facts.window,)
    untold_ct = not facts.modality and spec.modality == 'CT' and lowest < _AIR
    if facts.modality == 'CT' or untold_ct:
        return spec.intensity.hounsfield_windows()
    return (limits,)
