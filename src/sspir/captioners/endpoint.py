"""Captions by a server that speaks OpenAI's chat protocol: vLLM, Ollama, llama.cpp, or a paid service.

Standard library only: one request per image, and every way in which it can fail is one sentence.
"""

import base64
import io
import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sspir.captioners.base import (
    QUESTION,
    Captioner,
    CaptionError,
    CaptionerUnavailableError,
    Images,
    one_line,
    pil_image,
)
from sspir.errors import UserError
from sspir.numbers import COUNT, LIMIT, POSITIVE, WEIGHT

if TYPE_CHECKING:
    from PIL.Image import Image

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # worth another try
_LONGEST_WAIT = 30.0  # seconds between tries, whatever the server asks for
_LARGEST_ANSWER = 10_000_000  # bytes


class EndpointCaptioner(Captioner):
    """Asks a vision-language model behind an OpenAI-compatible address.

    Args:
        url: address up to the version, e.g. "http://localhost:8000/v1".
        model: its name on the server.
        question: what the model is asked about each image.
        key_variable: environment variable that holds the key; keys do not belong in configurations.
        max_tokens: of an answer.
        temperature: 0: the likeliest words.
        timeout: seconds that one answer may take in all.
        retries: further tries after a time-out, a lost connection or a busy server, with growing pauses.
        concurrency: requests at the same time.
        longest_side: pixels; larger images are reduced before they are sent (as JPEG).
    """

    remote = True

    def __init__(
        self,
        url: str,
        model: str,
        question: str = QUESTION,
        key_variable: str = "OPENAI_API_KEY",
        max_tokens: int = 512,
        temperature: float = 0.0,
        timeout: float = 120.0,
        retries: int = 3,
        concurrency: int = 4,
        longest_side: int = 1024,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"captioner.url={url} is no web address; write it like http://localhost:8000/v1.")
        for count, value in {
            "max_tokens": max_tokens,
            "concurrency": concurrency,
            "longest_side": longest_side,
        }.items():
            COUNT.require(f"captioner.{count}", value)
        POSITIVE.require("captioner.timeout", timeout)
        WEIGHT.require("captioner.temperature", temperature)
        LIMIT.require("captioner.retries", retries)
        self.url = f"{url.rstrip('/')}/chat/completions"
        self.model, self.question, self.key_variable = model, question, key_variable
        self.max_tokens, self.temperature = max_tokens, temperature
        self.timeout, self.retries, self.concurrency = timeout, retries, concurrency
        self.longest_side = longest_side
        self._answered: dict[Any, str] = {}  # beside a request that failed: answers cost money

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """The model's answer for each image; arguments as of `Captioner`.

        Where one gets none, the answers for the others are kept until they are asked for again.
        """
        requests = [self._request(pil_image(image, self.longest_side)) for image in images]
        asked: dict[Request, Future[str]] = {request: Future() for request in requests}
        left, stopped = deque(asked.items()), threading.Event()

        def work() -> None:
            with suppress(IndexError):
                while not stopped.is_set():
                    request, answer = left.popleft()
                    try:
                        answer.set_result(self._ask(request, stopped))
                    except Exception as error:  # of the one who waits
                        answer.set_exception(error)

        try:
            for _ in range(min(self.concurrency, len(requests))):  # unlike a pool's, these outlive nobody
                threading.Thread(target=work, daemon=True).start()
            wait(asked.values())
        finally:
            stopped.set()
        if any(answer.exception() for answer in asked.values()):
            done = [(request.data, answer) for request, answer in asked.items() if not answer.exception()]
            self._answered.update((data, answer.result()) for data, answer in done)
        return [answer.result() for answer in asked.values()]

    def provenance(self) -> dict[str, str]:
        """Server, model and question."""
        decoding = f"temperature {self.temperature}, {self.max_tokens} tokens, {self.longest_side} pixels"
        asked = {"model": self.model, "url": self.url, "question": self.question, "decoding": decoding}
        return {**super().provenance(), **asked}

    def _ask(self, request: Request, stopped: threading.Event) -> str:
        """The caption of one picture, after as many tries as are allowed, or none once nobody waits for it."""
        if (answered := self._answered.pop(request.data, None)) is not None:
            return answered
        for number in range(self.retries + 1):
            try:
                return self._caption(self._answer(request))
            except HTTPError as error:
                trouble, pause = _status(error), error.headers.get("Retry-After", "")
                if 300 <= error.code < 400:
                    there = error.headers.get("Location")
                    raise CaptionerUnavailableError(
                        f"The captioner at {self.url} sends on to {there}; set captioner.url to where it really is."
                    ) from error
                if error.code not in _BUSY:
                    raise self._refusal(error.code, trouble) from error
                is_of_picture = error.code == HTTPStatus.INTERNAL_SERVER_ERROR
            except (OSError, HTTPException) as error:  # refused, reset, timed out, cut off
                trouble, pause, is_of_picture = _reason(error, self.timeout), "", False
            if stopped.is_set():
                break
            if number < self.retries:
                time.sleep(min(float(pause) if pause.isdecimal() else 0.5 * 2**number, _LONGEST_WAIT))
        if is_of_picture:  # a server that cannot show its model this picture may well show it others
            raise CaptionError(f"The captioner at {self.url} failed in {self.retries + 1} tries ({trouble}).")
        raise CaptionerUnavailableError(
            f"The captioner at {self.url} gave no answer in {self.retries + 1} tries ({trouble}); check that the "
            f"server runs, or raise captioner.timeout."
        )

    def _request(self, picture: "Image") -> Request:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95)
        image = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": self.question}]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        return Request(self.url, json.dumps(body).encode(), headers)

    def _answer(self, request: Request) -> bytes:
        """The body of the server's answer, all of it received within the time-out."""
        deadline = time.monotonic() + self.timeout
        received = bytearray()
        with _OPENER.open(request, timeout=self.timeout) as response:
            while chunk := response.read1(65536):
                received += chunk
                if time.monotonic() > deadline:  # a server that drips never lets one read time out
                    raise TimeoutError
                if len(received) > _LARGEST_ANSWER:
                    raise CaptionError(f"The captioner at {self.url} sent more than 10 MB; check captioner.url.")
            expected = response.headers.get("Content-Length", "")
            if expected.isdecimal() and len(received) < int(expected):
                raise TimeoutError("the answer was cut off")
        return bytes(received)

    def _caption(self, answer: bytes) -> str:
        """The text in an answer.

        Raises:
            CaptionError: it is not of the protocol, empty, or a refusal.
        """
        try:
            message = json.loads(answer)["choices"][0]["message"]
            text, refused = message.get("content"), message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            begins = answer[:80].decode(errors="replace")
            raise CaptionError(
                f"The captioner at {self.url} answers in another form ({begins!r}); it must speak OpenAI's chat "
                f"protocol: check captioner.url, which often ends in /v1."
            ) from error
        if not isinstance(text, str) or not one_line(text):
            why = f"refused ({refused})" if refused else "sent no text"
            raise CaptionError(
                f"The model {self.model} at {self.url} {why}; change captioner.question or write this caption by hand."
            )
        return one_line(text)

    def _refusal(self, code: int, trouble: str) -> CaptionError:
        """The sentence for an answer that another try would not change."""
        remedy = {
            401: f"put a valid key in the environment variable {self.key_variable}",
            403: f"put a key that may use the model in the environment variable {self.key_variable}",
            404: "check captioner.url, which often ends in /v1, and captioner.model",
        }.get(code, "check captioner.model, and that it takes images")
        kind = CaptionerUnavailableError if code in (401, 403, 404) else CaptionError
        return kind(f"The captioner at {self.url} refused the request ({trouble}); {remedy}.")


class _StayingHere(HTTPRedirectHandler):
    """Follows nobody, who would be given the key; Python then raises the answer as an `HTTPError`."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = build_opener(_StayingHere)


def _status(error: HTTPError) -> str:
    """Status and reason of a refusal, with the server's own message where there is one."""
    try:
        message: Any = json.loads(error.read(10_000))["error"]
        message = message["message"] if isinstance(message, dict) else message
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        message = ""
    return one_line(f"{error.code} {error.reason} {message}")[:200]


def _reason(error: Exception, timeout: float) -> str:
    """Why a connection failed."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError) and not str(cause).startswith("the answer"):
        return f"no whole answer within {timeout:g} s"
    return one_line(str(cause)) or type(cause).__name__
