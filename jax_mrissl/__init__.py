"""Controlled self-supervised pretraining studies on medical images, in JAX."""

__version__ = '0.1.0'
