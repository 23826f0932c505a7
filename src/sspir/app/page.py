"""The page: photos in, words and settings beside them, before and after."""

import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from sspir.app.fields import (
    FIRST,
    MEANT,
    RESULT,
    RULES,
    TRUST,
    Model,
    flags,
    more_settings_of,
    results_of,
    settings_of,
    words_of,
)
from sspir.app.markup import duration, image, sentences, summary
from sspir.app.queue import LeftError
from sspir.app.restorer import Restorer
from sspir.app.session import Session, Sessions
from sspir.errors import UserError
from sspir.images.io import photo_suffixes
from sspir.images.panel import to_pil

STYLE = Path(__file__).with_name("style.css")
LOOK = 0.3
"""Seconds between looks at how far a restoration is."""


def mounted(app: FastAPI, restorer: Restorer, folder: Path) -> FastAPI:
    """The application with the page at its root.

    Args:
        app: that answers everything else.
        restorer: that the page asks.
        folder: for its files.
    """
    results = folder / "results"
    gr.set_static_paths([results])  # served from where they are: Gradio's copies would outlive the page
    blocks = Page(restorer, Sessions(results, folder / "gradio")).blocks()
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css_paths=[STYLE],
    )
    blocks.has_launched = True  # else Gradio takes any file of this machine for one that was handed in
    return app


