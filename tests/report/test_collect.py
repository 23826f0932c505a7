"""What a report reads: results, runs, torn lines, names, and which images it shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspir.errors import UserError
from sspir.evaluation.measure import Row
from sspir.evaluation.results import Results
from sspir.metrics.detail import GradientRatio
from sspir.metrics.niqe import NIQE
from sspir.metrics.psnr_ssim import PSNR
from sspir.report.charts import MOST_POINTS, chart, labels, thin, ticks
from sspir.report.collect import collect
from sspir.report.html import legend
from sspir.report.page import build
from sspir.report.pictures import choose, pack
from sspir.training.history import HEADER


def write_results(folder: Path, count: int = 12) -> Path:
    results = Results({"psnr_y": PSNR(), "niqe": NIQE(), "gradient_ratio": GradientRatio()})
    rng = np.random.default_rng(0)
    for i in range(count):
        values = {"psnr_y": 20.0 + i, "niqe": 5.0 + (i * 7) % count, "gradient_ratio": float(np.exp(rng.normal()))}
        results.add([Row(f"{i:02}", "ours", values), Row(f"{i:02}", "noise@ours", {"psnr_y": 20.0 + i, "niqe": 4.0})])
    results.write(folder)
    return folder


def write_run(folder: Path, lr: float, shift: float = 0.0, counted: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: tiny\nfolder: {folder}\noptimizer:\n  lr: {lr}\nlist: [1, 2]\n")
    lines = [json.dumps(HEADER)] if counted else []
    lines += [json.dumps({"step": s, "epoch": 0, "loss/noise": 1 / s + shift}) for s in range(1, 40)]
    lines += [json.dumps({"step": s, "val/psnr_y": 20 + s / 10 + shift}) for s in (10, 20, 30)]
    lines += [json.dumps({"step": 30, "val/psnr_y": 24.0 + shift}), '{"step": 40, "loss/noi']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def test_finds_results_and_runs_below_a_folder(tmp_path: Path) -> None:
    write_results(tmp_path / "a" / "results")
    write_results(tmp_path / "b" / "results")
    write_run(tmp_path / "sweep" / "0", 1e-4)
    results, runs, *_ = collect([tmp_path])
    assert [result.name for result in results] == ["a/results", "b/results"]
    assert [run.name for run in runs] == ["0"]
    assert results[0].values["03"]["ours"]["psnr_y"] == 23
    assert len(collect([tmp_path, tmp_path / "a"])[0]) == 2  # a folder named twice is read once


def test_methods_are_ranked_over_one_truth_alone(tmp_path: Path) -> None:
    for scale, value in (("x2", 38.0), ("x4", 25.0)):
        results = Results({"psnr_y": PSNR()})
        for image in "abc":
            rows = [Row(image, "ours", {"psnr_y": value}), Row(image, "theirs", {"psnr_y": value + 1})]
            truth = tmp_path / scale / "hq" / f"{image}.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(truth)
            results.add(rows, {"hq": truth})
        results.write(tmp_path / scale)
    page = build(collect([tmp_path]), "title", images=1, quality=50)
    overview = page[page.index("All results") : page.index("<h2>x2</h2>")]
    assert "Different images" in overview
    assert re.findall(r"<b>(\d+\.\d+)</b>", overview) == ["39.00", "26.00"]


def test_one_problem_of_many_images_is_told_once(tmp_path: Path) -> None:
    results = Results({"psnr_y": PSNR()})
    results.add([Row(name, "ours", {"psnr_y": 20.0}) for name in "abc"])
    for name in "bc":
        results.add_problem(name, "span", "no picture <there>.")
    results.add_problem("c", "ours", "too small.")
    results.write(tmp_path)
    page = build(collect([tmp_path]), "title", images=1, quality=50)
    assert "Problems (2)" in page
    assert "<li>b, c (span): no picture &lt;there&gt;.</li><li>c (ours): too small.</li>" in page


def test_what_a_run_has_set_aside_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 1e-4)
    write_run(tmp_path / "run" / "replaced" / "1", 1e-3)
    assert [run.name for run in collect([tmp_path]).runs] == ["run"]
    assert [run.name for run in collect([tmp_path / "run" / "replaced" / "1"]).runs] == ["1"]


def test_a_resumed_and_killed_run_reads_well(tmp_path: Path) -> None:
    _, (run,), *_ = collect([write_run(tmp_path / "run", 1e-4)])
    assert set(run.curves) == {"loss/noise", "val/psnr_y"}
    assert run.curves["val/psnr_y"] == [(10, 21), (20, 22), (30, 24)]
    assert len(run.curves["loss/noise"]) == 39
    _, (old,), *_ = collect([write_run(tmp_path / "old", 1e-4, counted=False)])  # its steps are counted from 0
    assert old.curves["val/psnr_y"] == [(11, 21), (21, 22), (31, 24)]


def test_lightnings_sparse_csv_reads_well(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,val/psnr_y\n0,1,0.5,\n0,2,,20.0\n0,3,0.25,\n")
    _, (run,), *_ = collect([tmp_path])
    assert run.curves == {"loss": [(2, 0.5), (4, 0.25)], "val/psnr_y": [(3, 20.0)]}


def test_bad_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="neither"):
        collect([tmp_path])
    (write_results(tmp_path / "r") / "summary.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        collect([tmp_path])


def test_worst_images_of_each_metric_come_first(tmp_path: Path) -> None:
    (result,), *_ = collect([write_results(tmp_path / "r")])
    ratios = {image: abs(np.log(cells["ours"]["gradient_ratio"])) for image, cells in result.values.items()}
    niqe = {image: cells["ours"]["niqe"] for image, cells in result.values.items()}
    first = choose(result, 3)
    assert first[0] == "00"
    assert max(niqe, key=niqe.__getitem__) in choose(result, 4)
    assert max(ratios, key=ratios.__getitem__) in choose(result, 6)
    assert len(choose(result, 100)) == len(set(choose(result, 100))) == 12


def test_pictures_are_packed_and_lost_ones_left_out(tmp_path: Path) -> None:
    for name, size in (("hq", 64), ("lq", 16)):
        Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    files = {name: tmp_path / f"{name}.png" for name in ("hq", "lq", "gone")}
    packed = pack(files, 92)
    assert set(packed) == {"hq", "bicubic"}
    assert all(text.startswith("data:image/webp;base64,") for text in packed.values())


def test_thinning_keeps_the_mean_and_ticks_enclose() -> None:
    points = [(float(i), float(i % 7)) for i in range(7 * MOST_POINTS)]
    assert len(thin(points)) <= MOST_POINTS
    assert np.mean([y for _, y in thin(points)]) == pytest.approx(3)
    for values in ([0.0, 1.0], [23.4, 23.5], [5.0], [-1.0, 3e5], [0.0]):
        found = ticks(values)
        assert found[0] - 1e-9 <= min(values) <= max(values) <= found[-1] + 1e-9
        assert 2 <= len(found) <= 8
        assert len(set(labels(found))) == len(found)
    assert labels(ticks([27.2701, 27.2704])) == ["27.2701", "27.2702", "27.2703", "27.2704"]
    assert labels([0.0, 0.2, 0.4]) == ["0", "0.2", "0.4"]
    assert chart({"a<b": [(0, 1), (1, 2)]}, "step").count("a&lt;b") == 3


def test_more_lines_than_colours_look_different_and_as_their_legend_says() -> None:
    names = [f"run{number}" for number in range(20)]
    drawn = chart({name: [(0.0, 1.0), (1.0, 2.0)] for name in names}, "step")
    look = r'stroke="(#\w+)" stroke-width="[\d.]+" stroke-dasharray="([\d. ]*)"'
    looks = re.findall(look, drawn)
    assert len(set(looks)) == 20
    assert re.findall(look, legend(names)) == looks


def test_the_best_is_marked_only_among_results_of_the_same_images(tmp_path: Path) -> None:
    def overview(counts: tuple[int, int]) -> str:
        folders = [write_results(tmp_path / f"{counts}" / f"{i}", count) for i, count in enumerate(counts)]
        page = build(collect(folders), "title", images=1, quality=50)
        return page[page.index("All results") : page.index("</section>")]

    assert "<b>" in overview((12, 12))
    assert "<b>" not in overview((12, 8))
    assert "Different images" in overview((12, 9))
