"""What a page leaves behind."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sspir.app.restorer import _together
from sspir.restoring.jobs import find_jobs
from sspir.restoring.runner import Request
from sspir.sampling.sampler import Sampler
from tests.needs import needs
from tests.pipelines import tiny_pipeline

MEGAPIXEL = 1_000_000


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    needs("gradio", "app")
    paths = [tmp_path / "uploads" / folder / "photo.png" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
    return [str(path) for path in paths]


def test_closing_deletes_all_that_was_ever_handed_in_but_what_others_have(tmp_path: Path, photos: list[str]) -> None:
    from sspir.app.session import Sessions

    sessions = Sessions(tmp_path / "results", tmp_path / "uploads")
    first, second = sessions.of("first"), sessions.of("second")
    first.take(photos, MEGAPIXEL)
    assert first.refused == {"photo.png": "another photo has this name; rename one of them."}
    first.take([], MEGAPIXEL)
    second.take(photos[1:], MEGAPIXEL)
    sessions.close("first")
    assert [Path(path).exists() for path in photos] == [False, True]
    sessions.close("second")
    assert not Path(photos[1]).exists()


def test_what_is_old_goes_and_what_is_used_stays(tmp_path: Path, photos: list[str]) -> None:
    from sspir.app.session import Sessions

    sessions = Sessions(tmp_path / "results", tmp_path / "uploads")
    hour = time.time() - 3600
    for path in photos:
        os.utime(path, (hour, hour))
    sessions.of("page").take(photos[:1], MEGAPIXEL)
    folder = sessions.of("page").new_folder()
    sessions.tidy(60)
    assert [Path(path).exists() for path in photos] == [True, False]
    assert folder.exists()
    sessions.of("page").touched -= 61
    sessions.tidy(60)
    assert not Path(photos[0]).exists()
    assert sessions.of("page").files is None


@pytest.mark.thorough
def test_a_restoration_that_outlasts_the_hour_is_kept(tmp_path: Path, photos: list[str]) -> None:
    from sspir.app.page import Page
    from sspir.app.queue import Queue
    from sspir.app.restorer import Restorer
    from sspir.app.session import OLD, Sessions

    pipeline = tiny_pipeline()
    sessions = Sessions(tmp_path / "results", tmp_path / "uploads")
    with Queue(1) as queue:
        model = ["--weights=shipped/tiny"]
        restorer = Restorer(pipeline, queue, lambda _: Request(pipeline.sampler, 4, samples=8), model, MEGAPIXEL)
        page, asking = Page(restorer, sessions), SimpleNamespace(session_hash="page")
        page.take(asking, photos[:1])
        asked = ("times as large", "4", 0, "", 8, "0", "as trained", "", "", "", "png")
        told = page.restore(asking, photos[:1], "a", [], *asked)
        next(told)
        session = sessions.of("page")
        session.touched -= 2 * OLD  # as if it had begun long ago
        for _ in told:
            pass
    sessions.tidy()
    assert session.done[0].path.is_file()
    assert Path(photos[0]).is_file()


def test_a_photo_of_too_many_pixels_is_refused_at_once(tmp_path: Path, photos: list[str]) -> None:
    from sspir.app.session import Session

    session = Session(tmp_path)
    session.take(photos[:1], 63)
    assert "8 x 8 pixels are more than" in session.refused["photo.png"]
    assert not session.photos


def test_photos_of_one_stem_have_results_of_their_own(tmp_path: Path) -> None:
    handed_in = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.png"]
    for path in handed_in:
        path.parent.mkdir()
        Image.new("RGB", (8, 8)).save(path)
    jobs = find_jobs([str(path) for path in _together(handed_in, tmp_path / "job")], tmp_path / "out", "png")
    assert [(job.name, job.output) for job in jobs] == [("a.jpg", "a.png"), ("a.png", "a.png.png")]


@pytest.mark.parametrize("own", [0.0, 0.35])
def test_the_fidelity_that_is_shown_is_the_one_that_is_used(own: float) -> None:
    needs("gradio", "app")
    from sspir.app.fields import AS_TRAINED, Model, flags, settings_of

    pipeline = SimpleNamespace(
        config=SimpleNamespace(scale=4, one_step=False, noised=True), sampler=Sampler(fidelity=own)
    )
    model = Model.of(pipeline)
    assert settings_of(model)[2].value == own
    for shown in (0.0, 0.35, 1.0):
        sent = flags(model, "times as large", "4", shown, "", 1, "0", AS_TRAINED, "", "", "", "png")
        assert float(sent.get("fidelity", own)) == shown
