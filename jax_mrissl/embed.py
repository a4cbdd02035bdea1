r"""Embeds a prepared dataset: an encoder's features of every image, as Parquet.

    python -m jax_mrissl.embed --dataset=alzheimer_mri --data_dir=data \
        --checkpoint=runs/mine/stages/pretrain-0123456789ab --out=features.parquet

    python -m jax_mrissl.embed --dataset=alzheimer_mri --data_dir=data \
        --checkpoint=resnet18.pth --image_size=128 --out=features.parquet

Columns: file_id, group (the subject, hashed), label, position, embedding. Each image
is looked at whole, resized, and normalised as in training. A file of weights has
torchvision's names (.safetensors, or .pth of a state_dict). Research use; not a
medical device.
"""

from pathlib import Path

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint',
    None,
    "A stage's folder, a folder of checkpoints, or a file of weights.",
)
_DATASET = flags.DEFINE_string('dataset', None, 'The name of a prepared dataset.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where prepared datasets are.')
_OUT = flags.DEFINE_string('out', None, 'The file to write; .parquet.')
_SPLIT = flags.DEFINE_string('split', 'all', 'One split of the dataset, or all.')
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size',
    0,
    'Height and width that images are resized to, in pixels. Default, and 0: as in '
    'training; for a file of weights that does not tell, 128.',
    lower_bound=0,
)
_ENCODER = flags.DEFINE_string(
    'encoder',
    '',
    'For a file of weights: its network. Default: as the file tells, else resnet18.',
)


def main(argv: list[str]) -> None:
    """Embeds the dataset of the flags."""
    del argv
    flag_values = map(_given, (_CHECKPOINT, _DATASET, _DATA_DIR, _OUT))
    checkpoint, dataset, data_dir, out = flag_values
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.tasks.embed import embed_dataset

    print(
        embed_dataset(
            Path(checkpoint).expanduser(),
            dataset,
            data_dir,
            Path(out).expanduser(),
            split=_SPLIT.value,
            image_size=_IMAGE_SIZE.value or None,
            encoder=_ENCODER.value or None,
        )
    )


def _given(flag: flags.FlagHolder) -> str:
    if not flag.value:
        raise UserError(f'--{flag.name} is missing; see --help.')
    return flag.value


if __name__ == '__main__':
    run_command(main, __doc__)
