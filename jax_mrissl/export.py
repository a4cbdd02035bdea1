r"""Exports an encoder for PyTorch: a safetensors file with torchvision's names.

    python -m jax_mrissl.export --out=encoder.safetensors \
        --checkpoint=runs/mine/stages/pretrain-0123456789ab

    python -m jax_mrissl.export --out=encoder.safetensors \
        --checkpoint=runs/mine/stages/finetune-0123456789ab/fold-0

The file also tells, as its metadata, where the encoder comes from and what images it
wants. Research use; not a medical device.
"""

from pathlib import Path

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, "A stage's folder, or a folder of checkpoints."
)
_OUT = flags.DEFINE_string('out', None, 'The file to write; .safetensors.')


def main(argv: list[str]) -> None:
    """Exports the encoder of the flags, and says how to load it."""
    del argv
    if not _CHECKPOINT.value or not _OUT.value:
        missing = '--out' if _CHECKPOINT.value else '--checkpoint'
        raise UserError(f'{missing} is missing; see --help.')
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.tasks.export import export

    checkpoint, out = Path(_CHECKPOINT.value), Path(_OUT.value)
    print(export(checkpoint.expanduser(), out.expanduser()))


if __name__ == '__main__':
    run_command(main, __doc__)
