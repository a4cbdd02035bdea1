"""Linen networks; no losses."""

from jax_mrissl.models.resnet import (
    Encoder,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNetTiny,
)

ENCODERS: dict[str, type[Encoder]] = {
    'resnet18': ResNet18,
    'resnet34': ResNet34,
    'resnet50': ResNet50,
    'resnet_tiny': ResNetTiny,
}
