r"""SwAV on brain MRI without skull; then the severity of Alzheimer's disease.

    python -m jax_mrissl.main --config=configs/swav_masked_brain.py \
        --config.data_dir=data --workdir=runs/swav_masked_brain

Needs `brain_mri_masked` and `alzheimer_mri`, prepared
(python -m jax_mrissl.prepare --help). The scale :demo makes and prepares a
simulated cohort by itself:

    python -m jax_mrissl.main --config=configs/swav_masked_brain.py:demo
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    return base.pretrained(
        'swav_masked_brain', 'swav', 'brain_mri_masked', variant=variant
    )
