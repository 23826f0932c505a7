"""`sspir teach`: a teacher's pictures of degraded photos, made once, to train on."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from sspir.commands.parser import Parser
from sspir.numbers import COUNT, POSITIVE, SEED, counted

EXAMPLES = """examples:
  750 samples of Real-ESRGAN, which fit a single shard of 20 MB:
    sspir teach --teacher realesrgan --photos DIV2K/DIV2K_train_HR --count 750 --shard-mb 20 --out taught
  a network of your own, and several folders:
    sspir teach --teacher mine/x.pth --photos photos other/photos --count 20000 --out taught
  train on it (conf/dataset/taught.yaml), on what the teacher made; objective.target=both takes half of each:
    sspir train experiments=tiny_one_step dataset=taught dataset.train.folder=taught objective.target=teacher

A sample is a crop of a photo, what the degradation makes of it, and what the teacher makes of that, all lossless: of
--size 96 about 26 kB, so that 20 MB hold 750. Photos take turns; broken ones are named and left out. A run that was
stopped goes on by the same command and ends with the same files. manifest.json holds checksums of the teacher, of the
photos' names and sizes, and of every shard. Exit status: 0 all done, 1 broken photos were left out, 2 bad input.
"""


def run(arguments: list[str]) -> int:
    """Make the samples that are missing."""
    options = _parser().parse_args(arguments)

    from tqdm import tqdm

    from sspir.commands.degrade import load_degradation
    from sspir.data.crop import Crop
    from sspir.data.image_folder import ImageFolder
    from sspir.data.shards import ShardWriter
    from sspir.data.taught import Lessons, Taught, begin
    from sspir.errors import UserError
    from sspir.files import alone_in
    from sspir.memory import choose_device
    from sspir.peers import Teacher

    device = choose_device(options.device)
    if options.precision != "32" and options.teacher != "realesrgan":
        raise UserError(f"--precision {options.precision} is for realesrgan; leave it out for {options.teacher}.")
    teacher = Teacher(options.teacher, "bfloat16" if options.precision == "bf16" else None).to(device)
    degradation = load_degradation(options.degradation, teacher.load().scale)
    if options.size % degradation.scale:
        raise UserError(f"--size {options.size} is no multiple of the teacher's scale {degradation.scale}; choose one.")
    photos = ImageFolder(options.photos, Crop(options.size, flip=False), cache=True)
    settings = _settings(options, teacher, photos, device.type)
    with alone_in(options.out, "--out"):
        begin(options.out, settings)
        writer = ShardWriter(options.out, int(options.shard_mb * 1e6), {"kind": Taught.kind, **settings})
        lessons = Lessons(photos, degradation, teacher, device, options.seed)
        with tqdm(total=options.count, unit="sample", disable=None) as bar:
            for made in lessons.write(writer, options.count, options.batch):
                bar.update(made - bar.n)
    for name in writer.about["left_out"]:
        sys.stderr.write(f"left out: {name} cannot be read\n")
    sys.stdout.write(f"{options.out}: {counted(options.count, 'sample')} in {counted(len(writer.shards), 'shard')}\n")
    return 1 if writer.about["left_out"] else 0


def _settings(options: Namespace, teacher: Any, photos: Any, device: str) -> dict[str, Any]:
    """What decides the samples, to the last bit on one device."""
    import hashlib
    import json

    from sspir.config.compose import load_choice
    from sspir.config.naming import plain
    from sspir.data.manifest import manifest_of

    degradation = json.dumps(plain(load_choice("degradation", options.degradation)))
    record = {key: value for key, value in teacher.load().record().items() if key != "source"}  # a path may change
    return {
        "teacher": {"name": Path(options.teacher).stem, **record},
        "photos": manifest_of({"photos": photos})["photos"],
        "degradation": {"name": options.degradation, "hash": hashlib.sha256(degradation.encode()).hexdigest()},
        "size": options.size,
        "samples": options.count,
        "seed": options.seed,
        "device": device,
        "batch": options.batch,
        "shard_mb": options.shard_mb,
        **({"precision": options.precision} if options.precision != "32" else {}),
    }


def _parser() -> Parser:
    parser = Parser(
        "sspir teach", "Have another restorer make the pictures that a one-step model learns from, once.", EXAMPLES
    )
    add = parser.add_argument
    add("--teacher", required=True, metavar="NAME|FILE", help="a peer (conf/peer), or a file of weights for spandrel")
    add("--photos", required=True, nargs="+", type=Path, metavar="DIR", help="folders that are searched recursively")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the shards, their index and the manifest")
    add("--count", required=True, type=COUNT, metavar="N", help="samples in all")
    add("--degradation", default="camera_light_and_strong", help="a name from conf/degradation, or a .yaml file")
    add("--size", type=COUNT, default=96, help="side of the truth's crops, pixels (default 96)")
    add("--seed", type=SEED, default=0, help="of crops and degradations (default 0)")
    add("--batch", type=COUNT, default=8, help="samples that the teacher is given at a time (default 8)")
    add("--shard-mb", type=POSITIVE, default=20, help="MB of a shard at most (default 20); a stop costs as much")
    add("--precision", default="32", choices=["32", "bf16"], help="of realesrgan; bf16 is faster (default 32)")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")
    return parser
