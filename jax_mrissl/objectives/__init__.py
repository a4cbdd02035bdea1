"""What a run minimises; one method, one file."""

from jax_mrissl.objectives.barlow import BarlowTwins
from jax_mrissl.objectives.simclr import SimCLR
from jax_mrissl.objectives.swav import SwAV
from jax_mrissl.objectives.vicreg import VICReg

METHODS: dict[str, type] = {
    'barlow': BarlowTwins,
    'simclr': SimCLR,
    'swav': SwAV,
    'vicreg': VICReg,
}
