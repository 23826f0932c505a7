"""A W&B workspace and report by code: as a file without asking anybody, and through the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from sspir.__main__ import main
from tests.needs import needs
from tests.report.written import write_evaluation, write_pictures, write_run
from tests.wandb_server import ENTITY, KEY, serving

SOCKETS_CLOSED = """
import socket, sys

def closed(*_, **__):
    raise OSError("a socket was opened")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = closed
from sspir.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def workspaces() -> Any:
    return needs("wandb_workspaces", "dashboards")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two variants with two seeds each, measured on seven images; the ablated one is worse by 0.5 to 0.6."""
    for variant, loss in (("none", 0.0), ("no_x", 0.5)):
        for seed in (0, 1):
            ends = {"val/psnr_y": 25.0 + seed - loss, "val/lpips": 0.2, "bicubic/psnr_y": 22.0, "loss/total": 1.0}
            run = write_run(tmp_path / "runs" / f"{variant}{seed}", "tiny", variant, seed, ends)
            write_evaluation(run / "evaluation" / "set5", [25 + seed - loss * (1 + image / 30) for image in range(7)])
            write_pictures(run / "panels", ["0-step0000002", "0-step0000004"], ["a"])
    return tmp_path / "runs"


def panels(node: Any) -> list[dict[str, Any]]:
    """All panels in a specification, in order."""
    if isinstance(node, list):
        return [panel for each in node for panel in panels(each)]
    if not isinstance(node, dict):
        return []
    return [node] if "viewType" in node else [panel for each in node.values() for panel in panels(each)]


def texts(node: Any) -> list[str]:
    """All texts in a specification, in order."""
    if isinstance(node, dict | list):
        return [text for each in (node.values() if isinstance(node, dict) else node) for text in texts(each)]
    return [node] if isinstance(node, str) else []


def shown(specification: Any) -> None:
    """Require the panels of the two variants' runs."""
    found = [(panel["viewType"], panel["config"]) for panel in panels(specification)]
    lines = [config["metrics"] for kind, config in found if kind == "Run History Line Plot"]
    for name in ("psnr_y", "lpips"):
        assert [f"val/{name}", f"structure/{name}", f"bicubic/{name}"] in lines
    assert ["loss/total"] in lines
    assert ["skipped_steps"] in lines
    bars = [config for kind, config in found if kind == "Bar Chart" and config["metrics"] == ["val/psnr_y"]]
    assert [(bar["groupBy"], bar["groupAgg"], bar["groupArea"]) for bar in bars] == [
        ("variant.value", "mean", "stddev")
    ]
    assert [config["mediaKeys"] for kind, config in found if kind == "Media Browser"] == [["panels/a/0"]]
    assert any(kind == "Weave" for kind, _ in found)


@pytest.mark.thorough
def test_without_an_account_it_writes_the_specification_and_asks_nobody(runs: Path, tmp_path: Path) -> None:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("WANDB")}
    environment = {**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    command = [sys.executable, "-c", SOCKETS_CLOSED, "dashboard", "team/sspir", "--runs", "runs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dashboard.json: the specification" in done.stdout
    assert "wandb login" in done.stdout
    assert "a socket was opened" not in done.stderr
    specification = json.loads((tmp_path / "dashboard.json").read_text())
    shown(specification["workspace"])
    shown(specification["report"])
    assert specification["workspace"]["entity"] == "team"
    (study,) = [text for text in texts(specification["report"]) if "paired 95 %" in text]
    assert "bold where it excludes zero, on six images or more." in study
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in study.splitlines() if line.startswith("|")]
    assert rows[0] == ["variant", "psnr_y ↑", "seeds"]
    assert rows[2] == ["none", "25.50 ± 0.71", "2"]
    assert rows[3][0] == "no_x"
    assert rows[3][1].startswith("24.95 ± 0.71 (**-0.5500 [-0.5")
    assert any("| no_x | 0.2000 ± 0.0000 | 25.00 ± 0.71 | 2 |" in text for text in texts(specification["report"]))


def test_without_runs_it_shows_the_metrics_of_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)  # which --out does not use
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main(["dashboard", "sspir", "--out", "there/spec.json"]) == 0
    specification = json.loads((tmp_path / "there" / "spec.json").read_text())
    lines = [panel["config"].get("metrics") for panel in panels(specification["workspace"])]
    assert ["val/psnr_y", "structure/psnr_y", "bicubic/psnr_y"] in lines


def test_with_an_account_it_saves_both_and_says_where(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        for name, value in {"BASE_URL": server.url, "API_KEY": KEY, "MODE": "online"}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        wandb.teardown()
        assert main(["dashboard", "sspir", "--runs", str(runs)]) == 0
        (workspace,), (report,) = server.asked["UpsertView2"], server.asked["upsertView"]
        wandb.teardown()
    for saved in (workspace, report):
        assert (saved["entityName"], saved["projectName"]) == (ENTITY, "sspir")
        shown(json.loads(saved["spec"]))
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in said] == ["workspace", "report"]
    assert all(f"/{ENTITY}/sspir" in line for line in said)


def test_what_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)  # as if it were not installed
    assert main(["dashboard", "sspir"]) == 2
    said = capsys.readouterr().err
    assert (
        said == "sspir dashboard: sspir dashboard needs the package wandb-workspaces: pip install 'sspir[dashboards]'\n"
    )
