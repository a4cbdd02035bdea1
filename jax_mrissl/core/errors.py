"""Errors that are the user's to mend: shown as plain lines, without a traceback."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """A mistake of use. Its text says what was expected, found, and what to do."""


class UnreadableFile(Exception):
    """One raw file that gives no image.

    Args:
        path: the file.
        reason: a short phrase from a small vocabulary, without names or ids of
            patients, so that files can be counted by it: 'truncated', 'empty file'.
        detail: more, for the private log alone. '' means nothing more is known.
    """

    def __init__(self, path: Path, reason: str, detail: str = ''):
        super().__init__(f'{path}: {reason}{": " + detail if detail else ""}')
        self.path = path
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.path, self.reason, self.detail)


def expect_known(given: object, known: Iterable[str], what: str) -> None:
    """Raises UserError, with the nearest known name, unless `given` is known."""
    known = sorted(known)
    if given in known:
        return
    near = difflib.get_close_matches(str(given), known, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise UserError(f'Unknown {what}: {given!r}.{hint} Known: {", ".join(known)}.')
