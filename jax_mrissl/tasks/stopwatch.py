"""Times by the clock, with how far they can be trusted."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median of repeated measurements, and an interval for it.

    Attributes:
        median: of the measurements.
        low, high: an interval that holds the true median with 95 % probability, if
            the measurements were independent; with fewer than six of them, all.
        count: how many there were.
    """

    median: float
    low: float
    high: float
    count: int

    @property
    def visible_change(self) -> float:
        """The least change, as a share, that two such measurements would tell."""
        return (self.high - self.low) / self.median if self.median else math.inf


def spread(values: Sequence[float]) -> Spread:
    """Gives the median and its interval, by order statistics.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2: the
    number of values below the median is binomial with probability one half.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside, cut = 0.0, 0
    # Values `cut` from either end: the most that leaves 95 % between them.
    while cut < count // 2:
        outside += 2 * math.comb(count, cut) / 2**count
        if outside > 1 - _CONFIDENCE:
            break
        cut += 1
    cut = max(cut - 1, 0)
    return Spread(
        statistics.median(ordered), ordered[cut], ordered[count - 1 - cut], count
    )


def seconds_of(run: Callable[[], object]) -> float:
    """Runs once; gives the seconds it took."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
