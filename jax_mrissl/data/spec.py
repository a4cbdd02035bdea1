"""What a dataset is: a declaration of where its labels, splits and subjects stand."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from jax_mrissl.core.errors import UserError, expect_known


@dataclasses.dataclass(frozen=True)
class PathPattern:
    r"""Takes the first bracket of a regular expression, searched in a file's path.

    Attributes:
        pattern: searched in the path relative to the raw folder, with '/' between
            folders: r'(sub-\d+)_' finds 'sub-012' in 'scans/sub-012_T1.png'.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            brackets = re.compile(self.pattern).groups
        except re.error as error:
            raise UserError(
                f'{self.pattern!r} is no regular expression: {error}.'
            ) from (error)
        if not brackets:
            raise UserError(
                f'{self.pattern!r} has no bracket around the part that is meant, as '
                r"in '(sub-\d+)_'."
            )

    def find(self, path: str) -> str | None:
        """Gives what stands in the bracket, or None where nothing matches."""
        match = re.search(self.pattern, path)
        return match.group(1) if match else None

    def to_json(self) -> dict[str, Any]:
        """Gives it for a card."""
        return {'pattern': self.pattern}


@dataclasses.dataclass(frozen=True)
class FolderLevel:
    """Takes the name of a folder: level 1 is the first below the raw folder."""

    level: int

    def find(self, path: str) -> str | None:
        """Gives the path down to the folder, or None for a file above it."""
        folders = PurePosixPath(path).parts[:-1]
        if not 0 < self.level <= len(folders):
            return None
        # With the folders above: two classes may both have a folder '01'.
        return '/'.join(folders[: self.level])

    def to_json(self) -> dict[str, Any]:
        """Gives it for a card."""
        return {'folder': self.level}


@dataclasses.dataclass(frozen=True)
class HeaderSubject:
    """Takes the PatientID of DICOM; a picture, which has none, is its own subject."""

    def to_json(self) -> dict[str, Any]:
        """Gives it for a card."""
        return {'header': True}


# What tells the subject of any file by itself.
FileRule = PathPattern | FolderLevel | HeaderSubject


def file_rule_of_json(told: Mapping[str, Any]) -> FileRule:
    """Reads a rule that `to_json` wrote."""
    if 'pattern' in told:
        return PathPattern(told['pattern'])
    return FolderLevel(told['folder']) if 'folder' in told else HeaderSubject()


@dataclasses.dataclass(frozen=True)
class EachImage:
    """Takes every image for a subject of its own: for sets that tell no more."""


@dataclasses.dataclass(frozen=True)
class NeighbouringSlices:
    """Finds the subjects of a set of slices by likeness (`data/subjects.py`).

    Attributes:
        names: the rule by which file names tell the subject; they are believed where
            they fit it and the pixels do not contradict, and slices of two classes
            are of two subjects. 'none': pixels alone.
    """

    names: Literal['kaggle_alzheimer', 'none'] = 'none'


@dataclasses.dataclass(frozen=True)
class FirstOf:
    """Takes what the first of some rules tells; where none does, as `EachImage`."""

    rules: tuple[FileRule, ...]


SubjectRule = FileRule | EachImage | NeighbouringSlices | FirstOf


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """Which columns of a table (`data/table.py`) tell what.

    For each fact there are the names that its column may have; the first that is
    there counts, case, spaces and signs do not. (): the table does not tell it.

    Attributes:
        file: which files a row is of.
        key: what of a file's path stands in that column; None: its path or name.
        group: the subject.
        label: the class.
        target: a number; an image without a label has the class of this target.
        site: where it was made.
        names: of tables in the raw folder, with * and ?; (): only by --table.
        header: the names of the columns, for a table whose first line is a row.
        missing: cells that mean nothing, besides empty ones, NA, none and the like.
        several: what stands between several labels in a cell; such images are
            unlabelled. '': a cell has one.
    """

    file: tuple[str, ...] = ('file',)
    key: PathPattern | None = None
    group: tuple[str, ...] = ('group',)
    label: tuple[str, ...] = ('label',)
    target: tuple[str, ...] = ('target',)
    site: tuple[str, ...] = ('site',)
    names: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    several: str = ''


# Centre and width in Hounsfield units, as radiologists set them.
WINDOWS = {
    'lung': (-600.0, 1500.0),
    'soft': (40.0, 400.0),
    'bone': (480.0, 2500.0),
    'brain': (40.0, 80.0),
}


