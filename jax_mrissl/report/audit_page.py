"""The page of an audit: counts and pictures of pairs, in one file for any browser."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_mrissl.report.pages import render


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
    return render(
        'audit.html',
        verdict=verdict,
        warn=warn,
        explanation=explanation,
        parts=parts,
        counts=counts,
        sections=sections,
        foot=foot,
    )
