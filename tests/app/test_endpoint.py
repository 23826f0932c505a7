"""The HTTP endpoint, as other programs ask it: by curl."""

import base64
import json
import signal
import subprocess
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import MODEL, TOKEN, Server, serving, wait_until
from tests.peers.networks import rrdbnet_file
from tests.processes import free_port, start

UPSCALES = "/v1/images/upscales"
BEARER = ("-H", f"Authorization: Bearer {TOKEN}")


def started(server: Server, path: str, *flags: str) -> "subprocess.Popen[bytes]":
    command = ["curl", "-s", "-w", "\n%{http_code} %header{retry-after}", *flags, f"{server.address}{path}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def told(process: "subprocess.Popen[bytes]") -> tuple[int, bytes, str]:
    """Status, body, and Retry-After."""
    body, _, last = process.communicate(timeout=120)[0].rpartition(b"\n")
    status, _, retry = last.decode().partition(" ")
    return int(status), body, retry


def curl(server: Server, path: str, *flags: str) -> tuple[int, bytes]:
    return told(started(server, path, *flags))[:2]


def upscale(server: Server, *fields: str) -> tuple[int, bytes]:
    return curl(server, UPSCALES, *BEARER, *(word for field in fields for word in ("-F", field)))


def refusal(answer: tuple[int, bytes], status: int) -> dict[str, Any]:
    """The error of an answer that refuses."""
    assert answer[0] == status, answer
    error = json.loads(answer[1])["error"]
    assert error["code"] == status
    assert sorted(error) == ["code", "message", "param", "type"]
    return error


def test_a_photo_comes_back_larger(server: Server, photos: Path) -> None:
    status, body = upscale(server, f"image=@{photos / 'one.png'}", "scale=2", "caption=a wall", "seed=3")
    assert status == 200
    image = Image.open(BytesIO(body))
    assert (image.format, image.size) == ("PNG", (80, 64))
    status, other = upscale(server, f"image=@{photos / 'one.png'}", "size=100x70", "response_format=jpeg")
    assert (status, Image.open(BytesIO(other)).format, Image.open(BytesIO(other)).size) == (200, "JPEG", (88, 70))


@pytest.mark.thorough
def test_the_answer_is_that_of_the_command_line(server: Server, photos: Path, tmp_path: Path) -> None:
    fields = ("scale=2", "caption=a wall", "seed=3", "fidelity=0.25", "samples=2", "response_format=json")
    status, body = upscale(server, f"image=@{photos / 'one.png'}", *fields)
    answer = json.loads(body)
    assert status == 200
    assert (answer["width"], answer["height"], answer["caption"], answer["seed"]) == (80, 64, "a wall", 3)
    flags = ["--scale=2", "--caption=a wall", "--seed=3", "--fidelity=.25", "--samples=2"]
    restoring = start("restore", photos / "one.png", "--weights", MODEL, "--out", tmp_path, *flags)
    assert restoring.wait(120) == 0
    for key, name in (("image", "one.png"), ("trust_map", "one.trust.png")):
        sent = np.asarray(Image.open(BytesIO(base64.b64decode(answer[key]))))
        assert np.array_equal(sent, np.asarray(Image.open(tmp_path / name))), name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (["scale=x"], "scale"),
        (["scale=2", "size=9x9"], "size"),
        (["fidelity=2"], "fidelity"),
        (["steps=0"], "steps"),
        (["samples=9"], "samples"),
        (["response_format=gif"], "response_format"),
        (["scle=2"], "scle"),
        (["seed=1", "seed=2"], "seed"),
        (["scale="], "scale"),
        (["seed= "], "seed"),
        (["steps=@{one}"], "steps"),
        (["response_format="], "response_format"),
    ],
)
def test_a_wrong_parameter_is_422_and_named(server: Server, photos: Path, fields: list[str], param: str) -> None:
    fields = [field.format(one=photos / "one.png") for field in fields]
    error = refusal(upscale(server, f"image=@{photos / 'one.png'}", *fields), 422)
    assert error["param"] == param
    assert param in error["message"]
    assert "sspir restore" not in error["message"]


def test_a_parameter_of_the_address_is_refused_and_an_empty_caption_is_no_words(server: Server, photos: Path) -> None:
    image = f"image=@{photos / 'one.png'}"
    error = refusal(curl(server, f"{UPSCALES}?scale=2", *BEARER, "-F", image), 422)
    assert (error["param"], "send it as a field" in error["message"]) == ("scale", True)
    status, body = upscale(server, image, "caption=", "response_format=json", "scale=1")
    assert (status, json.loads(body)["caption"]) == (200, "")


