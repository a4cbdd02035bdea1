"""Pages as one file: a template, the shared look, pictures inside; no request goes out.

Everything that a template shows is escaped, but for what `markupsafe.Markup` vouches
for: pictures that were made here.
"""

import base64
import functools
import hashlib
import importlib.resources
import re

import jinja2
import numpy as np
from markupsafe import Markup

from jax_mrissl.report.png import encode_png
from jax_mrissl.report.table import escaped_markdown

_TEMPLATES = 'templates'


def render(template: str, **facts: object) -> str:
    """Fills a page's template; same facts, same text.

    Args:
        template: a file of `templates/`.
        facts: what it shows, by the names that it uses.

    Raises:
        jinja2.UndefinedError: the template names what was not given.
    """
    return _environment().get_template(template).render(**facts)


def png_uri(pixels: np.ndarray | bytes) -> str:
    """Gives a picture as an address that holds it all.

    Args:
        pixels: uint8 [H, W], [H, W, 1] or [H, W, 3]; or a whole PNG file.
    """
    if not isinstance(pixels, bytes):
        flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
        pixels = encode_png(np.ascontiguousarray(flat))
    return f'data:image/png;base64,{base64.b64encode(pixels).decode()}'


def figure_count(number: float) -> str:
    """Writes a whole number with commas between the thousands."""
    return f'{number:,.0f}'


def tied(text: str) -> str:
    """Keeps a number and its percent sign on one line."""
    return re.sub(r'(?<=\d) %', '\N{NO-BREAK SPACE}%', text)


def breakable(text: str) -> Markup:
    """Lets 'VeryMildDemented' break between its words."""
    words = re.split(r'(?<=[a-z])(?=[A-Z])', text)
    return Markup('<wbr>').join(words)


@functools.cache
def _environment() -> jinja2.Environment:
    style = _text('style.css')
    # No script, no address but data: of pictures, no style but this one.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=lambda name: not (name or '').endswith('.md'),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(style=Markup(style), policy=policy)
    environment.filters.update(
        png=png_uri,
        count=figure_count,
        md=escaped_markdown,
        tied=tied,
        breakable=breakable,
    )
    return environment


def _text(name: str) -> str:
    folder = importlib.resources.files('jax_mrissl.report') / _TEMPLATES
    return (folder / name).read_text(encoding='utf-8')
