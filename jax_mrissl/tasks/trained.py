"""An encoder that was trained, here or elsewhere, and what it wants to see."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jax_mrissl.augment import OPS
from jax_mrissl.core.build import build
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import read_json
from jax_mrissl.models import ENCODERS
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.train.checkpoint import read_encoder, read_lineage
from jax_mrissl.train.start import checkpoint_folder
from jax_mrissl.train.weights import file_digest, read_encoder_file, read_told

# Of an encoder's images, where no normalisation tells how many channels they have.
_CHANNELS = (3, 1)
# Of a file of weights that tells nothing.
_FOREIGN_ENCODER = 'resnet18'
_FOREIGN_SIZE = 128


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with its weights, and what it wants to see.

    Attributes:
        section: the config section `encoder`, JSON.
        image_size: height and width of its images, in pixels.
        normalize: the op that its images ended with in training, JSON; None: none.
        params, model_state: its arrays; `model_state` holds 'batch_stats'.
        lineage: JSON about where it comes from.
    """

    section: Json
    image_size: int
    normalize: Json | None
    params: Any
    model_state: Any
    lineage: Json

    @property
    def features(self) -> int:
        """F, the length of an embedding."""
        return ENCODERS[self.section['name']].features

    @property
    def channels(self) -> int:
        """Of the images that the network takes."""
        return self.params['conv1']['kernel'].shape[2]

    @property
    def view(self) -> Json:
        """The ops from a stored image to what the network takes, JSON."""
        resize = {'name': 'resize', 'size': self.image_size}
        return [resize, self.normalize] if self.normalize else [resize]


def open_trained(
    given: Path, image_size: int | None = None, encoder: str | None = None
) -> TrainedEncoder:
    """Reads an encoder that a user names, from a run or from a file of weights.

    Args:
        given: a stage's folder, a folder of checkpoints, or a file of weights.
        image_size: of its images, in pixels; None: as in training, else 128.
        encoder: the network of a file of weights; None: as it tells, else resnet18.

    Raises:
        UserError: nothing is there, or it is not what it should be.
    """
    if given.is_file():
        told = read_told(given)
        section = {'name': encoder} if encoder else told.get('encoder')
        lineage = {
            'file': given.name,
            'address': f'sha256:{file_digest(given)}',
            **({'lineage': told['lineage']} if 'lineage' in told else {}),
        }
        moments = {key: told[key] for key in ('mean', 'std') if key in told}
        # A file of ours tells its normalisation if it has any; another's is ImageNet's.
        unnormalised = 'encoder' in told and not moments
        return read_foreign(
            given,
            section or {'name': _FOREIGN_ENCODER},
            image_size or told.get('image_size', _FOREIGN_SIZE),
            None if unnormalised else {'name': 'normalize', **moments},
            lineage,
        )
    if encoder:
        raise UserError(
            '--encoder is for a file of weights; a checkpoint tells its network.'
        )
    trained = read_trained(checkpoint_folder(given))
    if image_size:
        return dataclasses.replace(trained, image_size=image_size)
    return trained


def read_trained(folder: Path) -> TrainedEncoder:
    """Reads the encoder of the newest checkpoint in a folder.

    Raises:
        UserError: there is none, or nothing tells what network it is of.
    """
    lineage = read_lineage(folder)
    params = lineage.get('params') or _stage_params(folder)
    normalize = _normalize(params)
    section = params['encoder']
    channels = (len(normalize['mean']),) if normalize else _CHANNELS
    for count in channels:
        try:
            found = read_encoder(folder, expected_encoder(section, count))
            break
        except UserError:
            if count == channels[-1]:
                raise
    return TrainedEncoder(
        section=section,
        image_size=params['image_size'],
        normalize=normalize,
        params=found['params'],
        model_state=found['model_state'],
        lineage=lineage,
    )


def read_foreign(
    path: Path, section: Json, image_size: int, normalize: Json | None, lineage: Json
) -> TrainedEncoder:
    """Reads an encoder from a file of weights, of which the caller knows the rest.

    Args:
        path: of what `read_weights` reads.
        section, image_size, normalize, lineage: as in `TrainedEncoder`.

    Raises:
        UserError: the file cannot be read, or holds another encoder.
    """
    filled = _filled(normalize) if normalize else None
    count = len(filled['mean']) if filled else _CHANNELS[0]
    found = read_encoder_file(path, expected_encoder(section, count))
    return TrainedEncoder(
        section=section,
        image_size=image_size,
        normalize=filled,
        params=found['params'],
        model_state=found['model_state'],
        lineage=lineage,
    )


def expected_encoder(section: Json, channels: int) -> dict[str, Any]:
    """Gives shapes and types of an encoder's trees, on the first device.

    Args:
        section: the config section `encoder`.
        channels: of its images.

    Raises:
        UserError: the section declares no encoder.
    """
    module = build(ENCODERS, section, where='encoder').module()
    # Any image that the network does not shrink to nothing tells the shapes.
    image = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    variables = jax.eval_shape(
        functools.partial(module.init, train=False), jax.random.key(0), image
    )
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        variables,
    )
    return {
        'params': variables['params'],
        'model_state': {'batch_stats': variables['batch_stats']},
    }


def _stage_params(folder: Path) -> Json:
    """Reads `params` of the stage that a folder of checkpoints belongs to."""
    for parent in list(folder.absolute().parents)[:2]:  # stage, or stage/fold-N
        if (parent / 'stage.json').is_file():
            return read_json(parent / 'stage.json')['params']
    raise UserError(
        f'Nothing tells which network the checkpoint in {folder} is of: its stage.json '
        'is missing. Give the folder inside its stage.'
    )


def _normalize(params: Mapping[str, Any]) -> Json | None:
    """Finds the op `normalize` of a stage, with its mean and deviation."""
    views = [params['evaluation_view']] if 'evaluation_view' in params else []
    for op in [op for view in views or params['views'] for op in view]:
        if op['name'] == 'normalize':
            return _filled(op)
    return None


def _filled(op: Mapping[str, Any]) -> Json:
    """Writes an op `normalize` with all its fields."""
    made: Any = build(OPS, op, where='normalize')
    return {'name': 'normalize', 'mean': list(made.mean), 'std': list(made.std)}
