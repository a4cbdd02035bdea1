"""Plots of matplotlib as SVG inside a page: told in words, in the page's colours.

Colours are the page's own, so that a plot follows it into the dark and onto paper;
text stays text. No style attribute is left, which the page's policy would refuse.
"""

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours to draw with, and the names of `style.css` that take their place.
INK, FAINT, LINE, PAPER = '#000001', '#000002', '#000003', '#000004'
ACCENT, SECOND, THIRD, FOURTH, WARN = (
    '#000005',
    '#000006',
    '#000007',
    '#000008',
    '#000009',
)
SERIES = (ACCENT, SECOND, THIRD, FOURTH)
_VARIABLES = {
    INK: 'ink',
    FAINT: 'faint',
    LINE: 'line',
    PAPER: 'paper',
    ACCENT: 'accent',
    SECOND: 'second',
    THIRD: 'third',
    FOURTH: 'fourth',
    WARN: 'warn',
}
_SETTINGS: dict[Any, Any] = {
    'svg.fonttype': 'none',
    'font.family': 'sans-serif',
    'font.size': 9.5,
    'axes.labelsize': 9.5,
    'axes.titlesize': 9.5,
    'xtick.labelsize': 9,
    'ytick.labelsize': 9,
    'legend.fontsize': 9,
    'text.parse_math': False,  # of a name with two $
    'legend.frameon': False,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.linewidth': 0.8,
    'axes.edgecolor': FAINT,
    'axes.labelcolor': INK,
    'text.color': INK,
    'xtick.color': FAINT,
    'ytick.color': FAINT,
    'xtick.labelcolor': INK,
    'ytick.labelcolor': INK,
    'axes.facecolor': 'none',
    'lines.linewidth': 1.6,
    'lines.solid_capstyle': 'round',
}


@contextlib.contextmanager
def axes(*, width: float = 4.3, height: float = 3.2) -> Iterator[Axes]:
    """Gives axes of a new plot, in the page's look; sizes in inches."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout='constrained')
        yield figure.add_subplot()


def inline_svg(drawn: Axes, *, name: str, title: str, description: str) -> Markup:
    """Writes a plot for the inside of a page; same plot, same text.

    Args:
        drawn: made by `axes`, and used within it.
        name: unlike that of any other plot of the page; letters, digits and '-'.
        title: what the plot is.
        description: what it says, for who does not see it.
    """
    file = io.BytesIO()
    # Ids are hashes of what they name, salted, so that they do not vary.
    with matplotlib.rc_context({'svg.hashsalt': name}):
        drawn.get_figure(root=True).savefig(  # type: ignore[union-attr]
            file, format='svg', transparent=True, metadata={'Date': None}
        )
    text = file.getvalue().decode()
    view = re.search(r'viewBox="[^"]+"', text)
    assert view, 'matplotlib writes a viewBox'
    body = text[text.index('>', text.index('<svg')) + 1 :]
    body = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>', '', body, flags=re.S)
    body = re.sub(r'<!--.*?-->', '', body, flags=re.S)
    body = re.sub(r'<defs>\s*</defs>\s*', '', body)
    body = body.replace('xlink:href', 'href')
    body = re.sub(r'(\sid="|href="#|url\(#)', rf'\g<1>{name}-', body)
    body = re.sub(r'style="([^"]*)"', _attributes, body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(f'"{colour}"', f'"var(--{variable})"')
    body = re.sub(r'\n\s*', '\n', body).strip()
    return Markup(
        f'<svg class="plot" {view.group()} role="img" '
        f'aria-labelledby="{name}-title {name}-desc">\n'
        f'<title id="{name}-title">{html.escape(title)}</title>\n'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>\n{body}'
    )


def _attributes(style: re.Match[str]) -> str:
    """Makes attributes of a style, which a policy without inline styles lets be."""
    found = {}
    for part in style.group(1).split(';'):
        key, colon, value = (text.strip() for text in part.partition(':'))
        if not colon:
            continue
        if key == 'font':
            size = re.search(r'([\d.]+)px', value)
            if re.search(r'\b(bold|700)\b', value):
                found['font-weight'] = 'bold'
            key, value = 'font-size', size.group(1) if size else '9'
        # The page chooses the fonts, and the order of painting is the plain one.
        if key not in ('font-family', 'mix-blend-mode'):
            found[key] = value
    return ' '.join(f'{k}="{html.escape(v)}"' for k, v in found.items())
