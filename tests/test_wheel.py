"""The built wheel, installed into an empty environment and used from an unrelated folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.needs import needs
from tests.runs import OVERRIDES, roots

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_what_has_a_checksum_keeps_its_line_ends_in_every_checkout() -> None:
    for sums in ROOT.glob("src/sspir/weights/shipped/*/SHA256SUMS"):
        files = [sums.parent / line.split("  ")[1] for line in sums.read_text().splitlines()]
        told = subprocess.run(["git", "check-attr", "text", "--", *files], cwd=ROOT, capture_output=True, text=True)
        assert [line for line in told.stdout.splitlines() if not line.endswith(": unset")] == []
        assert len(told.stdout.splitlines()) == len(files) > 10


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's `bin` with the wheel in it; the dependencies are lent by the environment of the tests."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the wheel is built from a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "demo", "tests", "*.egg-info"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install = ["install", "--no-deps", "--quiet", *folder.glob("*.whl")]
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.thorough
def test_trains_evaluates_and_restores_from_anywhere(installed: Path, photo_folder: Path, tmp_path: Path) -> None:
    needs("optuna", "search")
    where = run(installed / "python", "-c", "import sspir; print(sspir.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    photos = roots(photo_folder)
    folder, photo = tmp_path / "runs" / "tiny" / "none-s0", photo_folder / "val" / "0.png"
    commands = [
        ["train", *OVERRIDES, *photos, "trainer.max_steps=2"],
        [
            "evaluate",
            f"run={folder}",
            "benchmark=photos",
            "metric=fast",
            "limit=1",
            f"benchmark.photos.root={photo_folder}",
        ],
        ["sweep", *OVERRIDES, *photos, "trainer.max_steps=2", "seed=choice(0)", "hydra.sweeper.n_trials=1"],
        ["restore", f"{photo}", "--weights", f"{folder}", "--out", f"{tmp_path / 'out'}"],
    ]
    several = f"from sspir.__main__ import main; assert [main(command) for command in {commands}] == [0, 0, 0, 0]"
    run(installed / "python", "-c", several, cwd=tmp_path)  # in one process: each start takes seconds
    (table,) = (folder / "evaluation" / "photos").glob("*/per_image.csv")
    assert {"restored", "processor", "bicubic"} <= {line.split(",")[1] for line in table.read_text().splitlines()[1:]}
    from PIL import Image

    assert Image.open(tmp_path / "out" / "0.png").size == (256, 192)


@pytest.mark.slow
def test_the_template_for_code_of_ones_own_comes_along(installed: Path, photo_folder: Path, tmp_path: Path) -> None:
    (packages,) = (installed.parent / "lib").glob("python*/site-packages")
    shutil.copytree(packages / "sspir" / "examples" / "own", tmp_path / "mine")
    said = tmp_path / "said.jsonl"
    captioned = ["caption", photo_folder / "val", "--captioner", "brightness", "--out", said]
    run(installed / "sspir", *captioned, "--path", "mine", cwd=tmp_path)
    assert said.read_text().count(" photo") == 2
