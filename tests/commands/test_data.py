"""`sspir data`, from the outside; downloads come from a server on this machine."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from sspir.__main__ import main
from sspir.config.compose import config_root
from sspir.data.public import Download, fetch, read_public_set
from sspir.errors import UserError


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return file.getvalue()


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    members = {"set/HR/1.png": png(), "set/HR/deep/2.png": png(), "set/LR/1.png": png(), "set/HR/../../out.png": png()}
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as contents:
            for name, data in members.items():
                contents.writestr(name, data)
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


class Server(BaseHTTPRequestHandler):
    content = b""
    cut_after: int | None = None
    ranges: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : type(self).cut_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.ranges, Server.cut_after = [], None
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_interrupted_download_goes_on_and_unpacks_safely(server: str, tmp_path: Path, kind: str) -> None:
    Server.content = archive(kind)
    download = Download(f"{server}/set.{kind}", hashlib.md5(Server.content).hexdigest(), {"set/HR": "mine"})
    Server.cut_after = 300
    with pytest.raises(UserError, match="goes on"):
        fetch(download, tmp_path, lambda there, total: None)
    Server.cut_after = None
    fetch(download, tmp_path, lambda there, total: None)
    assert Server.ranges == [None, "bytes=300-"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == [
        "mine/1.png",
        "mine/deep/2.png",
    ]
    fetch(download, tmp_path, lambda there, total: None)
    assert len(Server.ranges) == 2  # the archive is kept


def test_a_chunked_answer_that_breaks_off_goes_on(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks_off(self: Server) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nbegun\r\n64\r\nand no more")

    monkeypatch.setattr(Server, "do_GET", breaks_off)
    with pytest.raises(UserError, match=r"IncompleteRead.*goes on from here"):
        fetch(Download(f"{server}/set.zip", "0" * 32, {"set/HR": "mine"}), tmp_path, lambda there, total: None)


def test_a_wrong_file_is_refused(server: str, tmp_path: Path) -> None:
    Server.content = archive("zip")
    with pytest.raises(UserError, match="md5"):
        fetch(Download(f"{server}/set.zip", "0" * 32, {"set/HR": "mine"}), tmp_path, lambda there, total: None)
    assert not list(tmp_path.rglob("*.zip*"))


def test_every_description_can_be_read_and_is_used() -> None:
    files = sorted((config_root() / "conf" / "public").glob("*.yaml"))
    assert len(files) >= 14
    for file in files:
        described = read_public_set(file)
        assert described.downloads or described.by_hand
        for download in described.downloads:
            assert set(download.unpack.values()) <= set(described.folders)
            assert len(download.md5) == 32


def test_check_names_every_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "set5", "--check", "--root", str(tmp_path)]
    assert main(arguments) == 1
    folder = tmp_path / "benchmarks" / "set5" / "HQ"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}.png").write_bytes(png())
    assert main(arguments) == 0
    (folder / "1.png").unlink()
    (folder / "2.png").write_bytes(b"nothing")
    capsys.readouterr()
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "4 images, not 5" in said
    assert "2.png" in said


def test_lists_describes_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    assert "realset80" in capsys.readouterr().out
    assert main(["data", "ffhq"]) == 0
    assert "CC BY-NC-SA" in capsys.readouterr().out
    assert main(["data", "div2k"]) == 0
    assert "sspir data div2k --download\n" in capsys.readouterr().out
    assert main(["data", "lsdir", "--download"]) == 2
    assert "form" in capsys.readouterr().err
    assert main(["data", "typo"]) == 2