class Page:
    """What happens on the page.

    Args:
        restorer: that is asked.
        sessions: of the pages that are open.
    """

    def __init__(self, restorer: Restorer, sessions: Sessions) -> None:
        self.restorer = restorer
        self.sessions = sessions
        self.model = Model.of(restorer.pipeline)

    def blocks(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(title="sspir", analytics_enabled=False) as blocks:
            gr.HTML("<h1>Restore photos</h1>", elem_id="title")
            with gr.Row():
                with gr.Column(scale=2):
                    files = gr.File(
                        label="Photos: drop them here",
                        file_count="multiple",
                        file_types=list(photo_suffixes()),
                        elem_id="files",
                    )
                    folder = gr.UploadButton("Add a folder", file_count="directory", size="sm", elem_id="folder")
                    words = words_of(self.model)
                    settings = settings_of(self.model)
                    foreseen = gr.HTML(elem_id="foreseen")
                    with gr.Row():
                        go = gr.Button("Restore", variant="primary", interactive=False, elem_id="restore")
                        stop = gr.Button("Cancel", interactive=False, elem_id="cancel")
                    settings += more_settings_of(self.model)
                with gr.Column(scale=3):
                    stage = gr.HTML(_NOTHING, elem_id="stage")
                    results = results_of()
            _, _, slider, shown, gallery, _ = results
            # Only restoring goes through Gradio's queue: its stream of answers may lose one beside another's end
            at_once = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
            taken = files.change(self.take, files, [*words, foreseen, go, stage, *results], **at_once)
            described = taken.then(self.describe, files, words, **at_once)
            described.then(self.foresee, settings, foreseen, **at_once)
            folder.upload(self.add, [files, folder], files, **at_once)
            for each in settings:
                each.change(self.foresee, settings, foreseen, trigger_mode="always_last", **at_once)
            settings[0].change(self.rule, settings[0], settings[1], **at_once)
            go.click(
                self.restore,
                [files, *words, *settings],
                [*results, stage, go, stop],
                api_name="restore",
                concurrency_limit=None,
                show_progress="hidden",
            )
            stop.click(self.cancel, None, stop, **at_once)
            gallery.select(self.choose, shown, slider, **at_once)
            shown.change(self.turn, shown, slider, **at_once)
            blocks.unload(self.close)
        return blocks

    def take(self, request: gr.Request, files: list[str] | None) -> list[Any]:
        """Take photos and show them."""
        session = self._session(request)
        session.take(files or [], self.restorer.max_pixels)
        names = [photo.name for photo in session.photos]
        several, worded = len(names) > 1, not self.model.is_peer
        words = [
            gr.update(value="", visible=worded and not several),
            gr.update(value=[[name, ""] for name in names], visible=worded and several),
        ]
        refused = sentences(f"{name}: {sentence}" for name, sentence in session.refused.items())
        looks = refused + (session.looks if names else _NOTHING)
        return [*words, "", gr.update(interactive=bool(names)), looks, *_HIDDEN]

    def describe(self, request: gr.Request, files: list[str] | None) -> list[Any]:
        """Propose captions."""
        session = self._session(request)
        if self.model.is_peer or not session.photos:
            return [gr.skip()] * 2
        try:
            if session.describing:
                session.describing.cancel()
            session.describing = self.restorer.describe(session.photos)
            captions = session.describing.outcome()
        except (UserError, LeftError):
            return [gr.skip()] * 2
        if session.files != files:  # others were handed in meanwhile
            return [gr.skip()] * 2
        session.described = True
        rows = [[photo.name, captions[photo.name]] for photo in session.photos]
        return [gr.update(value="" if len(rows) > 1 else rows[0][1]), gr.update(value=rows)]

    def add(self, request: gr.Request, files: list[str] | None, folder: list[str] | None) -> list[str]:
        """Add the pictures of a folder to the photos."""
        self._session(request).uploaded |= {*(folder or [])}
        found = [path for path in folder or [] if path.lower().endswith(photo_suffixes())]
        return [*(files or []), *found]

    def rule(self, rule: str) -> Any:
        """The field of a rule for the size."""
        flag = RULES[rule]
        return gr.update(label=MEANT[flag], value=FIRST[flag] or f"{self.model.scale:g}")

    def foresee(self, request: gr.Request, *settings: Any) -> str:
        """Say what restoring would take."""
        session = self._session(request)
        if not session.photos:
            return ""
        try:
            foreseen = self.restorer.foresee(session.photos, flags(self.model, *settings))
        except (UserError, LeftError) as error:
            return sentences([str(error)])
        told = [
            f"{job.name}: {given[1]} x {given[0]} to {made[1]} x {made[0]} pixels"
            for job, given, made in foreseen.sizes[:_SHOWN]
        ]
        if (more := len(foreseen.sizes) - _SHOWN) > 0:
            told.append(f"and {more} others")
        if foreseen.seconds:
            told.append(f"About {foreseen.duration()}, {foreseen.source}.")
        refused = sentences(f"{job.name} would fail: {sentence}" for job, sentence in foreseen.refused)
        return refused + "".join(f"<div>{escape(text)}</div>" for text in told)

    def restore(
        self, request: gr.Request, files: list[str] | None, caption: str, captions: list[list[str]], rule: str,
        size: str, fidelity: float, max_side: str, samples: int, seed: str, sampler: str, steps: str, guidance: str,
        negative: str, form: str,
    ) -> Iterator[Any]:  # fmt: skip
        """Restore photos; what comes first is the result, of a single photo. Programs call it by these names."""
        session, started = self._session(request), time.monotonic()
        if files != session.files:  # of a program, which has not handed them in before
            session.take(files or [], self.restorer.max_pixels)
            if not session.photos:
                told = " ".join(f"{name}: {sentence}" for name, sentence in session.refused.items())
                raise gr.Error(told or "There is no photo to restore.", print_exception=False)
        photos = session.photos
        names = [photo.name for photo in photos]
        words = {names[0]: caption} if len(names) == 1 else {row[0]: row[1] for row in captions}
        words = {name: text for name, text in words.items() if text or session.described}
        busy, idle, ticket = _buttons(False, True), _buttons(True, False), None
        try:
            chosen = flags(
                self.model, rule, size, fidelity, max_side, samples, seed, sampler, steps, guidance, negative, form
            )
            if session.busy:
                raise UserError("This page is restoring already; cancel that first.")
            folder = session.new_folder()
            ticket = self.restorer.restore(photos, words, chosen, folder, views=True)
            session.begin(ticket, folder)
            yield [*_HIDDEN, self._progress(session, started), *busy]
            while not ticket.wait(LOOK):
                self._session(request)  # whose hour begins anew
                yield [*[gr.skip()] * 6, self._progress(session, started), *[gr.skip()] * 2]
            session.done, failed = ticket.outcome()
            failed = {**session.refused, **failed}
            results = self._shown(session, self.restorer.command(names, chosen, words))
        except LeftError:
            yield [*_HIDDEN, "<p role='status'>Cancelled.</p>" + session.looks, *idle]
        except Exception as error:  # told on the page, whatever it is
            told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            yield [*_HIDDEN, sentences([told]) + session.looks, *idle]
        else:
            yield [*results, summary(session.done, failed), *idle]
        finally:
            if session.ticket is ticket and ticket is not None:
                ticket.cancel()  # where whoever asked has left; it is too late otherwise

    def _progress(self, session: Session, started: float) -> str:
        """How far a restoration is, and how it looks by now."""
        ticket = session.ticket
        assert ticket
        if place := ticket.place:
            ahead = "one restoration is" if place == 1 else f"{place} restorations are"
            return f"<p role='status'>Waiting: {ahead} before yours.</p>{session.looks}"
        share = ticket.share
        left = f", about {duration((time.monotonic() - started) * (1 - share) / share)} left" if share else ""
        look = session.looks if ticket.preview is None else image(to_pil(ticket.preview), "preview")
        bar = f"<div class='bar'><div style='width: {share:.1%}'></div></div>"
        return f"<p role='status'>Restoring: {share:.0%}{left}</p>{bar}<div class='previews'>{look}</div>"

    def _shown(self, session: Session, command: str) -> list[Any]:
        if not session.done:
            return _HIDDEN
        several = len(session.done) > 1
        first = session.done[0]
        everything = session.archive(command) if several or first.trust else None
        return [
            gr.update(value=str(first.path), visible=not several),
            gr.update(value=everything and str(everything), visible=everything is not None),
            gr.update(value=session.pair(False), visible=True),
            gr.update(value=RESULT, visible=first.trust is not None),
            gr.update(value=[(str(each.views["restored"]), each.name) for each in session.done], visible=several),
            gr.update(value=command, visible=True),
        ]

    def choose(self, request: gr.Request, chosen: gr.SelectData, shown: str) -> Any:
        """Show another result."""
        session = self._session(request)
        if chosen.index >= len(session.done):  # those of before
            return gr.skip()
        session.chosen = chosen.index
        return gr.update(value=session.pair(shown == TRUST))

    def turn(self, request: gr.Request, shown: str) -> Any:
        """Show the result, or its trust map."""
        session = self._session(request)
        return gr.update(value=session.pair(shown == TRUST)) if session.done else gr.skip()

    def cancel(self, request: gr.Request) -> Any:
        """Leave the restoration at work, or the queue."""
        if ticket := self._session(request).ticket:
            ticket.cancel()
        return gr.update(interactive=False)

    def close(self, request: gr.Request) -> None:
        """Delete what a page had."""
        self.sessions.close(str(request.session_hash))

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.of(str(request.session_hash))


_SHOWN = 5
_NOTHING = "<p class='hint'>The results will be here.</p>"
_HIDDEN = [gr.update(visible=False)] * 6  # of the results


def _buttons(go: bool, stop: bool) -> list[Any]:
    return [gr.update(interactive=go), gr.update(interactive=stop)]
