"""Where an encoder comes from: a run's checkpoints, or a file of weights."""

import dataclasses
from pathlib import Path
from typing import Any

from jax_mrissl.core.errors import UserError
from jax_mrissl.train.checkpoint import newest_step, read_encoder, read_lineage
from jax_mrissl.train.state import TrainState
from jax_mrissl.train.weights import file_digest, read_encoder_file, read_told

# In a stage's folder: a pretraining's checkpoints; in a fold's, its best network.
CHECKPOINTS = 'checkpoints'
BEST = 'best'


@dataclasses.dataclass(frozen=True)
class Start:
    """What an encoder starts from.

    Attributes:
        path: a folder of checkpoints, or a file of weights in torchvision's names.
        address: of the weights: the stage's content address, with the place and step of
            the checkpoint if it was named by its folder; or 'sha256:...' of the file.
        lineage: JSON, for the checkpoints of what starts from it.
        is_file: whether it is a file, of which nothing more is known.
    """

    path: Path
    address: str
    lineage: Any
    is_file: bool = False

    @property
    def name(self) -> str:
        """Tells it from others, in a table."""
        name = self.path.name if self.is_file else self.path.parent.name
        return f'{name} ({self.address})'

    def give_to(self, state: TrainState) -> TrainState:
        """Replaces the encoder of a fresh state; every leaf is checked.

        Raises:
            UserError: leaves are missing, extra or of another shape; all are named.
        """
        like = {
            'params': state.params['encoder'],
            'model_state': state.model_state['encoder'],
        }
        read = read_encoder_file if self.is_file else read_encoder
        found = read(self.path, like)
        return dataclasses.replace(
            state,
            params=state.params | {'encoder': found['params']},
            model_state=state.model_state | {'encoder': found['model_state']},
        )


def find_start(given: str) -> Start:
    """Finds what `--config.init_from` names.

    Args:
        given: a stage's folder, its folder of checkpoints, or a file: safetensors, or
            what `torch.save` wrote of a state_dict.

    Raises:
        UserError: nothing is there, no checkpoint is in the folder, or its stage has
            not been finished.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        folder = checkpoint_folder(path)
        lineage, step = read_lineage(folder), newest_step(folder)
        stage = next((p for p in folder.parents if (p / 'stage.json').exists()), None)
        if stage and not (stage / 'done.json').exists():
            raise UserError(
                f'config.init_from names {folder}, whose stage has not been finished: '
                'its newest checkpoint will not be its last. Run it to its end first.'
            )
        place = folder.relative_to(stage).as_posix() if stage else folder.name
        return Start(folder, f'{lineage["address"]}/{place}/{step}', lineage)
    if not path.is_file():
        raise UserError(
            f'config.init_from names {path.absolute()}, and nothing is there. Give a '
            "stage's folder (runs/NAME/stages/pretrain-...), or a file of weights in "
            "torchvision's names (.safetensors, or .pth of a state_dict), such as "
            'https://download.pytorch.org/models/resnet18-f37072fd.pth.'
        )
    address = f'sha256:{file_digest(path)}'
    # A file that `export` wrote tells of the run that it came from.
    told = read_told(path).get('lineage')
    lineage = {
        'file': path.name,
        'address': address,
        'parents': [told] if told else [],
    }
    return Start(path, address, lineage, is_file=True)


def checkpoint_folder(given: Path) -> Path:
    """Finds the folder of checkpoints that a user names.

    Args:
        given: itself, or the folder of a pretraining stage or of a finetuned fold.

    Raises:
        UserError: it holds none, or several; they are named.
    """
    if not given.is_dir():
        raise UserError(
            f'There is no folder {given}. Give a stage (runs/NAME/stages/pretrain-...) '
            'or a folder of checkpoints (.../finetune-.../fold-0).'
        )
    for folder in (given / CHECKPOINTS, given / BEST, given):
        if next(folder.glob('[0-9]*/lineage'), None):
            return folder
    depths = ('*/' * depth + '[0-9]*/lineage' for depth in range(1, 5))
    found = {path.parents[1] for depth in depths for path in given.glob(depth)}
    inside = sorted(
        str(folder.parent if folder.name in (CHECKPOINTS, BEST) else folder)
        for folder in found
    )
    if not inside:
        why = (
            'A linear probe trains no encoder: take the pretraining stage.'
            if next(given.glob('fold-*'), None)
            else 'Has its stage been run?'
        )
        raise UserError(f'No whole checkpoint in {given}. {why}')
    more = f'\n  and {len(inside) - 8} more' if len(inside) > 8 else ''
    raise UserError(
        f'{given} holds several stages or folds. Choose one of:\n  '
        + '\n  '.join(inside[:8])
        + more
    )
