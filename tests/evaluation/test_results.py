"""Statistics, controls and results: laws of the bootstrap, noise at matched PSNR, and what is written."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.evaluation.measure import Row, add_noise, measure_image
from sspir.evaluation.results import Results, noise_verdicts
from sspir.evaluation.statistics import Interval, bootstrap, compare
from sspir.evaluation.table import comparison_text, lacking, summary_table, verdict_text
from sspir.images.io import write_image
from sspir.images.picture import Picture
from sspir.metrics.base import FolderMetric, usable
from sspir.metrics.detail import GradientRatio
from sspir.metrics.learned import FID
from sspir.metrics.niqe import NIQE
from sspir.metrics.psnr_ssim import PSNR, SSIM, psnr
from sspir.models.latent import upscale
from tests.report.written import report


@pytest.fixture(scope="module")
def truth() -> Tensor:
    from skimage import data

    return torch.from_numpy(np.asarray(data.astronaut())[:160, :180].transpose(2, 0, 1) / 255).float()


def test_interval_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(0).normal(3, 2, 4000)
    found = bootstrap(values)
    half = 1.96 * 2 / np.sqrt(4000)
    assert found.mean == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.01)
    assert bootstrap(values) == found  # seeded
    assert bootstrap(values, seed=1) != found


@pytest.mark.parametrize("n", [6, 10, 20])
def test_equal_methods_are_called_different_in_five_of_a_hundred_comparisons(n: int) -> None:
    gains = np.random.default_rng(1).normal(size=(1000, n))
    verdicts = [compare(each, np.zeros(n)).significant for each in gains]
    assert 0.03 < np.mean(verdicts) < 0.08  # plain percentiles: .13, .10, .07


def test_intervals_of_few_values_are_as_wide_as_students() -> None:
    values = np.random.default_rng(2).normal(size=12)
    half = 2.201 * values.std(ddof=1) / np.sqrt(12)
    found = bootstrap(values)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_intervals_of_fewer_than_six_are_students_and_hold_the_truth_as_often_as_they_say(n: int) -> None:
    from scipy import stats

    values = np.random.default_rng(3).normal(size=(2000, n))
    found = [bootstrap(each) for each in values]
    wanted = stats.t.interval(0.95, n - 1, values.mean(axis=1), stats.sem(values, axis=1))
    assert np.allclose([(each.low, each.high) for each in found], np.transpose(wanted), atol=1e-3)
    assert np.mean([each.holds_zero for each in found]) == pytest.approx(0.95, abs=0.015)  # resampled means: .75


def test_one_or_two_images_have_no_interval(tmp_path: Path) -> None:
    assert compare(np.array([3.0]), np.array([1.0])).gain == Interval(2.0, None, None, 1)
    assert compare(np.array([3.0, 2.0]), np.array([1.0, 1.0])).gain == Interval(1.5, None, None, 2)
    summary = results_of({"a": np.array([25.0]), "b": np.array([26.0])}).write(tmp_path / "one")
    assert summary["methods"]["a"]["psnr_y"] == {"mean": 25.0, "low": None, "high": None, "n": 1}
    line = next(line for line in summary_table(summary).splitlines() if "psnr_y" in line)
    assert line.split() == ["psnr_y", "↑", "25.00", "26.00*"]
    assert "<td>-1.0000</td>" in report(tmp_path / "page.html", tmp_path / "one")


def test_missing_values_are_left_out_and_counted() -> None:
    assert bootstrap(np.array([1.0, np.nan, 3.0])).n == 2
    assert bootstrap(np.array([1.0, np.nan, 3.0])).mean == 2
    assert bootstrap(np.array([np.nan])).n == 0
    assert compare(np.array([1.0, np.nan, 3.0]), np.array([0.0, 1.0, np.nan])).gain.n == 1


def test_pairing_finds_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(25, 4, 30)
    a, b = difficulty + 0.2 + rng.normal(0, 0.1, 30), difficulty
    assert bootstrap(a).low < bootstrap(b).high  # the intervals of the means overlap
    difference = compare(a, b)
    assert difference.significant
    assert difference.win_rate > 0.9
    assert difference.gain.mean == pytest.approx(np.mean(a - b))
    assert not compare(b, b).significant
    assert compare(b, b).win_rate == 0.5
    assert not compare(a[:5], b[:5]).significant  # too few to tell


def test_noise_lands_on_the_asked_psnr(truth: Tensor) -> None:
    base = upscale(upscale(truth[None], (40, 45)), (160, 180))[0]
    at = psnr(base[None], truth[None]).item()
    for target in (at - 0.5, at - 3):
        noisy = add_noise(base, truth, target, seed=1)
        assert psnr(noisy[None], truth[None]).item() == pytest.approx(target, abs=0.01)
        assert torch.equal(noisy, add_noise(base, truth, target, seed=1))
    assert torch.equal(add_noise(base, truth, at + 1, seed=1), base)  # noise cannot raise it


def test_measure_adds_the_rows_to_read_against(truth: Tensor) -> None:
    lq = upscale(truth[None], (40, 45))[0]
    pictures = {
        "ours": (truth + 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    }
    metrics = {"psnr_y": PSNR(), "niqe": NIQE()}
    rows = measure_image(metrics, "a", pictures, truth, lq, noise_base="ours")
    assert [row.method for row in rows] == ["ours", "bicubic", "noise@bicubic"]
    values = {row.method: row.values for row in rows}
    assert values["noise@bicubic"]["psnr_y"] == pytest.approx(values["bicubic"]["psnr_y"], abs=0.01)
    assert all("two blocks" in row.problems["niqe"] for row in rows)
    with pytest.raises(UserError, match="nobody"):
        measure_image(metrics, "a", pictures, truth, lq, noise_base="nobody")
    alone = measure_image({"psnr_y": PSNR(), "niqe": NIQE()}, "a", {"ours": torch.rand(3, 100, 200)})
    assert [set(row.values) | set(row.problems) for row in alone] == [{"niqe"}]  # no truth, no PSNR


def results_of(values: dict[str, np.ndarray]) -> Results:
    results = Results({"psnr_y": PSNR(), "gradient_ratio": GradientRatio()}, {"lpips": "no weights"})
    for method, column in values.items():
        for i, value in enumerate(column):
            row = Row(f"image_{i}", method, {"psnr_y": float(value), "gradient_ratio": float(value) / 30})
            results.add([row], {"hq": f"/hq/{i}.png", method: f"/{method}/{i}.png"})
    return results


def test_summary_and_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(25, 2, 12)
    results = results_of({"good": base + 1, "bad": base})
    summary = results.write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    cell = summary["methods"]["good"]["psnr_y"]
    assert set(cell) == {"mean", "low", "high", "n"}
    assert cell["mean"] == pytest.approx(np.mean(base + 1))
    assert cell["low"] < cell["mean"] < cell["high"]
    assert cell["n"] == 12
    (found,) = [pair for pair in summary["comparisons"] if pair["metric"] == "psnr_y"]
    assert (found["better"], found["win_rate"]) == ("good", 1.0)
    assert found["gain"] == pytest.approx(1)
    with (tmp_path / "per_image.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 24
    assert float(table[0]["psnr_y"]) == pytest.approx(base[0] + 1)
    text = summary_table(summary) + comparison_text(summary)
    for expected in ("psnr_y ↑", "gradient_ratio →1", "lpips", "not here", "good against bad", "wins 100%"):
        assert expected in text


def test_pictures_are_found_from_the_results_whatever_the_current_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Results({"psnr_y": PSNR()})
    files = {"hq": "photos/hq/a.png", "ours": "runs/out/ours/a.png", "theirs": tmp_path / "theirs" / "a.png"}
    for path in files.values():
        write_image(path, Picture(np.zeros((8, 8, 3), np.uint8)))
    results.add([Row("a", "ours", {"psnr_y": 20.0})], files)
    results.write(Path("runs/out"))
    shutil.copytree("runs/out", tmp_path / "moved")
    monkeypatch.chdir("/")
    with (tmp_path / "moved" / "images.csv").open() as file:
        paths = {row["role"]: row["path"] for row in csv.DictReader(file)}
    assert paths["ours"] == "ours/a.png"
    assert all((tmp_path / "moved" / path).is_file() for path in paths.values())


def test_a_value_of_a_whole_set_has_no_interval(tmp_path: Path) -> None:
    results = results_of({"good": np.arange(20.0, 28.0)})
    results.metrics["fid"] = FID()
    results.add_set_value("good", "fid", 123.49, n=8)
    summary = results.write(tmp_path)
    assert summary["methods"]["good"]["fid"] == {"mean": 123.49, "low": None, "high": None, "n": 8}
    assert "123.49 " in summary_table(summary)
    assert not [pair for pair in summary["comparisons"] if pair["metric"] == "fid"]


def test_ratio_is_compared_by_its_distance_from_one(tmp_path: Path) -> None:
    results = Results({"gradient_ratio": GradientRatio()})
    for i in range(8):
        results.add([Row(f"{i}", "twice", {"gradient_ratio": 2.0}), Row(f"{i}", "near", {"gradient_ratio": 0.8})])
    (found,) = results.summary()["comparisons"]
    assert found["better"] == "near"


def test_no_ratio_is_starred_for_a_mean_of_values_on_both_sides_of_one() -> None:
    results = Results({"gradient_ratio": GradientRatio()})
    for i in range(10):
        values = {"astray": (0.4, 1.6)[i % 2], "near": 0.93}
        results.add([Row(f"{i}", method, {"gradient_ratio": value}) for method, value in values.items()])
    summary = results.summary()
    assert "*" not in summary_table(summary)
    assert [pair["better"] for pair in summary["comparisons"]] == ["near"]


def test_a_method_must_beat_noise_on_niqe_and_structure() -> None:
    def verdict(niqe: float, vif: float) -> dict:
        results = Results({"niqe": NIQE(), "vif": SSIM()})
        for i in range(8):
            results.add(
                [
                    Row(f"{i}", "ours", {"niqe": niqe + 0.01 * i, "vif": vif + 0.01 * i}),
                    Row(f"{i}", "noise@ours", {"niqe": 5 + 0.01 * i, "vif": 0.5 + 0.01 * i}),
                ]
            )
        return results.summary()["noise_control"][0]

    assert verdict(niqe=4, vif=0.6)["beaten"]
    assert not verdict(niqe=4, vif=0.4)["beaten"]
    assert not verdict(niqe=6, vif=0.6)["beaten"]
    assert verdict(niqe=4, vif=0.4)["worse"] == ["vif"]


def test_images_whose_control_is_the_base_count_for_no_verdict(tmp_path: Path) -> None:
    def of(images: int, without: int) -> Results:
        results = Results({"niqe": NIQE(), "vif": SSIM()})
        results.noise_base = "bicubic"
        for i in range(images):
            base, noisy = {"niqe": 6.0 + 0.01 * i, "vif": 0.4}, {"niqe": 7.0 + 0.01 * i, "vif": 0.3}
            control = base if i < without else noisy
            results.add([Row(f"{i}", "ours", {"niqe": 5.0, "vif": 0.5}), Row(f"{i}", "bicubic", base)])
            results.add([Row(f"{i}", "noise@ours", dict(control))])
        return results

    told = (
        "noise@ours is no control on 3 of 9 images, where bicubic has no higher PSNR than ours that noise could lower."
    )
    summary = of(9, 3).summary()
    (verdict,) = summary["noise_control"]
    assert (verdict["beaten"], verdict["no_control"]) == (True, told)
    against = [pair for pair in summary["comparisons"] if pair["b"] == "noise@ours" and pair["metric"] == "niqe"]
    assert [(pair["a"], pair["n"]) for pair in against] == [("ours", 6), ("bicubic", 6)]
    assert against[1]["gain"] == pytest.approx(1.0)
    assert verdict_text(verdict) == f"ours beats plain noise of its PSNR on niqe, vif. {told}"
    for images, without in ((8, 3), (7, 7)):
        results = of(images, without)
        summary = results.write(tmp_path / "few")
        assert summary["noise_control"][0]["beaten"] is None
        page = report(tmp_path / "page.html", tmp_path / "few")
        for text in (comparison_text(summary), page):
            assert "ours is not judged against plain noise" in text
            assert f"noise@ours is no control on {without} of {images} images" in text
    of(9, 3).write(tmp_path / "enough")
    assert told in report(tmp_path / "page.html", tmp_path / "enough")


def test_usable_splits_by_what_is_there() -> None:
    from sspir.metrics.base import MetricUnavailableError

    class Missing(PSNR):
        def require(self) -> None:
            raise MetricUnavailableError("It needs weights; put them there.")

    ready, missing = usable({"psnr_y": PSNR(), "lpips": Missing()})
    assert list(ready) == ["psnr_y"]
    assert missing == {"lpips": "It needs weights; put them there."}


def test_a_method_is_not_judged_against_noise_without_the_metrics_that_judge() -> None:
    pair = {"a": "ours", "b": "noise@ours", "metric": "niqe", "better": "ours", "n": 8}
    (verdict,) = noise_verdicts([pair], {})
    assert verdict["beaten"] is None
    assert "not judged" in verdict_text(verdict)
    (verdict,) = noise_verdicts([pair, {**pair, "metric": "vif"}], {})
    assert verdict["beaten"]
    (verdict,) = noise_verdicts([pair, {**pair, "metric": "vif", "better": None}], {})
    assert not verdict["beaten"]
    assert "WARNING: ours does not beat plain noise of its PSNR" in verdict_text(verdict)
    few = {**pair, "n": 2, "better": None}
    (verdict,) = noise_verdicts([few, {**few, "metric": "vif"}], {})
    assert "not judged" in verdict_text(verdict)


def test_with_few_images_nothing_is_called_equal() -> None:
    values = np.arange(20.0, 26.0)
    few, enough = (results_of({"a": values[:n], "b": values[:n]}).summary() for n in (2, 6))
    assert "too few images to tell (2 of at least 6): psnr_y" in comparison_text(few)
    assert "no significant difference" not in comparison_text(few)
    assert "no significant difference: psnr_y" in comparison_text(enough)


def test_all_that_print_as_the_best_does_are_starred() -> None:
    values = np.full(6, 25.0)
    table = summary_table(results_of({"a": values, "b": values + 0.001, "c": values - 0.01}).summary())
    stars = re.findall(r"(2\d\.\d\d)([* ]) \[", next(line for line in table.splitlines() if "psnr_y" in line))
    assert stars == [("25.00", "*"), ("25.00", "*"), ("24.99", " ")]


def test_a_mean_over_fewer_images_is_never_the_best() -> None:
    values = np.linspace(24.0, 26.0, 8)
    easy = np.where(np.arange(8) < 5, np.nan, 27.0)
    table = summary_table(results_of({"a": values, "b": values - 1, "of three": easy}).summary())
    stars = re.findall(r"(2\d\.\d\d)([* ])", next(line for line in table.splitlines() if "psnr_y" in line))
    assert stars == [("25.00", "*"), ("24.00", " "), ("27.00", " ")]


def test_a_mean_over_fewer_images_says_of_how_many_and_a_metric_why(tmp_path: Path) -> None:
    results = Results({"psnr_y": PSNR(), "niqe": NIQE()}, {"lpips": "no weights."})
    for i in range(7):
        large = {"niqe": 7.25} if i == 3 else {}
        small = {} if large else {"niqe": "too small."}
        results.add([Row(f"{i}", "a", {"psnr_y": 25.0, **large}, small), Row(f"{i}", "b", {"psnr_y": 24.0})])
    summary = results.write(tmp_path / "few")
    lines = {line.split()[0]: line.split() for line in summary_table(summary).splitlines()}
    assert lines["niqe"] == ["niqe", "↓", "7.2500", "(n=1)", "-"]
    assert "n=" not in " ".join(lines["psnr_y"])
    assert lacking(summary) == [
        "lpips is left out: no weights.",
        "niqe was not measured on 6 pictures, such as 0 of a: too small.",
    ]
    page = report(tmp_path / "page.html", tmp_path / "few")
    assert "<td>7.2500<small>n=1</small></td>" in page
    assert page.count("<small>n=") == 1


class Folders(FolderMetric):
    """Gives what it was made with, or raises it."""

    higher_is_better = False

    def __init__(self, value: float | Exception) -> None:
        super().__init__()
        self.value = value

    def score_folders(self, preds: Path, target: Path) -> float:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_a_metric_of_folders_that_fails_is_a_problem_and_the_rest_is_written(tmp_path: Path) -> None:
    results = results_of({"a": np.arange(20.0, 26.0)})
    for i in range(6):
        write_image(tmp_path / f"{i}.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    made = {"good": Folders(3.5), "nan": Folders(math.nan), "failing": Folders(ValueError("too few pictures"))}
    results.metrics |= made
    results.measure_folders({"a": tmp_path, "absent": tmp_path}, tmp_path)
    summary = results.write(tmp_path)
    assert summary["methods"]["a"]["good"]["mean"] == 3.5
    assert not {"nan", "failing"} & summary["methods"]["a"].keys()
    assert [problem["problem"] for problem in summary["problems"]] == [
        "nan is undefined for them, which may be too few.",
        "failing: too few pictures",
    ]


def test_a_metric_of_folders_counts_the_pictures_in_them_and_says_if_others_are_there(tmp_path: Path) -> None:
    for role, count in (("hq", 6), ("a", 6), ("b", 7)):
        for i in range(count):
            write_image(tmp_path / role / f"{i}.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    results = results_of({"a": np.arange(20.0, 26.0), "b": np.arange(20.0, 26.0)})
    results.metrics["fid"] = Folders(3.5)
    results.measure_folders({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "hq")
    summary = results.summary()
    assert [summary["methods"][method]["fid"]["n"] for method in ("a", "b")] == [6, 7]
    (problem,) = summary["problems"]
    assert problem["method"] == "b"
    assert "fid compares the 7 pictures" in problem["problem"]
    assert "only 6 are pairs" in problem["problem"]
    table = summary_table(summary)
    assert next(line for line in table.splitlines() if line.startswith("images")).split() == ["images", "6", "6"]
    assert table.count("(n=") == table.count("3.5000  (n=7)") == 1
    results.write(tmp_path / "out")
    page = report(tmp_path / "page.html", tmp_path / "out")
    assert page.count("<td>6</td></tr>") == 2
    assert page.count("<small>n=") == page.count("<td>3.5000<small>n=7</small></td>") == 1


def test_metrics_of_folders_say_why_they_cannot_run() -> None:
    assert usable({"psnr_y": PSNR(), "fid": Folders(1.0)}, "not here.")[1] == {"fid": "not here."}
    assert set(usable({"psnr_y": PSNR(), "fid": Folders(1.0)})[0]) == {"psnr_y", "fid"}


def test_an_infinite_value_is_a_problem() -> None:
    class Endless(PSNR):
        def score(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return torch.full((len(preds),), math.inf)

    picture = torch.rand(3, 16, 16)
    rows = measure_image({"endless": Endless()}, "x", {"ours": picture}, picture, None)
    assert [(row.values, "endless is undefined" in row.problems["endless"]) for row in rows] == [({}, True)]
