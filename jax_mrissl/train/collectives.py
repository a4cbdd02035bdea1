"""What a compiled program sends between devices, read from its HLO text."""

import dataclasses
import itertools
import math
import re
from typing import Literal

Kind = Literal[
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute'
]
KINDS: tuple[Kind, ...] = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
)

_CALL = re.compile(
    r'^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>\(.*?\)|\S+) '
    rf'(?P<kind>{"|".join(KINDS)})(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]')
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Part:
    """One array of an operation between devices.

    Attributes:
        shape: of the result, on one device.
        bytes: of it.
        source: the path of the operation in the traced function, '' if not known.
    """

    shape: tuple[int, ...]
    bytes: int
    source: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices; several parts where the compiler joined some.

    Attributes:
        kind: the operation.
        parts: its arrays.
    """

    kind: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(part.bytes for part in self.parts)


def read_collectives(hlo: str) -> list[Collective]:
    """Lists the operations between devices of a program, in the order of the text.

    Each stands there once, also where a loop repeats it.

    Args:
        hlo: text of a compiled program, as `compiled.as_text()` gives it.
    """
    return [
        _read(line, call) for line in hlo.splitlines() if (call := _CALL.match(line))
    ]


def _read(line: str, call: re.Match) -> Collective:
    found = _ARRAY.findall(call['type'])
    if call['start'] and call['kind'] != 'all-reduce':
        # An asynchronous start names its operands, its results, and tokens.
        found = [array for array in found if array[2]]
        found = found[len(found) // 2 :]
    name = _NAME.search(line)
    path = name[1] if name else ''
    sources = _apart(path)
    if len(sources) != len(found):
        sources = [path] * len(found)
    parts = []
    for (dtype, bits, dimensions), source in zip(found, sources, strict=True):
        shape = tuple(int(n) for n in dimensions.split(',') if n)
        size = 1 if dtype == 'pred' else int(bits) // 8
        parts.append(Part(shape, size * math.prod(shape), source))
    return Collective(call['kind'], tuple(parts))


def _apart(path: str) -> list[str]:
    """Takes the joined path of several operations apart: 'a/(b:c)' is 'a/b', 'a/c'."""
    joined = re.search(r'(?:^|(?<=/))\(', path)
    if not joined:
        return path.split(':')
    depth, ends = 0, [joined.end() - 1]
    for place in range(joined.start(), len(path)):
        depth += {'(': 1, ')': -1}.get(path[place], 0)
        if depth == 0 or (depth == 1 and path[place] == ':'):
            ends.append(place)
        if depth == 0:
            break
    choices = [path[a + 1 : b] for a, b in itertools.pairwise(ends)]
    before, after = path[: joined.start()], path[ends[-1] + 1 :]
    return [name for choice in choices for name in _apart(before + choice + after)]
