"""A ResNet's parameters under torchvision's names and in PyTorch's layout, and back.

Weights then go between this package, torchvision and what reads torchvision's format.
The names are those of torchvision's `ResNet.state_dict()` without its classifier `fc`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mrissl.core.errors import UserError

# Of one layer: (collection, leaf here) and leaf there.
_LEAVES = {
    ('params', 'kernel'): 'weight',
    ('params', 'scale'): 'weight',
    ('params', 'bias'): 'bias',
    ('batch_stats', 'mean'): 'running_mean',
    ('batch_stats', 'var'): 'running_var',
}
# A container of the network's children, as Lightly makes it, numbers them.
_BY_NUMBER = {
    '0': 'conv1',
    '1': 'bn1',
    **{str(stage + 3): f'layer{stage}' for stage in range(1, 5)},
}
_NAMED_AT_MOST = 8


def to_torchvision(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Gives an encoder's arrays as a `state_dict` of torchvision's.

    The running variances are kept as they are: ours are biased, torch's are n / (n - 1)
    times that, n the values behind a channel's statistics. With 64 images and a last
    feature map of 4 x 4 pixels that is 0.1 percent of a variance.

    Args:
        variables: of a `ResNet`: 'params' and 'batch_stats'.

    Returns:
        Arrays by name, each of its own type; convolutions [out, in, k, k]. Each
        BatchNorm has a `num_batches_tracked`, int64 [], of 0: it is not known here, and
        torch reads it only where `momentum` is None.

    Raises:
        ValueError: the variables are not those of a `ResNet`.
    """
    tensors = {}
    for place in _places(variables):
        tensors[place.name] = place.to_torch(np.asarray(place.leaf))
        if place.name.endswith('.running_var'):
            tracked = place.name.replace('running_var', 'num_batches_tracked')
            tensors[tracked] = np.zeros((), np.int64)
    return tensors


def from_torchvision(tensors: Mapping[str, np.ndarray], like: Any) -> Any:
    """Gives an encoder's trees from a `state_dict` of torchvision's.

    Ignored are `fc.*` and `num_batches_tracked`. What stands before all names
    ('module.', 'backbone.', 'module.encoder.') is taken off where the rest then fits,
    and the numbers of Lightly's containers (0 conv1, 1 bn1, 4 to 7 the layers) are
    understood. The running variances are kept as they are; see `to_torchvision`.

    Args:
        tensors: arrays by name.
        like: the encoder that is expected: `params` and `model_state`, each a tree, of
            arrays or of what says their shape, type and, where given, sharding.

    Returns: a tree as `like`, on the devices of `like`.

    Raises:
        UserError: tensors are missing, not expected, of another shape or not of
            floating point; all are named.
    """
    variables = {'params': like['params'], **like['model_state']}
    places = list(_places(variables))
    found = _renamed(tensors, {place.name for place in places})
    _check(found, places)
    leaves = [
        jax.device_put(
            place.from_torch(np.asarray(found[place.name])).astype(place.leaf.dtype),
            getattr(place.leaf, 'sharding', None),
        )
        for place in places
    ]
    # `_places` goes through the leaves in the order of the tree.
    read = jax.tree.unflatten(jax.tree.structure(variables), leaves)
    return {
        'params': read['params'],
        'model_state': {part: read[part] for part in like['model_state']},
    }


@dataclasses.dataclass(frozen=True)
class _Place:
    """One array: what it is called there, and what stands for it here."""

    name: str
    leaf: Any
    is_kernel: bool

    @property
    def torch_shape(self) -> tuple[int, ...]:
        shape = tuple(self.leaf.shape)
        return tuple(shape[i] for i in (3, 2, 0, 1)) if self.is_kernel else shape

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        # [k, k, in, out] to [out, in, k, k]; contiguous, as safetensors wants it.
        value = value.transpose(3, 2, 0, 1) if self.is_kernel else value
        return np.ascontiguousarray(value)

    def from_torch(self, value: np.ndarray) -> np.ndarray:
        return value.transpose(2, 3, 1, 0) if self.is_kernel else value


def _places(variables: Mapping[str, Any]) -> list[_Place]:
    places = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        collection, *layers, last = (key.key for key in path)
        if (collection, last) not in _LEAVES or not layers:
            raise ValueError(
                f'A ResNet has no {"/".join((collection, *layers, last))}.'
            )
        modules = '.'.join(layers)
        if layers[0].startswith('layer'):
            modules = modules.replace('_', '.', 1)  # layer1_0
        modules = modules.replace('downsample_conv', 'downsample.0')
        modules = modules.replace('downsample_bn', 'downsample.1')
        name = f'{modules}.{_LEAVES[collection, last]}'
        places.append(_Place(name, leaf, is_kernel=last == 'kernel'))
    return places


def _renamed(
    tensors: Mapping[str, np.ndarray], expected: set[str]
) -> dict[str, np.ndarray]:
    """Takes off what stands before all names, in the way that most names then fit."""
    kept = {k: v for k, v in tensors.items() if not _is_ignored(k)}
    common = _common_prefix(list(kept))
    ways = [
        {plain: value for name, value in kept.items() if (plain := way(name))}
        for way in (
            lambda name: name,
            lambda name: name[len(common) :],
            _by_number,
            lambda name: _by_number(name[len(common) :]),
        )
    ]
    return max(ways, key=lambda way: len(expected & set(way)))


def _is_ignored(name: str) -> bool:
    *modules, last = name.split('.')
    return last == 'num_batches_tracked' or modules[-1:] == ['fc']


def _common_prefix(names: list[str]) -> str:
    """Gives the modules, with the dot behind them, that all names start with."""
    modules = [name.split('.')[:-1] for name in names]
    shared = []
    for level in zip(*modules, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(f'{level[0]}.')
    return ''.join(shared)


def _by_number(name: str) -> str:
    first, _, rest = name.partition('.')
    return f'{_BY_NUMBER.get(first, first)}.{rest}'


def _check(found: Mapping[str, np.ndarray], places: list[_Place]) -> None:
    """Raises UserError, naming each tensor, unless both hold the same."""
    shapes = {place.name: place.torch_shape for place in places}
    both = [name for name in shapes if name in found]
    complaints = [
        f'{words}: {_listed(wrong)}'
        for words, wrong in (
            ('Missing', [name for name in shapes if name not in found]),
            ('Not expected', [name for name in found if name not in shapes]),
            (
                'Of another shape',
                [
                    f'{name} is {list(found[name].shape)}, expected '
                    f'{list(shapes[name])}'
                    for name in both
                    if found[name].shape != shapes[name]
                ],
            ),
            (
                'Of another type',
                [
                    f'{name} is {found[name].dtype}, expected floating point'
                    for name in both
                    if not jnp.issubdtype(found[name].dtype, jnp.floating)
                ],
            ),
        )
        if wrong
    ]
    if complaints:
        count = sum(math.prod(shape) for shape in shapes.values())
        raise UserError(
            f'These weights are not those of the encoder that is asked for ('
            f'{len(shapes)} tensors, {count:,} numbers, named as in torchvision). '
            + '. '.join(complaints)
            + '. Choose the encoder that they belong to (its name and its stem), or '
            'keep only the tensors of the encoder in the file.'
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    behind = f' and {more} more' if more > 0 else ''
    return '; '.join(sorted(names)[:_NAMED_AT_MOST]) + behind
