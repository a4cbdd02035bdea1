"""What a finished run's networks say of raw files."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from jax_mrissl.core.progress import Progress
from jax_mrissl.core.run_dir import write_atomically
from jax_mrissl.data.canvas import Placed, shown
from jax_mrissl.data.item import Item
from jax_mrissl.data.pipeline import Resident
from jax_mrissl.data.raw_images import RawImages, find_raw_images, stacked
from jax_mrissl.metrics.novelty import looks_of
from jax_mrissl.tasks.ensemble import CAUSES, Verdict, ask
from jax_mrissl.tasks.fold_network import FoldNetwork
from jax_mrissl.tasks.opened_run import OpenedArm, OpenedRun

# Read, decoded and embedded at once: little memory, and no time lost to the dispatch.
_BLOCK = 256
# Why an image counts as unlike, for people.
CAUSE_WORDS = {
    '': '',
    'features': "the network's features of it lie apart",
    'looks': 'its size, gray values or borders are unlike theirs',
}


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """What is said of one image.

    Attributes:
        path: of its file, as the user named it.
        frame: its place in the file.
        subject: a hash of who is on it.
        answer: calibrated probabilities of the classes, or the number alone; the mean
            over the folds.
        unlikeness: how unlike the training images its features and its looks are;
            above 1: unlike.
        cause: what is unlike: 'features', 'looks' or ''.
        trained_on: how many folds trained on it or chose by it. Their networks have
            no say in `answer`, unless it is all of them.
    """

    path: str
    frame: int
    subject: str
    answer: tuple[float, ...]
    unlikeness: tuple[float, float]
    cause: str
    trained_on: int


@dataclasses.dataclass(frozen=True)
class SubjectPrediction:
    """What is said of one subject.

    Attributes:
        subject: its hash.
        answer: the mean over its images that are like the training images; over all
            where none is.
        images, unlike: how many there are, and how many of them are unlike.
        trained_on: whether all folds trained on some of its images.
        first_path: of its first file.
    """

    subject: str
    answer: tuple[float, ...]
    images: int
    unlike: int
    trained_on: bool
    first_path: str

    @property
    def is_unlike(self) -> bool:
        """Whether no image of the subject is like the training images."""
        return self.unlike == self.images


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What is said of files.

    Attributes:
        arm: whose networks say it.
        unlike_share: of the images that the run's folds tested, how many are called
            unlike; NaN: unknown.
        names: of the columns of `answer`: classes, or 'number'.
        folds: how many networks were asked.
        images, subjects: in the order of paths.
        unreadable: path and reason of what gave no image.
        notes: what must be known of it all.
    """

    arm: OpenedArm
    unlike_share: float
    names: tuple[str, ...]
    folds: int
    images: tuple[ImagePrediction, ...]
    subjects: tuple[SubjectPrediction, ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether a number is told, and no class."""
        return self.names == ('number',)

    def told(self, answer: Sequence[float]) -> str:
        """Gives the most probable class, '' of a number."""
        return '' if self.is_number else self.names[int(np.argmax(answer))]


def predict(
    run: OpenedRun,
    given: Sequence[Path],
    *,
    arm: str = '',
    mode: str = '',
    subject: str = 'auto',
    workers: int = 0,
) -> Predictions:
    """Asks the networks of all folds of an arm about raw files.

    Files go the way of the labelled images: the same canvas, windows and range of gray,
    then the view of evaluation. Each network's probabilities are calibrated by its own
    temperature, then averaged. An image that the run was trained on is judged by the
    fold that tested it, so that nothing is told by heart.

    Args:
        run: a finished one.
        given: files, and folders that are walked.
        arm, mode: which networks; '': as `OpenedRun.choose` does.
        subject: how subjects are told, see `find_raw_images`.
        workers: processes that read files; 0: one for each CPU.

    Raises:
        UserError: no such arm, or nothing is there.
    """
    chosen = run.choose(arm, mode)
    raw = find_raw_images(given, run.reading, subject=subject, workers=workers)
    networks = run.networks(chosen)
    images: list[ImagePrediction] = []
    unreadable = list(raw.unreadable)
    if raw.items:
        who = dict(zip((i.file_id for i in raw.items), raw.subjects, strict=True))
        with Progress(
            f'Asking {len(networks)} networks', len(raw.items), unit='images'
        ) as bar:
            for items, placed, found in _blocks(run, networks, raw, bar):
                unreadable += [
                    (raw.path(item), 'cannot be read a second time')
                    for item, one in zip(items, placed, strict=True)
                    if one is None
                ]
                there = [i for i, p in zip(items, placed, strict=True) if p]
                images += [
                    dataclasses.replace(
                        one,
                        path=raw.path(item),
                        frame=item.facts.frame if item.facts else 0,
                        subject=who[item.file_id],
                    )
                    for item, one in zip(there, found, strict=True)
                ]
    names = ('number',) if run.task.kind == 'regression' else run.task.classes
    return Predictions(
        arm=chosen,
        unlike_share=float(np.mean([n.unlike_share for n in networks])),
        names=names,
        folds=len(networks),
        images=tuple(images),
        subjects=tuple(_by_subject(images, len(networks))),
        unreadable=tuple(unreadable),
        notes=(*run.notes, *run.standing(chosen)),
    )


def _blocks(
    run: OpenedRun,
    networks: Sequence[FoldNetwork],
    raw: RawImages,
    bar: Progress,
) -> Iterator[
    tuple[tuple[Item, ...], tuple[Placed | None, ...], list[ImagePrediction]]
]:
    """Yields items, what is on their canvases, and what is said of those that are."""
    count = min(_BLOCK, 1 << (len(raw.items) - 1).bit_length())
    program = run.features(count)
    canvases = raw.placed(raw.items)
    for start in range(0, len(raw.items), count):
        some = raw.items[start : start + count]
        placed = tuple(islice(canvases, count))
        there = [(i, p) for i, p in zip(some, placed, strict=True) if p]
        found: list[ImagePrediction] = []
        if there:
            pixels, boxes, windows = stacked([p for _, p in there])
            looks = [
                looks_of(shown(image, window), box)
                for image, box, window in zip(pixels, boxes, windows, strict=True)
            ]
            # One shape for all blocks: one compilation.
            fill = count - len(there)
            source = Resident(
                image=_filled(pixels, fill),
                box=_filled(boxes, fill),
                label=np.zeros(count, np.int32),
                group=np.zeros(count, np.int32),
                window=_filled(windows, fill) if run.reading.bits == 16 else None,
            )
            verdict = ask(
                networks,
                program,
                run.parallel.replicate(source),
                np.arange(len(there)),
                looks=np.stack(looks),
                pixel_sha256=np.array(
                    [i.facts.pixel_sha256 for i, _ in there if i.facts]
                ),
            )
            found = [_of_image(verdict, row) for row in range(len(there))]
        bar.advance(len(some))
        yield some, placed, found


def _filled(rows: np.ndarray, fill: int) -> np.ndarray:
    return np.concatenate([rows, np.repeat(rows[-1:], fill, axis=0)])


def _of_image(verdict: Verdict, row: int) -> ImagePrediction:
    unlike = verdict.unlikeness[row]
    return ImagePrediction(
        path='',
        frame=0,
        subject='',
        answer=tuple(map(float, verdict.answers[row])),
        unlikeness=(float(unlike[0]), float(unlike[1])),
        cause=CAUSES[int(unlike.argmax())] if unlike.max() > 1 else '',
        trained_on=int(verdict.trained_on[row]),
    )


def _by_subject(
    images: Sequence[ImagePrediction], folds: int
) -> Iterator[SubjectPrediction]:
    groups: dict[str, list[ImagePrediction]] = {}
    for image in images:
        groups.setdefault(image.subject, []).append(image)
    for subject, own in groups.items():
        like = [image.answer for image in own if not image.cause]
        used = np.array(like or [image.answer for image in own])
        yield SubjectPrediction(
            subject=subject,
            answer=tuple(map(float, used.mean(0))),
            images=len(own),
            unlike=len(own) - len(like),
            trained_on=any(image.trained_on == folds for image in own),
            first_path=own[0].path,
        )


def write_tables(found: Predictions, out: Path) -> None:
    """Writes `files.csv`, `subjects.csv` and `unreadable.csv`, each in one piece.

    Paths are as the user named them: they, and nothing else here, may name patients.
    """
    told = () if found.is_number else ('told',)
    _write_csv(
        out / 'files.csv',
        [
            *('path', 'image', 'subject', *found.names, *told),
            *('unlike', *(f'unlikeness_of_{cause}' for cause in CAUSES)),
            'folds_trained_on_it',
        ],
        [
            [
                *(i.path, i.frame, i.subject, *map(_number, i.answer)),
                *(() if found.is_number else (found.told(i.answer),)),
                *(int(bool(i.cause)), *map(_number, i.unlikeness), i.trained_on),
            ]
            for i in found.images
        ],
    )
    _write_csv(
        out / 'subjects.csv',
        [
            *('subject', *found.names, *told),
            *('images', 'unlike_images', 'unlike', 'trained_on', 'first_path'),
        ],
        [
            [
                *(s.subject, *map(_number, s.answer)),
                *(() if found.is_number else (found.told(s.answer),)),
                *(s.images, s.unlike, int(s.is_unlike), int(s.trained_on)),
                s.first_path,
            ]
            for s in found.subjects
        ],
    )
    _write_csv(out / 'unreadable.csv', ['path', 'reason'], map(list, found.unreadable))


def _number(value: float) -> str:
    return f'{value:.6g}'


def _write_csv(path: Path, heads: Sequence[str], rows: object) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(heads)
    writer.writerows(rows)  # type: ignore[arg-type]
    write_atomically(path, text.getvalue())