@dataclasses.dataclass(frozen=True)
class Intensity:
    """How a scan's values become 8 bits; pictures of 8 bits stay as they are.

    Attributes:
        percentiles: of the whole series, which become 0 and 255.
        windowed: modalities that use the file's own window where it has one.
        hounsfield: of CT, the names of windows in `WINDOWS`: one, or three that
            become the channels of the image.
    """

    percentiles: tuple[float, float] = (0.5, 99.5)
    windowed: tuple[str, ...] = ()
    hounsfield: tuple[str, ...] = ('soft',)

    def __post_init__(self) -> None:
        for name in self.hounsfield:
            expect_known(name, WINDOWS, 'window of CT')
        if len(self.hounsfield) not in (1, 3):
            raise UserError(
                f'{len(self.hounsfield)} windows of CT: one is needed, or three that '
                'become the channels of the image.'
            )

    def told_windows(
        self, modality: str, window: tuple[float, float] | None
    ) -> tuple[tuple[float, float], ...] | None:
        """Gives the windows that a scan's own header decides; None: its series does.

        Args:
            modality: as DICOM has it.
            window: the ends of the one that the file proposes, or None.
        """
        if window and modality in self.windowed:
            return (window,)
        return self.hounsfield_windows() if modality == 'CT' else None

    def hounsfield_windows(self) -> tuple[tuple[float, float], ...]:
        """Gives the lower and upper ends of the windows of CT."""
        pairs = (WINDOWS[name] for name in self.hounsfield)
        return tuple((c - width / 2, c + width / 2) for c, width in pairs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset.

    Attributes:
        name: as in --dataset and in the names of its files.
        version: to be raised when any line of the declaration changes.
        title: its name for people.
        source: where the raw files come from, and how to get them.
        terms: the licence, or what its publisher asks.
        layout: what the raw folder must look like, a few lines.
        classes: in the order of their labels, 0 first; (): unlabelled.
        class_folders: further folder names that stand for a class.
        targets: the number that stands for each class; (): none.
        splits: names of first-level folders that are splits; (): there is one split.
        whole: the name of the split of files that lie in none of them.
        needs_class_folders: a folder without any of the classes is the wrong folder.
        subject: how the unit of folds is found.
        position: how a picture's place within its series is found; None: it is not.
        channels: of all stored images; 'as found': 1 if every image is gray, else 3.
        intensity: how scans become 8 bits.
        modality: of volumes in formats that do not tell it; '': unknown. 'CT' is
            believed where values below -500 occur: air, in Hounsfield units.
        masks: files that are the mask of an image; the bracket is the path of that
            image without its suffix. None: there are none.
        skip_localizers: scouts, topograms and localizers are not kept.
        classes_from: finds a name in each path; these are the classes, sorted, with
            those of the table. None: as declared.
        titles_file: a file in the raw folder whose lines are a class, a tab and what
            it is called; '': none.
        class_titles: what it says of the classes.
        table: the columns of a table of this set; None: it has none.
        needs_table: without its table the set is of no use.
        beside: names of files that are no images and belong there, with * and ?.
        landmarks: paths, with *, one of which is in the right raw folder; (): any
            folder may be the right one.
        drop_twins: images that are twins of another, by `likeness`, are left out.
        simulated: no patient was ever in a scanner for this.
    """

    name: str
    version: str = '1.0.0'
    title: str
    source: str
    terms: str
    layout: str
    classes: tuple[str, ...] = ()
    class_folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    targets: tuple[float, ...] = ()
    splits: tuple[str, ...] = ()
    whole: str = 'train'
    needs_class_folders: bool = False
    subject: SubjectRule = EachImage()
    position: PathPattern | None = None
    channels: Literal[1, 3, 'as found'] = 'as found'
    intensity: Intensity = Intensity()
    modality: str = ''
    masks: PathPattern | None = None
    skip_localizers: bool = False
    classes_from: PathPattern | None = None
    titles_file: str = ''
    class_titles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    table: TableColumns | None = None
    needs_table: bool = False
    beside: tuple[str, ...] = ()
    landmarks: tuple[str, ...] = ()
    drop_twins: bool = False
    simulated: bool = False

    def __post_init__(self) -> None:
        if self.targets and len(self.targets) != len(self.classes):
            raise UserError(f'{self.name}: {len(self.classes)} classes need a target.')
        if self.channels == 1 and len(self.intensity.hounsfield) > 1:
            raise UserError(f'{self.name} has one channel: name one window of CT.')

    def label_of(self, path: str) -> int:
        """Gives the class of the deepest folder that is named like one, else -1."""
        for folder in reversed(PurePosixPath(path).parts[:-1]):
            label = self.label_of_folder(folder)
            if label >= 0:
                return label
        return -1

    def label_of_folder(self, folder: str) -> int:
        """Gives the class that a folder's name stands for, else -1."""
        names = {plain(name): i for i, name in enumerate(self.classes)}
        for alias, name in self.class_folders.items():
            names[plain(alias)] = self.classes.index(name)
        return names.get(plain(folder), -1)

    def title_of(self, label: int) -> str:
        """Gives a class's name, with what it is called if that is known."""
        name = self.classes[label]
        title = self.class_titles.get(name, '').partition(',')[0]
        return f'{name} {title}'.strip()

    def split_of(self, path: str) -> str:
        """Gives the split that a file lies in."""
        first = plain(PurePosixPath(path).parts[0])
        for split in self.splits:
            if plain(split) == first:
                return split
        return self.whole


def plain(name: str) -> str:
    """Drops what copies of a set spell differently: 'Non_Demented' is 'nondemented'."""
    return ''.join(c for c in name.casefold() if c.isalnum())
