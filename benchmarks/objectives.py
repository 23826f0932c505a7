"""What a network learns by each objective: the same start, photos, degradations and number of samples, one protocol.

    python benchmarks/objectives.py [--out runs/objectives] [--samples 20000] [--seeds 2] [ROW ...]

From the shipped model each row is trained on patches of 64 px, and measured on Set14 under `light` and under
`realesrgan_strong` and on RealSR's real pairs, ten images each. $SSPIR_DATA names the folder of photos and benchmarks.
The tables are written anew after every row; rows that are there are skipped, and a training that was stopped goes on.
A second table is at equal CPU seconds: those of the cheapest row, by each row's last checkpoint before them, whose
learning rate has not come down. Rows with
DISTS or a discriminator have one seed. Needs `sspir weights get lpips dists realesrgan`, 'sspir[lora,peers]'.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sspir.__main__ import main as sspir
from sspir.evaluation.statistics import compare, orient
from sspir.files import write_text

ONE = ["experiments=tiny_one_step", "objective.terms.grid.weight=0"]
LPIPS = "objective.terms.lpips.weight"
DISTS = ["objective.terms.dists.weight=0.3", "objective.terms.dists.loss.precision=bf16"]
TAUGHT = ["dataset=taught", "dataset.train.crop.size=64"]
ROWS = {
    "diffusion": [
        "experiments=tiny", "init=shipped", "degradation=camera_light_and_strong", "optimizer=adamw_cosine",
        "optimizer.lr=1e-4", "module.structure_steps=0", "module.freeze=[backbone.processor.front.*]",
    ],
    "pixel": [*ONE, f"{LPIPS}=0"],
    "pixel + LPIPS": ONE,
    "pixel + LPIPS + DISTS": [*ONE, *DISTS],
    "pixel + LPIPS + GAN": [*ONE, "objective.adversary.weight=0.02", "objective.adversary.optimizer.lr=1e-4"],
    "teacher": [*ONE, *TAUGHT, "objective.target=teacher"],
    "teacher, then truth": [*ONE, *TAUGHT, "objective.teacher_steps=HALF"],
    "score distillation": [*ONE, "objective=score_distillation", "objective.guidance=1", "objective.rank=16",
        "objective.distillation=0.1", "objective.optimizer.lr=1e-3",],
    "consistency": ["experiments=tiny_consistency"],
}  # fmt: skip
ONE_SEED = ("pixel + LPIPS + DISTS", "pixel + LPIPS + GAN")
SETS = {
    "Set14 light": ["benchmark=set14", "degradation@benchmark.degradation=light"],
    "RealSR": ["benchmark=realsr_dev"],
    "Set14 strong": ["benchmark=set14", "degradation@benchmark.degradation=realesrgan_strong"],
}
METRICS = {"psnr_y": 2, "ssim_y": 3, "lpips": 3, "dists": 3, "niqe": 2, "grid4": 2}  # digits
REFERENCE = "pixel"  # the row that others are paired with
BATCH = 16
MILESTONES = 10
Table = dict[tuple[str, str], dict[str, float]]  # (image, method) -> metric -> value


def slug(row: str) -> str:
    """A row's name as a folder's."""
    return row.replace(" + ", "_").replace(", ", "_").replace(" ", "_").lower()


def succeed(arguments: list[str]) -> None:
    """A command of sspir that has to succeed."""
    if sspir(arguments):
        raise SystemExit(f"sspir {' '.join(arguments)} failed")


def teach(options: argparse.Namespace) -> Path:
    """The teacher's pictures, made once."""
    folder: Path = options.out / "taught"
    photos = ["--photos", str(options.photos / "train"), "--count", str(options.taught), "--size", "96"]
    succeed(["teach", "--teacher", "realesrgan", "--precision", "bf16", *photos, "--out", str(folder)])
    return folder


