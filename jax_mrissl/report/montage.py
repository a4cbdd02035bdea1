"""Pictures side by side, in rows under captions."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _CAPTION, _CELL = 4, 16, 128


def montage(
    rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], *, cell: int = _CELL
) -> bytes:
    """Draws a table of pictures.

    Args:
        rows: of pictures, each uint8 or float in [0, 1], [H, W] or [H, W, 1 or 3].
        captions: one per column.
        cell: height and width that each picture is fitted into, in pixels.

    Returns: a PNG, the same bytes for the same pictures.
    """
    columns = max(len(row) for row in rows)
    step = cell + _GAP
    sheet = Image.new(
        'RGB', (columns * step + _GAP, len(rows) * step + _GAP + _CAPTION), 'white'
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for index, caption in enumerate(captions):
        draw.text((_GAP + index * step, 2), caption, fill='black', font=font)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            image = to_image(picture)
            scale = cell / max(image.size)
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(image, (_GAP + j * step, _CAPTION + _GAP + i * step))
    buffer = io.BytesIO()
    sheet.save(buffer, 'PNG')
    return buffer.getvalue()


def to_image(picture: np.ndarray) -> Image.Image:
    """Makes an RGB image of an array as `montage` takes them."""
    pixels = np.asarray(picture)
    if pixels.dtype == np.uint16:
        pixels = pixels / np.float32(65535)
    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(pixels).convert('RGB')
