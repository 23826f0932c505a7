"""What peers make of the photos that the methods were given."""

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from sspir.errors import UserError
from sspir.evaluation.pairing import match
from sspir.files import Journal, sha256
from sspir.images.io import ImageError, read_image, write_image
from sspir.images.panel import to_picture
from sspir.memory import choose_device
from sspir.peers import Peer, restored
from sspir.peers.base import identity


def peer_pictures(
    peers: Mapping[str, Peer], lq: Path, hq: Path | None, out: Path, device_name: str, ignore_scale: bool
) -> dict[str, Path]:
    """Restore a folder of photos with each peer, to the truth's size where there is one; name -> folder.

    A journal tells the pictures that a peer has made of the same file before; they are not made again.

    Args:
        peers: by name.
        lq: folder of the photos.
        hq: folder of the truth, if there is one.
        out: folder of the peers' folders.
        device_name: where they run.
        ignore_scale: see `match`.

    Raises:
        UserError: nothing can be restored, or a file of somebody's lies where a picture would.
    """
    device, journal = choose_device(device_name), Journal(out, "peers.jsonl")
    folders = {name: out / name for name in peers}
    given, _ = match({"lq": lq}, hq, None, ignore_scale)
    if not any(found.restored for found in given):
        raise UserError(
            "No picture of --lq has the name of one of --hq; name them alike, or try --ignore-scale-suffix."
        )
    current = set()
    for found in tqdm(given, desc="peers", unit="image", disable=None):
        try:
            photo = read_image(found.restored["lq"]).tensor()[None]
            height, width = read_image(found.hq).tensor().shape[-2:] if found.hq else (None, None)
        except (ImageError, KeyError):  # measuring says so; what was made of another photo before counts no more
            continue
        of = {"lq": sha256(found.restored["lq"]), "size": [height, width], "device": device.type}
        for name, peer in peers.items():
            target, made = folders[name] / f"{found.name}.png", {"peer": identity(peer), **of}
            output = f"{name}/{found.name}"
            entry = journal.entries.get(output, {})
            current.add(output)
            if target.exists() and output not in journal.files:
                raise UserError(f"{target} is there and not of a comparison; choose another --out, or move it away.")
            if target.is_file() and made.items() <= entry.items() and sha256(target) == entry["picture"]:
                continue
            image = restored(peer, photo.to(device), (height, width) if height and width else None)
            journal.begin()
            journal.append({"output": output, "status": "begun"})
            write_image(target, to_picture(image[0]))
            journal.append({"output": output, **made, "picture": sha256(target)})
    for output in journal.files.keys() - current:  # of other photos that --lq had before
        if output.partition("/")[0] in peers:  # those of other peers may be asked for again, or be a method
            (out / f"{output}.png").unlink(missing_ok=True)
    return folders
