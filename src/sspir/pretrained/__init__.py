"""Somebody else's networks: from a folder, a single file or the hub."""
