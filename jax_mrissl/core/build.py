"""From a config section to the object that it declares."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from jax_mrissl.core.errors import UserError, expect_known

T = TypeVar('T')


def build(
    kinds: Mapping[str, type[T]],
    config: Mapping[str, Any],
    *,
    where: str,
    given: Mapping[str, Any] | None = None,
) -> T:
    """Makes the object that the config section at `where` declares.

    Args:
        kinds: the dataclasses to choose from, by name.
        config: `name` selects the kind; the other fields are its arguments.
        where: the section's path in the config, for messages.
        given: arguments that are not the config's to set, such as built networks; a
            kind gets those that it has fields for.

    Raises:
        UserError: an unknown name or field, or a value that the kind refuses.
    """
    fields = dict(config)
    given = given or {}
    if 'name' not in fields:
        raise UserError(f'{where} has no name. Known: {", ".join(sorted(kinds))}.')
    name = fields.pop('name')
    expect_known(name, kinds, f'{where}.name')
    kind: Any = kinds[name]
    fields_of_kind = [f.name for f in dataclasses.fields(kind) if f.init]
    known = [name for name in fields_of_kind if name not in given]
    given = {k: v for k, v in given.items() if k in fields_of_kind}
    for field in fields:
        expect_known(field, known, f'field of {where} (name={name!r})')
    try:
        plain = {name: _frozen(value) for name, value in fields.items()}
        return kind(**typed(kind, plain), **given)
    except UserError as error:
        raise UserError(f'{where} (name={name!r}): {error}') from error
    except (TypeError, ValueError) as error:
        raise UserError(f'{where} (name={name!r}): {error}') from error


def typed(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Gives values the types that the fields of a dataclass declare.

    A whole number becomes a real one where one is declared; lists become tuples.

    Raises:
        UserError: names a field whose value has another type.
    """
    hints = typing.get_type_hints(kind)
    found = {}
    for name, value in fields.items():
        hint = hints.get(name, Any)
        try:
            found[name] = _as(hint, value)
        except TypeError:
            raise UserError(f'{name} is {value!r}; {_words(hint)}.') from None
    return found


_WORDS = {
    int: 'a whole number',
    float: 'a number',
    bool: 'True or False',
    str: 'a text',
    type(None): 'None',
}


def _as(hint: Any, value: Any) -> Any:
    """Gives a value the type of a hint; what is no plain value is left alone.

    Raises:
        TypeError: it has another one.
    """
    inner = typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        for one in inner:
            try:
                return _as(one, value)
            except TypeError:
                continue
        raise TypeError
    if kind is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        if inner[-1] is ...:
            return tuple(_as(inner[0], one) for one in value)
        if len(inner) != len(value):
            raise TypeError
        return tuple(_as(one, part) for one, part in zip(inner, value, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    # True and False are whole numbers to Python.
    if kind in _WORDS and type(value) is not kind:
        raise TypeError
    return value


def _words(hint: Any) -> str:
    """Says what a hint asks for."""
    inner = typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        return ' or '.join(map(_words, inner))
    if kind is tuple:
        count = 'values' if inner[-1] is ... else f'{len(inner)} values'
        return f'{count} in brackets, each {_words(inner[0])}'
    return _WORDS.get(kind, 'another type')


def _frozen(value: Any) -> Any:
    """Turns lists into tuples, so that what is built stays hashable."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    return value
