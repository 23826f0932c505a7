"""What a captioner is: images to captions, the explicit semantic prior."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from sspir.captioners.tables import whole_characters
from sspir.errors import UserError
from sspir.images.panel import to_pil
from sspir.memory import released

if TYPE_CHECKING:
    from PIL.Image import Image

Images = Tensor | Sequence[Tensor]
K = TypeVar("K")

QUESTION = "Describe the image in a very detailed manner if we remove the degradation artifacts from the image."
"""What the authors ask their model (SSP-IR, `llava_agent.py:77-114`)."""


class CaptionError(UserError):
    """An image got no caption; other images may get one."""


class CaptionerUnavailableError(CaptionError):
    """The captioner cannot work at all: no weights, no server, no right to use it."""


class Captioner(ABC):
    """Captions images. A captioner that needs no images, or no known texts, ignores them."""

    sees = True
    """Whether the captioner looks at the images."""

    remote = False
    """Whether images leave this machine; such a captioner is used only where the user asks for it."""

    made_with = ""
    """Digits of the settings in a configuration that the captioner was made with, see `sspir.config.build`."""

    @abstractmethod
    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """One caption per image.

        Args:
            images: (B, 3, H, W) in [0, 1], RGB, or B images (3, H, W) of any sizes.
            known: the text that came with each image, "" where none did.

        Raises:
            CaptionError: an image got no caption.
        """

    def provenance(self) -> dict[str, str]:
        """What decides the captions, such as class, model and question, for records; "captioner" names what it is."""
        kind = type(self)
        is_ours = kind.__module__.startswith("sspir.")
        return self._named(kind.__name__ if is_ours else f"{kind.__module__}.{kind.__qualname__}")

    def _named(self, name: str) -> dict[str, str]:
        return {"captioner": name, **({"settings": self.made_with} if self.made_with else {})}

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Free memory, such as a model's, before diffusion needs it; the next call loads the model again."""


class PlainCaptioner(Captioner):
    """A captioner around a user's callable.

    Args:
        describe: (images, known) -> captions, as of `Captioner.__call__`.
    """

    def __init__(self, describe: Callable[[Images, Sequence[str]], Sequence[str]]) -> None:
        self.describe = describe

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """The callable's captions.

        Raises:
            CaptionError: the callable fails, or does not return one text per image.
        """
        name = provenance_of(self)["captioner"]
        try:
            captions = list(self.describe(images, known))
        except UserError:
            raise
        except Exception as error:  # one photo's trouble, told as such
            raise CaptionError(f"{name} failed ({type(error).__name__}: {error}).") from error
        if len(captions) != len(images) or not all(isinstance(text, str) for text in captions):
            raise CaptionError(f"{name} gives {captions!r:.200} for {len(images)} images; return one text each.")
        return captions

    def provenance(self) -> dict[str, str]:
        """The callable's module and name."""
        function = getattr(self.describe, "func", self.describe)  # of a partial
        named = function if hasattr(function, "__qualname__") else type(function)
        return self._named(f"{named.__module__}.{named.__qualname__}")


def captioner_of(captioner: Any) -> Captioner:
    """Return a captioner unchanged; wrap any other callable (images, known) -> captions in a `PlainCaptioner`."""
    return captioner if isinstance(captioner, Captioner) else PlainCaptioner(captioner)


def provenance_of(captioner: Captioner) -> dict[str, str]:
    """What a captioner says of itself, and what it is where a class of one's own leaves that out."""
    return {**Captioner.provenance(captioner), **captioner.provenance()}


class NoCaption(Captioner):
    """Returns empty captions: the model is steered by the image alone."""

    sees = False

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """An empty caption per image."""
        return [""] * len(images)


class Precomputed(Captioner):
    """Returns the text that came with each image, "" where none did."""

    sees = False

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """The known texts."""
        return list(known)


def caption_each(captioner: Captioner, images: Mapping[K, Tensor]) -> Iterator[tuple[K, str | UserError]]:
    """Caption several images in one call; if the call fails, caption each image in a call of its own.

    Args:
        captioner: is told no known texts.
        images: any key -> (3, h, w) in [0, 1], RGB.

    Yields:
        The key of each image with its caption, or with the error that the image alone causes.

    Raises:
        CaptionerUnavailableError: the captioner cannot work at all.
    """
    try:
        captions = captioner(list(images.values()), [""] * len(images)) if images else []
    except CaptionerUnavailableError:
        raise
    except UserError as error:
        trouble = released(error)
    else:
        yield from zip(images, captions, strict=True)
        return
    for key, image in images.items():
        if len(images) == 1:
            yield key, trouble
        else:
            yield from caption_each(captioner, {key: image})


def pil_image(image: Tensor, longest_side: int) -> "Image":
    """Convert an image to a picture of Pillow for a model, and reduce a large one.

    Args:
        image: (3, H, W) in [0, 1], RGB.
        longest_side: pixels; a larger image is reduced to it.
    """
    from PIL import Image

    picture = to_pil(image)
    picture.thumbnail((longest_side, longest_side), Image.Resampling.BICUBIC)
    return picture


def one_line(text: str) -> str:
    """A model's answer as one line of plain text."""
    return " ".join(whole_characters(text).split())
