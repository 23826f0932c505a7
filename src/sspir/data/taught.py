"""Pairs with what a teacher made of them: made once, read like other shards."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sspir.data.cropped import Photo
from sspir.data.image_folder import ImageFolder
from sspir.data.sample import Sample
from sspir.data.shards import MANIFEST, Shards, ShardWriter
from sspir.degradation import Degradation
from sspir.errors import UserError
from sspir.files import write_text
from sspir.images.decode import decode_picture
from sspir.images.encode import encode_picture
from sspir.images.io import ImageError
from sspir.images.panel import to_picture
from sspir.seeding import sample_seed

SETTINGS = "teach.json"


class Taught(Shards):
    """What `sspir teach` wrote: samples of lq, hq and a teacher's picture of lq; see `Shards`.

    A crop cuts, mirrors and turns all three alike.
    """

    kind = "a teacher's pictures"
    pictures = 3

    def load(self, index: int) -> Photo:
        """Read a sample; the teacher's picture is three more channels of the truth, so that they stay together."""
        described, files = self.members(index)
        name = str(described["file_name"])
        lq, hq, teacher = (decode_picture(Path(f"{name}.webp"), file, self.max_pixels).pixels for file in files)
        return Photo(name, str(described["caption"]), np.concatenate([hq, teacher], axis=2), lq)

    def __getitem__(self, index: int) -> Sample:
        """The whole sample, or its centre."""
        return _parted(super().__getitem__(index))

    def view(self, index: int, seed: int) -> Sample:
        """A patch drawn from this seed."""
        return _parted(super().view(index, seed))


def _parted(sample: Sample) -> Sample:
    hq, teacher = sample["hq"][:3], sample["hq"][3:]
    return {**sample, "hq": hq, "teacher": teacher}


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note with which settings a folder is filled.

    Raises:
        UserError: it was begun with others, or holds shards of something else.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if old := [file for file in (folder / MANIFEST, *folder.glob("shard-*.tar")) if file.exists()]:
            raise UserError(f"{folder} holds {old[0].name} of another set; choose another folder.")
        write_text(path, json.dumps(settings, indent=2) + "\n")
    begun = json.loads(path.read_text(encoding="utf-8"))
    if other := [name for name in settings.keys() | begun.keys() if settings.get(name) != begun.get(name)]:
        name = min(other)
        raise UserError(
            f"{folder} was begun with another {name} ({json.dumps(begun.get(name))}, now "
            f"{json.dumps(settings.get(name))}); give that one, or choose another folder."
        )


class Lessons:
    """Draws samples and has a teacher restore them; what a sample is depends on its number and the settings alone.

    Args:
        photos: with a crop, which cuts the truth.
        degradation: makes lq.
        teacher: (B, 3, h, w) in [0, 1] -> (B, 3, H, W) in [0, 1].
        device: of the teacher.
        seed: of crops and degradations.
    """

    def __init__(
        self,
        photos: ImageFolder,
        degradation: Degradation,
        teacher: Callable[[Tensor], Tensor],
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.photos, self.degradation, self.teacher = photos, degradation, teacher
        self.device, self.seed = device, seed

    def write(self, writer: ShardWriter, count: int, batch: int) -> Iterator[int]:
        """Write what is missing of so many samples.

        Args:
            writer: to whose folder; shards that are there are kept, and it is closed.
            count: samples in all.
            batch: samples that the teacher is given at a time; an interrupted batch is repeated whole, for equal bits.

        Yields:
            How many samples there are, after each batch.
        """
        left_out = {name for described in writer.take_up() for name in described.get("left_out", ())}
        for start in range(len(writer.index) // batch * batch, count, batch):
            drawn = [self._draw(number) for number in range(start, min(start + batch, count))]
            samples, broken = [sample for sample, _ in drawn], [names for _, names in drawn]
            made = list(zip(self._made(samples, start), samples, broken, strict=True))
            for pictures, sample, names in made[len(writer.index) - start :]:
                described = {"file_name": sample["id"], "caption": sample["caption"]}
                writer.append(pictures, {**described, "left_out": names} if names else described)
                left_out.update(names)
            yield len(writer.index)
        writer.about["left_out"] = sorted(left_out)
        writer.close()

    def _draw(self, number: int) -> tuple[Sample, list[str]]:
        """A photo's crop, and the names of broken photos whose place it takes; each photo comes once in a pass."""
        count = len(self.photos)
        turn = torch.Generator().manual_seed(sample_seed(self.seed, number // count, "order"))
        order = torch.randperm(count, generator=turn).tolist()
        broken: list[str] = []
        for attempt in range(count):
            place = order[(number + attempt) % count]
            try:
                return self.photos.view(place, sample_seed(self.seed, 0, f"crop {number}")), broken
            except ImageError:
                broken.append(self.photos.files[place][1])
        raise UserError(f"None of the {count} photos can be read, such as {self.photos.files[0][0]}; give others.")

    @torch.no_grad()
    def _made(self, samples: list[Sample], start: int) -> list[dict[str, bytes]]:
        """The files of samples, in whole levels as everything that follows sees them."""
        hq = _levels(torch.stack([sample["hq"] for sample in samples]))
        seeds = [sample_seed(self.seed, 0, f"degradation {start + place}") for place in range(len(samples))]
        hq, lq = map(_levels, self.degradation.pair(hq, seeds))
        taught = self.teacher(lq.to(self.device)).cpu()
        if taught.shape != hq.shape:
            raise UserError(f"The teacher makes {tuple(taught.shape[-2:])} pixels, not {tuple(hq.shape[-2:])}.")
        halves = {".lq.webp": lq, ".hq.webp": hq, ".teacher.webp": taught}
        return [
            {suffix: encode_picture(to_picture(images[place]), ".webp", 100)[0] for suffix, images in halves.items()}
            for place in range(len(samples))
        ]


def _levels(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255
