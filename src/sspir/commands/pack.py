"""`sspir pack`: a folder of photos as a few large tar files."""

import sys
from collections import Counter
from pathlib import Path

from sspir.commands.parser import Parser
from sspir.errors import UserError
from sspir.numbers import POSITIVE, counted

EXAMPLES = """examples:
  one folder:
    sspir pack photos/ --out shards
  with captions: photo.txt beside photo.jpg, or one table with the columns file_name and caption
    sspir pack photos/ --out shards --captions beside
    sspir pack photos/ --out shards --captions captions.jsonl
  train on it (conf/dataset/shards.yaml):
    sspir train dataset=shards dataset.train.folder=shards

Shards hold the files as they are, in WebDataset's convention (NUMBER.jpg, NUMBER.json). Photos are decoded once;
broken ones are left out and named. Exit status: 0 all packed, 1 some were left out, 2 bad input.
"""


def run(arguments: list[str]) -> int:
    """Pack a folder."""
    options = _parser().parse_args(arguments)

    from tqdm import tqdm

    from sspir.captioners.tables import find_captions
    from sspir.data.shards import MANIFEST, ShardWriter, pack
    from sspir.data.taught import SETTINGS
    from sspir.files import alone_in
    from sspir.images.io import list_images

    files = [(path, path.relative_to(root).as_posix()) for root in options.folders for path in list_images(root)]
    names = [name for _, name in files]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1)[:5]:
        raise UserError(f"Several folders hold {', '.join(twice)}; pack them apart and mix the sets.")
    captions = find_captions(options.captions, names)
    with alone_in(options.out, "--out"):
        there = (options.out / MANIFEST, options.out / SETTINGS, *options.out.glob("shard-*.tar"))
        old = [path for path in there if path.exists()]
        if old and not options.overwrite:
            found = old[0].name
            raise UserError(f"{options.out} holds {found}; choose another folder, or replace its set by --overwrite.")
        for path in old:  # the manifest first: without it what is left is no set
            path.unlink()
        writer = ShardWriter(options.out, int(options.shard_mb * 1e6))
        broken = pack(iter(tqdm(files, unit="photo")), captions, writer)
    for sentence in broken:
        sys.stderr.write(f"left out: {sentence}\n")
    photos, shards = counted(len(writer.index), "photo"), counted(len(writer.shards), "shard")
    sys.stdout.write(f"{options.out}: {photos} in {shards}\n")
    return 1 if broken else 0


def _parser() -> Parser:
    parser = Parser(
        "sspir pack",
        "Pack folders of photos into a few large tar files, which disks and networks read much faster.",
        EXAMPLES,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders that are searched recursively")
    parser.add_argument("--out", required=True, type=Path, help="folder for the shards, their index and the manifest")
    parser.add_argument("--captions", help="'beside', or a .jsonl or .parquet file (default: none)")
    parser.add_argument("--shard-mb", type=POSITIVE, default=256, help="size of a shard, MB (default 256)")
    parser.add_argument("--overwrite", action="store_true", help="replace the packed set in the output folder")
    return parser
