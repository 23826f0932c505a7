"""Captioners: photos to the texts that steer their restoration."""
