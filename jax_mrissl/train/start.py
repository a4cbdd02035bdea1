"""Where an encoder comes from: a run's checkpoints, or a file of weights."""

import dataclasses
from pathlib import Path
from typing import Any

from jax_mrissl.core.errors import UserError
from jax_mrissl.train.checkpoint import newest_step, read_encoder, read_lineage
from jax_mrissl.train.state import TrainState
from jax_mrissl.train.weights import file_digest, read_encoder_file

CHECKPOINTS = 'checkpoints'


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
        folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
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
    return Start(path, address, {'file': path.name, 'address': address}, is_file=True)
