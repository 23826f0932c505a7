"""What one graphics card does with sspir, at Stable Diffusion 1.5's true size with random weights.

    python benchmarks/bench_gpu.py [--seconds 330] [--only PART ...] [--out runs/bench_gpu.json]
    python benchmarks/bench_gpu.py --tiny      # small networks on a CPU, about a minute: does everything run?

- restore: 50 steps with and without guidance, 4 steps and one step, to 512 x 512, eager beside captured CUDA graphs;
- stock: diffusers' StableDiffusionControlNetPipeline with networks of the same size beside ours;
- train_tiny: steps a second of the second part of experiments=tiny;
- train_sd: a training step at true size, batch 1 and 8, beside forty lines of plain loop over the same networks;
- lora: a training step of adapters, batch 1 and 8, where there are only 8, 12 or 24 GB;
- peak: the share of what the card reaches in one product of matrices;
- sizes: one photo to 512, 1024 and 2048 pixels where there are only 8, 12 or 24 GB: does it run, or end in a sentence;
- many_sizes: sixty photos of sixty sizes, eager beside captured;
- fused_qkv: query, key and value by one product, under a graph;
- vae: the autoencoder in float32, TF32 and bfloat16, with and without channels_last;
- startup: from the commands `sspir train` and `sspir restore` to their end.

Seconds are medians of five after a warm-up (fewer where a call takes seconds: `runs`), of training the mean of a row of
steps. Parts come in order of worth; one that does not fit into `--seconds` is left out and says so. After every case
the JSON file and the Markdown table beside it are written anew. Exit status 1 if a case ended in an error.
"""

import argparse
import faulthandler
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_lab import Cases, Figures, Lab
from gpu_parts import fused_qkv, many_sizes, peak, restore, sizes, startup, stock, vae
from gpu_training import lora, train_sd, train_tiny

from sspir.files import write_text

# With about the seconds that each takes on an H200
PARTS: dict[str, tuple[Callable[[Lab], Cases], int]] = {
    "restore": (restore, 90),
    "stock": (stock, 20),
    "train_tiny": (train_tiny, 50),
    "train_sd": (train_sd, 60),
    "lora": (lora, 30),
    "peak": (peak, 3),
    "sizes": (sizes, 40),
    "many_sizes": (many_sizes, 45),
    "fused_qkv": (fused_qkv, 20),
    "vae": (vae, 10),
    "startup": (startup, 30),
}


class Record:
    """The results, in a JSON file and a Markdown table beside it.

    Args:
        path: of the JSON file.
        parts: of a process before, to go on with.
    """

    def __init__(self, path: Path, machine: Figures, parts: dict[str, dict[str, Figures]]) -> None:
        self.path, self.machine, self.parts = path, machine, parts

    def add(self, part: str, case: str, figures: Figures) -> None:
        """Keep a case, print it and write everything."""
        self.parts.setdefault(part, {})[case] = figures
        print(self._line(part, case, figures), flush=True)
        write_text(self.path, json.dumps({**self.machine, "parts": self.parts}, indent=2) + "\n")
        rows = [self._line(*row) for row in self.rows()]
        told = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        table = ["| part | case | figures |", "|---|---|---|", *rows]
        write_text(self.path.with_suffix(".md"), "\n".join([told, "", *table, ""]))

    def rows(self) -> list[tuple[str, str, Figures]]:
        """Part, case and figures of all."""
        return [(part, case, figures) for part, cases in self.parts.items() for case, figures in cases.items()]

    def _line(self, part: str, case: str, figures: Figures) -> str:
        words = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        ]
        return f"| {part} | {case} | {', '.join(words)} |"


def attempt(measure: Callable[[], Any]) -> Any:
    """What a call returns; of what it raises one line, as figures."""
    try:
        return measure()
    except Exception as error:  # of any library
        lines = str(error).strip().splitlines() or [""]
        frames = traceback.extract_tb(error.__traceback__)[1:][-4:]
        way = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        return {"error": f"{type(error).__name__} at {way}: {lines[0]}"[:500]}


def run(part: str, lab: Lab, record: Record, deadline: float) -> None:
    """Every case of a part that time is left for."""
    cases = PARTS[part][0](lab)
    while (case := attempt(lambda: next(cases, None))) is not None:
        if isinstance(case, dict):  # the part itself could not go on
            record.add(part, "preparation", case)
            return
        name, measure = case
        late = time.monotonic() > deadline
        record.add(part, name, {"left out": "no time"} if late else attempt(measure))


def settled(lab: Lab, begun: float) -> Figures:
    """What a part took once the device has done with it."""
    lab.tidy()
    lab.wait()
    return {"seconds": time.monotonic() - begun}


def main() -> int:
    """Every part, or those that are asked for."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small networks on a CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, in the order above")
    parser.add_argument("--seconds", type=float, default=330, help="for all, once all is imported (default: 330)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_gpu.json"), help="where the figures go")
    parser.add_argument("--going-on", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use here; --tiny tries everything on a CPU")
    deadline = started + options.seconds
    faulthandler.dump_traceback_later(max(1, options.seconds + 20), exit=True)  # of what hangs, its place
    before = json.loads(options.out.read_text())["parts"] if options.going_on else {}
    asked = [part for part in PARTS if part in options.only]
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(options.tiny, Path(folder))
        record = Record(options.out, lab.machine, before)
        while asked:
            part = asked.pop(0)
            begun, expected = time.monotonic(), 1 if options.tiny else PARTS[part][1]
            if begun + expected > deadline:
                record.add(part, "all", {"left out": f"takes about {expected} s, {deadline - begun:.0f} are left"})
                continue
            run(part, lab, record, deadline)
            took = attempt(partial(settled, lab, begun))
            record.add(part, "took", took)
            if "error" in took:  # a card that has failed once answers this process no more
                break
    if asked:  # in a new process
        left = ["--seconds", f"{deadline - time.monotonic():.0f}", "--out", str(options.out), "--going-on"]
        os.execv(sys.executable, [sys.executable, __file__, *left, "--only", *asked])
    return int(any("error" in figures for _, _, figures in record.rows()))


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
