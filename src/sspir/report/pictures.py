"""Choose the images a report shows, and pack their pictures into it."""

import base64
from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor

from sspir.evaluation.measure import BICUBIC
from sspir.evaluation.statistics import orient
from sspir.images.io import ImageError, read_image
from sspir.images.panel import to_pil
from sspir.models.latent import upscale
from sspir.report.results import ResultSet

LONGEST = 1024  # pixels of a picture's longer side; larger ones are shown smaller


def gallery(results: ResultSet, limit: int, quality: int) -> list[dict[str, Any]]:
    """The images to show, each with its values, caption and pictures, and the roles whose pictures are missing.

    Args:
        results: to choose from.
        limit: number of images: the worst of every method and metric in turn.
        quality: of WebP, 1 to 100; 100 is lossless.
    """
    shown = []
    for image in choose(results, limit):
        files = results.files.get(image, {})
        pictures = pack(files, quality)
        missing = [role for role in (BICUBIC if role == "lq" else role for role in files) if role not in pictures]
        texts = {"name": image, "caption": results.captions.get(image, "")}
        shown.append({**texts, "values": results.values[image], "pictures": pictures, "missing": missing})
    return shown


def choose(results: ResultSet, limit: int) -> list[str]:
    """Up to `limit` image names: the worst of each method on each metric first, then the second worst, ..."""
    orders: list[Sequence[str]] = []
    for metric, facts in results.summary["metrics"].items():
        for method in results.summary["methods"]:
            cost = {
                image: -float(orient(facts, cells[method][metric]))
                for image, cells in results.values.items()
                if metric in cells.get(method, {})
            }
            orders.append(sorted(cost, key=lambda image: -cost[image]))
    turns = (image for turn in zip_longest(*orders) for image in turn if image is not None)
    return list(dict.fromkeys(turns))[:limit]


def pack(files: dict[str, Path], quality: int) -> dict[str, str]:
    """Role -> picture as a data URI; `lq` becomes `bicubic`, enlarged to the others' size. Lost files are left out."""
    tensors: dict[str, Tensor] = {}
    for role, path in files.items():
        try:
            tensors[role] = read_image(path).tensor()
        except ImageError:
            continue
    lq = tensors.pop("lq", None)
    if lq is not None:
        size = max((picture.shape[-2:] for picture in tensors.values()), default=lq.shape[-2:])
        tensors = {BICUBIC: upscale(lq[None], (size[0], size[1]))[0], **tensors}
    return {role: _data_uri(picture, quality) for role, picture in tensors.items()}


def _data_uri(picture: Tensor, quality: int) -> str:
    scale = LONGEST / max(picture.shape[-2:])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in picture.shape[-2:])
        picture = upscale(picture[None], (height, width))[0]
    buffer = BytesIO()
    to_pil(picture).save(buffer, "WEBP", quality=quality, lossless=quality == 100, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
