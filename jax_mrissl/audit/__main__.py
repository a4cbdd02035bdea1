r"""Looks for images that show the same: within prepared datasets and between them.

    python -m jax_mrissl.audit --data_dir=data --dataset=brain_mri \
        --dataset=alzheimer_mri --out=audit

Finds equal images, twins of them (turned, mirrored, rescaled, re-encoded, of another
brightness or contrast) and near neighbours, such as the next slice of a volume; between
datasets, between their splits, and between subjects. Writes index.html, a page with
pictures of the pairs, and audit.json, in which hashes stand for files and subjects.
What was found is kept beside the datasets; `main` reads it before anything trains.
Research use; not a medical device.
"""

from pathlib import Path

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError

_DATASETS = flags.DEFINE_multi_string(
    'dataset', [], 'The name of a prepared dataset; several to be compared.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where prepared datasets are.')
_OUT = flags.DEFINE_string('out', None, 'The folder that the page is written to.')
_PICTURES = flags.DEFINE_integer(
    'pictures', 24, 'How many pairs of each sort the page shows.', lower_bound=0
)


def main(argv: list[str]) -> None:
    """Audits the datasets of the flags, and says what was found."""
    del argv
    for flag in (_DATASETS, _DATA_DIR, _OUT):
        if not flag.value:
            raise UserError(f'--{flag.name} is missing. --help shows examples.')
    out, data_dir = (Path(str(f.value)).expanduser() for f in (_OUT, _DATA_DIR))
    if out.exists() and not out.is_dir():
        raise UserError(f'--out={out} is a file. Name a folder; it need not exist.')
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.audit.findings import describe, find_all, open_parts
    from jax_mrissl.audit.page import page, verdict
    from jax_mrissl.core.run_dir import write_atomically, write_json

    parts = open_parts(data_dir, _DATASETS.value)
    pairs = find_all(parts, data_dir, spare=out)
    told = describe(parts, pairs)
    write_json(out / 'audit.json', told)
    write_atomically(
        out / 'index.html', page(parts, pairs, told, pictures=_PICTURES.value)
    )
    print(f'{verdict(told)}\nLook at the pairs: {out / "index.html"}')


if __name__ == '__main__':
    run_command(main, __doc__)
