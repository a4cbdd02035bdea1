r"""SimCLR on natural images, then on brain MRI; then Alzheimer's severity.

    python -m jax_mrissl.main --config=configs/simclr_natural_brain.py \
        --config.data_dir=data --workdir=runs/simclr_natural_brain

Needs `tiny_imagenet`, `brain_mri` and `alzheimer_mri`, prepared
(python -m jax_mrissl.prepare --help). Its sections are `natural`, then `pretrain`.
The scale :demo makes and prepares a simulated cohort by itself:

    python -m jax_mrissl.main --config=configs/simclr_natural_brain.py:demo
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    return base.pretrained(
        'simclr_natural_brain', 'simclr', 'tiny_imagenet', 'brain_mri', variant=variant
    )
