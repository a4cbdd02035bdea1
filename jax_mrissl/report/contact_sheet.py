"""A page of example images, row by row, to be looked at before anything is trained."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

_TILE = 120  # pixels; eight of them and the labels are as wide as a screen
_GAP = 6
_LABELS_WIDTH = 250
_HEAD_HEIGHT = 74
_FOOT_HEIGHT = 34
_PAPER, _INK, _FAINT, _BACK = '#ffffff', '#1b1f24', '#68707a', '#000000'


@dataclasses.dataclass(frozen=True, eq=False)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        title: what the images have in common.
        note: a smaller line below it.
        images: uint8 [H, W, C], C 1 or 3.
    """

    title: str
    note: str
    images: Sequence[np.ndarray]


def contact_sheet(
    title: str, subtitle: str, rows: Sequence[SheetRow], *, foot: str
) -> bytes:
    """Draws a labelled grid of images as a PNG file; same input, same bytes."""
    columns = max(len(row.images) for row in rows)
    width = _LABELS_WIDTH + columns * (_TILE + _GAP) + 3 * _GAP
    height = _HEAD_HEIGHT + len(rows) * (_TILE + _GAP) + _FOOT_HEIGHT
    page = Image.new('RGB', (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    left = 2 * _GAP
    _write(draw, (left, 12), title, size=24, colour=_INK, width=width - 2 * left)
    _write(draw, (left, 46), subtitle, size=14, colour=_FAINT, width=width - 2 * left)
    for index, row in enumerate(rows):
        top = _HEAD_HEIGHT + index * (_TILE + _GAP)
        room = _LABELS_WIDTH - 2 * _GAP
        _write(draw, (left, top + 40), row.title, size=16, colour=_INK, width=room)
        _write(draw, (left, top + 64), row.note, size=13, colour=_FAINT, width=room)
        for column, image in enumerate(row.images):
            x = left + _LABELS_WIDTH + column * (_TILE + _GAP)
            page.paste(_tile(image), (x, top))
    line = height - _FOOT_HEIGHT + 10
    _write(draw, (left, line), foot, size=13, colour=_FAINT, width=width - 2 * left)
    file = io.BytesIO()
    page.save(file, 'PNG')
    return file.getvalue()


def _tile(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return ImageOps.pad(picture.convert('RGB'), (_TILE, _TILE), color=_BACK)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    *,
    size: int,
    colour: str,
    width: int,
) -> None:
    """Writes one line, cut short with an ellipsis where it is too long."""
    font = ImageFont.load_default(size)
    while draw.textlength(text, font) > width and len(text) > 1:
        text = text.rstrip('…')[:-1].rstrip() + '…'
    draw.text(place, text, fill=colour, font=font)
