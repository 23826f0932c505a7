"""Configurations: composed, checked and built into objects."""

from sspir.moved import old_names_of

__getattr__ = old_names_of(__name__)
