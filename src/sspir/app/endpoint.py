"""The HTTP endpoint: one photo in, the restored one out."""

import asyncio
import base64
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from sspir.app.guard import problem
from sspir.app.queue import FullError, LeftError, Ticket
from sspir.app.restorer import Restored, Restorer, SettingError
from sspir.errors import UserError
from sspir.images.io import ImageError, read_image, read_size
from sspir.images.picture import FormatError
from sspir.images.room import enlarged
from sspir.restoring.peer import PeerPipeline

UPSCALES = "/v1/images/upscales"
POLL = 0.1
"""Seconds between looks at whether a restoration is done, or whoever asked has left."""
MEDIA = {"png": "image/png", "jpeg": "image/jpeg"}
REFUSALS = {
    400: "No photo, or none that is whole.",
    401: "The token is missing or wrong.",
    403: "Asked by a page of another address, or under another name than the server's.",
    413: "The photo, or its result, is too large.",
    415: "The file is no photo.",
    422: "A parameter is wrong, unknown, or given more than once.",
    429: "Too many wait; Retry-After says in how many seconds to ask again.",
    500: "The photo could not be restored.",
    503: "The restoration was cancelled, or the server ends.",
}


class ProblemError(Exception):
    """An answer that refuses.

    Attributes:
        status: of HTTP.
        body: see `sspir.app.guard.problem`.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, param: str | None = None, **headers: str) -> None:
        self.status, self.body = problem(status, message, param)
        self.headers = headers
        super().__init__(message)


def endpoint(restorer: Restorer, root: Path) -> FastAPI:
    """The application with the endpoint alone.

    Args:
        restorer: that it asks.
        root: folder for the photos of requests, each of which is deleted when it was answered.
    """
    app = FastAPI(title="sspir", version=version("sspir"), docs_url=None, redoc_url=None)  # pages load from elsewhere
    app.include_router(_router(restorer, root))

    @app.exception_handler(ProblemError)
    async def refuse(request: Request, error: ProblemError) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def explain(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        if name == "image":
            status, body = problem(400, "image: send the photo as a file, such as -F image=@photo.jpg.", name)
        else:
            status, body = problem(422, f"{name}: {first['msg']}.", name)
        return JSONResponse(body, status)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(problem(500, f"{type(error).__name__}: {error}")[1], 500)

    return app


def _router(restorer: Restorer, root: Path) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers, and how many restorations it has before it."""
        return {"status": "ok", "queue": len(restorer.queue), "version": version("sspir")}

    @router.post(UPSCALES, response_class=Response, responses=_answers())
    async def upscales(
        request: Request,
        image: Annotated[UploadFile, File(description="the photo")],
        caption: Annotated[str | None, Form(description="what it shows; by default the captioner is asked")] = None,
        scale: Annotated[str | None, Form(description="how much larger; by default as trained")] = None,
        size: Annotated[str | None, Form(description="WxH that the result fits into, instead of scale")] = None,
        fidelity: Annotated[str | None, Form(description="0: as realistic as it can, to 1: as faithful")] = None,
        steps: Annotated[str | None, Form(description="denoising steps")] = None,
        seed: Annotated[str | None, Form(description="of the noise")] = None,
        samples: Annotated[str | None, Form(description="restorations, whose differences are the trust map")] = None,
        response_format: Annotated[Literal["png", "jpeg", "json"], Form(description="json holds a PNG")] = "png",
    ) -> Response:
        """Restore a photo."""
        asked = {"scale": scale, "size": size, "fidelity": fidelity, "steps": steps, "seed": seed, "samples": samples}
        settings = {name: value for name, value in asked.items() if value is not None}
        known = {"image", "caption", "response_format", *asked}
        form = (await request.form()).multi_items()
        _refuse_fields(request, form, known)
        if ("caption", "") in form:  # no words, where FastAPI has the captioner asked
            caption = ""
        if caption and isinstance(restorer.pipeline, PeerPipeline):
            raise ProblemError(422, "caption: this model reads no words; leave it out.", "caption")
        _require_room(restorer)  # before a photo is decoded
        settings["format"] = "jpg" if response_format == "jpeg" else "png"
        folder = Path(tempfile.mkdtemp(dir=root))
        try:
            photo = await asyncio.to_thread(_received, restorer, image, settings, folder)
            captions = {} if caption is None else {photo.name: caption}
            done = await _outcome(_submitted(restorer, photo, captions, settings, folder), request)
            return await asyncio.to_thread(_answer, done, settings, response_format)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    @router.api_route(UPSCALES, methods=["GET", "HEAD", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def refuse(request: Request) -> None:  # else it is the page that does not know the address
        raise ProblemError(405, f"{UPSCALES} takes POST, not {request.method}.", Allow="POST")

    return router


def _refuse_fields(request: Request, form: Sequence[tuple[str, Any]], known: Container[str]) -> None:
    """Refuse what FastAPI passes over: parameters in the address, strange ones, empty ones, and several of one name."""
    for name in request.query_params.keys() - {"token"}:
        raise ProblemError(422, f"{name}: the address takes no parameters; send it as a field of the form.", name)
    for name, times in Counter(name for name, _ in form).items():
        if name not in known:
            raise ProblemError(422, f"{name}: there is no such parameter.", name)
        if times > 1:
            raise ProblemError(422, f"{name}: given {times} times; give it once, and ask once for each photo.", name)
        if name != "caption" and (name, "") in form:
            raise ProblemError(422, f"{name}: it is empty; give a value, or leave it out.", name)


def _answers() -> dict[int | str, dict[str, Any]]:
    """What OpenAPI tells of the answers."""
    text = {"type": "string"}
    error = {"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": {"type": "integer"}}
    schema = {"type": "object", "properties": {"error": {"type": "object", "properties": error}}}
    refused = {"content": {"application/json": {"schema": schema}}}
    media = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA.values()}
    return {
        200: {"description": "The photo, restored.", "content": {**media, "application/json": {}}},
        **{status: {"description": told, **refused} for status, told in REFUSALS.items()},
    }


def _received(restorer: Restorer, image: UploadFile, settings: Mapping[str, str], folder: Path) -> Path:
    """Write the photo down, and refuse what cannot be restored before it waits."""
    photo = folder / "photo"
    with photo.open("wb") as file:
        shutil.copyfileobj(image.file, file)
    try:
        scale = restorer.request(settings).scale
    except SettingError as error:
        raise ProblemError(422, str(error), error.name) from error
    try:
        height, width = read_size(photo)
    except ImageError as error:
        status = 415 if photo.stat().st_size and isinstance(error, FormatError) else 400
        raise ProblemError(status, _told(error, folder, image), "image") from error
    most = restorer.max_pixels
    if height * width > most:
        raise ProblemError(
            413, f"{width} x {height} pixels are more than the {most / 1e6:g} megapixels taken.", "image"
        )
    try:
        enlarged((height, width), scale, restorer.pipeline.max_output_pixels)
    except UserError as error:
        raise ProblemError(413, str(error), "size" if "size" in settings else "scale") from error
    try:
        read_image(photo, most)
    except ImageError as error:
        raise ProblemError(400, _told(error, folder, image), "image") from error
    return photo


def _told(error: Exception | str, folder: Path, image: UploadFile) -> str:
    return str(error).replace(str(folder / "photo"), Path(image.filename or "the photo").name)


def _require_room(restorer: Restorer) -> None:
    try:
        restorer.queue.require_room()
    except FullError as error:
        raise _full(error) from error


def _full(error: FullError) -> ProblemError:
    return ProblemError(429, str(error), **{"Retry-After": f"{error.seconds:.0f}"})


def _submitted(
    restorer: Restorer, photo: Path, captions: Mapping[str, str], settings: Mapping[str, str], folder: Path
) -> Ticket:
    try:
        return restorer.restore([photo], captions, settings, folder)
    except FullError as error:
        raise _full(error) from error
    except UserError as error:
        raise ProblemError(503, str(error)) from error


async def _outcome(ticket: Ticket, request: Request) -> Restored:
    """What became of the photo; a client that has left is a restoration that ends."""
    while not ticket.done:
        if await request.is_disconnected():
            ticket.cancel()
        try:
            await asyncio.sleep(POLL)
        except asyncio.CancelledError as error:  # the server's time to end is over
            raise ProblemError(503, "The server ends.") from error
    try:
        done, failed = ticket.outcome()
    except LeftError as error:
        raise ProblemError(503, "The restoration was cancelled.") from error
    if failed:
        raise ProblemError(500, next(iter(failed.values())))
    only: Restored = done[0]
    return only


def _answer(done: Restored, settings: Mapping[str, str], response_format: str) -> Response:
    if response_format != "json":
        return Response(done.path.read_bytes(), media_type=MEDIA[response_format])
    body = {
        "image": _encoded(done.path),
        "format": "png",
        "width": done.size[0],
        "height": done.size[1],
        "caption": done.caption,
        "seed": int(settings.get("seed", 0)),
        "seconds": done.seconds,
        "warnings": done.warnings,
        "trust_map": done.trust and _encoded(done.trust),
    }
    return Response(json.dumps(body, ensure_ascii=False), media_type="application/json")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
