"""What a network learns by each objective: the same start, photos, degradations and number of samples, one protocol.

    python benchmarks/objectives.py [--out runs/objectives] [--samples 20000] [--seeds 2] [ROW ...]

From shipped/tiny each row is trained on patches of 64 px, and measured on Set14 under `light` and under
`realesrgan_strong` and on RealSR's real pairs, ten images each. $SSPIR_DATA names the folder of photos and benchmarks.
The values of every image stand in experiments/objectives.csv: what is there is not trained again, what is not is added
as it comes out, and a training that was stopped goes on. The tables are made of that file; --seeds 0 makes them alone.
A second table is at equal CPU seconds: those of the cheapest row, by each row's last checkpoint before them, whose
learning rate has not come down; costs within 5 % count as equal. Intervals are over images; how far trainings of two
seeds are apart stands in a last table. Rows with DISTS or a discriminator have one seed.

Needs `sspir weights get lpips dists realesrgan` and 'sspir[lora,peers]'.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np

from sspir.__main__ import main as sspir
from sspir.evaluation.statistics import compare
from sspir.files import write_text

START = "the start"  # shipped/tiny, in the steps that it takes by default
REFERENCE = "pixel"  # the row that others are paired with, and the cheapest
ONE = ["experiments=tiny_one_step", "objective.terms.grid.weight=0"]
LPIPS = "objective.terms.lpips.weight"
DISTS = ["objective.terms.dists.weight=0.3", "objective.terms.dists.loss.precision=bf16"]
TAUGHT = ["dataset=taught", "dataset.train.crop.size=64"]
ROWS = {
    START: [],
    REFERENCE: [*ONE, f"{LPIPS}=0"],
    "diffusion": [
        "experiments=tiny", "init=shipped/tiny", "degradation=camera_light_and_strong", "optimizer=adamw_cosine",
        "optimizer.lr=1e-4", "module.structure_steps=0", "module.freeze=[backbone.processor.front.*]",
    ],
    "pixel + LPIPS": ONE,
    "pixel + LPIPS + DISTS": [*ONE, *DISTS],
    "pixel + LPIPS + GAN": [*ONE, "objective.adversary.weight=0.02", "objective.adversary.optimizer.lr=1e-4",
        "objective.adversary.network.width=32",],
    "teacher": [*ONE, *TAUGHT, "objective.target=teacher"],
    "teacher, then truth": [*ONE, *TAUGHT, "objective.teacher_steps=HALF"],
    "score distillation": [*ONE, "objective=score_distillation", "objective.guidance=1", "objective.rank=16",
        "objective.distillation=0.1", "objective.optimizer.lr=1e-3",],
    "consistency": ["experiments=tiny_consistency"],
}  # fmt: skip
ONE_SEED = (START, "pixel + LPIPS + DISTS", "pixel + LPIPS + GAN")
SETS = {
    "Set14 light": ["benchmark=set14", "degradation@benchmark.degradation=light"],
    "RealSR": ["benchmark=realsr_dev"],
    "Set14 strong": ["benchmark=set14", "degradation@benchmark.degradation=realesrgan_strong"],
}
METRICS = {"psnr_y": 2, "ssim_y": 3, "lpips": 3, "dists": 3, "niqe": 2, "grid4": 2, "seams4": 3}  # digits
APART = ("psnr_y", "lpips", "dists")  # of which is told how far two seeds are apart
HIGHER = ("psnr_y", "ssim_y")  # is better; of the others lower
BATCH = 16
MILESTONES = 10
TOLERANCE = 1.05  # within which CPU seconds are equal: those of a busy machine are no more exact
LIMIT = 10  # images of each set
BUDGETS = {
    "samples": "The same number of samples, {samples} of 64 px",
    "seconds": f"The same CPU seconds, those of {REFERENCE}, amid the others' schedules",
}
Line = dict[str, str]  # of the file of values
KEYS = ["samples", "row", "seed", "budget", "cpu_seconds", "set", "image", "method"]


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


def train(row: str, folder: Path, seed: int, options: argparse.Namespace) -> float:
    """Train a row, or go on with it, and count the CPU seconds of its processes."""
    seconds = folder / "cpu_seconds.json"
    before: float = json.loads(seconds.read_text()) if seconds.is_file() else 0.0
    if (folder / "summary.json").is_file():
        return before
    steps = options.samples // BATCH
    changes = [text.replace("HALF", str(steps // 2)) for text in ROWS[row]]
    if "dataset=taught" in changes:
        changes.append(f"dataset.train.folder={teach(options)}")
    command = [
        sys.executable, "-m", "sspir", "train", *changes, f"folder={folder}", f"seed={seed}", "logger=jsonl",
        f"batch_size={BATCH}", f"trainer.max_steps={steps}", f"keep_every={max(1, steps // MILESTONES)}",
        f"checkpoint_every={max(1, steps // MILESTONES)}", "trainer.limit_val_batches=0", "callbacks.panels=null",
        "trainer.enable_progress_bar=false", *options.overrides,
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "SSPIR_PHOTOS": str(options.photos)})
    try:
        _, status, used = os.wait4(process.pid, 0)
    except KeyboardInterrupt:  # the training has it too, and saves
        _, status, used = os.wait4(process.pid, 0)
    used_by_now = before + used.ru_utime + used.ru_stime
    write_text(seconds, json.dumps(used_by_now))
    if status:
        raise SystemExit(f"{row}, seed {seed}, was not trained: {' '.join(command)}")
    return used_by_now


def last_within(budget: float, folder: Path, seconds: float, steps: int) -> int:
    """The last step within a budget of CPU seconds, of those that a training kept; the others are removed. 0: none.

    Each step of the training is taken to cost the same.
    """
    kept = 0
    for path in sorted((folder / "checkpoints").glob("step-*.ckpt"), key=lambda path: int(path.stem[5:]), reverse=True):
        step = int(path.stem[5:])
        if not kept and seconds * step / steps <= budget:
            kept = step
        else:
            path.unlink()
    return kept


def measure(run: str | Path, checkpoint: str, folder: Path, options: argparse.Namespace) -> Iterator[Line]:
    """Restore the sets, and measure each picture beside noise on the Processor's that has the picture's PSNR."""
    for name, changes in SETS.items():
        results = folder / "measured" / checkpoint / slug(name)
        if not (results / "summary.json").is_file():
            pictures = results / "pictures"
            given = [f"run={run}", f"checkpoint={checkpoint}", *changes, f"limit={options.limit}", "metric=fast"]
            succeed(["evaluate", *given, "wandb=null", f"out={pictures}"])
            methods = [f"--method={method}={pictures / method}" for method in ("processor", "restored")]
            truth = ["--hq", str(pictures / "hq"), "--out", str(results), "--workers", "1"]
            succeed(["compare", *methods, *truth, "--noise-control", "processor", "--metrics", *METRICS])
        for line in read(results / "per_image.csv"):
            if line["method"] != "processor":
                numbers = {metric: f"{float(line[metric]):.5g}" for metric in METRICS}
                yield {"set": name, "image": line["image"], "method": line["method"], **numbers}


def read(path: Path) -> list[Line]:
    """A table of values, none if it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def select(lines: Iterable[Line], **wanted: object) -> list[Line]:
    """The lines with these values."""
    return [line for line in lines if all(line[key] == str(value) for key, value in wanted.items())]


