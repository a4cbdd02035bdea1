r"""Weights that learned ImageNet from its labels, finetuned: torchvision's ResNet18.

    python -m jax_mrissl.main --config=configs/imagenet.py \
        --config.init_from=resnet18-f37072fd.pth --config.data_dir=data

The file is torchvision's (`ResNet18_Weights.IMAGENET1K_V1`, BSD-3-Clause):
https://download.pytorch.org/models/resnet18-f37072fd.pth. It is read without running
anything that is in it. Any ResNet18 in torchvision's names will do, also as
.safetensors; another depth needs --config.encoder.name=resnet50 beside it.
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    config = base.pretrained('imagenet', '', variant=variant)
    config.init_from = 'resnet18-f37072fd.pth'
    return config
