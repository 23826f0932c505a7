"""Captions over HTTP, from a real server on the loopback interface that is slow, failing or talks nonsense."""

import base64
import contextlib
import io
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from PIL import Image

from sspir.captioners.base import QUESTION, CaptionError, CaptionerUnavailableError, caption_each
from sspir.captioners.endpoint import EndpointCaptioner
from sspir.errors import UserError

IMAGES = [torch.full((3, 8, 12), value) for value in (0.0, 0.5, 1.0)]
Script = Callable[["Handler", int], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(self)
            number = len(self.server.seen)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.server.script(self, number)

    def grey(self) -> int:
        """Brightness of the picture that was sent."""
        url = self.body["messages"][0]["content"][0]["image_url"]["url"]
        picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
        assert picture.size == (12, 8)
        return picture.getpixel((3, 3))[0]

    def send(self, body: Any, code: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def say(self, content: Any = None, **message: Any) -> None:
        text = f"a photo\nof grey {self.grey()}" if content is None else content
        self.send({"choices": [{"message": {"role": "assistant", "content": text, **message}}]})

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    script: Script
    url = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.seen = threading.Lock(), []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def ask(self, script: Script, images: int = 1, **options: Any) -> list[str]:
        self.script = script
        captioner = EndpointCaptioner(self.url, "some-model", **{"timeout": 5, "retries": 2, **options})
        return captioner(IMAGES[:images], [""] * images)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serving = Server()
    threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, which are noted and not slept."""
    slept: list[float] = []
    monkeypatch.setattr(
        "sspir.captioners.endpoint.time", type("Clock", (), {"sleep": slept.append, "monotonic": time.monotonic})
    )
    return slept


def test_each_image_gets_its_own_caption_in_order(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")

    def script(handler: Handler, number: int) -> None:
        time.sleep(0.05 * (handler.grey() == 0))  # the first is the last to answer
        handler.say()

    assert server.ask(script, 3, key_variable="MY_KEY") == [f"a photo of grey {value}" for value in (0, 128, 255)]
    handler = server.seen[0]
    assert handler.path == "/v1/chat/completions"
    assert handler.headers["Authorization"] == "Bearer secret"
    assert handler.body["model"] == "some-model"
    assert handler.body["messages"][0]["content"][1] == {"type": "text", "text": QUESTION}
    assert handler.body["temperature"] == 0


def test_no_more_requests_at_a_time_than_allowed(server: Server) -> None:
    changes: list[int] = []

    def script(handler: Handler, number: int) -> None:
        changes.append(1)
        time.sleep(0.05)
        changes.append(-1)  # before the answer leaves, as the next request may come at once
        handler.say("word")

    server.ask(script, 3, concurrency=2)
    assert max(itertools.accumulate(changes)) == 2


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, pauses: list[float], code: int) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.say() if number == 3 else handler.send({"error": {"message": "busy"}}, code)

    assert server.ask(script) == ["a photo of grey 0"]
    assert pauses == [0.5, 1.0]


def test_the_server_says_when_to_ask_again(server: Server, pauses: list[float]) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.say() if number == 3 else handler.send({}, 429, Retry_After={1: "7", 2: "100000"}[number])

    server.ask(script)
    assert pauses == [7.0, 30.0]


def hang(handler: Handler, number: int) -> None:
    time.sleep(0.6)


def drip(handler: Handler, number: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def cut(handler: Handler, number: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (hang, r"no answer in 2 tries \(no whole answer within 0.3 s\); check that the server runs"),
        (drip, r"no answer in 2 tries \(no whole answer within 0.3 s\)"),
        (cut, r"no answer in 2 tries"),
        (lambda handler, number: handler.send(b"overloaded", 503), r"no answer in 2 tries \(503"),
        (lambda handler, number: handler.send({"error": {"message": "bad key"}}, 401), r"401 .* bad key\).*OPENAI_API"),
        (lambda handler, number: handler.send({"error": "no such model"}, 404), r"404 .* no such model.*captioner"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_be_used(server: Server, pauses: list[float], script: Script, sentence: str) -> None:
    started = time.monotonic()
    with pytest.raises(CaptionerUnavailableError, match=sentence) as error:
        server.ask(script, timeout=0.3, retries=1)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (lambda handler, number: handler.send(b"<html>welcome</html>"), r"another form \('<html>welcome"),
        (lambda handler, number: handler.send({"choices": []}), "another form"),
        (lambda handler, number: handler.send([1, 2]), "another form"),
        (lambda handler, number: handler.send(b"\xff\xfe\x00"), "another form"),
        (lambda handler, number: handler.say([{"type": "text"}]), "sent no text"),
        (lambda handler, number: handler.say("  \n"), "sent no text"),
        (lambda handler, number: handler.send({"choices": [{"message": {"content": None, "refusal": "I cannot"}}]}),
         r"refused \(I cannot\); change captioner.question"),
        (lambda handler, number: handler.send({"error": {"message": "no images"}}, 400), r"400 .* no images"),
    ],
)  # fmt: skip
def test_an_image_that_gets_no_caption(server: Server, script: Script, sentence: str) -> None:
    with pytest.raises(CaptionError, match=sentence) as error:
        server.ask(script)
    assert not isinstance(error.value, CaptionerUnavailableError)
    assert "\n" not in str(error.value)
    assert len(server.seen) == 1  # another try would not change it


def test_half_a_character_is_none(server: Server) -> None:
    answer = {"choices": [{"message": {"content": "half \ud83d of it"}}]}
    assert server.ask(lambda handler, number: handler.send(answer)) == ["half \N{REPLACEMENT CHARACTER} of it"]


def test_odd_answers_are_one_sentence(server: Server) -> None:
    def deep(handler: Handler, number: int) -> None:
        handler.send(b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")

    def odd_length(handler: Handler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "abc")
        handler.end_headers()
        handler.wfile.write(json.dumps({"choices": [{"message": {"content": "word"}}]}).encode())
        handler.close_connection = True

    with pytest.raises(CaptionError, match="answers in another form"):
        server.ask(deep)
    assert server.ask(odd_length, retries=0) == ["word"]


def test_nobody_is_followed_who_would_be_given_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(CaptionerUnavailableError, match=r"sends on to http://127\.0\.0\.1:1/v2; set captioner\.url"):
        server.ask(lambda handler, number: handler.send({}, 302, Location="http://127.0.0.1:1/v2"))
    assert len(server.seen) == 1


def test_an_interrupt_does_not_wait_for_a_slow_server(server: Server) -> None:
    def script(handler: Handler, number: int) -> None:
        if number == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(2)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells switch off for what they leave
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            server.ask(script, 3, concurrency=2, timeout=5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 1.5
    time.sleep(2.5)
    assert len(server.seen) == 2  # what waited is not asked, and nothing is asked again


@pytest.mark.parametrize(
    "wrong",
    [{"retries": -1}, {"concurrency": 0}, {"longest_side": 0}, {"timeout": 0}, {"max_tokens": -5}, {"temperature": -3}],
)
def test_numbers_are_checked(wrong: dict[str, int]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"captioner.{name}: {value} is no"):
        EndpointCaptioner("http://127.0.0.1:1/v1", "model", **wrong)


def test_a_server_that_fails_at_one_picture_has_answered(server: Server, pauses: list[float]) -> None:
    with pytest.raises(CaptionError, match=r"failed in 2 tries \(500") as error:
        server.ask(lambda handler, number: handler.send(b"failed to process image", 500), retries=1)
    assert not isinstance(error.value, CaptionerUnavailableError)


def test_answers_beside_one_that_failed_are_not_asked_for_again(server: Server) -> None:
    def script(handler: Handler, number: int) -> None:
        handler.send({"error": "no"}, 400) if handler.grey() == 128 else handler.say()

    server.script = script
    captioner = EndpointCaptioner(server.url, "some-model")
    captions = dict(caption_each(captioner, dict(enumerate(IMAGES))))
    assert [captions[0], captions[2]] == ["a photo of grey 0", "a photo of grey 255"]
    assert isinstance(captions[1], CaptionError)
    assert len(server.seen) == 4  # the refused one twice: alone, too
    assert captioner(IMAGES[:1], [""]) == ["a photo of grey 0"]
    assert len(server.seen) == 5  # what was kept is given once


def test_nobody_listening(pauses: list[float]) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CaptionerUnavailableError, match=r"Connection refused.*check that the server runs"):
        EndpointCaptioner(f"http://127.0.0.1:{port}/v1", "model")(IMAGES[:1], [""])
    assert pauses == [0.5, 1.0, 2.0]
    with pytest.raises(UserError, match="no web address"):
        EndpointCaptioner("localhost:8000", "model")
