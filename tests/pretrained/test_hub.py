"""A hub that answers, but not with the model: removed, gated."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from diffusers import DDPMScheduler
from huggingface_hub import constants
from transformers import CLIPVisionModel

from sspir.pretrained.hub import is_whole, must_come_from_hub
from sspir.pretrained.load import load_diffusers, load_transformers
from tests.stable_diffusion import save_clip

CODE = """
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel
from sspir.errors import UserError
from sspir.pretrained.load import load_diffusers, load_transformers
for name in ("someone/removed", "someone/gated"):
    for load in (
        lambda: load_transformers(CLIPTextModel, name, "text_encoder.path", "text_encoder"),
        lambda: load_diffusers(UNet2DConditionModel, name, "unet"),
    ):
        try:
            load()
        except UserError as error:
            print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Speaks as the hub does of repositories that are gone, and of those that need an agreement."""

    def do_HEAD(self) -> None:
        if "gated" in self.path:
            self.answer(403, "GatedRepo", "Access to model someone/gated is restricted.")
        elif "removed" in self.path:
            self.answer(404, "RepoNotFound", "Repository not found")
        else:
            self.answer(200, "", "")

    def do_GET(self) -> None:
        self.do_HEAD()

    def answer(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_a_removed_or_gated_model_is_one_sentence_with_the_files_and_the_setting(hub: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, env=environment)
    sentences = done.stdout.strip().splitlines()
    assert len(sentences) == 4, done.stdout + done.stderr
    assert f"someone/removed (text_encoder.path) is not here: it is downloaded from {hub}." in done.stderr
    names = ["someone/removed"] * 2 + ["someone/gated"] * 2
    settings = ["text_encoder.path", "backbone.path"] * 2
    for sentence, name, setting in zip(sentences, names, settings, strict=True):
        assert sentence.startswith(f"{name} ({setting}) cannot be had from the hub (")
        assert "get its config.json and" in sentence
        assert sentence.endswith(f"set {setting} to the folder.")


def test_a_home_folder_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    DDPMScheduler().save_pretrained(tmp_path / "sd" / "scheduler")
    save_clip(tmp_path / "clip")
    assert isinstance(load_diffusers(DDPMScheduler, "~/sd", "scheduler"), DDPMScheduler)
    assert isinstance(load_transformers(CLIPVisionModel, "~/clip", "image_encoder.path"), CLIPVisionModel)


def test_a_configuration_without_all_weights_is_an_interrupted_download(tmp_path: Path) -> None:
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = ["config.json", *parts, "model.safetensors.index.json"]
    config, first, second, index = (tmp_path / name for name in names)
    assert not is_whole(config)
    index.write_text(json.dumps({"weight_map": {"a": first.name, "b": second.name}}))
    first.touch()
    assert not is_whole(config)
    second.touch()
    assert is_whole(config)
    assert is_whole(tmp_path / "scheduler" / "scheduler_config.json")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).touch()
    (other / "tf_model.h5.index.json").write_text('{"weight_map": {"a": "tf_model-00001-of-00002.h5"}}')
    assert is_whole(other / "config.json")  # all that is wanted is there


def test_a_folder_here_needs_no_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my models" / "sd 15").mkdir(parents=True)
    assert not must_come_from_hub("my models/sd 15", "backbone.path", "unet")


def test_an_interrupted_download_goes_on(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    unet = tmp_path / "models--some--model" / "snapshots" / "abc" / "unet"
    unet.mkdir(parents=True)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    (unet / "config.json").write_text("{}")
    assert must_come_from_hub("some/model", "backbone.path", "unet")
    (unet / "diffusion_pytorch_model.safetensors").touch()
    assert not must_come_from_hub("some/model", "backbone.path", "unet")
