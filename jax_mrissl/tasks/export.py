"""An encoder as a safetensors file with torchvision's names."""

import json
from pathlib import Path

import jax

from jax_mrissl import __version__
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import write_atomically
from jax_mrissl.models.torchvision import to_torchvision
from jax_mrissl.tasks.trained import read_trained
from jax_mrissl.train.start import checkpoint_folder
from jax_mrissl.train.weights import encode_safetensors

_IN_TORCHVISION = ('resnet18', 'resnet34', 'resnet50')


def export(checkpoint: Path, out: Path) -> str:
    """Writes an encoder as a safetensors file, whole or not at all.

    Args:
        checkpoint: a stage's folder, or a folder of checkpoints.
        out: the file; its folder is made, a file of that name replaced.

    Returns: what was written and how to load it, for people.

    Raises:
        UserError: no checkpoint, or a file of another suffix.
    """
    if out.suffix != '.safetensors' or out.is_dir():
        raise UserError(f'--out is {out}; a file that ends with .safetensors.')
    trained = read_trained(checkpoint_folder(checkpoint))
    tensors = to_torchvision({'params': trained.params, **trained.model_state})
    metadata = {
        'format': 'pt',  # the layout is PyTorch's; its readers ask for this
        'encoder': json.dumps(trained.section, sort_keys=True),
        'image_size': str(trained.image_size),
        'lineage': json.dumps(trained.lineage, sort_keys=True),
        'written_by': f'jax_mrissl {__version__}',
    }
    normalize = trained.normalize
    if normalize:
        metadata |= {key: json.dumps(normalize[key]) for key in ('mean', 'std')}
    write_atomically(out, encode_safetensors(tensors, metadata))

    name, stem = trained.section['name'], trained.section.get('stem', 'imagenet')
    count = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    lines = [
        f'Written: {out}, {name} ({len(tensors)} tensors, {count:,} parameters), '
        f'from stage {trained.lineage["address"][:12]}.'
    ]
    if name in _IN_TORCHVISION and stem == 'imagenet' and trained.channels == 3:
        lines += [
            'In PyTorch (what is missing is fc, the classifier):',
            '    from safetensors.torch import load_file',
            f'    model = torchvision.models.{name}()',
            f"    model.load_state_dict(load_file('{out}'), strict=False)",
        ]
    else:
        lines.append(
            f'torchvision has no network like this one ({name}, stem {stem!r}, '
            f'{trained.channels} channel(s)): the file has its names and layout, and a '
            'network of that build can load it.'
        )
    wanted = f'Images: {trained.image_size} x {trained.image_size} pixels in [0, 1]'
    if normalize:
        wanted += f', less mean {normalize["mean"]}, over std {normalize["std"]}'
    return '\n'.join([*lines, f'{wanted}. Research use; not a medical device.'])
