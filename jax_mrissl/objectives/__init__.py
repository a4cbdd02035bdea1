"""What a run minimises; one method, one file."""

from jax_mrissl.objectives.barlow import BarlowTwins

METHODS = {'barlow': BarlowTwins}
