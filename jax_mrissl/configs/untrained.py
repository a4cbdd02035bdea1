r"""No pretraining: what the same network reaches from random weights.

    python -m jax_mrissl.main --config=configs/untrained.py \
        --config.data_dir=data --workdir=runs/untrained
"""

from ml_collections import ConfigDict

from jax_mrissl.configs import base


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    return base.pretrained('untrained', '', variant=variant)
