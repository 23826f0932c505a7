"""`sspir compare` as a user runs it: folders in, tables out, problems named."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sspir.__main__ import main
from sspir.evaluation.pairing import match
from sspir.metrics.psnr_ssim import psnr, ssim
from sspir.report.collect import collect
from tests.peers.networks import rrdbnet_file

SHARED = Path(os.environ.get("SSPIR_SHARED", Path(__file__).parents[3] / "shared"))
REALSR = SHARED / "data" / "benchmarks" / "realsr_dev"
FAST = ["--metrics", "fast", "--workers", "1"]


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Seven truths of one size, two methods (one clearly noisier), and what they were given."""
    from skimage import data

    photo = np.asarray(data.astronaut())
    rng = np.random.default_rng(0)
    for i in range(7):
        hq = photo[i * 40 : i * 40 + 120, i * 30 : i * 30 + 140]
        save(tmp_path / f"hq/photo {i}.png", hq)
        save(tmp_path / f"lq/photo {i}.png", np.asarray(Image.fromarray(hq).resize((35, 30), Image.BICUBIC)))
        for method, sigma in (("good", 4), ("bad", 12)):
            noisy = np.clip(hq + rng.normal(0, sigma, hq.shape), 0, 255).astype(np.uint8)
            save(tmp_path / f"{method}/photo {i}.png", noisy)
    return tmp_path


def arguments(folders: Path, *extra: str) -> list[str]:
    return [
        "compare", "--hq", f"{folders}/hq", "--method", f"good={folders}/good", "--method", f"bad={folders}/bad",
        "--out", f"{folders}/out", *FAST, *extra,
    ]  # fmt: skip


def summary_of(folders: Path) -> dict:
    return json.loads((folders / "out" / "summary.json").read_text())


def tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).transpose(2, 0, 1) / 255).float()[None]


