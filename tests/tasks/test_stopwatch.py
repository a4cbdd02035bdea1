import pytest
from scipy import stats

from jax_mrissl.tasks.stopwatch import spread


@pytest.mark.parametrize('count', [6, 7, 9, 12, 25])
def test_the_interval_is_of_order_statistics(count):
    found = spread(list(range(count)))
    cut = int(found.low)
    assert found.high == count - 1 - cut
    # As many values are cut off as leave 95 %, and no fewer.
    assert 1 - 2 * stats.binom.cdf(cut, count, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(cut + 1, count, 0.5) < 0.95
    assert found.median == (count - 1) / 2


def test_of_few_values_the_interval_is_all():
    found = spread([3.0, 1.0, 2.0])
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)
    assert found.visible_change == 1.0