def train(row: str, seed: int, options: argparse.Namespace) -> Path:
    """Train a row, or go on with it; the CPU seconds of its processes stand in its folder."""
    folder: Path = options.out / f"{slug(row)}-s{seed}"
    if (folder / "summary.json").is_file():
        return folder
    steps = options.samples // BATCH
    changes = [text.replace("HALF", str(steps // 2)) for text in ROWS[row]]
    if "dataset=taught" in changes:
        changes += [
            f"dataset.train.folder={teach(options)}",
            f"dataset.validation.photos.roots={options.photos / 'val'}",
        ]
    command = [
        sys.executable, "-m", "sspir", "train", *changes, f"folder={folder}", f"seed={seed}", "logger=jsonl",
        f"batch_size={BATCH}", f"trainer.max_steps={steps}", f"keep_every={max(1, steps // MILESTONES)}",
        f"checkpoint_every={max(1, steps // MILESTONES)}", "trainer.limit_val_batches=0", "callbacks.panels=null",
        "trainer.enable_progress_bar=false", *options.overrides,
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "SSPIR_PHOTOS": str(options.photos)})
    _, status, used = os.wait4(process.pid, 0)
    seconds = folder / "cpu_seconds.json"
    before = json.loads(seconds.read_text()) if seconds.is_file() else 0.0
    write_text(seconds, json.dumps(before + used.ru_utime + used.ru_stime))
    if status:
        raise SystemExit(f"{row}, seed {seed}, was not trained: {' '.join(command)}")
    return folder


def measure(run: Path, checkpoint: str, options: argparse.Namespace) -> None:
    """Restore the sets with a checkpoint, and measure it beside the Processor and noise of its own PSNR."""
    for name, changes in SETS.items():
        folder = run / "measured" / checkpoint / slug(name)
        if (folder / "summary.json").is_file():
            continue
        pictures = folder / "pictures"
        given = [f"run={run}", f"checkpoint={checkpoint}", *changes, f"limit={options.limit}", "metric=fast"]
        succeed(["evaluate", *given, "wandb=null", f"out={pictures}"])
        methods = [f"--method={method}={pictures / method}" for method in ("processor", "restored")]
        truth = ["--hq", str(pictures / "hq"), "--out", str(folder), "--workers", "1"]
        succeed(["compare", *methods, *truth, "--noise-control", "processor", "--metrics", *METRICS])


def milestones(run: Path) -> list[int]:
    """Steps of the checkpoints that stay."""
    return sorted(int(path.stem.partition("-")[2]) for path in (run / "checkpoints").glob("step-*.ckpt"))


def at_equal_cost(run: Path, budget: float, steps: int) -> str:
    """The last checkpoint of a run within a number of CPU seconds; "" if there is none. The others are removed."""
    seconds = json.loads((run / "cpu_seconds.json").read_text())
    if seconds <= budget:
        return "last"
    within = [step for step in milestones(run) if seconds * step / steps <= budget]
    for step in milestones(run):
        if step not in within[-1:]:
            (run / "checkpoints" / f"step-{step}.ckpt").unlink()
    return f"step-{within[-1]}" if within else ""


def read(run: Path, checkpoint: str, name: str) -> Table:
    """The values of a checkpoint on a set."""
    with (run / "measured" / checkpoint / slug(name) / "per_image.csv").open() as file:
        return {
            (line["image"], line["method"]): {metric: float(line[metric]) for metric in METRICS}
            for line in csv.DictReader(file)
        }


def values(tables: Sequence[Table], method: str, metric: str) -> np.ndarray:
    """A method's value of every image, averaged over seeds."""
    images = sorted({image for image, _ in tables[0]})
    return np.array([fmean(table[image, method][metric] for table in tables) for image in images])


def facts_of(run: Path, checkpoint: str, name: str) -> dict[str, Any]:
    """What is good in each metric."""
    summary = json.loads((run / "measured" / checkpoint / slug(name) / "summary.json").read_text())
    facts: dict[str, Any] = summary["metrics"]
    return facts


def cost_of(run: Path, checkpoint: str, steps: int) -> float:
    """CPU seconds of the training up to a checkpoint; each step is taken to cost the same."""
    seconds: float = json.loads((run / "cpu_seconds.json").read_text())
    return seconds if checkpoint == "last" else seconds * int(checkpoint.partition("-")[2]) / steps


def lines_of(done: Mapping[str, list[tuple[Path, str]]], steps: int) -> list[str]:
    """A table: means, what is better (+) or worse (-) than REFERENCE beyond the paired interval, and the control."""
    lines = []
    for name in SETS:
        head = ["", f"**{name}**", "", "| | " + " | ".join(METRICS) + " | CPU-s | better than noise in |"]
        lines += [*head, "|---" * (len(METRICS) + 3) + "|"]
        base = [read(run, checkpoint, name) for run, checkpoint in done.get(REFERENCE, [])]
        for row, runs in done.items():
            tables = [read(run, checkpoint, name) for run, checkpoint in runs]
            facts, cells, wins = facts_of(*runs[0], name), [], []
            for metric, digits in METRICS.items():
                ours = values(tables, "restored", metric)
                text = f"{ours.mean():.{digits}f}"
                if base and row != REFERENCE:
                    theirs = values(base, "restored", metric)
                    found = compare(orient(facts[metric], ours), orient(facts[metric], theirs))
                    if found.significant:
                        text += " +" if found.gain.mean > 0 else " -"
                if metric != "psnr_y":  # which the control's is
                    noise = values(tables, "noise@restored", metric)
                    found = compare(orient(facts[metric], ours), orient(facts[metric], noise))
                    wins += [metric] if found.significant and found.gain.mean > 0 else []
                cells.append(text)
            seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
            cost = fmean(cost_of(run, checkpoint, steps) for run, checkpoint in runs)
            lines.append(f"| {row}{seeds} | {' | '.join(cells)} | {cost:.0f} | {', '.join(wins) or 'nothing'} |")
    return lines


def report(options: argparse.Namespace) -> None:
    """Write both tables of what is there."""
    whole: dict[str, list[tuple[Path, str]]] = {}
    equal: dict[str, list[tuple[Path, str]]] = {}
    for row in ROWS:
        for seed in range(options.seeds):
            run = options.out / f"{slug(row)}-s{seed}"
            for found, kind in ((whole, "last"), (equal, "equal.txt")):
                path = run / "measured" / kind
                checkpoint = path.read_text() if kind == "equal.txt" and path.is_file() else kind
                if all((run / "measured" / checkpoint / slug(name) / "summary.json").is_file() for name in SETS):
                    found.setdefault(row, []).append((run, checkpoint))
    steps = options.samples // BATCH
    lines = [f"{options.samples} samples of 64 px each", *lines_of(whole, steps)]
    if equal:
        lines += ["", f"At the CPU seconds of {REFERENCE}, amid their schedules", *lines_of(equal, steps)]
    write_text(options.out / "objectives.md", "\n".join(lines) + "\n")


def main() -> int:
    """Train and measure every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all: {'; '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--samples", type=int, default=20000, help="of each training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=10, help="images of each set")
    parser.add_argument("--taught", type=int, default=4000, help="pictures of the teacher")
    parser.add_argument("--overrides", nargs="*", default=[], help="further settings of every training")
    options = parser.parse_args()
    if unknown := [row for row in options.rows if row not in ROWS]:
        parser.error(f"{unknown[0]} is none of the rows: {'; '.join(ROWS)}")
    options.photos = Path(os.environ.get("SSPIR_DATA", "data")) / "photos"
    rows = sorted(options.rows or ROWS, key=lambda row: row != REFERENCE)  # the cheapest, whose cost others are held to
    steps = options.samples // BATCH
    for seed in range(options.seeds):
        for row in rows:
            if seed and row in ONE_SEED:
                continue
            run = train(row, seed, options)
            measure(run, "last", options)
            report(options)
            reference = options.out / f"{slug(REFERENCE)}-s{seed}" / "cpu_seconds.json"
            if reference.is_file() and (chosen := at_equal_cost(run, json.loads(reference.read_text()), steps)):
                measure(run, chosen, options)
                write_text(run / "measured" / "equal.txt", chosen)
                report(options)
    print((options.out / "objectives.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