def test_measures_what_the_functions_measure(folders: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments(folders, "--lq", f"{folders}/lq")) == 0
    summary = summary_of(folders)
    assert set(summary["methods"]) == {"good", "bad", "bicubic"}
    expected = [
        [
            measure(tensor(folders / f"good/photo {i}.png"), tensor(folders / f"hq/photo {i}.png")).item()
            for i in range(7)
        ]
        for measure in (psnr, ssim)
    ]
    for name, values in zip(("psnr_y", "ssim_y"), expected, strict=True):
        assert summary["methods"]["good"][name]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        assert summary["methods"]["good"][name]["n"] == 7
    assert summary["metrics"]["psnr_y"]["higher_is_better"] is True
    with (folders / "out/per_image.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "good"]
    assert [row["image"] for row in rows] == [f"photo {i}" for i in range(7)]
    assert [float(row["psnr_y"]) for row in rows] == pytest.approx(expected[0], abs=1e-6)
    printed = capsys.readouterr().out
    assert "good against bad" in printed
    assert "wins 100%" in printed


def test_a_border_is_measured_for_no_method(folders: Path, capsys: pytest.CaptureFixture) -> None:
    for path in (folders / "good").iterdir():  # all wrong, at the border alone
        pixels = np.asarray(Image.open(path)).copy()
        pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = 0, 0, 0, 0
        save(path, pixels)
    save(folders / "hq/photo 6.png", np.zeros((8, 20, 3), np.uint8))  # nothing is left of it
    save(folders / "good/photo 6.png", np.zeros((8, 20, 3), np.uint8))
    assert main(arguments(folders, "--lq", f"{folders}/lq", "--crop-border", "4", "--noise-control")) == 1
    summary, printed = summary_of(folders), capsys.readouterr()
    for method in ("good", "bad"):
        pairs = [
            [tensor(folders / f"{role}/photo {i}.png")[..., 4:-4, 4:-4] for role in (method, "hq")] for i in range(6)
        ]
        expected = np.mean([psnr(*pair).item() for pair in pairs])
        assert summary["methods"][method]["psnr_y"]["mean"] == pytest.approx(expected, abs=1e-6)
        assert summary["methods"]["noise@good"]["psnr_y"]["n"] == 6
    assert summary["settings"]["crop_border"] == 4
    assert "crop_border" in printed.out
    assert "Cropping 4 pixels at each side leaves nothing of 20 x 8; crop fewer." in printed.err
    assert main(arguments(folders, "--crop-border", "-1")) == 2


def test_same_numbers_from_any_number_of_workers(folders: Path) -> None:
    main(arguments(folders))
    first = (folders / "out/per_image.csv").read_text(), summary_of(folders)
    main([*arguments(folders), "--workers", "3"])
    assert ((folders / "out/per_image.csv").read_text(), summary_of(folders)) == first


def test_what_is_missing_or_broken_is_named_and_the_rest_measured(folders: Path, capsys) -> None:
    (folders / "good/photo 1.png").unlink()
    (folders / "bad/photo 2.png").write_bytes((folders / "bad/photo 2.png").read_bytes()[:200])
    (folders / "hq/photo 3.png").write_bytes(b"")
    save(folders / "good/photo 4.png", np.zeros((100, 100, 3), np.uint8))
    save(folders / "good/stray.png", np.zeros((100, 100, 3), np.uint8))
    assert main(arguments(folders)) == 1
    summary = summary_of(folders)
    assert summary["methods"]["good"]["psnr_y"]["n"] == 4
    assert summary["methods"]["bad"]["psnr_y"]["n"] == 5
    named = {(problem["image"], problem["method"]) for problem in summary["problems"]}
    assert named == {
        ("photo 1", "good"), ("photo 2", "bad"), ("photo 3", "hq"), ("photo 4", "good"), ("stray", "good"),
    }  # fmt: skip
    (size,) = [problem["problem"] for problem in summary["problems"] if problem["image"] == "photo 4"]
    assert "100 x 100" in size
    assert "140 x 120" in size
    told = capsys.readouterr().err
    assert "photo 2" in told
    assert told.startswith(f"1 picture will be left out, such as: {size}\n")  # before the rest is measured


def test_pictures_too_small_for_a_metric_are_one_line(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("hq", "good", "bad"):
        save(folders / folder / "dot.png", np.full((1, 1, 3), 7, np.uint8))
    assert main(arguments(folders)) == 1
    methods = summary_of(folders)["methods"]
    assert methods["good"]["psnr_y"]["n"] == 8
    assert methods["good"]["ssim_y"]["n"] == 7
    lines = [line for line in capsys.readouterr().err.splitlines() if "ssim_y" in line]
    assert len(lines) == 1
    assert "on 2 pictures" in lines[0]


def test_alpha_is_not_measured(folders: Path) -> None:
    main(arguments(folders))
    before = (folders / "out/per_image.csv").read_text()
    for i in range(7):
        path = folders / f"good/photo {i}.png"
        with Image.open(path) as picture:
            picture.putalpha(200)
            picture.save(path)
    assert main(arguments(folders)) == 0
    assert (folders / "out/per_image.csv").read_text() == before


def test_suffixes_of_scale_pair_on_demand(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(7):
        (folders / f"hq/photo {i}.png").rename(folders / f"hq/photo {i}_HR.png")
        (folders / f"good/photo {i}.png").rename(folders / f"good/photo {i}_x4.png")
        (folders / f"bad/photo {i}.png").rename(folders / f"bad/photo {i}x4.png")
    with_suffix = arguments(folders, "--ignore-scale-suffix")
    assert main(with_suffix) == 0
    assert summary_of(folders)["methods"]["bad"]["psnr_y"]["n"] == 7
    assert main(arguments(folders)) == 2  # without it nothing pairs
    assert "--ignore-scale-suffix pairs them" in capsys.readouterr().err


def test_only_suffixes_that_part_a_photo_from_its_counterpart_are_ignored(tmp_path: Path) -> None:
    def files(role: str, *names: str) -> Path:
        for name in names:
            path = tmp_path / role / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / role

    ordinary = ("box1", "box2", "index1", "max4", "sub/x4", "of_x2/a")
    hq = files("hq", *ordinary, "same_x2", "same_x4", "0801", "b_HR")
    ours = files("ours", *ordinary, "same_x2", "same_x4", "0801x4", "b_x4")
    matches, unmatched = match({"ours": ours}, hq, None, ignore_scale=True)
    assert unmatched == []
    assert [found.name for found in matches] == sorted([*ordinary, "same_x2", "same_x4", "0801", "b"])
    matches, unmatched = match(
        {"ours": ours, "theirs": files("theirs", "b_SR", "0801_x4")}, hq, None, ignore_scale=True
    )
    assert {"0801", "b"} == {found.name for found in matches if len(found.restored) == 2}
    truth = files("truth", "baby", "bo", "box1", "index1", "é")
    given, made = files("given", "babyx4", "box4", "box1x4", "index1x4", "éx4"), files("made", "babyx4", "bo", "box1")
    matches, unmatched = match({"made": made}, truth, given, ignore_scale=True)
    assert {found.name: found.lq and found.lq.stem for found in matches} == {
        "baby": "babyx4", "bo": "box4", "box1": "box1x4", "index1": "index1x4", "é": "éx4",
    }  # fmt: skip
    assert [(lost.image, lost.method) for lost in unmatched] == [("index1", "made"), ("é", "made")]
    assert len(match({"first": given, "second": truth}, ignore_scale=True)[0]) == 5


@pytest.mark.parametrize(
    ("truth", "made", "pairs", "told"),
    [
        ("a a_x4", "a a_x4_x4", {"a": "a", "a_x4": "a_x4_x4"}, []),
        ("a a_x4", "a_x4 a_x4_x4", {"a": "a_x4", "a_x4": "a_x4_x4"}, []),
        ("a_x2 a_x4", "a_x2_SR a_x4_SR", {"a_x2": "a_x2_SR", "a_x4": "a_x4_SR"}, []),
        ("a_HR b_HR", "a_LR4_x4 b", {"a": "a_LR4_x4", "b": "b"}, []),
        ("a", "a_x2 a_x4", {"a": "a_x2"}, ["a_x4.png and a_x2.png have one name, a; the former is left out"]),
        ("a a_x4 b", "a_x4 b_x4", {"a": "a_x4", "a_x4": "", "b": "b_x4"}, ["of a_x4 (a_x4.png there is taken for a)"]),
        ("a_x2 a_x4", "a_x8", {"a_x2": "", "a_x4": ""}, ["of a_x2;", "of a_x4;", "a_x8.png has no counterpart"]),
    ],
)
def test_suffixes_are_taken_away_one_at_a_time_and_doubts_are_told(
    truth: str, made: str, pairs: dict[str, str], told: list[str], tmp_path: Path
) -> None:
    for role, names in (("hq", truth), ("made", made)):
        (tmp_path / role).mkdir()
        for name in names.split():
            (tmp_path / role / f"{name}.png").touch()
    matches, unmatched = match({"made": tmp_path / "made"}, tmp_path / "hq", None, ignore_scale=True)
    stems = {found.name: found.restored["made"].stem if found.restored else "" for found in matches}
    assert stems == pairs
    assert len(unmatched) == len(told)
    for lost, words in zip(unmatched, told, strict=True):
        assert words in lost.problem.replace(f"{tmp_path}/made/", "")


def test_noise_control_matches_the_psnr(folders: Path) -> None:
    assert main([*arguments(folders, "--lq", f"{folders}/lq"), "--noise-control", "good"]) == 0
    methods = summary_of(folders)["methods"]
    assert methods["noise@bad"]["psnr_y"]["mean"] == pytest.approx(methods["bad"]["psnr_y"]["mean"], abs=0.01)
    verdicts = summary_of(folders)["noise_control"]
    assert {verdict["method"] for verdict in verdicts} == {"bad", "bicubic"}
    assert not any(verdict["beaten"] for verdict in verdicts)  # NIQE was not measured


def test_a_name_that_is_no_utf_8_is_measured_and_reported_like_any(folders: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    for part in ("hq", "lq", "good", "bad"):
        (folders / part / "photo 3.png").rename(folders / part / f"{name}.png")
    (folders / "bad" / f"{name}.png").write_bytes(b"")  # named among the problems
    assert main([*arguments(folders, "--lq", f"{folders}/lq"), "--noise-control"]) == 1
    (result,) = collect([folders / "out"]).results
    assert result.values[name].keys() == {"good", "noise@good", "bicubic"}
    assert main(["report", f"{folders}/out", "--out", f"{folders}/page.html"]) == 0
    assert "\\udcff\\udcfe" in (folders / "page.html").read_text()


def test_noise_that_cannot_be_added_is_said(folders: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*arguments(folders), "--noise-control", "bad"]) == 0
    told = "noise@good is no control on 7 of 7 images, where bad has no higher PSNR than good that noise could lower."
    assert told in capsys.readouterr().out
    (verdict,) = summary_of(folders)["noise_control"]
    assert (verdict["method"], verdict["beaten"], verdict["no_control"]) == ("good", None, told)
    assert main([*arguments(folders), "--noise-control", "good"]) == 0
    assert "no control" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluate.jsonl", ""),
        ("summary.json", '{"comparisons": [], "evaluation": {}}'),
        ("images.csv", "mine"),
    ],
)
def test_tables_of_others_are_kept(name: str, text: str, folders: Path, capsys: pytest.CaptureFixture) -> None:
    (folders / "out").mkdir()
    (folders / "out" / name).write_text(text)
    assert main(arguments(folders)) == 2
    assert f"{folders}/out/{name} is there and not of a comparison; choose another --out" in capsys.readouterr().err
    assert [path.name for path in (folders / "out").iterdir()] == [name]
    assert (folders / "out" / name).read_text() == text


def test_without_a_truth_only_judges_of_one_picture(folders: Path) -> None:
    big = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    save(folders / "photos/a.png", big)
    out = ["--out", f"{folders}/out", "--workers", "1"]
    assert main(["compare", "--method", f"ours={folders}/photos", *out]) == 0
    assert list(summary_of(folders)["methods"]["ours"]) == ["niqe", "grid4", "grid8", "seams4"]


def test_a_metric_that_was_named_and_left_out_counts(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSPIR_CACHE", str(folders / "empty"))  # without weights of LPIPS and DISTS
    assert main([*arguments(folders), "--metrics", "psnr_y", "dists"]) == 1
    assert "dists is left out: " in capsys.readouterr().err
    assert main([*arguments(folders), "--metrics", "fast"]) == 0
    photos = ["compare", "--method", f"ours={folders}/good", "--out", f"{folders}/out", "--workers", "1"]
    assert main([*photos, "--metrics", "grid4", "ssim_y"]) == 1
    assert "ssim_y is left out: it compares with the truth; give --hq." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--method", "noequals"], "NAME=FOLDER"),
        (["--method", "good=x"], "taken"),
        (["--method", "bicubic=x"], "taken"),
        (["--method", "ours-noise@10=x"], "taken"),  # by controls, which are never starred
        (["--method", "other=does/not/exist"], "not a folder"),
        (["--noise-control"], "--lq"),
        (["--noise-control", "nobody"], "nobody"),
        (["--metrics", "psnr"], "psnr_y"),
    ],
)
def test_bad_arguments_are_one_sentence(folders: Path, extra: list[str], words: str, capsys) -> None:
    assert main([*arguments(folders), *extra]) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1
    assert words in message[0]


