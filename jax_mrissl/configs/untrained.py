r"""No pretraining: what the same network reaches from random weights.

    python -m jax_mrissl.main --config=configs/untrained.py \
        --config.data_dir=data --workdir=runs/untrained
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(scale: str = '') -> ConfigDict:
    """Makes the config at one of the scales of `base.SCALES`."""
    config = base.get_config(scale)
    config.name = 'untrained'
    config.chain = ()
    return config
