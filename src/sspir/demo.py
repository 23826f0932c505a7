"""The main job in a minute: restore photos that the shipped model never saw, show and measure them."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from sspir.config.compose import compose_config
from sspir.errors import UserError
from sspir.evaluation.evaluate import evaluate
from sspir.images.io import list_images, read_image, write_image
from sspir.images.panel import panel, stack, to_picture
from sspir.models.latent import upscale
from sspir.weights.load import SHIPPED, load_pipeline

log = logging.getLogger(__name__)
BESIDE = Path("../shared/data")  # photos that stand beside a checkout of the project
COLUMNS = {"lq": "bicubic", "processor": "processor", "restored": "restored", "hq": "truth"}


def demo(out: Path, photos: str | None = None, bad: str | None = None, count: int = 6) -> Path:
    """Restore validation photos that were degraded, and a really bad one as it is.

    Args:
        out: folder for the restored files and the panels.
        photos: folder of photos; None looks at SSPIR_PHOTOS, then beside the checkout, then takes scikit-image's.
        bad: a photo or a folder of photos to restore as they are; None looks beside the checkout.
        count: of validation photos.

    Returns:
        The picture that shows it all.
    """
    root = photos or os.environ.get("SSPIR_PHOTOS") or (str(BESIDE / "photos") if (BESIDE / "photos").is_dir() else "")
    os.environ["SSPIR_PHOTOS"] = root
    log.info("Photos: %s", root or "the few that scikit-image carries")
    evaluation = out / "evaluation"
    measured = [f"run={SHIPPED}", "benchmark=photos", "metric=fast", f"limit={count}", f"out={evaluation}"]
    evaluate(compose_config("evaluate", measured))
    captions = json.loads((evaluation / "captions.json").read_text(encoding="utf-8"))
    panels = [_degraded(evaluation, name, caption) for name, caption in captions.items()]
    panels += [_bad(path, out) for path in _bad_photos(bad)]
    picture = out / "panels.png"
    stack(panels).save(picture)
    log.info("Look at %s; the restored files are in %s and %s.", picture, evaluation / "restored", out / "bad")
    return picture


def _degraded(evaluation: Path, name: str, caption: str) -> Image.Image:
    """LQ, Processor, restored and truth of one validation photo."""
    images = {folder: read_image(evaluation / folder / f"{name}.png").tensor() for folder in COLUMNS}
    images["lq"] = upscale(images["lq"][None], (images["hq"].shape[-2], images["hq"].shape[-1]))[0]
    return _panel(f"{Path(name).name}: {caption}", {COLUMNS[folder]: image for folder, image in images.items()})


def _bad(path: Path, out: Path) -> Image.Image:
    """A photo as it is, beside its restoration."""
    photo = read_image(path)
    pipeline = load_pipeline()
    restored = pipeline(photo.tensor(), output_type="pt")
    (out / "bad").mkdir(parents=True, exist_ok=True)
    write_image(out / "bad" / f"{path.stem}.png", to_picture(restored.images[0]))
    size = (restored.images[0].shape[-2], restored.images[0].shape[-1])
    columns = {"bicubic": upscale(photo.tensor()[None], size)[0], "restored": restored.images[0]}
    return _panel(f"{path.stem}, as it was found: {restored.captions[0]}", columns)


def _panel(title: str, columns: Mapping[str, Tensor]) -> Image.Image:
    """A panel no wider than a screen: the middle of large images."""
    side = 320
    cut = {name: _middle(image, side) for name, image in columns.items()}
    return panel(cut, title)


def _middle(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[-2:]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return image[..., top : top + side, left : left + side]


def _bad_photos(bad: str | None) -> list[Path]:
    """The bad photos to show: those asked for, or the smallest beside the checkout."""
    if bad and not Path(bad).exists():
        raise UserError(f"There is no photo or folder {bad}; name one that exists.")
    if bad:
        return [Path(bad)] if Path(bad).is_file() else list_images(bad)
    beside = BESIDE / "real"
    found = list_images(beside) if beside.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_size)[:1]