@pytest.mark.skipif(not REALSR.is_dir(), reason="no published outputs; set SSPIR_SHARED to their folder")
def test_published_outputs_through_the_command(tmp_path: Path) -> None:
    """The averages of ten published pairs, as an independent numpy implementation of the recipe gives them."""
    folders = ["--hq", f"{REALSR}/HQ", "--lq", f"{REALSR}/LQ", "--method", f"osediff={REALSR}/osediff"]
    assert main(["compare", *folders, "--out", f"{tmp_path}/out", *FAST]) == 0
    methods = summary_of(tmp_path)["methods"]
    assert methods["osediff"]["psnr_y"]["mean"] == pytest.approx(25.3301, abs=5e-5)
    assert methods["osediff"]["ssim_y"]["mean"] == pytest.approx(0.7290, abs=5e-5)
    assert methods["bicubic"]["psnr_y"]["mean"] > methods["osediff"]["psnr_y"]["mean"]  # perception against distortion


@pytest.mark.thorough
def test_peers_restore_what_the_methods_were_given(
    folders: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sspir.peers.cost.SIDE", 16)  # which takes a moment
    peer = rrdbnet_file(folders / "rrdb.pth")
    given = ["compare", "--hq", f"{folders}/hq", "--out", f"{folders}/out", "--metrics", "psnr_y", "--workers", "1"]
    assert main([*given, "--peer", str(peer)]) == 2
    assert "name its folder by --lq" in capsys.readouterr().err
    assert main(given) == 2
    assert "nothing to compare" in capsys.readouterr().err
    save(folders / "others" / "another.png", np.zeros((8, 8, 3), np.uint8))
    assert main([*given, "--lq", f"{folders}/others", "--peer", str(peer)]) == 2
    assert "No picture of --lq has the name of one of --hq" in capsys.readouterr().err
    lq = ["--lq", f"{folders}/lq", "--peer", str(peer)]
    assert main([*given, *lq, "--method", f"rrdb={folders}/good"]) == 2
    assert "'rrdb' is taken by a peer" in capsys.readouterr().err
    assert main([*given, *lq, "--method", f"good={folders}/good", "--noise-control", "rrdb", "--cost"]) == 0
    summary = summary_of(folders)
    assert summary["methods"]["rrdb"]["psnr_y"]["n"] == 7
    assert summary["cost"]["methods"].keys() == {"rrdb", "bicubic"}
    assert summary["peers"]["rrdb"]["scale"] == 4
    assert tensor(folders / "out" / "peers" / "rrdb" / "photo 3.png").shape == (1, 3, 120, 140)
    cells = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters")).split()
    assert cells == ["parameters", f"{summary['cost']['methods']['rrdb']['parameters']:,}", "0"]
    made = {path.name: path.stat().st_mtime_ns for path in (folders / "out" / "peers" / "rrdb").iterdir()}
    save(folders / "lq" / "photo 3.png", np.full((30, 35, 3), 90, np.uint8))
    (folders / "out" / "peers" / "rrdb" / "photo 2.png").write_bytes(b"touched by somebody")
    assert main([*given, *lq]) == 0  # started again it restores what has changed
    now = {path.name: path.stat().st_mtime_ns for path in (folders / "out" / "peers" / "rrdb").iterdir()}
    assert {name for name in made if now[name] != made[name]} == {"photo 2.png", "photo 3.png"}
    for half in ("lq", "hq"):
        (folders / half / "photo 3.png").unlink()
    assert main([*given, *lq]) == 0  # what was made of other photos counts no more
    assert summary_of(folders)["methods"]["rrdb"]["psnr_y"]["n"] == 6
    assert not (folders / "out" / "peers" / "rrdb" / "photo 3.png").exists()
    folder = folders / "out" / "peers" / "rrdb"
    (folders / "lq" / "photo 4.png").rename(folders / "photo 4.png")
    assert main([*given, *lq]) == 1  # nor where the truth is still there
    assert "has no picture of photo 4" in capsys.readouterr().err
    (folders / "photo 4.png").rename(folders / "lq" / "photo 4.png")
    for half in ("lq", "hq"):
        (folders / half / "new.png").write_bytes((folders / half / "photo 4.png").read_bytes())
    save(folder / "new.png", np.zeros((8, 8, 3), np.uint8))
    mine = (folder / "new.png").read_bytes()
    assert main([*given, *lq]) == 2
    assert "rrdb/new.png is there and not of a comparison; choose another --out" in capsys.readouterr().err
    assert (folder / "new.png").read_bytes() == mine
    for place in (folder, folders / "lq", folders / "hq"):
        (place / "new.png").unlink()
    assert main([*given, *lq]) == 0
    assert main([*given, "--method", f"rrdb={folder}"]) == 0  # what a peer made before is a method like any
    assert len(list(folder.iterdir())) == 6
