"""What a search may change of pretraining, and how it goes about it: config, read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.stages.grid import StudyConfig, Value

SAMPLERS = ('random', 'tpe')
PRUNERS = ('median', 'none')
# How a field's values may be declared; the last two by the value that the config has.
_DECLARED = {
    'low': ('low', 'high', 'log'),
    'choices': ('choices',),
    'times': ('times',),
    'shares': ('shares',),
}
# In a space: the field that the length of pretraining goes by.
_LENGTH = 'length'


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One field that a search may change.

    Attributes:
        name: dotted, of a section of pretraining: 'optimizer.rate_per_256'.
        default: what the config has there.
        low, high: between which it is drawn, whole numbers if both are; None: it is
            chosen from `choices`.
        log: whether its logarithm is drawn evenly.
        choices: the values; (): it is a number from `low` to `high`.
    """

    name: str
    default: Value
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self):
        if self.choices:
            inside = self.default in self.choices
            words = f'is none of {", ".join(map(str, self.choices))}'
        else:
            if self.low is None or self.high is None or not self.low < self.high:
                raise UserError(f'{self.name}: low is not below high.')
            if self.log and self.low <= 0:
                raise UserError(f'{self.name}: a range with log=True is above 0.')
            inside = self.low <= self.default <= self.high  # type: ignore[operator]
            words = f'lies outside of {self.low:g} to {self.high:g}'
        if not inside:
            # It is the first trial of every arm.
            raise UserError(
                f'{self.name}: {self.default}, the value of the config, {words}.'
            )

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole number."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def to_json(self) -> dict[str, Any]:
        """Gives its range as JSON values."""
        if self.choices:
            return {'choices': list(self.choices)}
        return {'low': self.low, 'high': self.high, 'log': self.log}


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """How a search goes about it: the section `search` of a study's config.

    Attributes:
        trials: of every arm, the config's own settings among them.
        sampler: 'random': nothing that was found decides what is tried next. 'tpe':
            what did well does, by the mean over folds.
        pruner: 'median' gives trials up on the way, 'none' does not.
        startup_trials: so many of an arm come to their end before any is given up.
        looks: how often a trial is looked at on the way.
        space: by method, what may be changed.
    """

    trials: int
    sampler: str
    pruner: str
    startup_trials: int
    looks: int
    space: Mapping[str, tuple[Parameter, ...]]

    def __post_init__(self):
        for name, least in (('trials', 1), ('startup_trials', 1), ('looks', 0)):
            if getattr(self, name) < least:
                raise UserError(f'config.search.{name}: at least {least}.')
        expect_known(self.sampler, SAMPLERS, 'config.search.sampler')
        expect_known(self.pruner, PRUNERS, 'config.search.pruner')


def read_search(config: StudyConfig) -> SearchPlan:
    """Reads how a study's hyper-parameters are to be searched.

    Raises:
        UserError: names the field that is wrong.
    """
    if 'search' not in config:
        raise UserError('This config has no section `search`: see configs/study.py.')
    fields = config.search.to_dict()
    space = {}
    for method, own in fields.pop('space').items():
        known = config.methods.to_dict()
        expect_known(method, known, 'method in config.search.space')
        section = {**config.pretrain.to_dict(), **known[method]}
        where = f'config.search.space.{method}'
        if _LENGTH in own:
            field = 'images_seen' if section['images_seen'] else 'epochs'
            own = {field: own.pop(_LENGTH), **own}  # one that is named counts
        space[method] = tuple(_parameters(own, section, (), where))
    known = [field.name for field in dataclasses.fields(SearchPlan)]
    for name in fields:
        expect_known(name, known, 'field of config.search')
    for method in config.study.methods:
        if not space.get(method):
            raise UserError(
                f'config.search.space.{method} is empty: there is nothing to search.'
            )
        _refuse_without_effect(config, method, [p.name for p in space[method]])
    return SearchPlan(space=space, **fields)


def _refuse_without_effect(config: StudyConfig, method: str, names: list[str]) -> None:
    where = f'config.search.space.{method}'
    if 'epochs' in names and config.pretrain.images_seen:
        raise UserError(
            f'{where}.epochs has no effect beside config.pretrain.images_seen: search '
            'images_seen.'
        )
    if {'epochs', 'images_seen'} & set(names):
        for name, domain in config.domains.items():
            if domain.epochs:
                raise UserError(
                    f'config.domains.{name}.epochs is set, so the length of '
                    f'pretraining cannot be searched: --{where}.{_LENGTH}.shares="()" '
                    'leaves it out.'
                )


def _parameters(
    own: Mapping[str, Any], section: Any, path: tuple[str, ...], where: str
) -> list[Parameter]:
    """Walks down to the ranges; each has a field of the same place in the section."""
    found = []
    for name, inner in own.items():
        expect_known(name, section, f'field in {where}')
        here = (*path, name)
        if not isinstance(inner, Mapping):
            raise UserError(
                f'{where}.{name}: give dict(low=, high=, log=), dict(choices=(...)), '
                'dict(times=) or dict(shares=(...)).'
            )
        kind = next((fields for key, fields in _DECLARED.items() if key in inner), ())
        if kind:
            for field in inner:
                expect_known(field, kind, f'field of {where}.{name}')
            try:
                found += _parameter('.'.join(here), section[name], inner)
            except UserError as error:
                raise UserError(f'{where}: {error}') from error
        else:
            found += _parameters(inner, section[name], here, f'{where}.{name}')
    return found


def _parameter(name: str, default: Value, inner: Mapping[str, Any]) -> list[Parameter]:
    """Reads how a field's values are declared; []: it is not searched."""
    given = dict(inner)
    if 'times' in given:
        times = _number(given.pop('times'), f'{name}: times')
        if times <= 1:
            raise UserError(f'{name}: times is above 1: it is drawn up to so much.')
        own = _number(default, name)
        if own <= 0:
            raise UserError(
                f'{name}: {own}, the value of the config, has no multiples: give low '
                'and high.'
            )
        given.update(low=own / times, high=own * times, log=True)
    if 'shares' in given:
        shares = given.pop('shares')
        own = _number(default, name)
        made = [share * own for share in shares]
        if isinstance(default, int):
            made = [max(round(value), 1) for value in made]
        given['choices'] = sorted({default, *made}) if shares else ()
    if 'choices' in given:
        given['choices'] = tuple(given['choices'])
        if not given['choices']:
            return []
    return [Parameter(name, default, **given)]


def _number(value: Any, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f'{what}: {value!r} is no number.')
    return value
