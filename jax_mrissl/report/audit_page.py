"""The page of an audit: counts and pictures of pairs, in one file for any browser."""

import base64
import dataclasses
import html
from collections.abc import Sequence

import numpy as np

from jax_mrissl.report.png import encode_png

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #59636e;
  --line: #d1d9e0; --warn: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117;
  --faint: #9198a1; --line: #3d444d; --warn: #fdba74; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 74rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p, li { max-width: 46rem; } .faint { color: var(--faint); }
.verdict { font-weight: 600; } .warn { color: var(--warn); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr));
  gap: 1.2rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: var(--faint);
  overflow-wrap: anywhere; }
.two { display: flex; gap: .3rem; } .two img { width: 50%; height: auto;
  background: #000; align-self: start; }
code { font-size: .8rem; }
"""


@dataclasses.dataclass(frozen=True)
class CountRow:
    """A line of a table: its texts and, behind them, its numbers."""

    texts: tuple[str, ...]
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class PairPicture:
    """Two pictures side by side.

    Attributes:
        first, second: uint8 [H, W, C], the first in the orientation of the second.
        alt: what a reader hears who does not see them.
        caption: lines below.
    """

    first: np.ndarray
    second: np.ndarray
    alt: tuple[str, str]
    caption: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PairSection:
    """Pairs of one kind between the same two parts.

    Attributes:
        title: of the section.
        note: what it means.
        pairs: those that are shown.
        count: how many there are.
    """

    title: str
    note: str
    pairs: Sequence[PairPicture]
    count: int


def audit_page(
    *,
    verdict: str,
    warn: bool,
    explanation: Sequence[str],
    parts: Sequence[CountRow],
    counts: Sequence[CountRow],
    sections: Sequence[PairSection],
    foot: Sequence[str],
) -> str:
    """Writes the page; same input, same text.

    Args:
        verdict: what was found, in a sentence.
        warn: whether it is something to act upon.
        explanation: paragraphs on what the words mean.
        parts: of each part its name and fingerprint, its images and groups.
        counts: of each kind and two parts: their names; pairs, images and groups.
        sections: the pictures.
        foot: paragraphs at the end.
    """
    lines = [
        '<!doctype html>',
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>Audit</title><style>{_STYLE}</style></head><body><main>',
        '<h1>Audit: which images show the same</h1>',
        f'<p class="verdict{" warn" if warn else ""}">{_escaped(verdict)}</p>',
        *(f'<p>{_escaped(text)}</p>' for text in explanation),
        '<h2>What was compared</h2>',
        _table(('dataset', 'fingerprint'), ('images', 'subjects or groups'), parts),
    ]
    if counts:
        heads = ('kind', 'first', 'second', 'of')
        numbers = (
            'pairs',
            'images, first',
            'images, second',
            'groups, first',
            'groups, second',
        )
        lines += ['<h2>What was found</h2>', _table(heads, numbers, counts)]
    for section in sections:
        lines += [
            f'<h2>{_escaped(section.title)}</h2>',
            f'<p>{_escaped(section.note)}</p>',
        ]
        if len(section.pairs) < section.count:
            lines.append(
                f'<p class="faint">{len(section.pairs):,} of {section.count:,} pairs '
                'are shown, evenly from the most to the least alike.</p>'
            )
        lines += ['<div class="pairs">', *map(_figure, section.pairs), '</div>']
    lines += [f'<p class="faint">{_escaped(text)}</p>' for text in foot]
    lines.append('</main></body></html>')
    return '\n'.join(lines) + '\n'


def _table(
    heads: Sequence[str], number_heads: Sequence[str], rows: Sequence[CountRow]
) -> str:
    cells = [f'<th scope="col">{_escaped(head)}</th>' for head in heads]
    cells += [
        f'<th scope="col" class="number">{_escaped(head)}</th>' for head in number_heads
    ]
    lines = [
        f'<div class="wide"><table><thead><tr>{"".join(cells)}</tr></thead><tbody>'
    ]
    for row in rows:
        cells = [f'<td>{_escaped(text)}</td>' for text in row.texts]
        cells += [f'<td class="number">{number:,}</td>' for number in row.numbers]
        lines.append(f'<tr>{"".join(cells)}</tr>')
    return '\n'.join([*lines, '</tbody></table></div>'])


def _figure(pair: PairPicture) -> str:
    images = ''.join(
        f'<img src="{_data(pixels)}" alt="{_escaped(alt)}" '
        f'width="{pixels.shape[1]}" height="{pixels.shape[0]}">'
        for pixels, alt in zip((pair.first, pair.second), pair.alt, strict=True)
    )
    caption = '<br>'.join(map(_escaped, pair.caption))
    return (
        f'<figure><div class="two">{images}</div>'
        f'<figcaption>{caption}</figcaption></figure>'
    )


def _data(pixels: np.ndarray) -> str:
    if pixels.shape[-1] == 1:
        pixels = pixels[:, :, 0]
    return f'data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}'


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
