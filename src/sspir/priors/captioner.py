"""The explicit semantic prior in words: where the caption of an image comes from."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Captioner(Protocol):
    """Captions images; one that needs no image, or no known text, ignores it."""

    def __call__(self, images: Tensor, known: Sequence[str]) -> list[str]:
        """One caption per image.

        Args:
            images: (B, 3, H, W) in [0, 1], RGB.
            known: the text that came with each image, "" where none did.
        """
        ...


class NoCaption:
    """Says nothing: the model is steered by the image alone."""

    def __call__(self, images: Tensor, known: Sequence[str]) -> list[str]:
        """An empty caption per image."""
        return [""] * len(images)


class Precomputed:
    """Says what came with the image, "" where nothing did."""

    def __call__(self, images: Tensor, known: Sequence[str]) -> list[str]:
        """The known texts."""
        return list(known)
