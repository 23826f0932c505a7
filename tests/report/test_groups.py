"""What is pooled as seeds: runs that differ in nothing else, measured alike."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sspir.evaluation.measure import Row
from sspir.evaluation.results import Results
from sspir.metrics.detail import GradientRatio
from sspir.report.ablation import studies
from sspir.report.collect import collect
from tests.report.written import report, table, write_evaluation, write_run


def said(run: Path, name: str, variant: str, seed: int, **others: Any) -> dict[str, Any]:
    evaluation = {"run": str(run), "name": name, "variant": variant, "seed": seed, "benchmark": "set5"}
    return {**evaluation, "checkpoint": "last", "step": 20, "settings": {}, **others}


def test_experiments_and_swept_settings_are_not_pooled_as_seeds(tmp_path: Path) -> None:
    for name, base in (("a", 20.0), ("b", 30.0)):
        for seed in (0, 1):
            run = write_run(tmp_path / f"{name}{seed}", name, "none", seed, {"val/psnr_y": base + 2 * seed})
            write_evaluation(run / "evaluation" / "set5", [base + 2 * seed] * 2)
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            run = tmp_path / f"lr{lr}-{seed}"
            write_run(run, "c", "none", seed, {"val/psnr_y": 100 * lr + 2 * seed}, optimizer={"lr": lr})
            write_evaluation(run / "evaluation" / "set5", [100 * lr + 2 * seed] * 2)
    page = report(tmp_path / "page.html", tmp_path)
    for name, mean in (("a", "21.00"), ("b", "31.00")):
        over_seeds = table(page, f"{name}: last validation over seeds")
        assert over_seeds == [["variant", "val/psnr_y", "seeds"], ["none", f"{mean} ± 1.41", "2"]]
        assert f"Ablation: {name}" not in page
    rows = [["none, optimizer.lr=0.1", "11.00 ± 1.41", "2"], ["none, optimizer.lr=0.2", "21.00 ± 1.41", "2"]]
    assert table(page, "c: last validation over seeds")[1:] == rows
    assert table(page, "Ablation: c on set5")[1:] == rows


def test_a_ratio_is_turned_before_it_is_averaged_over_seeds(tmp_path: Path) -> None:
    for variant, ratios in (("none", (0.9, 0.9)), ("no_x", (0.5, 1.5))):
        for seed, ratio in enumerate(ratios):
            run = write_run(tmp_path / f"{variant}{seed}", "a", variant, seed, {"val/psnr_y": 20.0})
            results = Results({"gradient_ratio": GradientRatio()})
            for image in range(6):
                results.add([Row(f"{image}", "restored", {"gradient_ratio": ratio})])
            results.write(run / "evaluation" / "set5")
    (study,) = studies(collect([tmp_path]).results)
    gain = study.rows["gradient_ratio"][1].gain
    assert gain is not None
    assert gain.gain.mean == pytest.approx((math.log(0.5) - math.log(1.5)) / 2 - math.log(0.9))
    assert gain.significant


def test_a_gain_is_over_the_full_method_of_the_same_settings(tmp_path: Path) -> None:
    for lr, variant, value in ((1, "none", 10.0), (2, "none", 20.0), (1, "no_x", 11.0), (2, "no_x", 18.0)):
        run = write_run(tmp_path / f"{variant}{lr}", "a", variant, 0, {"val/psnr_y": value}, optimizer={"lr": lr})
        write_evaluation(run / "evaluation" / "set5", [value, value + 1, value + 2])
    page = report(tmp_path / "page.html", tmp_path)
    study = page[page.index("Ablation: a on set5") :]
    assert [row[0] for row in table(page, "Ablation: a on set5")[1:]] == [
        f"{variant}, optimizer.lr={lr}" for variant in ("none", "no_x") for lr in (1, 2)
    ]
    assert study.index("1.0000 [1.0000, 1.0000]") < study.index("-2.0000 [-2.0000, -2.0000]")


def test_a_gain_in_a_sweep_is_over_the_full_method_of_the_same_name(tmp_path: Path) -> None:
    for lr, variant, value in ((1, "none", 10.0), (2, "none", 20.0), (1, "no_x", 11.0), (2, "no_x", 18.0)):
        name = f"{variant}-lr-{lr}"  # as a multirun calls it
        run = write_run(tmp_path / name, "a", name, 0, {"val/psnr_y": value}, optimizer={"lr": lr})
        write_evaluation(run / "evaluation" / "set5", [value, value + 1, value + 2])
    page = report(tmp_path / "page.html", tmp_path)
    study = page[page.index("Ablation: a on set5") :]
    assert study.index("no_x-lr-1") < study.index("1.0000 [1.0000, 1.0000]")
    assert study.index("no_x-lr-2") < study.index("-2.0000 [-2.0000, -2.0000]")
    note = "bold where it excludes zero, on six images or more."
    assert "<b>" not in study[: study.index(note)]  # as there are three


def test_a_seed_that_was_run_twice_counts_once(tmp_path: Path) -> None:
    for folder, seed, end in (("x", 0, 10.0), ("y", 0, 12.0), ("z", 1, 13.0)):
        write_run(tmp_path / folder, "a", "none", seed, {"val/psnr_y": end})
    page = report(tmp_path / "page.html", tmp_path)
    assert table(page, "a: last validation over seeds")[1:] == [["none", "12.00 ± 1.41", "2"]]
    assert table(page, "Last validation")[:2] == [["run", "seed", "val/psnr_y"], ["x", "0", "10.00"]]


def test_evaluations_of_one_run_are_told_apart_and_are_no_seeds(tmp_path: Path) -> None:
    settings = {"seed": 1, "sampler.steps": 20}
    for variant, base in (("none", 20.0), ("no_x", 10.0)):
        for seed in (0, 1):
            run = write_run(tmp_path / f"{variant}-s{seed}", "a", variant, seed, {"val/psnr_y": base})
            value, place = base + 2 * seed, run / "evaluation" / "set5"
            write_evaluation(place / "last", [value] * 2, said(run, "a", variant, seed))
            write_evaluation(place / "best", [value + 1] * 2, said(run, "a", variant, seed, checkpoint="best"))
            steps = said(run, "a", variant, seed, settings=settings)
            write_evaluation(place / "last-seed=1,sampler.steps=20", [value + 2] * 2, steps)
    page = report(tmp_path / "page.html", tmp_path)
    for how, mean in (("last", 21), ("best", 22), ("last, seed=1, sampler.steps=20", 23)):
        study = table(page, f"Ablation: a on set5, {how}<")
        assert study[1:] == [["none", f"{mean}.00 ± 1.41", "2"], ["no_x", f"{mean - 10}.00 ± 1.41", "2"]]
        checkpoint, *rest = how.split(", ")
        title = ", ".join([f"{checkpoint} (step 20)", *rest])
        assert f"<h2>a/no_x-s1 on set5, {title}</h2>" in page


def test_a_checkpoint_of_fewer_steps_is_no_seed_and_copies_are_named_by_folder(tmp_path: Path) -> None:
    for seed, step in ((0, 20), (1, 10)):
        run = write_run(tmp_path / f"s{seed}", "a", "none", seed, {"val/psnr_y": 20.0})
        write_evaluation(tmp_path / "out" / f"{seed}", [20.0] * 2, said(run, "a", "none", seed, step=step))
    write_evaluation(tmp_path / "out" / "copy", [20.0] * 2, said(tmp_path / "s0", "a", "none", 0))
    page = report(tmp_path / "page.html", tmp_path)
    rows = table(page, "Ablation: a on set5, last")[1:]
    assert rows == [["none, evaluated step=10", "20.00", "1"], ["none, evaluated step=20", "20.00", "1"]]
    assert "<h2>a/none-s0 on set5, last (step 20) (copy)</h2>" in page


def test_evaluations_of_runs_that_are_gone_and_of_saved_pipelines_are_shown(tmp_path: Path) -> None:
    for variant, value in (("none", 20.0), ("no_x", 10.0)):
        run = write_run(tmp_path / f"{variant}0", "a", variant, 0, {"val/psnr_y": value})
        for seed, folder in ((0, run), (1, tmp_path / "gone")):
            evaluation = said(folder, "a", variant, seed)
            write_evaluation(tmp_path / "out" / f"{variant}{seed}", [value + 2 * seed] * 2, evaluation)
    of_pipeline = dict.fromkeys(("name", "variant", "seed", "checkpoint", "step"))
    saved = {"run": "saved/pipeline", **of_pipeline, "benchmark": "set5", "settings": {}}
    write_evaluation(tmp_path / "out" / "pipeline", [30.0] * 2, saved)
    page = report(tmp_path / "page.html", tmp_path)
    rows = table(page, "Ablation: a on set5, last")[1:]
    assert rows == [["none", "21.00 ± 1.41", "2"], ["no_x", "11.00 ± 1.41", "2"]]
    assert "<h2>pipeline on set5</h2>" in page


def test_each_validation_set_has_its_place(tmp_path: Path) -> None:
    rows = ("bicubic", "structure", "val")
    ends = {f"{row}{on}/psnr_y": 20.0 for row in rows for on in ("", "/a_set", "/z_set")} | {"loss/noise": 30.0}
    for seed in (0, 1):
        write_run(tmp_path / f"none-s{seed}", "a", "none", seed, ends)
    page = report(tmp_path / "page.html", tmp_path)
    names = ["val/psnr_y", "val/a_set/psnr_y", "val/z_set/psnr_y"]
    assert table(page, "Last validation")[0] == ["run", *names]
    assert table(page, "a: last validation over seeds")[0] == ["variant", *names, "seeds"]
    of_sets = [f"{row}{on}/psnr_y" for on in ("", "/a_set", "/z_set") for row in reversed(rows)]
    captions = [text.partition("<")[0] for text in page.split("<figcaption>")[1:]]
    assert captions == [*of_sets, "loss/noise"]
    heads = ["Validation, mean over the sets", "Validation on a_set", "Validation on z_set", "Steps", "Last validation"]
    assert [text.partition("<")[0] for text in page.split("<h3>")[1:]][: len(heads)] == heads


def test_sets_stand_together_and_a_checkpoint_says_its_step(tmp_path: Path) -> None:
    for index, variant in enumerate(("none", "no_x")):
        run = write_run(tmp_path / variant, "a", variant, 0, {"val/psnr_y": 20.0})
        for name in ("set14", "set5"):
            told = said(run, "a", variant, 0, benchmark=name, step=20 + index)
            write_evaluation(run / "evaluation" / name / "last", [20.0 + index, 21.0], told)
    page = report(tmp_path / "page.html", tmp_path)
    names = [row[0] for row in table(page, "All results")[1:]]
    last = {"no_x": "last (step 21)", "none": "last (step 20)"}
    assert names == [
        line
        for name in ("set14", "set5")
        for line in (
            *(f"a/{variant}-s0 on {name}, {last[variant]}: restored" for variant in ("no_x", "none")),
            f"a/no_x-s0 on {name}, {last['no_x']} and 1 more: bicubic",
        )
    ]
    assert [page.index(f"<h2>a/{variant}-s0 on {name}") for name in ("set14", "set5") for variant in last] == sorted(
        page.index(f"<h2>a/{variant}-s0 on {name}") for name in ("set14", "set5") for variant in last
    )
    assert page[: page.index("</section>")].count("<b>21.00</b>") == 2  # the best of each set


def test_runs_on_other_photos_are_not_pooled_as_seeds(tmp_path: Path) -> None:
    for seed, photos in enumerate(("a", "a", "b")):
        run = write_run(tmp_path / f"{seed}", "x", "none", seed, {"val/psnr_y": 20.0 + seed})
        data = {"train": {"photos": 5, "hash": photos * 64}}
        (run / "environment.json").write_text(json.dumps({"data": data}))
    rows = table(report(tmp_path / "page.html", tmp_path), "x: last validation over seeds")[1:]
    assert [row[-1] for row in rows] == ["2", "1"]
    assert "photos trained on=5 (aaaaaaaa)" in rows[0][0]
    assert "photos trained on=5 (bbbbbbbb)" in rows[1][0]


def test_what_was_measured_on_other_photos_or_degradations_is_another_set(tmp_path: Path) -> None:
    def measure(variant: str, value: float, photos: str, root: str, degradation: str = "bicubic") -> None:
        made = {"name": "set14", "photos": {"roots": root}, "degradation": {"_target_": degradation}}
        settings = {} if degradation == "bicubic" else {"degradation": degradation}
        inputs = {"photos": photos, "benchmark": made}
        told = said(tmp_path / "gone", "a", variant, 0, benchmark="set14", settings=settings, inputs=inputs)
        write_evaluation(tmp_path / f"{variant}-{photos}-{degradation}", [value, value], told)

    measure("none", 25.0, "a", "here")
    measure("no_x", 22.0, "a", "there")  # the same photos in another place
    measure("none", 29.0, "a", "here", "light")
    measure("no_y", 27.0, "b", "other")
    page = report(tmp_path / "page.html", tmp_path)
    overview = page[page.index("All results") : page.index("</section>", page.index("All results"))]
    assert "Different images" in overview
    assert [value for value in ("22.00", "25.00", "27.00", "29.00") if f"<b>{value}</b>" in overview] == [
        "25.00", "27.00", "29.00",
    ]  # fmt: skip
    assert [row[0] for row in table(page, "Ablation: a on set14, last<")[1:]] == ["none", "no_x"]
    assert "a on set14, last: no_x-s0, none-s0 and no_y-s0 were measured on different photos" in page


@pytest.mark.parametrize(("recorded", "cwd"), [("absolute", "."), ("relative", "."), ("relative", "copy")])
def test_a_curve_covers_milestones_of_its_own_run_alone(
    recorded: str, cwd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "copy"):  # of the same name, variant and seed
        run = write_run(tmp_path / name / "runs", "a", "none", 0, {"val/psnr_y": 20.0})
        named = run if recorded == "absolute" else Path("runs")  # of the folder in which the evaluation was started
        told = said(named, "a", "none", 0, checkpoint="step-10", step=10)
        write_evaluation(run / "evaluation" / "step-10", [20.0], told)
    summary = json.loads((run / "evaluation" / "step-10" / "summary.json").read_text())
    point = {"step": 10, "checkpoint": "step-10", "methods": summary["methods"]}
    one = tmp_path / "one" / "runs" if recorded == "absolute" else named
    curve = {**said(one, "a", "none", 0), "metrics": summary["metrics"], "points": [point], "problems": []}
    (tmp_path / "one" / "runs" / "curve.json").write_text(json.dumps(curve))
    monkeypatch.chdir(tmp_path / cwd)
    page = report(tmp_path / "page.html", tmp_path)
    assert page.count("<h2>a/none-s0 on set5, step-10</h2>") == 1
