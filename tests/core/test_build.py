"""Sections of a config become objects; wrong types are told in words."""

import dataclasses
from typing import Any, Literal

import pytest

from jax_mrissl.core.build import build, typed
from jax_mrissl.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Blur:
    size: int
    sigma: tuple[float, float] = (0.1, 2.0)
    widths: tuple[int, ...] = ()
    rate: float | None = None
    kind: Literal['box', 'gauss'] = 'gauss'
    label: str = ''
    twice: bool = False
    other: Any = None


def test_values_get_the_types_that_are_declared():
    section = dict(
        name='blur', size=3, sigma=[1, 2], widths=[4, 5], rate=0, other=[1, [2]]
    )
    made = build({'blur': Blur}, section, where='here')
    assert made == Blur(3, (1.0, 2.0), (4, 5), 0.0, other=(1, (2,)))
    assert [type(v) for v in (*made.sigma, made.rate)] == [float] * 3
    assert typed(Blur, {'rate': None, 'kind': 'box'}) == {'rate': None, 'kind': 'box'}
    hash(made)  # programs are told apart by what they are made of


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'size': 8.5}, 'size is 8.5; a whole number'),
        ({'size': True}, 'size is True; a whole number'),
        ({'size': None}, 'size is None; a whole number'),
        ({'sigma': 0.5}, 'sigma is 0.5; 2 values in brackets, each a number'),
        ({'sigma': (1, 2, 3)}, '2 values in brackets'),
        ({'widths': 16}, 'widths is 16; values in brackets, each a whole number'),
        ({'widths': (16, '8')}, 'each a whole number'),
        ({'rate': 'fast'}, "rate is 'fast'; a number or None"),
        ({'label': 3}, 'label is 3; a text'),
        ({'twice': 1}, 'twice is 1; True or False'),
    ],
)
def test_wrong_types_are_told_in_words(fields, words):
    with pytest.raises(UserError, match=f'here .*{words}'):
        build({'blur': Blur}, {'name': 'blur', 'size': 1} | fields, where='here')
