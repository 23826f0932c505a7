"""What a page leaves behind."""

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from sspir.app.restorer import _together
from sspir.restoring.jobs import find_jobs
from tests.needs import needs

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