@pytest.mark.thorough
def test_a_peer_takes_no_caption(photos: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "served", "--weights", str(rrdbnet_file(tmp_path / "x.pth")), "--batch", "auto") as server:
        assert refusal(upscale(server, f"image=@{photos / 'one.png'}", "caption=a car"), 422)["param"] == "caption"
        assert upscale(server, f"image=@{photos / 'one.png'}", "caption=")[0] == 200


def test_another_method_is_405(server: Server) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert "takes POST" in refusal(curl(server, UPSCALES, *BEARER, "-X", method), 405)["message"]


def test_one_photo_is_taken_at_a_time(server: Server, photos: Path) -> None:
    one, two = (f"image=@{photos / name}" for name in ("one.png", "two.jpg"))
    error = refusal(upscale(server, one, two), 422)
    assert (error["param"], "2 times" in error["message"]) == ("image", True)


def test_openapi_tells_of_every_answer(server: Server) -> None:
    told = json.loads(curl(server, "/openapi.json", *BEARER)[1])["paths"][UPSCALES]["post"]["responses"]
    assert set(told) == {"200", "400", "401", "403", "413", "415", "422", "429", "500", "503"}
    assert set(told["200"]["content"]) == {"image/png", "image/jpeg", "application/json"}
    for status in told.keys() - {"200"}:
        schema = told[status]["content"]["application/json"]["schema"]
        assert set(schema["properties"]["error"]["properties"]) == {"message", "type", "param", "code"}


def test_what_is_no_whole_photo_is_refused(server: Server, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    for field in ("caption=x", "image=words"):
        error = refusal(upscale(server, field), 400)
        assert (error["param"], "send the photo as a file" in error["message"]) == ("image", True)
    for name, status in (("text.png", 415), ("empty.png", 400)):
        assert name in refusal(upscale(server, f"image=@{tmp_path / name}"), status)["message"]
    error = refusal(upscale(server, f"image=@{photos / 'broken.jpg'}"), 400)
    assert error["message"].startswith("broken.jpg ")


def test_too_large_is_413(server: Server, photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1200, 1000)).save(tmp_path / "many.png")
    assert "1200 x 1000" in refusal(upscale(server, f"image=@{tmp_path / 'many.png'}"), 413)["message"]
    error = refusal(upscale(server, f"image=@{photos / 'one.png'}", "scale=4000"), 413)
    assert error["param"] == "scale"
    (tmp_path / "long").write_bytes(bytes(101_000_000))
    for flags in ((), ("-H", "Transfer-Encoding: chunked")):
        answer = curl(server, UPSCALES, *BEARER, *flags, "-F", f"image=@{tmp_path / 'long'}")
        assert "100 MB" in refusal(answer, 413)["message"]


@pytest.mark.parametrize("path", [UPSCALES, "/", "/config", "/gradio_api/info", "/gradio_api/file=x", "/openapi.json"])
def test_everything_asks_for_the_token(server: Server, path: str) -> None:
    for flags in ((), ("-H", "Authorization: Bearer wrong"), ("-b", "sspir_token=wrong")):
        assert refusal(curl(server, path, *flags), 401)["type"] == "authentication_error"


def test_the_token_opens_the_page_in_three_ways(server: Server) -> None:
    assert curl(server, "/health")[0] == 200
    for flags in (BEARER, ("-b", f"sspir_token={TOKEN}")):
        assert curl(server, "/config", *flags)[0] == 200
    status, head = curl(server, f"/?token={TOKEN}", "-i", "-H", "Accept: text/html")
    assert status == 303
    assert f"set-cookie: sspir_token={TOKEN}; Path=/; HttpOnly; SameSite=Strict".encode() in head
    assert b"location: /\r" in head
    assert b"content-security-policy: default-src 'self'" in head


def test_other_pages_and_other_names_are_refused(server: Server) -> None:
    for header in ("Origin: http://elsewhere.example", "Origin: null", "Host: elsewhere.example"):
        assert refusal(curl(server, "/health", "-H", header), 403)["type"] == "permission_error"
    status, head = curl(server, "/health", "-i", "-H", f"Origin: {server.address}")
    assert status == 200
    assert b"access-control" not in head.lower()


