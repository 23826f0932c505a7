"""What W&B's real client sends of a training, and the evaluation of a run that is fetched from there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from sspir.__main__ import main
from sspir.files import sha256
from tests.runs import tiny_run
from tests.wandb_server import ENTITY, KEY, StandIn, serving

RUN = f"wandb:{ENTITY}/sspir/tiny-none-s0"


@pytest.fixture(scope="module")
def online() -> Iterator[StandIn]:
    """A stand-in for W&B that the client of this process takes for the service."""
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {"BASE_URL": server.url, "API_KEY": KEY, "MODE": "online"}.items():
            patch.setenv(f"WANDB_{name}", value)
        wandb.teardown()  # of what it knew of another service
        yield server
        wandb.teardown()


@pytest.fixture(scope="module")
def trained(online: StandIn, tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("online") / "run"
    tiny_run(folder, photo_folder, "logger=wandb", "logger.wandb.artifacts=checkpoints")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "wandb" / ENTITY / "sspir"


def given(photos: Path, run: str) -> list[str]:
    where = ["benchmark=photos", f"benchmark.photos.root={photos}"]
    return ["evaluate", f"run={run}", *where, "metric=fast", "limit=1", "wandb=null"]


@pytest.mark.thorough
def test_the_client_sends_the_whole_run(online: StandIn, trained: Path) -> None:
    made = online.asked["UpsertBucket"][0]
    assert (made["displayName"], made["groupName"], made["jobType"]) == ("tiny-none-s0", "tiny", "train")
    assert made["name"] == (trained / "wandb.id").read_text()
    assert made["tags"] == ["none"]
    config = online.store[f"{made['name']}/config.yaml"].decode()
    assert "structure_steps: 2" in config
    assert "patch_bytes" in config
    rows = [json.loads(line) for line in online.stream["wandb-history.jsonl"]]
    assert {row["step"] for row in rows if "val/psnr_y" in row} == {2, 4}
    assert {row["step"] for row in rows if "skipped_steps" in row} == {1, 2, 3, 4}
    assert online.stream["wandb-events.jsonl"]  # of the machine
    (alert,) = online.asked["NotifyScriptableRunAlert"]
    assert (alert["title"], alert["severity"]) == ("finished: tiny-none-s0", "INFO")
    checkpoints = [each["aliases"] for each in online.artifacts.values() if each["artifactTypeName"] == "model"]
    assert checkpoints == [{"best"}, {"last", "latest"}]
    assert not (trained / "wandb" / "artifacts").exists()  # it is sent


@pytest.mark.thorough
def test_a_run_is_fetched_once_and_evaluated_as_any(
    online: StandIn, trained: Path, cache: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(photo_folder, f"{RUN}:best")) == 0
    (fetched,) = cache.iterdir()
    assert fetched.name == "tiny-none-s0-v0"
    assert f"{RUN}:best lies in {fetched}" in capsys.readouterr().err
    assert sha256(fetched / "checkpoints" / "best.ckpt") == sha256(trained / "checkpoints" / "best.ckpt")
    (summary,) = fetched.glob("evaluation/photos/best-*/summary.json")
    assert json.loads(summary.read_text())["evaluation"]["checkpoint"] == "best"
    manifests = len(online.asked["FetchArtifactManifest"])
    assert main([*given(photo_folder, f"{RUN}:v0"), "checkpoint=best"]) == 0
    assert len(online.asked["FetchArtifactManifest"]) == manifests


@pytest.mark.parametrize("harm", ["damaged", "other"])
def test_what_is_damaged_or_no_run_does_not_enter_the_cache(
    harm: str, online: StandIn, trained: Path, cache: Path, photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reference = f"{RUN}:last"
    if harm == "damaged":
        checkpoint = max(online.store, key=lambda name: len(online.store[name]))
        monkeypatch.setitem(online.store, checkpoint, online.store[checkpoint][:-1] + b"x")
    else:
        table = next(each["name"] for each in online.artifacts.values() if each["artifactTypeName"] == "run_table")
        reference = f"wandb:{ENTITY}/sspir/{table}:latest"
    assert main(given(photo_folder, reference)) == 2
    said = {"damaged": "did not come whole", "other": "holds no run; train with logger.wandb.artifacts=checkpoints"}
    assert said[harm] in capsys.readouterr().err
    assert not list(cache.parent.parent.rglob("*.ckpt"))


@pytest.mark.thorough
def test_several_runs_are_of_one_kind(online: StandIn, trained: Path, cache: Path, photo_folder: Path) -> None:
    assert main([*given(photo_folder, f"{RUN}:best,{RUN}:last")]) == 2
    assert main([*given(photo_folder, f"{RUN}:best,{trained}"), "checkpoint=best"]) == 0
    assert len(list(trained.glob("evaluation/photos/best-*/summary.json"))) == 1


def test_what_w_and_b_does_not_have_is_said(
    online: StandIn, cache: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(photo_folder, f"wandb:{ENTITY}/sspir/nobody:best")) == 2
    assert "cannot be got from W&B" in capsys.readouterr().err
