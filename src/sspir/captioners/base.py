"""The explicit semantic prior in words: where the caption of an image comes from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

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
    """One image got no caption; others may."""


class CaptionerUnavailableError(CaptionError):
    """The captioner cannot work at all: no weights, no server, no right to use it."""


class Captioner(ABC):
    """Captions images; one that needs no image, or no known text, ignores it."""

    sees = True
    """Whether the images count."""

    remote = False
    """Whether images leave this machine: such a captioner is only used where somebody asks for it."""

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
        """What decides its captions, for records."""
        return {"captioner": type(self).__name__}

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Free what it holds, such as a model, before diffusion needs the memory; the next call takes it again."""


class PlainCaptioner(Captioner):
    """A captioner around a callable of somebody's own.

    Args:
        describe: (images, known) -> captions, as of `Captioner.__call__`.
    """

    def __init__(self, describe: Callable[[Images, Sequence[str]], Sequence[str]]) -> None:
        self.describe = describe

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """What the callable says.

        Raises:
            CaptionError: it fails, or does not give a text per image.
        """
        name = self.provenance()["captioner"]
        try:
            said = list(self.describe(images, known))
        except UserError:
            raise
        except Exception as error:  # one photo's trouble, told as such
            raise CaptionError(f"{name} failed ({type(error).__name__}: {error}).") from error
        if len(said) != len(images) or not all(isinstance(text, str) for text in said):
            raise CaptionError(f"{name} gives {said!r:.200} for {len(images)} images; return one text each.")
        return said

    def provenance(self) -> dict[str, str]:
        """The callable's name, with its module's."""
        made = getattr(self.describe, "func", self.describe)  # of a partial
        named = made if hasattr(made, "__qualname__") else type(made)
        return {"captioner": f"{named.__module__}.{named.__qualname__}"}


def captioner_of(captioner: Any) -> Captioner:
    """A captioner as it is; a callable (images, known) -> captions as one."""
    return captioner if isinstance(captioner, Captioner) else PlainCaptioner(captioner)


class NoCaption(Captioner):
    """Says nothing: the model is steered by the image alone."""

    sees = False

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """An empty caption per image."""
        return [""] * len(images)


class Precomputed(Captioner):
    """Says what came with the image, "" where nothing did."""

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
    """A picture for a captioner that sees pictures.

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
    return " ".join(text.split())
