r"""Asks the networks of a finished run about raw files: calibrated probabilities.

    python -m jax_mrissl.predict --workdir=runs/mine scans/ one.dcm --out=predictions

Files are of any format that `prepare` reads, told by their content; folders are walked.
They go the way of the run's labelled images: the same canvas, windows and view. The
networks of all folds are asked, each calibrated on its validation part, and their
probabilities averaged; a subject's are the mean over its images. An image that is
unlike the training images is called so; one that the run was trained on is judged by
the fold that tested it. --out gets files.csv, subjects.csv and unreadable.csv: in them
subjects are hashes, but paths are as you named them.

Research use; not a medical device.
"""

from pathlib import Path

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of a finished run.')
_OUT = flags.DEFINE_string('out', '', 'The folder for CSV files. Default: none.')
_ARM = flags.DEFINE_string(
    'arm',
    '',
    "Whose networks: the run's name, or untrained. Default: the first.",
)
_MODE = flags.DEFINE_string(
    'mode', '', 'How they were finetuned: full or linear. Default: full if it is there.'
)
_SUBJECT = flags.DEFINE_string(
    'subject',
    'auto',
    "How subjects are told: header (DICOM's PatientID), folder, file, or a regular "
    'expression with a bracket, for paths. auto: as in the labelled dataset, where '
    'that is told by paths or headers; else by header, else each file is one.',
)
_WORKERS = flags.DEFINE_integer(
    'workers', 0, 'Processes that read files. Default, and 0: one for each CPU.'
)


def main(argv: list[str]) -> None:
    """Prints what is said of the files of the arguments."""
    if not _WORKDIR.value:
        raise UserError('--workdir is missing: the folder of a finished run.')
    if len(argv) < 2:
        raise UserError('Name files or folders of images behind the flags.')
    out = Path(_OUT.value).expanduser() if _OUT.value else None
    if out and out.exists() and not out.is_dir():
        raise UserError(f'--out={out} is a file. Name a folder; it need not exist.')
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.tasks.opened_run import open_run
    from jax_mrissl.tasks.predict import predict, write_tables
    from jax_mrissl.tasks.prediction_text import prediction_text

    found = predict(
        open_run(Path(_WORKDIR.value).expanduser()),
        [Path(given) for given in argv[1:]],
        arm=_ARM.value,
        mode=_MODE.value,
        subject=_SUBJECT.value,
        workers=_WORKERS.value,
    )
    print(prediction_text(found))
    if out:
        write_tables(found, out)
        print(f'Written: {out}/files.csv, subjects.csv, unreadable.csv.')
    print('Research use; not a medical device.')


if __name__ == '__main__':
    run_command(main, __doc__, arguments=True)
