"""The experiments that come with the package; see base.py."""