def add(found: Iterable[Line], options: argparse.Namespace, **keys: object) -> None:
    """Add lines to the file of values, and make the tables of it anew."""
    found = list(found)  # it takes minutes, in which another process may add lines
    text = io.StringIO()
    table = csv.DictWriter(text, [*KEYS, *METRICS], lineterminator="\n")
    table.writeheader()
    table.writerows([*read(options.values), *({"samples": options.samples, **keys, **line} for line in found)])
    write_text(options.values, text.getvalue())
    report(options)


def fill(row: str, seed: int, options: argparse.Namespace) -> None:
    """Train and measure what is not there of a row."""
    folder: Path = options.out / f"{slug(row)}-{options.samples}-s{seed}"
    steps = options.samples // BATCH

    def there(row: str, budget: str) -> list[Line]:
        return select(read(options.values), samples=options.samples, seed=seed, row=row, budget=budget)

    def put(run: str | Path, checkpoint: str, budget: str, seconds: float) -> None:
        found = measure(run, checkpoint, folder, options)
        add(found, options, row=row, seed=seed, budget=budget, cpu_seconds=round(seconds))

    if row == START:
        if not there(row, "samples"):
            put("shipped/tiny", "last", "samples", 0)
        return
    if not there(row, "samples"):
        put(folder, "last", "samples", train(row, folder, seed, options))
    reference = there(REFERENCE, "samples")
    if reference and not there(row, "seconds"):
        allowed, needed = (float(lines[0]["cpu_seconds"]) for lines in (reference, there(row, "samples")))
        if needed > MILESTONES * allowed:
            return  # not even the first checkpoint is within them
        seconds = train(row, folder, seed, options)
        step = steps if seconds <= TOLERANCE * allowed else last_within(allowed, folder, seconds, steps)
        if step:
            put(folder, "last" if step == steps else f"step-{step}", "seconds", seconds * step / steps)


