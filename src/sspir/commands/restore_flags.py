"""The flags of `sspir restore`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sspir.commands.parser import Parser, add_captioner_input
from sspir.errors import UserError
from sspir.images.names import FORMATS
from sspir.numbers import COUNT, LIMIT, POSITIVE, REAL, SEED, SHARE, STEPS, TIMESTEP

if TYPE_CHECKING:
    from sspir.images.room import Size

_OF_DIFFUSION = {
    "checkpoint", "stable_diffusion", "clip", "fidelity", "sampler", "steps", "guidance", "start", "seed", "colour",
    "samples", "caption", "captions", "captioner", "captioner_input", "negative", "dtype", "compile",
}  # fmt: skip


def parser(epilog: str) -> Parser:
    """Every flag with its help."""
    flags = Parser(
        "sspir restore",
        "Restore photos: enlarge them, take away blur, noise and compression, and add plausible detail.",
        epilog,
    )
    flags.add_argument("inputs", nargs="+", metavar="INPUT", help="photos, folders (with all below) or quoted patterns")
    flags.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR|FILE",
        help="folder of the results, where trees are mirrored; of one photo also the result itself, such as new.png",
    )
    add_weights(
        flags.add_argument_group("model"),
        ". Repeated, each model writes into a folder of its own below --out, and the folder sheets shows them side by "
        "side; settings of diffusion are then for the models that have it",
    )
    _of_the_look(flags.add_argument_group("look"))
    _of_the_words(flags.add_argument_group("words"))
    add_machine(flags.add_argument_group("machine"))
    _of_the_files(flags.add_argument_group("files"))
    return flags


def add_weights(group: "argparse._ArgumentGroup", more: str = "") -> None:
    """Add the flags that name the model; `more` is said of several."""
    add = group.add_argument
    add(
        "--weights",
        action="append",
        metavar="DIR|FILE|PEER",
        help="run folder, saved pipeline, the authors' checkpoint, or somebody else's network: a file that spandrel "
        f"reads, or a peer such as span (default: shipped, the small model that comes along){more}",
    )
    add("--checkpoint", default="last", metavar="NAME", help="of a run folder: last (default), best or a file name")
    add(
        "--stable-diffusion", metavar="DIR", help="for the authors' checkpoint: Stable Diffusion 1.5 (folder or hub id)"
    )
    add("--clip", metavar="DIR", help="for the authors' checkpoint: CLIP ViT-L/14 (folder or hub id)")


def _of_the_look(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--scale", type=POSITIVE, metavar="X", help="how much larger, e.g. 4 or 1.5 (default: as trained)"
    )
    size.add_argument("--size", type=_box, metavar="WxH", help="as large as fits into WxH pixels, e.g. 1920x1080")
    size.add_argument("--long-side", type=COUNT, metavar="N", help="pixels of the longer side")
    size.add_argument("--short-side", type=COUNT, metavar="N", help="pixels of the shorter side")
    add("--max-side", type=COUNT, metavar="N", help="pixels of the longer side at most, whatever the size above says")
    faithful = "0: as realistic as it can to 1: as faithful as it can (default: the model's own, mostly 0)"
    add("--fidelity", type=SHARE, metavar="F", help=faithful)
    add(
        "--sampler",
        metavar="NAME",
        help="solver: ddpm, ddim, unipc, dpmpp, euler, lcm, or a .yaml (default: as trained)",
    )
    add("--steps", type=STEPS, metavar="N", help="denoising steps")
    add(
        "--guidance", type=REAL, metavar="G", help="how much the caption counts; 1 switches guidance off: twice as fast"
    )
    add(
        "--start",
        type=_start,
        metavar="T|noise",
        help="timestep at which the noised photo enters, 1 (faithful) to 999, or noise",
    )
    add("--seed", type=SEED, default=0, help="of the noise; the same seed gives the same picture (default 0)")
    add(
        "--colour",
        type=_colour,
        metavar="MODE[:S]",
        help="colours of the photo: none, adain, wavelet or ycbcr, strength 0 to 1",
    )
    add("--samples", type=COUNT, default=1, metavar="N", help="restorations per photo, with their mean and trust map")


def _of_the_words(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    words = group.add_mutually_exclusive_group()
    words.add_argument("--caption", metavar="TEXT", help="what every photo shows; '' for no words")
    words.add_argument(
        "--captions",
        metavar="FILE|DIR",
        help="captions as .jsonl or .parquet (file_name, caption), a folder of .txt, or beside",
    )
    add(
        "--captioner",
        metavar="NAME",
        help="who describes the others: none, measured, ... or a .yaml (default: as trained)",
    )
    meaning = "what the captioner sees: the photo as it is (default), the Processor's image, or a quick restoration"
    add_captioner_input(group, meaning)
    add("--negative", metavar="TEXT", help="what the photos shall not look like; needs guidance")


def add_machine(group: "argparse._ArgumentGroup") -> None:
    """Add the flags that say how the model runs."""
    add = group.add_argument
    add(
        "--tile",
        type=_tile,
        metavar="auto|N|off",
        help="side of a tile in latent pixels, of a peer in the photo's; auto: from size and memory",
    )
    add(
        "--batch",
        type=_batch,
        default=1,
        metavar="N|auto",
        help="photos of one size at a time (default 1); auto: on a GPU as many as there is memory for",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the denoiser (default float32)",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the denoiser: for GPUs and many photos of few sizes, as the first step at each new size waits "
        "for the compiler (one to five minutes) and later ones gain; on a CPU it pays for hundreds of photos",
    )
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")


def _of_the_files(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--format",
        choices=FORMATS,
        help="of the results (default png, or as --out ends); same: each photo's own, or png where that is not written "
        "(HEIC, AVIF, JPEG XL, RAW, GIF)",
    )
    add("--drop-gps", action="store_true", help="leave out where photos were taken (default: kept, as all of EXIF)")
    add("--compare", action="store_true", help="also write given and restored side by side")
    add(
        "--dry-run",
        action="store_true",
        help="write nothing; say what would be restored, how large, and how long it takes",
    )
    add(
        "--watch",
        action="store_true",
        help="go on looking into the input folders, and restore what comes in, once it has stood still for 2 seconds",
    )
    add("--skip-existing", action="store_true", help="leave every result that is there, whatever it was made with")
    add("--overwrite", action="store_true", help="restore everything anew")
    add("--max-pixels", type=COUNT, default=200, metavar="M", help="refuse photos over M megapixels (default 200)")
    add(
        "--max-output-pixels",
        type=LIMIT,
        default=400,
        metavar="M",
        help="refuse results over M megapixels (default 400); 0 for no limit",
    )


def refuse_for_peer(options: argparse.Namespace) -> None:
    """Refuse settings of diffusion for a network that has none.

    Raises:
        UserError: one was given.
    """
    for action in parser("")._actions:
        if action.dest in _OF_DIFFUSION and getattr(options, action.dest) != action.default:
            flag = action.option_strings[0]
            raise UserError(f"{flag} is for diffusion, which {options.weights} does without; leave it out.")


def without_diffusion(options: argparse.Namespace) -> argparse.Namespace:
    """The flags for a network that has no diffusion, beside others that have."""
    defaults = {action.dest: action.default for action in parser("")._actions if action.dest in _OF_DIFFUSION}
    return argparse.Namespace(**{**vars(options), **defaults})


def size_asked(options: argparse.Namespace, default: float) -> "float | Size":
    """The scale or the rule that the flags give; shapes are kept.

    Args:
        options: of the command.
        default: scale where nothing is given.
    """
    from sspir.images.room import Size

    rules = {"box": options.size, "long_side": options.long_side, "short_side": options.short_side}
    if options.max_side is None and not any(rules.values()):
        return float(options.scale or default)
    if not any(rules.values()):
        rules["scale"] = options.scale or default
    return Size(**rules, max_side=options.max_side)


def _box(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width and height):
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH, such as 1920x1080")
    return COUNT(width), COUNT(height)


def _start(text: str) -> int | str:
    return text if text == "noise" else TIMESTEP(text)


def _colour(text: str) -> tuple[str, float]:
    mode, _, strength = text.partition(":")
    return mode, SHARE(strength or "1")


def _batch(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return COUNT(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, and not auto") from None


def _tile(text: str) -> int | str:
    return text if text in ("auto", "off") else COUNT(text)
