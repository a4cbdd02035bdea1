r"""SwAV on CT; then the severity of Alzheimer's disease.

    python -m jax_mrissl.main --config=configs/swav_ct.py \
        --config.data_dir=data --workdir=runs/swav_ct

Needs `ct` and `alzheimer_mri`, prepared
(python -m jax_mrissl.prepare --help). The scale :demo makes and prepares a
simulated cohort by itself:

    python -m jax_mrissl.main --config=configs/swav_ct.py:demo
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    return base.pretrained('swav_ct', 'swav', 'ct', variant=variant)
