r"""Prepares a dataset: folders of raw files in, records with a card out.

    python -m jax_mrissl.prepare --dataset=alzheimer_mri --raw_dir=DIR --data_dir=data

    python -m jax_mrissl.prepare --dataset=brain_mri --raw_dir=kaggle/classification \
        --raw_dir=kaggle/detection --raw_dir=dicom --data_dir=data --canvas=160

    python -m jax_mrissl.prepare --dataset=folder --name=mine --raw_dir=DIR \
        --classes=benign,malignant --group='(sub-[0-9]+)' --data_dir=data

    python -m jax_mrissl.prepare --dataset=demo --data_dir=data

folder is your own; demo and smoke are simulated and need no raw files. Started again,
the same command goes on where it stopped, and does nothing that is done. Research use;
not a medical device.
"""

from pathlib import Path

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.catalog import DATASETS, find

_DATASET = flags.DEFINE_string('dataset', None, f'One of {", ".join(DATASETS)}.')
_RAW_DIR = flags.DEFINE_multi_string(
    'raw_dir',
    [],
    'A folder of raw files; several to be merged, which are called "folder 1" and so '
    'on, in the order of their names: these stay in private/.',
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where prepared datasets go.')
_CANVAS = flags.DEFINE_integer(
    'canvas', 160, 'Height and width of the stored images, in pixels.'
)
_BITS = flags.DEFINE_integer(
    'bits',
    8,
    'Of the stored pixels. 8: scans as they are shown. 16: scans with all of their '
    'values, so that their window can vary in training.',
)
_VERSION = flags.DEFINE_string(
    'version', '', 'Of the prepared dataset. Default: as the catalog says.'
)
_WORKERS = flags.DEFINE_integer(
    'workers', 0, 'Processes; 0: one for each CPU.', lower_bound=0
)
_OVERWRITE = flags.DEFINE_bool(
    'overwrite', False, 'Replace an earlier set that was prepared otherwise.'
)
_KEEP_PRIVATE = flags.DEFINE_bool(
    'keep_private',
    True,
    'Write private/, which tells raw files and patients. --nokeep_private also removes '
    'it from a set that is prepared already.',
)
_NAME = flags.DEFINE_string('name', '', 'folder: the name of the prepared dataset.')
_CLASSES = flags.DEFINE_list(
    'classes', [], 'folder: folder names that are the classes.'
)
_GROUP = flags.DEFINE_string(
    'group',
    '',
    "folder: the subject. A number: that folder level. 'image': each image. 'pixels': "
    'neighbouring slices, by likeness. Else a regular expression with one bracket. '
    'Default: PatientID of DICOM, else each image.',
)
_TABLE = flags.DEFINE_string(
    'table',
    '',
    'A CSV file, for sets that have one and where it is not in the raw folder. '
    'folder: columns file, and any of group, label, target, site. Empty cells, NA, '
    'N/A, NaN, none, null and . mean that nothing is known; a class may be called so '
    'if --classes names it.',
)
_WINDOW = flags.DEFINE_list(
    'window',
    [],
    'CT: lung, soft, bone or brain; or three of them, which become the channels. '
    'Default: as the catalog says, mostly soft.',
)

# Classes that the summary counts.
_MOST_CLASSES = 20


def main(argv: list[str]) -> None:
    """Prepares the dataset of the flags, and says what came of it."""
    if argv[1:]:
        raise UserError(f'{argv[1]!r} is no flag. Flags begin with --; see --help.')
    if not _DATASET.value or not _DATA_DIR.value:
        missing = '--data_dir' if _DATASET.value else '--dataset'
        raise UserError(f'{missing} is missing. Examples:\n{_examples()}')
    find(_DATASET.value)
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.data.preparation import prepare_dataset

    prepared = prepare_dataset(
        _DATASET.value,
        _RAW_DIR.value,
        _DATA_DIR.value,
        canvas=_CANVAS.value,
        bits=_BITS.value,
        version=_VERSION.value,
        workers=_WORKERS.value,
        overwrite=_OVERWRITE.value,
        keep_private=_KEEP_PRIVATE.value,
        own=_own(),
        windows=_WINDOW.value,
    )
    print(_summary(prepared))


def _own():
    from jax_mrissl.data.own import OwnFolder

    given = any([_NAME.value, _CLASSES.value, _GROUP.value, _TABLE.value])
    if not given:
        return None
    return OwnFolder(
        name=_NAME.value or 'folder',
        classes=tuple(_CLASSES.value),
        subject=_subject(_GROUP.value),
        table=Path(_TABLE.value).expanduser() if _TABLE.value else None,
    )


def _subject(group: str):
    from jax_mrissl.data import spec

    if not group:
        return None
    if group.isdigit():
        return spec.FolderLevel(int(group))
    kinds = {'image': spec.EachImage(), 'pixels': spec.NeighbouringSlices()}
    return kinds.get(group) or spec.PathPattern(group)


def _summary(prepared) -> str:
    card, folder = prepared.card, prepared.folder
    if prepared.was_there:
        return (
            f'{folder} is already prepared, from these files and with these options. '
            + (prepared.note or 'There is nothing to do.')
        )
    counts = card['counts']
    lines = [
        f'{"SIMULATED. " if card["simulated"] else ""}{counts["images"]:,} images in '
        f'{counts["groups"]:,} groups kept, from {counts["files"]:,} files.',
        f'{counts["duplicates"]:,} left out as repeats of another image.',
    ]
    lines += [f'{n:,} left out: {reason}.' for reason, n in counts['rejected'].items()]
    classes = counts['classes']
    if 0 < len(card['classes']) <= _MOST_CLASSES:
        by_class = (
            f'{name} {classes.get(name, 0):,}'
            for name in (*card['classes'], 'unlabelled')
        )
        lines.append(f'By class: {", ".join(by_class)}.')
    lines += [
        *card['notes'],
        card['subjects']['found'],
        f'Look at it: {folder / "contact_sheet.png"}',
        f'Card: {folder / "card.md"}',
    ]
    return '\n'.join(lines)


def _examples() -> str:
    return '\n'.join(
        line for line in (__doc__ or '').splitlines() if line.startswith('    ')
    )


if __name__ == '__main__':
    run_command(main, __doc__)
