"""Configurations: composed, checked and built into objects."""
