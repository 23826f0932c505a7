"""`sspir degrade`: low-quality copies of a folder, or a sheet that shows what a degradation does."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sspir.commands.parser import Parser
from sspir.errors import UserError
from sspir.numbers import COUNT, SEED, counted

if TYPE_CHECKING:
    from sspir.degradation import Degradation

RECORD = "degradations.jsonl"
EXAMPLES = """examples:
  see what a preset does before you train on it:
    sspir degrade photo.jpg --preset realesrgan_strong --grid sheet.png
  make pairs ahead of time: OUT/lq, OUT/hq, and the drawn parameters in OUT/degradations.jsonl
    sspir degrade photos/ --preset stablesr --out pairs
  the same photos under another draw:
    sspir degrade photos/ --preset stablesr --out pairs2 --seed 1
  a pipeline of your own:
    sspir degrade photos/ --preset my.yaml --out pairs

A photo's draw depends on the seed and its name alone: the folder may grow or shrink, and OUT/degradations.jsonl holds
all that is needed to repeat it. Exit status: 0 all done, 1 broken photos were skipped (they are named), 2 bad input.
"""


def run(arguments: list[str]) -> int:
    """Degrade a folder, or draw a sheet."""
    options = _parser().parse_args(arguments)
    degradation = load_degradation(options.preset, options.scale)
    paths = _photos(options.photos)
    if options.grid:
        if options.grid.exists() and not options.overwrite:
            raise UserError(f"{options.grid} is there already; name another file, or replace it by --overwrite.")
        return _grid(degradation, paths[0][0], options.grid, options.count, options.seed, options.crop)
    if options.out.is_dir() and any(options.out.iterdir()) and not options.overwrite:
        raise UserError(
            f"{options.out} is not empty; choose another folder, or allow replacing files with --overwrite."
        )
    _remove_pairs(options.out, [path for path, *_ in paths])
    return _folder(degradation, paths, options.out, options.seed, options.sharpen)


def _remove_pairs(out: Path, photos: list[Path]) -> None:
    """Remove the pairs that the lines of an earlier run name, but none of the photos that are to be degraded."""
    from sspir.images.names import place_of

    record, kept = out / RECORD, {place_of(photo) for photo in photos}
    for line in record.read_bytes().splitlines() if record.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):  # of a full disk, or of another tool
            for half in ("lq", "hq"):
                place = place_of(out / half / json.loads(line)["file_name"])
                if place.is_relative_to(out.resolve()) and place not in kept:
                    place.unlink(missing_ok=True)
    record.unlink(missing_ok=True)


def _folder(
    degradation: "Degradation", photos: list[tuple[Path, str, Path]], out: Path, seed: int, sharpen: bool
) -> int:
    """Write lq and hq of every photo, and one JSON line each."""
    from tqdm import tqdm

    from sspir.degradation import Sharpen
    from sspir.files import append_bytes, json_line
    from sspir.images.io import ImageError, read_image, write_image
    from sspir.images.panel import to_picture
    from sspir.seeding import sample_seed

    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).touch()
    broken = []
    for path, name, file in tqdm(photos, unit="photo"):
        try:
            hq = degradation.cut(read_image(path).tensor())
        except ImageError as error:
            broken.append(str(error))
            continue
        if sharpen:
            hq = Sharpen()(hq[None])[0]
        steps = degradation.draw(sample_seed(seed, 0, name), (hq.shape[1], hq.shape[2]))
        (hq,), (lq,) = degradation.make(hq[None], [steps])
        made_of = {"source": name, "size": list(hq.shape[1:]), "sharpened": sharpen}
        facts = {"file_name": file.as_posix(), **made_of, "steps": steps}
        if not append_bytes(out / RECORD, json_line(facts)):  # first, as --overwrite removes what has a line
            raise UserError(f"The disk of {out / RECORD} is full; make room, and start again with --overwrite.")
        for half, image in (("lq", lq), ("hq", hq)):
            write_image(out / half / file, to_picture(image))
    for sentence in broken:
        sys.stderr.write(f"skipped: {sentence}\n")
    sys.stdout.write(f"{counted(len(photos) - len(broken), 'photo')} in {out}: lq, hq and {RECORD}.\n")
    return 1 if broken else 0


def _grid(degradation: "Degradation", path: Path, out: Path, count: int, seed: int, crop: int) -> int:
    """Write a sheet of the centre of one photo."""
    from sspir.data.crop import Crop
    from sspir.degradation.sheet import contact_sheet
    from sspir.images.io import Picture, read_image, write_image
    from sspir.images.picture import chw_tensor
    from sspir.images.room import MAX_OUTPUT_PIXELS
    from sspir.seeding import sample_seed

    if crop**2 * count > MAX_OUTPUT_PIXELS:
        raise UserError(f"A sheet of --count {count} draws of --crop {crop} pixels is too large; lower one of them.")
    if crop % degradation.scale:
        raise UserError(f"--crop {crop} is no multiple of the scale {degradation.scale}; choose one.")
    photo = chw_tensor(Crop(crop).centre(read_image(path).pixels)[0])
    seeds = [sample_seed(seed, number, path.name) % 10**6 for number in range(count)]
    write_image(out, Picture(contact_sheet(degradation, photo, seeds)))
    sys.stdout.write(f"{counted(count, 'draw')} of {path}: see {out}.\n")
    return 0


def load_degradation(preset: str, scale: int | None = None) -> "Degradation":
    """Build a shipped preset, or one from a YAML file, of another scale where one is given.

    Raises:
        UserError: there is none of that name, it describes no degradation, or it can have no other scale.
    """
    from omegaconf import OmegaConf

    from sspir.config.build import build
    from sspir.config.compose import load_choice
    from sspir.degradation import Degradation

    choice = load_choice("degradation", preset)
    if scale:  # as a training says it
        choice = OmegaConf.create({"module": {"scale": scale}, "degradation": choice}).degradation
    try:
        degradation = build(choice)
    except UserError as error:
        raise UserError(f"{preset} describes no degradation: {error}") from error
    if not isinstance(degradation, Degradation):
        raise UserError(f"{preset} describes no degradation: its _target_ must be sspir.degradation.Degradation.")
    degradation.scale = scale or degradation.scale
    return degradation


def _photos(paths: list[Path]) -> list[tuple[Path, str, Path]]:
    """Every photo, its name below the folder it was found in, and the name of its copies."""
    from sspir.images.io import list_images
    from sspir.images.names import place_of, result_names

    photos: dict[Path, tuple[Path, Path]] = {}
    for path in paths:
        for file in list_images(path) if path.is_dir() else [path]:
            photos.setdefault(place_of(file), (file, file.relative_to(path if path.is_dir() else path.parent)))
    copies = result_names({place: (name, ".png") for place, (_, name) in photos.items()}, {})
    return [(file, name.as_posix(), copies[place]) for place, (file, name) in photos.items()]


def _parser() -> Parser:
    parser = Parser(
        "sspir degrade", "Make low-quality copies of photos, or a sheet that shows what a degradation does.", EXAMPLES
    )
    parser.add_argument("photos", nargs="+", type=Path, help="photos, or folders that are searched recursively")
    parser.add_argument("--preset", required=True, help="a name from conf/degradation, or a .yaml file")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--out", type=Path, help="folder for lq/, hq/ (cut to a multiple of the scale) and the parameters"
    )
    target.add_argument("--grid", type=Path, help="write a labelled sheet of the first photo instead")
    parser.add_argument("--seed", type=SEED, default=0, help="another number, other draws (default 0)")
    parser.add_argument("--scale", type=COUNT, help="shrink by this instead of the preset's scale")
    parser.add_argument("--sharpen", action="store_true", help="sharpen the truth first, as Real-ESRGAN does")
    parser.add_argument("--overwrite", action="store_true", help="replace the sheet, or what is in the output folder")
    parser.add_argument("--count", type=COUNT, default=11, help="draws on the sheet (default 11)")
    parser.add_argument(
        "--crop", type=COUNT, default=256, help="side of the photo's centre on the sheet, pixels (default 256)"
    )
    return parser
