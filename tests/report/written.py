"""Runs and evaluations as training and `sspir evaluate` write them, with the numbers that a test wants."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from sspir.__main__ import main
from sspir.evaluation.measure import Row
from sspir.evaluation.results import Results
from sspir.metrics.psnr_ssim import PSNR
from sspir.training.history import HEADER


def write_run(folder: Path, name: str, variant: str, seed: int, ends: Mapping[str, float], **settings: Any) -> Path:
    """A finished run of 20 steps with two validations, whose last one is given."""
    folder.mkdir(parents=True)
    config = {"name": name, "variant": variant, "seed": seed, "folder": str(folder), "data": {"seed": seed}, **settings}
    OmegaConf.save(OmegaConf.create({**config, "trainer": {"max_steps": 20}}), folder / "config.yaml")
    rows = [{"step": step, **{key: end + step - 20 for key, end in ends.items()}} for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (HEADER, *rows)))
    (folder / "summary.json").write_text(json.dumps(rows[-1]))
    return folder


def write_evaluation(folder: Path, values: Sequence[float], said: Mapping[str, Any] | None = None) -> Path:
    """An evaluation with these values, one per image; without what it says of itself it is one of earlier versions."""
    results = Results({"psnr_y": PSNR()})
    for index, value in enumerate(values):
        results.add([Row(f"{index}", "restored", {"psnr_y": value}), Row(f"{index}", "bicubic", {"psnr_y": 20.0})])
    summary = results.write(folder)
    if said is not None:
        (folder / "summary.json").write_text(json.dumps({**summary, "evaluation": said}))
    return folder


def write_pictures(folder: Path, images: Sequence[str], roles: Sequence[str]) -> list[tuple[str, str, Path]]:
    """Plain pictures FOLDER/ROLE/IMAGE.png as (image, role, path)."""
    found = []
    for role in roles:
        (folder / role).mkdir(parents=True)
        for image in images:
            found.append((image, role, folder / role / f"{image}.png"))
            size = 8 if role == "lq" else 32
            Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(found[-1][-1])
    return found


def report(out: Path, *paths: Path) -> str:
    """The page that the command makes of the paths."""
    assert main(["report", *map(str, paths), "--out", str(out)]) == 0
    return out.read_text()


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, its head first."""
    start = page.index(f">{heading}")
    rows = re.findall("<tr.*?</tr>", page[start : page.index("</table>", start)], re.DOTALL)
    cells = [re.findall("<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub("<small>.*?</small>|<.*?>", "", cell) for cell in row] for row in cells]
