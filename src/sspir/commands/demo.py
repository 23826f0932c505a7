"""`sspir demo`: the main job in a minute. Photos that the shipped model never saw are restored, shown and measured."""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sspir.commands.parser import Parser
from sspir.errors import UserError
from sspir.numbers import COUNT

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sspir.files import Journal
    from sspir.restoring.jobs import Job
    from sspir.sampling.pipeline import RestorationPipeline

SIDE = 320  # pixels of a column, so that a panel is no wider than a screen
COLUMNS = {"lq": "bicubic", "processor": "processor", "restored": "restored", "hq": "truth"}
PANELS, EVALUATION = "panels.png", "evaluation"  # in the folder
MADE = "demo.jsonl"  # that the panels are the demo's

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> int:
    """Parse the flags and run the demo. Returns the exit status."""
    parser = Parser(
        "sspir demo",
        "Restore photos with the small model that ships with sspir, and show them side by side with a\n"
        "table of PSNR and SSIM. Needs no network, no GPU and no account.",
        "example: sspir demo --photos ~/Pictures --bad ~/Pictures/old.jpg",
    )
    parser.add_argument("--out", default="demo", type=Path, help="folder for everything it writes (default: demo)")
    parser.add_argument("--photos", help="folder of good photos (default: $SSPIR_PHOTOS, else scikit-image's)")
    parser.add_argument("--bad", type=Path, help="a bad photo, or a folder of them, to restore as it is")
    parser.add_argument("--count", default=6, type=COUNT, help="good photos to degrade and restore (default: 6)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    _, refused = demo(options.out, options.photos, options.bad, options.count)
    return 1 if refused else 0


def demo(out: Path, photos: str | None = None, bad: Path | None = None, count: int = 6) -> tuple[Path, int]:
    """Restore good photos that are degraded for it, and bad ones as they are; one that cannot be is named.

    Args:
        out: folder for the restored files and the panels.
        photos: folder of photos, of which its `val` counts where it has `train` and `val`; None takes those of
            SSPIR_PHOTOS, else the few that scikit-image carries.
        bad: a photo or a folder of photos to restore as they are.
        count: of good photos.

    Returns:
        The picture that shows it all, and how many of the bad photos could not be restored.

    Raises:
        UserError: there are no photos, or a bad one would be written to the file of another or of somebody's.
    """
    import json
    import os

    import numpy as np

    from sspir.config.compose import compose_config
    from sspir.evaluation.evaluate import evaluate
    from sspir.evaluation.results import JOURNAL
    from sspir.files import Journal
    from sspir.images.io import Picture, write_image
    from sspir.images.panel import stack
    from sspir.training.saved import SHIPPED

    jobs = _jobs(bad, out) if bad else []
    journal, picture = Journal(out, MADE), out / PANELS
    ours = PANELS in journal.files or (not journal.path.exists() and (out / EVALUATION / JOURNAL).exists())  # as before
    if picture.exists() and not ours:
        raise UserError(f"{picture} exists and was not written by the demo; move it, or choose another --out.")
    root = photos or os.environ.get("SSPIR_PHOTOS", "")
    os.environ["SSPIR_PHOTOS"] = root
    log.info("Photos: %s", root or "the few that scikit-image carries")
    evaluation = out / EVALUATION
    measured = ["benchmark=photos", "metric=fast", "wandb=null", f"limit={count}"]
    if root:  # whose photos the model has not seen: none is set aside for training
        measured.append("+benchmark.photos.other_root=''")
    config = compose_config("evaluate", measured)
    config.run, config.out = map(_literal, (SHIPPED, evaluation))  # which Hydra's grammar may not take
    evaluate(config)
    captions = json.loads((evaluation / "captions.json").read_text(encoding="utf-8"))
    panels = [_degraded(evaluation, name, caption) for name, caption in captions.items()]
    shown = _shown(jobs, out) if jobs else []
    panels += shown
    journal.append({"output": PANELS, "status": "begun"})
    write_image(picture, Picture(np.asarray(stack(panels))))
    folders = " and ".join(str(folder) for folder in (evaluation / "restored", *([out / "bad"] if bad else [])))
    log.info("Look at %s; the restored files are in %s.", picture, folders)
    return picture, len(jobs) - len(shown)


def _jobs(bad: Path, out: Path) -> "list[Job]":
    """Where bad photos are restored to; what the demo itself made of others is none of them."""
    from sspir.images.names import resolved
    from sspir.restoring.jobs import JOURNAL, find_jobs, lies_in

    picture, made = resolved(out / PANELS), out / EVALUATION
    jobs = [
        job
        for job in find_jobs([str(bad)], out / "bad")
        if job.source == bad or not (resolved(job.source) == picture or lies_in(made, job.source))
    ]
    if not jobs:
        raise UserError(f"{bad} holds no photos to restore but those of the demo; name another folder by --bad.")
    there = [job.target for job in jobs if job.target.exists()]
    if there and not (out / "bad" / JOURNAL).exists():
        raise UserError(f"{there[0]} exists and was not written by the demo; move it, or choose another --out.")
    return jobs


def _literal(path: Path) -> str:
    """A path as OmegaConf takes it, where ${ is no reference."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", str(path))


def _degraded(evaluation: Path, name: str, caption: str) -> "Image.Image":
    """LQ, Processor, restored and truth of one validation photo."""
    from sspir.images.io import read_image
    from sspir.models.latent import upscale

    images = {folder: read_image(evaluation / folder / f"{name}.png").tensor() for folder in COLUMNS}
    images["lq"] = upscale(images["lq"][None], (images["hq"].shape[-2], images["hq"].shape[-1]))[0]
    return _panel(f"{Path(name).name}: {caption}", {COLUMNS[folder]: image for folder, image in images.items()})


def _shown(jobs: Sequence["Job"], out: Path) -> list["Image.Image"]:
    """Restore bad photos and show them; one that cannot be read is named and left out."""
    from sspir.files import Journal
    from sspir.restoring.jobs import JOURNAL
    from sspir.weights.load import load_pipeline

    journal = Journal(out / "bad", JOURNAL)
    known = bool(journal.files) or not journal.path.exists()  # one of before is empty, and all there is the demo's
    journal.begin()  # which tells the next demo whose files these are
    pipeline, panels = load_pipeline(), []
    for job in jobs:
        try:
            if known and job.target.exists() and job.output not in journal.files:
                raise UserError(f"{job.target} was not written by the demo; move it, or choose another --out.")
            panels.append(_bad(pipeline, job, journal))
        except UserError as error:
            log.warning("Left out: %s", error)
    return panels


def _bad(pipeline: "RestorationPipeline", job: "Job", journal: "Journal") -> "Image.Image":
    """A photo as it is, beside its restoration."""
    from sspir.images.io import read_image, write_image
    from sspir.models.latent import upscale

    photo = read_image(job.source)
    restored = pipeline(photo.tensor(), output_type="pt")
    journal.append({**job.names(), "status": "begun"})
    write_image(job.target, photo.replaced(restored.images[0]))  # with its depth, opacity and EXIF, as `sspir restore`
    size = (restored.images[0].shape[-2], restored.images[0].shape[-1])
    columns = {"bicubic": upscale(photo.tensor()[None], size)[0], "restored": restored.images[0]}
    return _panel(f"{job.name}, as it was found: {restored.captions[0]}", columns)


def _panel(title: str, columns: Mapping[str, "Tensor"]) -> "Image.Image":
    """A panel of the middles of the images."""
    from sspir.images.panel import middle, panel

    return panel({name: middle(image, SIDE) for name, image in columns.items()}, title)
