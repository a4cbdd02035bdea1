r"""SimCLR on natural images; then the severity of Alzheimer's disease.

    python -m jax_mrissl.main --config=configs/simclr_natural.py \
        --config.data_dir=data --workdir=runs/simclr_natural

Needs `tiny_imagenet` and `alzheimer_mri`, prepared
(python -m jax_mrissl.prepare --help). The scale :demo makes and prepares a
simulated cohort by itself:

    python -m jax_mrissl.main --config=configs/simclr_natural.py:demo
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    return base.pretrained('simclr_natural', 'simclr', 'tiny_imagenet', variant=variant)
