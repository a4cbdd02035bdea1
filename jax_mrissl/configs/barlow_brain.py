r"""Barlow Twins, ResNet18, on brain MRI; then the severity of Alzheimer's disease.

    python -m jax_mrissl.main --config=configs/barlow_brain.py \
        --config.data_dir=data --workdir=runs/barlow_brain

Needs `brain_mri` and `alzheimer_mri`, prepared (python -m jax_mrissl.prepare --help).
With the scale :demo it makes and prepares a simulated cohort by itself:

    python -m jax_mrissl.main --config=configs/barlow_brain.py:demo
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(scale: str = '') -> ConfigDict:
    """Makes the config at one of the scales of `base.SCALES`."""
    config = base.get_config(scale)
    config.name = 'barlow_brain'
    return config