def values(lines: list[Line], method: str, metric: str) -> np.ndarray:
    """A method's value of every image, averaged over seeds."""
    chosen = select(lines, method=method)
    images = sorted({line["image"] for line in chosen})
    return np.array([fmean(float(line[metric]) for line in select(chosen, image=image)) for image in images])


def row_of(row: str, lines: list[Line], base: list[Line]) -> str:
    """A row of a table: means, with intervals of the paired differences from the reference, and what noise shows."""
    cells, wins = [], []
    for metric, digits in METRICS.items():
        sign = 1 if metric in HIGHER else -1
        ours = values(lines, "restored", metric)
        text = f"{ours.mean():.{digits}f}"
        if base and row != REFERENCE:
            theirs = values(base, "restored", metric)
            gain = compare(ours, theirs).gain
            text += f" [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]" if gain.n > 1 else ""
            found = compare(sign * ours, sign * theirs)
            if found.significant and found.gain.mean > 0:
                text = f"**{text}**"
        cells.append(text)
        found = compare(sign * ours, sign * values(lines, "noise@restored", metric))
        if metric not in ("psnr_y", "seams4") and found.significant and found.gain.mean > 0:  # noise has no seams
            wins.append(metric)
    seeds = len({line["seed"] for line in lines})
    cost = fmean(float(line["cpu_seconds"]) for line in lines)
    return f"| {row} | {seeds} | {' | '.join(cells)} | {cost:.0f} | {', '.join(wins) or 'nothing'} |"


def seeds_table(there: list[Line]) -> list[str]:
    """How far apart the trainings of two seeds end: what the intervals, which are over images, do not hold."""
    text = ["**Seed 1 minus seed 0, the same number of samples**", ""]
    text += ["| | " + " | ".join(f"{name}: {', '.join(APART)}" for name in SETS) + " |", "|---" * (len(SETS) + 1) + "|"]
    for row in ROWS:
        cells = []
        for name in SETS:
            first, second = (select(there, row=row, set=name, seed=seed) for seed in range(2))
            if second:
                apart = [
                    values(second, "restored", each).mean() - values(first, "restored", each).mean() for each in APART
                ]
                cells.append(", ".join(f"{gap:+.{METRICS[each]}f}" for each, gap in zip(APART, apart, strict=True)))
        if cells:
            text.append(f"| {row} | {' | '.join(cells)} |")
    return text


def report(options: argparse.Namespace) -> None:
    """Write the tables of what is there."""
    there = select(read(options.values), samples=options.samples)
    text = []
    for budget, title in BUDGETS.items():
        for name in SETS:
            base = select(there, set=name, row=REFERENCE, budget="samples")
            rows = [
                row_of(row, lines, base)
                for row in ROWS
                if (lines := select(there, set=name, row=row, budget="samples" if row == START else budget))
            ]
            if rows:
                text += [f"**{title.format(samples=options.samples)}: {name}**", ""]
                text += ["| | seeds | " + " | ".join(METRICS) + " | CPU-s | better than noise in |"]
                text += ["|---" * (len(METRICS) + 4) + "|", *rows, ""]
    text += seeds_table(select(there, budget="samples", method="restored"))
    write_text(options.out / "objectives.md", "\n".join(text))


def main() -> int:
    """Train and measure every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all: {'; '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"), help="trainings and objectives.md")
    values_file = Path(__file__).parents[1] / "experiments" / "objectives.csv"
    parser.add_argument("--values", type=Path, help=f"of every image; default: {values_file}")
    parser.add_argument("--samples", type=int, default=20000, help="of each training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=LIMIT, help="images of each set")
    parser.add_argument("--taught", type=int, default=4000, help="pictures of the teacher")
    parser.add_argument("--overrides", nargs="*", default=[], help="further settings of every training")
    options = parser.parse_args()
    if unknown := [row for row in options.rows if row not in ROWS]:
        parser.error(f"{unknown[0]} is none of the rows: {'; '.join(ROWS)}")
    if options.values is None and (options.overrides or options.limit != LIMIT):
        parser.error("name another file by --values: these values do not belong beside the others")
    options.values = options.values or values_file
    options.photos = Path(os.environ.get("SSPIR_DATA", "data")) / "photos"
    report(options)
    for seed in range(options.seeds):
        for row in sorted(options.rows or ROWS, key=list(ROWS).index):
            if not (seed and row in ONE_SEED):
                fill(row, seed, options)
    print((options.out / "objectives.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
