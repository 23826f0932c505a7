"""A folder with all that bench_gpu.py needs on a machine that has PyTorch and Lightning, but no network.

    python benchmarks/bundle.py [--out dist/gpu-bundle] [--python 3.12] [--platform manylinux_2_28_x86_64]

Our wheel, the wheels of what such a machine lacks in the versions of this environment, the benchmark, and `run.sh`,
which installs the wheels beside itself and starts it. The bundle is tried here in a clean environment first. Exit
status 1 if it is too large or does not run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("bench_gpu.py", "gpu_lab.py", "gpu_parts.py", "gpu_training.py")
LACKING = [
    "diffusers",
    "hydra-core",
    "omegaconf",
    "antlr4-python3-runtime",
    "open_clip_torch",
    "ftfy",
    "wcwidth",
    "peft",
]
FROM_SOURCE = {"antlr4-python3-runtime"}  # has no wheel of this version; pure Python
MOST = 40  # MiB
RUN = """#!/bin/sh
# Installs the wheels into the folder `site` beside this file, and runs the benchmark with the arguments given.
set -e
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
test -d "$here/site" || "$python" -m pip install --quiet --no-index --no-deps --target "$here/site" "$here"/wheels/*.whl
PYTHONPATH="$here/site" HF_HUB_OFFLINE=1 exec "$python" -W ignore "$here/bench_gpu.py" "$@"
"""


def build(out: Path, packages: list[str], python: str, platform: str) -> None:
    """Make the folder anew."""
    shutil.rmtree(out, ignore_errors=True)
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, HERE.parent)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for name in packages:
        wanted = f"{name}=={version(name)}"
        if name in FROM_SOURCE:
            run(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, wanted)
        else:
            fitting = ["--only-binary", ":all:", "--python-version", python, "--platform", platform]
            run(*pip, "download", "--no-deps", *fitting, "--dest", wheels, wanted)
    for name in SOURCES:
        shutil.copy(HERE / name, out)
    (out / "run.sh").write_text(RUN)
    (out / "run.sh").chmod(0o755)


def attempt(out: Path) -> None:
    """Run a copy in a new environment, to which this one lends what the bundle does not hold."""
    with tempfile.TemporaryDirectory() as temporary:
        copy, env = Path(temporary) / "bundle", Path(temporary) / "env"
        shutil.copytree(out, copy)
        for wheel in (copy / "wheels").glob("*.whl"):
            if not wheel.stem.endswith("-none-any"):  # of another Python or platform
                wheel.unlink()
        run(sys.executable, "-m", "venv", "--without-pip", env)
        site = next((env / "lib").glob("python*/site-packages"))
        (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = env / "bin" / "python"
        run("sh", copy / "run.sh", "--tiny", "--only", "restore", "--out", copy / "tried.json", PYTHON=str(python))
        where = "import sspir, diffusers; print(sspir.__file__, diffusers.__file__)"
        found = run(python, "-c", where, PYTHONPATH=str(copy / "site")).split()
        if not all(path.startswith(str(copy)) for path in found):
            raise SystemExit(f"The bundle's packages were not those that ran: {', '.join(found)}.")


def run(*command: str | Path, **variables: str) -> str:
    """The output of a command; a failed one ends all with its last lines."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(list(map(str, command)), env=environment, cwd="/", capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def main() -> int:
    """Build, weigh and try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist/gpu-bundle"), help="folder, made anew")
    parser.add_argument("--python", default="3.12", help="of that machine")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64", help="of that machine, in pip's words")
    parser.add_argument("--packages", nargs="*", default=LACKING, help="what it lacks")
    options = parser.parse_args()
    out = options.out.resolve()
    if out.exists() and not (out / "run.sh").is_file():
        parser.error(f"{out} is no bundle, and would be lost; choose a folder that is not there")
    build(out, options.packages, options.python, options.platform)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    print(f"{out}: {size:.1f} MiB", flush=True)
    if size > MOST:
        print(f"more than {MOST} MiB: leave packages out with --packages")
        return 1
    attempt(out)
    print("runs here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
