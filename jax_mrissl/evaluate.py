r"""Measures the networks of a finished run on another labelled set; trains nothing.

    python -m jax_mrissl.evaluate --workdir=runs/mine --dataset=oasis1 --data_dir=data

The set is a prepared one with the classes of the run's task, or some of them. The
networks of all folds are asked, and their calibrated probabilities averaged; the same
metrics with intervals are printed, beside the class prior. A set that shows subjects
whom the run was trained on is refused, unless --allow_overlap: then the table says so.

Research use; not a medical device.
"""

from pathlib import Path

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of a finished run.')
_DATASET = flags.DEFINE_string('dataset', None, 'The name of a prepared dataset.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where prepared datasets are.')
_SPLIT = flags.DEFINE_string('split', 'all', 'One split of the dataset, or all.')
_ARM = flags.DEFINE_string(
    'arm', '', "Whose networks: the run's name, or untrained. Default: the first."
)
_MODE = flags.DEFINE_string(
    'mode', '', 'How they were finetuned: full or linear. Default: full if it is there.'
)
_ALLOW_OVERLAP = flags.DEFINE_bool(
    'allow_overlap', False, 'Measure even on subjects that the run was trained on.'
)
_OUT = flags.DEFINE_string('out', '', 'The folder to write to. Default: in the run.')


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    for flag in (_WORKDIR, _DATASET, _DATA_DIR):
        if not flag.value:
            raise UserError(f'--{flag.name} is missing; see --help.')
    out = Path(_OUT.value).expanduser() if _OUT.value else None
    if out and out.exists() and not out.is_dir():
        raise UserError(f'--out={out} is a file. Name a folder; it need not exist.')
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.tasks.external import evaluate_elsewhere
    from jax_mrissl.tasks.opened_run import open_run

    table = evaluate_elsewhere(
        open_run(Path(str(_WORKDIR.value)).expanduser()),
        str(_DATASET.value),
        str(_DATA_DIR.value),
        split=_SPLIT.value,
        arm=_ARM.value,
        mode=_MODE.value,
        allow_overlap=_ALLOW_OVERLAP.value,
        out=out,
    )
    print(f'{table} Research use; not a medical device.')


if __name__ == '__main__':
    run_command(main, __doc__)
