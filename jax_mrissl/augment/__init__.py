"""Random views of images, on the accelerator."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax_mrissl.augment.colour import ColorJitter, RandomGrayscale
from jax_mrissl.augment.crops import CenterCrop, RandomResizedCrop, Resize
from jax_mrissl.augment.ct import WindowJitter
from jax_mrissl.augment.geometry import Affine, HorizontalFlip
from jax_mrissl.augment.intensity import (
    BrightnessContrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    Normalize,
    Solarize,
)
from jax_mrissl.augment.mri import BiasField, Ghosting, RicianNoise
from jax_mrissl.augment.policy import Policy
from jax_mrissl.core.build import build
from jax_mrissl.core.errors import UserError

CROPS: dict[str, type] = {
    'center_crop': CenterCrop,
    'random_resized_crop': RandomResizedCrop,
    'resize': Resize,
}
OPS: dict[str, type] = {
    'affine': Affine,
    'bias_field': BiasField,
    'brightness_contrast': BrightnessContrast,
    'color_jitter': ColorJitter,
    'gamma': Gamma,
    'gaussian_blur': GaussianBlur,
    'gaussian_noise': GaussianNoise,
    'ghosting': Ghosting,
    'horizontal_flip': HorizontalFlip,
    'normalize': Normalize,
    'random_grayscale': RandomGrayscale,
    'rician_noise': RicianNoise,
    'solarize': Solarize,
    'window_jitter': WindowJitter,
}


def build_policy(view: Sequence[Mapping[str, Any]], *, where: str) -> Policy:
    """Makes the policy that a list of ops declares.

    Args:
        view: a crop, then ops; `window_jitter`, if there, first of them, `normalize`
            last.
        where: the list's path in the config, for messages.

    Raises:
        UserError: an unknown op or field, or an order that cannot be right.
    """
    if not view or view[0].get('name') in OPS:
        raise UserError(
            f'{where} must start with a crop: one of {", ".join(sorted(CROPS))}.'
        )
    crop: Any = build(CROPS, view[0], where=f'{where}[0]')
    ops: tuple[Any, ...] = tuple(
        build(OPS, op, where=f'{where}[{index}]')
        for index, op in enumerate(view[1:], start=1)
    )
    for index, op in enumerate(ops, start=1):
        probability = getattr(op, 'probability', 0.0)
        if not 0 <= probability <= 1:
            raise UserError(
                f'{where}[{index}].probability is {probability}; from 0 to 1.'
            )
    if any(isinstance(op, Normalize) for op in ops[:-1]):
        raise UserError(f'{where}: normalize must stand last.')
    if any(isinstance(op, WindowJitter) for op in ops[1:]):
        raise UserError(
            f'{where}: window_jitter must stand right after the crop: ops that come '
            'before it would see values outside the window.'
        )
    return Policy(crop, ops)
