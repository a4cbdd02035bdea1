"""From a config section to the object that it declares."""

import dataclasses
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
        return kind(**{k: _frozen(v) for k, v in fields.items()}, **given)
    except UserError as error:
        raise UserError(f'{where} (name={name!r}): {error}') from error
    except (TypeError, ValueError) as error:
        raise UserError(f'{where} (name={name!r}): {error}') from error


def _frozen(value: Any) -> Any:
    """Turns lists into tuples, so that what is built stays hashable."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    return value
