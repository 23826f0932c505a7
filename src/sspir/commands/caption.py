"""`sspir caption`: describe a folder of photos once, to edit, to train with, and to restore with."""

import argparse
import math
import re
import sys
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sspir.commands.parser import Parser, add_captioner_input
from sspir.errors import UserError
from sspir.numbers import COUNT, STEPS, counted

if TYPE_CHECKING:
    from torch import Tensor

    from sspir.captioners.folder import FolderCaptioner, Look

EXAMPLES = """examples:
  describe every photo below a folder; photos/captions.jsonl gets a line for each:
    sspir caption photos/ --captioner llava
  with weights of your own, in half precision, eight at a time:
    sspir caption photos/ --captioner qwen_vl --set path=/models/qwen2.5-vl --set dtype=bfloat16 --batch 8
  a server (vLLM, Ollama, llama.cpp, ...), and a text file beside each photo, to edit:
    sspir caption photos/ --captioner endpoint --set url=http://localhost:11434/v1 --set model=llava:7b --beside
  models describe blur and noise as if they were there; show a first restoration instead:
    sspir caption photos/ --captioner llava --captioner-input processor --weights runs/tiny/none-s0
  use them, as they are or edited:
    sspir restore photos/ --captions photos/captions.jsonl --out restored --weights runs/tiny/none-s0

Edit captions where you like: "caption" in the table or, with --beside, PHOTO.txt. Started again, after an interruption
or with new photos in the folder, the same command goes on with what is missing; what you edited is never changed.
Exit status: 0 all done, 1 some photos failed (they are named), 2 nothing could be done.
"""


def run(arguments: list[str]) -> int:
    """Caption the photos that have no caption yet. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _caption(options)
    except UserError as error:  # which names settings as training does
        raise UserError(re.sub(r"\bcaptioner\.(\w+)(=?)", r"--set \1=", str(error))) from error


def _caption(options: argparse.Namespace) -> int:
    if (options.captioner_input == "lq") == bool(options.weights):
        raise UserError(
            "--captioner-input processor and restored need --weights, a model to restore with, and lq takes none."
        )
    from sspir.files import alone_in, alone_with
    from sspir.images.io import list_images

    photos = list_images(options.folder)
    path = options.out or options.folder / "captions.jsonl"
    texts = alone_in(options.folder, "FOLDER") if options.beside else nullcontext()
    with alone_with(path), texts, closing(_captioner(options.captioner, options.set)) as captioner:
        from sspir.captioners.folder import CaptionTable, FolderCaptioner
        from sspir.commands.restore_model import whole_path

        table, shown = CaptionTable(path), options.captioner_input
        weights = whole_path(options.weights) if options.weights else ""
        by = f"{weights}, {options.steps} steps" if shown == "restored" else weights
        work = FolderCaptioner(
            options.folder, table, captioner, _look(options), shown, by, options.beside, options.batch,
            options.max_pixels * 1_000_000,
        )  # fmt: skip
        try:
            return _work(work, photos, options.overwrite)
        finally:
            table.tidy()


def _work(work: "FolderCaptioner", photos: list[Path], overwrite: bool) -> int:
    """Caption behind a progress bar and say how it went."""
    from tqdm import tqdm

    from sspir.captioners.base import CaptionerUnavailableError

    left = work.left(photos, overwrite)
    missing = set(left)
    if others := work.made_otherwise([photo for photo in photos if photo not in missing]):
        told = "was made by another captioner or under other settings; --overwrite makes such captions anew"
        sys.stderr.write(f"The caption of {_named(others)} {told}.\n")
    done, failed = 0, 0
    try:
        for photo, trouble in tqdm(work.run(left), total=len(photos), initial=len(photos) - len(left), unit="photo"):
            if trouble:
                failed += 1
                tqdm.write(f"failed: {photo}: {trouble}", file=sys.stderr)
            else:
                done += 1
    except CaptionerUnavailableError as error:
        before = f" {counted(done, 'photo')} captioned before; the same command goes on from there." if done else ""
        raise UserError(f"{error}{before}") from error
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; the same command goes on with what is left.\n")
        return 130
    if silent := work.without_words(left):
        sys.stderr.write(f"no text: the captioner answered {_named(silent)} with nothing.\n")
    kept = len(photos) - len(left)
    sys.stdout.write(f"{done} captioned, {kept} had a caption, {failed} failed; see {work.table.path}.\n")
    return 0 if not failed else 1 if done or kept else 2


def _named(photos: list[Path]) -> str:
    return str(photos[0]) if len(photos) == 1 else f"{len(photos)} photos, such as {photos[0]},"


def _parser() -> Parser:
    parser = Parser("sspir caption", "Describe photos in words, which steer training and restoring.", EXAMPLES)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="photos, with all folders below")
    add("--captioner", default="llava", metavar="NAME", help="a choice of conf/captioner or a .yaml (default llava)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one of its settings; repeatable")
    add("--out", type=Path, metavar="FILE", help="table of this folder's captions (default FOLDER/captions.jsonl)")
    add("--beside", action="store_true", help="also keep PHOTO.txt beside each photo")
    meaning = "what is described: the photo as it is, the Processor's clean image, or a quick restoration"
    add_captioner_input(parser, meaning)
    add("--weights", metavar="DIR", help="what restores: run folder or saved pipeline")
    add("--steps", type=STEPS, default=8, metavar="N", help="denoising steps of a quick restoration (default 8)")
    add("--device", default="auto", help="of --weights: auto (a GPU if there is one), cpu, cuda, ...")
    add("--batch", type=COUNT, default=8, metavar="N", help="photos handed to the captioner together (default 8)")
    add("--overwrite", action="store_true", help="caption anew, all but what a person edited")
    add("--max-pixels", type=COUNT, default=200, metavar="M", help="refuse photos over M megapixels (default 200)")
    return parser


def _captioner(name: str, changes: list[str]) -> Any:
    """Build a shipped captioner, or one from a YAML file, with some settings changed."""
    from omegaconf.errors import OmegaConfBaseException

    from sspir.config.build import build_captioner
    from sspir.config.compose import load_choice

    settings: Any = load_choice("captioner", name)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in settings:
            known = ", ".join(str(key) for key in settings if key != "_target_") or "nothing to set"
            raise UserError(f"--set {change} changes nothing of the captioner {name}; it has {known}.")
        settings[key] = _value(settings[key], value)
    try:
        return build_captioner(settings)
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(f"The captioner {name} cannot be made: {error}") from error


def _value(old: Any, text: str) -> Any:
    """A setting from the command line: a number where there was one, else text, or null."""
    if isinstance(old, int | float):
        with suppress(ValueError):
            number = float(text)
            if math.isfinite(number):
                return int(number) if isinstance(old, int) and number.is_integer() else number
        raise UserError(f"--set takes a number where the captioner has {old}, not {text!r}.")
    return None if text == "null" else text


def _look(options: argparse.Namespace) -> "Look":
    """The function from a photo (3, h, w) to the image that the captioner describes."""
    if options.captioner_input == "lq":
        return lambda photo: photo
    from sspir.captioners.base import NoCaption
    from sspir.memory import choose_device
    from sspir.sampling.look import look
    from sspir.weights.load import load_pipeline

    device = choose_device(options.device)
    pipeline = load_pipeline(options.weights, captioner=NoCaption()).to(device)
    pipeline.max_output_pixels = float("inf")  # what is shown is small, however large the photo

    def look_at(photo: "Tensor") -> "Tensor":
        lq = photo[None]
        return look(pipeline, lq, pipeline.size_of(lq), options.captioner_input, options.steps)[0]

    return look_at
