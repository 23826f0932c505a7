"""What is lost or was never finished is named, and the rest is shown."""

import csv
import shutil
from pathlib import Path

import pytest

from tests.report.written import report, table, write_evaluation, write_pictures, write_run

ROLES = ("hq", "lq", "restored")


def list_pictures(results: Path, paths: list[tuple[str, str, Path]]) -> None:
    with (results / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "role", "path"), *paths])


@pytest.mark.parametrize("written_to", ["folder", "cwd"])
def test_pictures_are_found_from_any_folder_and_after_a_move(
    written_to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_evaluation(tmp_path / "work" / "runs" / "a" / "evaluation" / "set5", [20.0, 21.0])
    pictures = write_pictures(results, ("0", "1"), ROLES)
    base = results if written_to == "folder" else tmp_path / "work"
    list_pictures(results, [(image, role, path.relative_to(base)) for image, role, path in pictures])
    outside = write_evaluation(tmp_path / "work" / "compared", [20.0, 21.0])
    elsewhere = write_pictures(tmp_path / "work" / "elsewhere", ("0", "1"), ROLES)
    relative = [(image, role, path.relative_to(tmp_path / "work")) for image, role, path in elsewhere]
    list_pictures(outside, relative)
    for cwd, folder in (("work", results), (".", results), ("work", outside), (".", outside)):
        monkeypatch.chdir(tmp_path / cwd)
        assert report(tmp_path / "page.html", folder).count("data:image/webp") == 6
    shutil.move(results, tmp_path / "moved")
    assert report(tmp_path / "page.html", tmp_path / "moved").count("data:image/webp") == 6
    assert capsys.readouterr().err == ""


def test_a_lost_picture_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_evaluation(tmp_path / "results", [20.0, 21.0])
    list_pictures(results, write_pictures(tmp_path / "pictures", ("0", "1"), ROLES))
    shutil.rmtree(tmp_path / "pictures" / "restored")
    page = report(tmp_path / "page.html", results)
    sentence = f"2 pictures of restored are missing: first {tmp_path}/pictures/restored/0.png"
    assert sentence in page
    assert f"results: {sentence}" in capsys.readouterr().err
    assert page.count('"missing": ["restored"]') == 2


def test_a_lost_picture_is_not_replaced_by_another_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "runs/second"):
        results = write_evaluation(tmp_path / name, [20.0])
        pictures = write_pictures(results, ("0",), ROLES)
        list_pictures(results, [(image, role, path.relative_to(results)) for image, role, path in pictures])
    write_pictures(tmp_path, ("0",), ("restored",))  # in a parent of the results
    (tmp_path / "runs" / "second" / "restored" / "0.png").unlink()
    monkeypatch.chdir(tmp_path / "first")
    page = report(tmp_path / "page.html", tmp_path / "runs" / "second")
    assert "1 pictures of restored are missing: first restored/0.png" in page
    assert '"missing": ["restored"]' in page


def test_what_failed_or_was_stopped_is_named_and_the_rest_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def left(name: str, seed: int, *files: str) -> Path:
        run = write_run(tmp_path / name, "a", "none", seed, {"val/psnr_y": 20.0 + seed})
        for file in files:
            (run / file).unlink()
        return run

    left("good", 0)
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "train.log").write_text(
        "[2026][a][INFO] - b\n[2026][a][ERROR] - loss.rgb: x is no number.\n"
    )
    shutil.copy(tmp_path / "refused" / "train.log", left("early", 5, "metrics.jsonl", "summary.json"))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "train.log").touch()
    left("failed", 1, "metrics.jsonl", "summary.json")
    left("without loggers", 6, "metrics.jsonl")
    stopped = left("stopped", 2, "summary.json")
    (stopped / "metrics.jsonl").write_text(
        '{"steps": "updates made"}\n{"step": 10, "val/psnr_y": 12.0}\n{"step": 11, "val/ps'
    )
    (left("torn", 3) / "metrics.jsonl").write_bytes(b'{"step": 10, "val/psnr_y": 20.0}\n[1]\n\xff\xfe{"st')
    (left("broken", 4) / "config.yaml").write_text("name: [a")
    evaluation = tmp_path / "good" / "evaluation"
    write_evaluation(evaluation / "set5", [20.0, 21.0])
    (write_evaluation(evaluation / "set14", [20.0, 21.0]) / "summary.json").unlink()
    write_pictures(evaluation / "b100", ("0",), ROLES)
    (evaluation / "urban20").mkdir()
    (evaluation / "urban20" / "evaluate.log").touch()
    (evaluation / "urban20" / "failed.txt").write_text("There is no folder urban20.\n")
    for folder, file in (("a", "failed.txt"), ("b", "evaluate.jsonl"), ("c", "hydra.log")):  # named by out=
        (tmp_path / "res" / folder).mkdir(parents=True)
        (tmp_path / "res" / folder / file).write_text("There is no file.\n")
    page = report(tmp_path / "page.html", tmp_path)
    said = capsys.readouterr().err
    for sentence in (
        f"{tmp_path}/failed has logged nothing: its training failed at the start, or has only begun.",
        f"{tmp_path}/early has logged nothing: loss.rgb: x is no number.",
        f"{tmp_path}/refused was never trained: loss.rgb: x is no number.",
        f"{tmp_path}/stopped is not finished: it has logged up to step 10 of 20.",
        f"The configuration {tmp_path}/broken/config.yaml cannot be read",
        f"The results in {evaluation}/set14 cannot be read",
        f"{evaluation}/b100 holds no results: its evaluation failed, or has only begun.",
        f"{evaluation}/urban20 holds no results: its evaluation failed: There is no folder urban20.",
        f"{tmp_path}/res/a holds no results: its evaluation failed: There is no file.",
        f"{tmp_path}/res/b holds no results: its evaluation failed, or has only begun.",
    ):
        assert sentence in said
        assert sentence in page
    assert len(said.splitlines()) == 10, said
    assert "<h2>set5</h2>" in page
    assert [row[0] for row in table(page, "Last validation")[1:]] == ["good", "stopped", "torn"]