def test_no_file_of_this_machine_and_no_address_is_read(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not for the page")
    for path in (f"/gradio_api/file={secret}", "/gradio_api/file=../../../etc/passwd", "/static/../../etc/passwd"):
        status, body = curl(server, path, *BEARER, "--path-as-is")
        assert status in (403, 404)
        assert b"root:" not in body
        assert b"not for" not in body
    for path in (
        "file/http://127.0.0.1:9/x",
        "file%2Fhttp://127.0.0.1:9/x",
        "proxy=http://127.0.0.1:9/x",
        "process_recording",
    ):
        refusal(curl(server, f"/gradio_api/{path}", *BEARER), 404)
    assert refusal(curl(server, "/gradio_api/file=http://127.0.0.1:9/x", *BEARER), 403)
    for path in ("http://127.0.0.1:9/x.png", str(secret), f"{server.folder}/../x"):
        handed = {"path": path, "meta": {"_type": "gradio.FileData"}}
        sent = json.dumps({"data": [[handed]], "fn_index": 0, "session_hash": "x"})
        for kinds in (["application/json"], ["Application/JSON"], ["text/plain"], ["application/json", "multipart/x"]):
            words = [word for kind in kinds for word in ("-H", f"Content-Type: {kind}")]
            for route in ("/gradio_api/queue/join", "/gradio_api/call/restore", "/gradio_api/run/restore"):
                answer = curl(server, route, *BEARER, *words, "-d", sent)
                assert "was not handed in" in refusal(answer, 403)["message"]
    deep = ("-H", "Content-Type: application/json", "-d", "[" * 100_000)
    refusal(curl(server, "/gradio_api/run/restore", *BEARER, *deep), 403)
    assert refusal(curl(server, "/health", "-H", "Host: [x"), 403)


def test_a_full_queue_is_429_and_a_client_that_leaves_makes_room(server: Server, photos: Path) -> None:
    slow = (*BEARER, "-F", f"image=@{photos / 'large.png'}", "-F", "samples=8")
    first = started(server, UPSCALES, *slow)
    wait_until(lambda: server.queue() == 1)
    time.sleep(1)  # until it is at work, and waits no more
    second = started(server, UPSCALES, *slow)
    wait_until(lambda: server.queue() == 2)
    status, body, retry = told(started(server, UPSCALES, *slow))
    assert "waiting" in refusal((status, body), 429)["message"]
    assert int(retry) >= 1
    for process in (first, second):
        process.kill()
        process.wait()
    server.until_idle(30)
    wait_until(lambda: not [path for path in server.files() if "photo" in path])


def test_gradio_s_own_client_restores(server: Server, photos: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(server.address, headers={"Authorization": f"Bearer {TOKEN}"}, verbose=False)
    result = client.predict(files=[handle_file(photos / "one.png")], size="2", api_name="/restore")
    path = result[0]["value"] if isinstance(result[0], dict) else result[0]
    assert Image.open(path).size == (80, 64)
    client.close()


@pytest.mark.thorough
def test_a_signal_ends_the_work_and_deletes_everything(photos: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "served") as server:
        slow = started(server, UPSCALES, *BEARER, "-F", f"image=@{photos / 'large.png'}", "-F", "samples=8")
        wait_until(lambda: server.queue() == 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 143
        assert told(slow)[0] in (0, 503)
        assert not server.files()


@pytest.mark.thorough
def test_trouble_at_the_start_is_one_sentence(server: Server, tmp_path: Path) -> None:
    def words(*flags: str, **environment: str) -> str:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        assert start("app", *flags, log=log, environment=environment).wait(60) == 2
        assert log.read_text().count("\n") == 1
        return log.read_text()

    assert f":{server.port} cannot be served" in words("--port", str(server.port))
    everybody = ("--host", "0.0.0.0", "--port", str(free_port()))
    assert "give a --token" in words(*everybody, SSPIR_TOKEN="")
    assert "letters, digits" in words(*everybody, SSPIR_TOKEN="a;b")
    assert "70000" in words("--port", "70000")
    assert "nowhere" in words("--weights", str(tmp_path / "nowhere"), "--port", str(free_port()))


@pytest.mark.slow
def test_fifty_restorations_leave_no_memory_behind(server: Server, photos: Path) -> None:
    def resident() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def restore(times: int) -> None:
        for number in range(times):
            assert upscale(server, f"image=@{photos / 'one.png'}", f"seed={number}", "scale=2")[0] == 200

    restore(5)
    before = resident()
    restore(50)
    assert resident() <= 1.1 * before
