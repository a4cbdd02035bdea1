"""Predictions for a terminal: subjects, files, what is unlike, what was not read."""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence

from jax_mrissl.tasks.predict import CAUSE_WORDS, Predictions

_WIDTH = 100
# More lines than these are for the CSV files.
_MOST_SUBJECTS, _MOST_FILES, _MOST_UNREADABLE = 40, 20, 10


def prediction_text(found: Predictions) -> str:
    """Writes what a terminal shows of predictions."""
    lines = [
        *_wrapped(
            f'{found.arm.label}: the mean of {found.folds} networks, one for each fold'
            + ('.' if found.is_number else ', each calibrated on its validation part.')
        ),
        *(line for note in found.notes for line in _wrapped(note)),
    ]
    if found.subjects:
        lines += ['', f'By subject (n = {len(found.subjects):,})', *_subjects(found)]
    if found.images:
        lines += ['', f'By image (n = {len(found.images):,})', *_images(found)]
    lines += ['', *_unlike(found), *_trained_on(found)]
    if found.unreadable:
        lines += _unreadable(found)
    return '\n'.join(lines)


def _subjects(found: Predictions) -> list[str]:
    rows = []
    for one in found.subjects[:_MOST_SUBJECTS]:
        note = ''
        if one.is_unlike:
            note = 'UNLIKE the training images'
        elif one.unlike:
            note = f'{one.unlike} unlike, left out'
        rows.append(
            [
                one.subject,
                *_answer(found, one.answer),
                f'{one.images:,}',
                ', '.join(filter(None, (note, 'TRAINED ON' if one.trained_on else ''))),
            ]
        )
    heads = ['subject', *_heads(found), 'images', '']
    return _aligned(heads, rows, len(found.subjects) - len(rows), 'subjects.csv')


def _images(found: Predictions) -> list[str]:
    rows = [
        [
            one.path + (f' [{one.frame}]' if one.frame else ''),
            *_answer(found, one.answer),
            f'{max(one.unlikeness):.2f}',
            'UNLIKE the training images' if one.cause else '',
        ]
        for one in found.images[:_MOST_FILES]
    ]
    heads = ['file', *_heads(found), 'unlikeness', '']
    return _aligned(heads, rows, len(found.images) - len(rows), 'files.csv')


def _heads(found: Predictions) -> list[str]:
    return [*found.names] if found.is_number else [*found.names, 'most probable']


def _answer(found: Predictions, answer: Sequence[float]) -> list[str]:
    told = [] if found.is_number else [found.told(answer)]
    return [*(f'{value:.3f}' for value in answer), *told]


def _aligned(
    heads: Sequence[str], rows: Sequence[Sequence[str]], more: int, file: str
) -> list[str]:
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return [*lines, *([f'and {more:,} more: --out=DIR writes {file}.'] if more else [])]


def _unlike(found: Predictions) -> list[str]:
    causes = Counter(image.cause for image in found.images if image.cause)
    count = sum(causes.values())
    if not count:
        return ['No image is unlike the training images.'] if found.images else []
    why = '; '.join(f'{n:,}: {CAUSE_WORDS[cause]}' for cause, n in causes.items())
    words = (
        f'{count:,} of {len(found.images):,} images are unlike the training images '
        f'({why}): what is said of them means nothing.'
    )
    if not math.isnan(found.unlike_share):
        words += (
            f' Of the images that the run was tested on {100 * found.unlike_share:.1f} '
            '% are called so, too.'
        )
    return _wrapped(words)


def _trained_on(found: Predictions) -> list[str]:
    known = [image for image in found.images if image.trained_on]
    if not known:
        return []
    by_heart = sum(image.trained_on == found.folds for image in known)
    lines = _wrapped(
        f'{len(known):,} images are among those that the run was trained on. Of each '
        'only the folds speak that did not train on it.'
    )
    if by_heart:
        lines += _wrapped(
            f'{by_heart:,} were trained on in every fold: what is said of them is no '
            'test.'
        )
    return lines


def _unreadable(found: Predictions) -> list[str]:
    lines = [f'{len(found.unreadable):,} files or images were not read:']
    shown = found.unreadable[:_MOST_UNREADABLE]
    lines += [f'  {path}: {reason}' for path, reason in shown]
    more = len(found.unreadable) - len(shown)
    return [*lines, *([f'  and {more:,} more: see unreadable.csv.'] if more else [])]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent='  ')
