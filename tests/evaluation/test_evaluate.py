import csv
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sspir.__main__ import main
from sspir.captioners.base import Captioner, Images, NoCaption
from sspir.commands.evaluate import spelt_out
from sspir.config.compose import compose_config
from sspir.config.sweep import sharing_out
from sspir.errors import UserError
from sspir.evaluation.benchmark import Benchmark
from sspir.evaluation.evaluate import Evaluation, _loaded, evaluate
from sspir.evaluation.record import REVISION, identity_of, record_of
from sspir.files import alone_in, sha256
from sspir.images.io import read_image
from sspir.metrics.psnr_ssim import psnr
from sspir.peers import find_peers, restored
from sspir.report.collect import collect
from sspir.report.page import build
from sspir.seeding import sample_seed
from sspir.weights.load import load_pipeline
from tests.captioners.test_captioner import Versioned
from tests.needs import needs
from tests.peers.networks import brighter, ncnn_files, rrdbnet_file, torch_twin
from tests.pipelines import photo
from tests.runs import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    tiny_run(folder, photo_folder, "trainer.max_steps=2")
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> list[str]:
    """The overrides of a benchmark of two photos, of which the first has words beside it."""
    folder = tmp_path_factory.mktemp("captioned")
    shutil.copytree(photo_folder / "val", folder, dirs_exist_ok=True)
    (folder / "0.txt").write_text("a red house")
    return ["benchmark=set5", f"benchmark.photos.roots={folder}", "+benchmark.photos.captions=beside", "metric=fast"]


class Looking(Captioner):
    """Says the same of every photo; keeps what it was asked, and when it was closed."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...] | str] = []

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        self.calls += [tuple(image.shape) for image in images]
        return ["an old house"] * len(images)

    def close(self) -> None:
        self.calls.append("closed")


def test_a_benchmark_leaves_images_rows_and_a_summary(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    overrides = [
        f"run={run}",
        "benchmark=photos",
        "metric=fast",
        f"benchmark.photos.root={photo_folder}",
        f"out={tmp_path}",
    ]
    summary = evaluate(compose_config("evaluate", overrides))
    assert {"restored", "processor", "bicubic"} <= summary["methods"].keys()
    assert summary["methods"]["restored"]["psnr_y"]["n"] == 2
    assert json.loads((tmp_path / "summary.json").read_text())["methods"] == summary["methods"]
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert {(row["image"], row["method"]) for row in rows} >= {("0", "restored"), ("1", "bicubic")}
    assert {path.name for path in (tmp_path / "restored").iterdir()} == {"0.png", "1.png"}
    assert json.loads((tmp_path / "captions.json").read_text()).keys() == {"0", "1"}
    assert list((tmp_path / "wandb").rglob("*.wandb"))


def test_what_was_not_measured_is_said_with_its_reason(
    run: Path, captioned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSPIR_CACHE", str(tmp_path / "empty"))  # without weights of LPIPS
    niqe = "+metric.niqe._target_=sspir.metrics.NIQE"
    given = [f"run={run}", *captioned, niqe, "wandb=null", "limit=1", f"out={tmp_path}/out"]
    for _ in range(2):  # measured, and found finished
        caplog.clear()
        evaluate(compose_config("evaluate", given))
        lpips, small = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert lpips.startswith("lpips is left out: lpips needs the weights")
        assert small.startswith("niqe was not measured on 3 pictures, such as 0 of restored: NIQE needs")


def test_an_evaluation_that_would_measure_nothing_is_refused(
    run: Path, captioned: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each for each in captioned if each != "metric=fast"]
    assert main(["evaluate", str(run), *given, "metric=learned", f"out={tmp_path}/out"]) == 2
    told = capsys.readouterr().err
    assert "None of these metrics can be measured here; choose others by metric=NAME.\n  fid: " in told
    assert "  musiq: " in told
    assert not (tmp_path / "out").exists()


def test_evaluations_of_a_model_that_comes_along_are_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["run=shipped/tiny", "benchmark=skimage"]
    assert compose_config("evaluate", given).out == "evaluation/shipped/tiny/skimage/last"
    (tmp_path / "shipped" / "tiny" / "evaluation").mkdir(parents=True)  # where one of before went
    assert compose_config("evaluate", given).out == "evaluation/shipped/tiny/skimage/last"
    (tmp_path / "shipped" / "tiny" / "model_index.json").touch()  # somebody's own
    assert compose_config("evaluate", given).out == "shipped/tiny/evaluation/skimage/last"


def test_a_border_that_is_not_measured_is_an_evaluation_of_its_own(
    run: Path, captioned: list[str], tmp_path: Path
) -> None:
    overrides = [f"run={run}", *captioned, "wandb=null", "limit=1", "crop_border=4"]
    assert "/set5/last-limit1-crop_border4-" in compose_config("evaluate", overrides).out
    summary = evaluate(compose_config("evaluate", [*overrides, f"out={tmp_path}"]))
    assert (summary["settings"]["crop_border"], summary["evaluation"]["settings"]["crop_border"]) == (4, 4)
    restored, hq = (read_image(tmp_path / f"{role}/0.png").tensor()[None, :, 4:-4, 4:-4] for role in ("restored", "hq"))
    assert summary["methods"]["restored"]["psnr_y"]["mean"] == pytest.approx(psnr(restored, hq).item(), abs=1e-4)
    whole = evaluate(compose_config("evaluate", [*overrides, "crop_border=0", f"out={tmp_path}"]))
    assert whole["methods"]["restored"]["psnr_y"] != summary["methods"]["restored"]["psnr_y"]
    with pytest.raises(UserError, match="crop_border: -1 is no whole number"):
        evaluate(compose_config("evaluate", [*overrides, "crop_border=-1", f"out={tmp_path}"]))
    with pytest.raises(UserError, match="leaves nothing"):
        evaluate(compose_config("evaluate", [*overrides, "crop_border=1000", f"out={tmp_path}"]))


def test_the_same_evaluation_gives_the_same_numbers(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    def scores(out: Path, *changes: str) -> dict:
        base = [
            f"run={run}",
            "benchmark=photos",
            "metric=fast",
            f"benchmark.photos.root={photo_folder}",
            "limit=1",
            "wandb=null",
        ]
        return evaluate(compose_config("evaluate", [*base, f"out={out}", *changes]))["methods"]["restored"]

    first = scores(tmp_path / "a")
    assert scores(tmp_path / "b") == first
    assert scores(tmp_path / "c", "seed=1") != first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=18446744073709551616", "seed: 18446744073709551616 is no whole number from 0"),
        ("limit=-3", "limit: -3 is no whole number from 1"),
        ("device=nonsense", "The device 'nonsense' cannot be used"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(
    change: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", f"run={tmp_path}", "benchmark=skimage", "wandb=null", change]) == 2
    assert told in capsys.readouterr().err


def test_files_of_other_makers_and_photos_of_one_name_are_refused(
    run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs" / "hq").mkdir(parents=True)
    given = [f"run={run}", "benchmark=photos", "metric=fast", "wandb=null"]
    with pytest.raises(UserError, match=r"pairs/hq was not written by an evaluation .*choose another out"):
        evaluate(compose_config("evaluate", [*given, f"benchmark.photos.root={photo_folder}", f"out={tmp_path}/pairs"]))
    shutil.copytree(photo_folder, tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "val" / "0.png", tmp_path / "photos" / "val" / "0.webp")
    with pytest.raises(UserError, match=r"Two photos of photos would both be 0.png in the results"):
        evaluate(
            compose_config("evaluate", [*given, f"benchmark.photos.root={tmp_path}/photos", f"out={tmp_path}/out"])
        )


def test_a_run_that_is_not_there_is_named_and_no_folder_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for named in (["run=nowhere"], ["nowhere"], ["--multirun", f"run={tmp_path},nowhere"]):
        assert main(["evaluate", *named, "benchmark=skimage", "wandb=null"]) == 2
        assert "There is no folder nowhere" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_folder_for_several_evaluations_is_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    remedy = "out=DIR/${run}/${benchmark.name}/${evaluation:}"
    for given, shared in (
        (["a", "benchmark=set5,set14", "out=res"], "(benchmark)"),
        (["a", "b", "benchmark=set5", "checkpoint=all", "out=res/${benchmark.name}"], "(run)"),
        (["--multirun", "run=a", "benchmark=set5", "checkpoint=last,best", "out=res"], "(checkpoint)"),
        (["-m", "run=a,b", "benchmark=set5", "+sampler.steps=1,2", "out=res/${run}"], "(sampler.steps)"),
        (["a", "b", "benchmark=set5", "out=res/${evaluation:}"], "(run)"),
        (["a", "benchmark=set5,set14", "++out=res"], "(benchmark)"),
        (
            ["a", "b", "benchmark=set5", "checkpoint=last,best", "out=res/${run}/${benchmark.name}/checkpoint"],
            "(checkpoint)",
        ),
        (["a", "b", "benchmark=set5,set14", "out=x,y"], "(run, benchmark)"),
    ):
        assert main(["evaluate", *given]) == 2
        told = capsys.readouterr().err
        assert shared in told
        assert f"'{remedy}'" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert sharing_out(["--multirun", "run=a", "out=x,y"]) == []
    for out in (remedy, "out=${run}/${benchmark.name}/${checkpoint},y", "out=${hydra:job.num}"):
        assert sharing_out(["--multirun", "run=a,b", "benchmark=set5,set14", "checkpoint=last,best", out]) == []
    composed = compose_config("evaluate", ["run=a", "benchmark=set5", remedy])
    assert composed.out == "DIR/a/set5/last"


def test_photos_of_a_benchmark_that_are_not_there_name_the_variable(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("SSPIR_DATA", f"{tmp_path}/gone")
    assert main(["evaluate", f"run={run}", "benchmark=set14", f"out={tmp_path}/out"]) == 2
    told = "give a folder with images, or export SSPIR_DATA=DIR, the folder of all data (now"
    assert f"{tmp_path}/gone/benchmarks/set14/HQ is not a folder; {told} {tmp_path}/gone)." in capsys.readouterr().err
    monkeypatch.setenv("SSPIR_PHOTOS", "gone")
    assert main(["evaluate", f"run={run}", "benchmark=photos", f"out={tmp_path}/out"]) == 2
    assert "or export SSPIR_PHOTOS=DIR, the folder of your photos (now gone)." in capsys.readouterr().err
    given = [f"run={run}", "benchmark=photos", f"benchmark.photos.root={tmp_path}/gone", f"out={tmp_path}/out"]
    assert main(["evaluate", *given]) == 2
    assert "SSPIR_DATA" not in capsys.readouterr().err


@pytest.mark.thorough
def test_a_model_that_comes_along_is_measured_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["benchmark=skimage", "limit=1", "wandb=null", "metric=fast", "+sampler.steps=1"]
    for name in ("shipped", "shipped/tiny"):
        assert main(["evaluate", f"run={name}", *given]) == 0
        assert (tmp_path / "evaluation" / name / "skimage").is_dir()


def test_unknown_sampler_settings_are_named(run: Path, photo_folder: Path, tmp_path: Path) -> None:
    overrides = [f"run={run}", "benchmark=photos", f"benchmark.photos.root={photo_folder}", f"out={tmp_path}"]
    with pytest.raises(UserError, match="stepps"):
        evaluate(compose_config("evaluate", [*overrides, "+sampler.stepps=3"]))


def test_photos_without_words_are_described_and_words_that_came_steer(
    run: Path, captioned: list[str], tmp_path: Path
) -> None:
    config = compose_config("evaluate", [f"run={run}", f"out={tmp_path}", "wandb=null", *captioned])
    evaluate(config)
    second = instantiate(config.benchmark)[1]
    pipeline = load_pipeline(run)
    said = pipeline.caption(second.lq, (48, 64))[0]
    assert said.startswith("a ")
    assert json.loads((tmp_path / "captions.json").read_text()) == {"0": "a red house", "1": said}
    wanted = pipeline.restore(second.lq, [said], (48, 64), [sample_seed(0, 0, "1.png")]).images[0]
    assert (read_image(tmp_path / "restored" / "1.png").tensor() - wanted).abs().max() <= 0.5 / 255 + 1e-6


@pytest.fixture
def evaluation(run: Path, captioned: list[str], tmp_path: Path) -> Evaluation:
    config = compose_config("evaluate", [f"run={run}", *captioned])
    pipeline, benchmark = load_pipeline(run), instantiate(config.benchmark)
    record = record_of(config, pipeline, benchmark, pipeline.sampler, "cpu")
    return Evaluation(pipeline, benchmark, pipeline.sampler, instantiate(config.metric), tmp_path, record)


def test_a_captioner_that_does_not_say_what_it_is_is_named_in_the_record(run: Path, captioned: list[str]) -> None:
    config = compose_config("evaluate", [f"run={run}", *captioned])
    pipeline, benchmark = load_pipeline(run), instantiate(config.benchmark)
    pipeline.captioner = Versioned()
    told = record_of(config, pipeline, benchmark, pipeline.sampler, "cpu")["inputs"]["captioner"]
    assert told == {"captioner": "tests.captioners.test_captioner.Versioned", "version": "1"}


def test_pictures_of_any_ids_lie_in_the_results(
    run: Path, captioned: list[str], tmp_path: Path, photo_folder: Path
) -> None:
    config = compose_config("evaluate", [f"run={run}", *captioned, "metric={}"])
    pipeline, benchmark = load_pipeline(run), instantiate(config.benchmark)
    ids = (f"{photo_folder}/val/0.png", "../../b.0", "../../b.1", 3)
    photos = [{"id": each, "hq": photo(32, 32), "caption": ""} for each in ids]
    benchmark = Benchmark("mine", photos, benchmark.degradation)
    record = record_of(config, pipeline, benchmark, pipeline.sampler, "cpu")
    evaluation = Evaluation(pipeline, benchmark, pipeline.sampler, {}, tmp_path / "out", record)
    evaluation.begin()
    evaluation.describe(evaluation.places)
    for place in evaluation.places:
        evaluation.measure(place)
    names = [f"{photo_folder}/val/0"[1:], "b.0", "b.1", "3"]
    wanted = {f"{method}/{name}.png" for method in ("hq", "lq", "restored", "processor") for name in names}
    assert {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.png")} == wanted


def test_a_captioner_is_asked_once_where_no_words_came_and_is_freed(evaluation: Evaluation) -> None:
    evaluation.pipeline.captioner = looking = Looking()
    for _ in range(2):
        evaluation.describe(["0", "1"])
    assert {place: entry["caption"] for place, entry in evaluation.journal.captions.items()} == {
        "0": "a red house",
        "1": "an old house",
    }
    assert looking.calls == [(3, 48, 64), "closed", "closed"]


def test_a_captioner_without_words_says_nothing_of_photos_that_have_some(evaluation: Evaluation) -> None:
    evaluation.pipeline.captioner = NoCaption()
    evaluation.describe(["0"])
    evaluation.measure("0")
    assert evaluation.journal.entries["0"]["caption"] == ""


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_a_stopped_evaluation_goes_on_and_a_finished_one_is_left_alone(
    run: Path, captioned: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    config = compose_config("evaluate", [f"run={run}", "wandb=null", *captioned])
    summary, out = evaluate(config), Path(config.out)
    before = times(out)
    assert evaluate(config) == summary
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(run.parent)
        assert evaluate(compose_config("evaluate", [f"run={run.name}", "wandb=null", *captioned])) == summary
    assert times(out) == before
    assert "is finished; nothing to do" in caplog.text
    lines = (out / "evaluate.jsonl").read_bytes()
    (out / "evaluate.jsonl").write_bytes(lines[:-30])  # what a kill within the last line leaves
    (out / "summary.json").unlink()
    with alone_in(out, "out=FOLDER"), pytest.raises(UserError, match=f"Another process writes into {out}"):
        evaluate(config)
    assert evaluate(config) == summary
    after = times(out)
    assert after["restored/0.png"] == before["restored/0.png"]
    assert after["restored/1.png"] > before["restored/1.png"]


def test_a_finished_evaluation_of_before_is_left_alone(
    run: Path, captioned: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def call(*changes: str) -> dict:
        given = [f"run={run}", f"out={tmp_path}", "wandb=null", *captioned, "metric=fast", "~metric.lpips", *changes]
        return evaluate(compose_config("evaluate", given))

    caplog.set_level("INFO")
    new = call()["evaluation"]
    names = {"sspir.evaluation.Benchmark": "sspir.data.Benchmark", "sspir.metrics.": "sspir.metrics.fidelity."}
    text = json.dumps(new)
    for name, old in names.items():
        assert name in text
        text = text.replace(name, old)
    names[identity_of(new)] = identity_of(json.loads(text))
    for file in ("summary.json", "evaluate.jsonl"):
        text = (tmp_path / file).read_text()
        for name, old in names.items():
            text = text.replace(name, old)
        (tmp_path / file).write_text(text)
    before = times(tmp_path)
    assert call()["evaluation"]["inputs"]["benchmark"]["_target_"] == "sspir.data.Benchmark"
    assert "is finished; nothing to do" in caplog.text
    assert times(tmp_path) == before
    assert call("~metric.ssim_y")["evaluation"]["metrics"].keys() == {"psnr_y"}  # taken from what was measured before
    after, pictures = times(tmp_path), [name for name in before if name.startswith("restored/")]
    assert pictures
    assert [after[name] for name in pictures] == [before[name] for name in pictures]


def test_an_evaluation_of_an_older_version_is_done_anew(
    run: Path, captioned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [f"run={run}", f"out={tmp_path}", "wandb=null", *captioned, "metric=fast", "~metric.lpips"]
    with monkeypatch.context() as older:
        older.setattr("sspir.evaluation.record.REVISION", REVISION - 1)
        evaluate(compose_config("evaluate", given))
    before = times(tmp_path)
    assert evaluate(compose_config("evaluate", given))["evaluation"]["inputs"]["revision"] == REVISION
    assert times(tmp_path)["restored/0.png"] > before["restored/0.png"]


def test_more_metrics_are_measured_and_fewer_are_taken_from_what_was(run: Path, captioned: list[str]) -> None:
    def call(*changes: str) -> dict:
        return evaluate(compose_config("evaluate", [f"run={run}", "wandb=null", *captioned, "seed=7", *changes]))

    few = call()
    out = next(run.glob("evaluation/set5/*seed7*"))
    many = call("+metric.psnr_rgb={_target_: sspir.metrics.PSNR, channels: rgb}", "noise_control=true")
    assert {"psnr_y", "psnr_rgb"} <= many["methods"]["restored"].keys()
    assert "noise@restored" in many["methods"]
    before = times(out / "restored")
    again = call()
    assert again == few
    assert times(out / "restored") == before


@pytest.mark.thorough
def test_another_evaluation_in_the_folder_is_replaced(run: Path, captioned: list[str], tmp_path: Path) -> None:
    def call(*changes: str) -> dict:
        return evaluate(
            compose_config("evaluate", [f"run={here}", f"out={tmp_path / 'out'}", "wandb=null", *captioned, *changes])
        )

    here = shutil.copytree(run, tmp_path / "run")
    first = call()
    with_limit = call("limit=1")
    assert [path.name for path in (tmp_path / "out" / "restored").iterdir()] == ["0.png"]
    assert with_limit["methods"]["restored"]["psnr_y"]["n"] == 1
    path = here / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    moved = {name: 1.01 * value for name, value in state["ema"].items()}  # as if the run was trained on
    torch.save({**state, "ema": moved, "global_step": 9}, path)
    second = call()
    assert second["methods"]["restored"] != first["methods"]["restored"]
    assert (first["evaluation"]["step"], second["evaluation"]["step"]) == (2, 9)


@pytest.mark.slow
def test_a_sweep_over_runs_and_checkpoints_keeps_them_apart(
    run: Path, captioned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("evaluation"))
    sweep = ["run=runs/a,runs/b", "checkpoint=last,best", "limit=1", "wandb=null"]
    assert main(["evaluate", "--multirun", *captioned, *sweep]) == 0
    found = sorted(path.relative_to(tmp_path).parts for path in tmp_path.rglob("summary.json"))
    found = [parts for parts in found if "evaluation" in parts]
    assert [(parts[1], parts[4].partition("-")[0]) for parts in found] == [
        ("a", "best"), ("a", "last"), ("b", "best"), ("b", "last"),
    ]  # fmt: skip
    for parts in found:
        folder = tmp_path.joinpath(*parts).parent
        rows = list(csv.DictReader((folder / "images.csv").open()))
        assert {row["role"]: row["path"] for row in rows}["restored"] == "restored/0.png"
        told = json.loads((folder / "summary.json").read_text())["evaluation"]
        assert {key: told[key] for key in ("run", "name", "variant", "seed", "benchmark", "checkpoint", "step")} == {
            "run": f"runs/{parts[1]}", "name": "tiny", "variant": "none", "seed": 0, "benchmark": "set5",
            "checkpoint": parts[4].partition("-")[0], "step": 2,
        }  # fmt: skip
        assert told["settings"]["limit"] == 1
        assert told["inputs"]["sampler"]["steps"] == 2


@pytest.mark.thorough
def test_several_runs_and_benchmarks_in_one_command_load_each_run_once(
    run: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "it's another, run"))
    loaded: list[str] = []

    def counted(path: str, *arguments: object, **options: object) -> object:
        loaded.append(path)
        return load_pipeline(path, *arguments, **options)

    _loaded.cache_clear()  # what tests before have loaded
    monkeypatch.setattr("sspir.evaluation.evaluate.load_pipeline", counted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSPIR_PHOTOS", str(photo_folder))
    options = ["benchmark=photos,skimage", "metric=fast", "limit=1", "wandb=null"]
    assert main(["evaluate", str(run), other.name, *options]) == 0
    assert loaded == [str(run), other.name]
    for folder in (run, other):
        found = {path.parent.parent.name for path in (folder / "evaluation").rglob("summary.json")}
        assert {"photos", "skimage"} <= found, folder


@pytest.mark.thorough
def test_peers_restore_the_same_pictures_and_all_that_is_known_of_their_cost_is_told(
    run: Path, captioned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sspir.peers.cost.SIDE", 16)  # which takes a moment
    needs("ncnn", "peers")
    OmegaConf.save(
        {"_target_": "sspir.peers.NcnnPeer", "scale": 2, **ncnn_files(tmp_path, torch_twin())}, tmp_path / "twice.yaml"
    )
    other = rrdbnet_file(tmp_path / "rrdb.pth")
    given = [f"run={run}", *captioned, "wandb=null", f"out={tmp_path}/out", "noise_control=true", "cost=true"]
    config = compose_config("evaluate", [*given, f"peers=[{tmp_path}/twice.yaml,{other}]"])
    summary = evaluate(config)
    assert {"restored", "processor", "twice", "rrdb", "bicubic", "noise@rrdb"} <= summary["methods"].keys()
    assert any({pair["a"], pair["b"]} == {"restored", "rrdb"} for pair in summary["comparisons"])
    assert summary["peers"]["rrdb"]["checksum"] == sha256(other) == summary["evaluation"]["inputs"]["peers"]["rrdb"]
    lq = read_image(tmp_path / "out" / "lq" / "1.png").tensor()[None]
    made = read_image(tmp_path / "out" / "rrdb" / "1.png").tensor()[None]
    wanted = restored(find_peers([str(other)])["rrdb"], lq, made.shape[-2:])
    assert (made - wanted).abs().max() <= 0.5 / 255 + 0.02  # lq was written in 8 bits
    cost = summary["cost"]["methods"]
    assert cost.keys() == {"restored", "processor", "twice", "rrdb", "bicubic"}
    assert all(cells["cpu_seconds"] > 0 for cells in cost.values())
    assert cost["bicubic"]["macs"] is None
    assert cost["restored"]["macs"] > cost["processor"]["macs"] > 0
    assert cost["restored"]["parameters"] > cost["processor"]["parameters"] > cost["bicubic"]["parameters"] == 0
    assert evaluate(config) == summary
    assert "<th>MACs<small>16 x 16 to 64 x 64</small></th>" in build(
        collect([tmp_path / "out"]), "title", images=1, quality=50
    )
    without = compose_config("evaluate", [f"run={run}", *captioned, "peers=[span,span_ch48]"])
    assert without.out.endswith("-peers_span,span_ch48")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The classes of `examples/own`, for one test."""
    monkeypatch.setenv("SSPIR_PATH", str(Path(__file__).parents[2] / "examples" / "own"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own", None)  # another test's may have that name


@pytest.mark.thorough
def test_what_an_evaluation_has_written_is_measured_alike_by_a_comparison(
    run: Path, captioned: list[str], tmp_path: Path, own: None
) -> None:
    given = [
        *(each for each in captioned if each != "metric=fast"),
        "metric=[fast,worst_pixel]",
        "degradation@benchmark.degradation=light",
        "noise_control=true",
    ]
    place, folders = tmp_path / "evaluated", []
    assert main(["evaluate", str(run), *given, "wandb=null", f"out={place}"]) == 0
    for name in ("restored", "processor"):
        folders += ["--method", f"{name}={place}/{name}"]
    folders += ["--hq", f"{place}/hq", "--lq", f"{place}/lq", "--out", f"{tmp_path}/compared", "--workers", "1"]
    assert main(["compare", *folders, "--noise-control", "processor", "--metrics", "fast", "worst_pixel"]) == 0
    evaluated, compared = (
        {(row["image"], row["method"]): row for row in csv.DictReader((path / "per_image.csv").open())}
        for path in (place, tmp_path / "compared")
    )
    assert evaluated.keys() == compared.keys() >= {("0", "noise@restored"), ("1", "noise@bicubic")}
    for key, row in evaluated.items():
        for metric in row.keys() - {"image", "method"}:
            assert float(row[metric]) == pytest.approx(float(compared[key][metric]), rel=1e-5), (key, metric)


def test_what_compares_folders_is_measured(run: Path, captioned: list[str], tmp_path: Path) -> None:
    count = "+metric.count._target_=tests.training.test_fit.Count"
    overrides = [f"run={run}", *captioned, count, f"out={tmp_path}"]
    methods = evaluate(compose_config("evaluate", overrides))["methods"]
    assert {method: cells["count"]["mean"] for method, cells in methods.items() if "count" in cells} == {
        "restored": 10,
        "processor": 10,
    }


def test_a_run_is_named_once_before_the_equals_sign() -> None:
    with pytest.raises(UserError, match="run= stands once; several runs are named without it"):
        spelt_out(["run=shipped", "run=shipped/tiny", "benchmark=set5"])


@pytest.mark.thorough
def test_a_peer_of_ones_own_with_other_settings_is_measured_anew(
    run: Path, captioned: list[str], tmp_path: Path
) -> None:
    told = set()

    def mean(plus: float) -> float:
        given = [f"run={run}", *captioned, "limit=1", f"out={tmp_path}/out"]
        config = compose_config("evaluate", [*given, f"peers=[{brighter(tmp_path / 'own.yaml', plus)}]"])
        summary = evaluate(config)
        told.add(summary["peers"]["own"]["checksum"])
        return summary["methods"]["own"]["psnr_y"]["mean"]

    assert mean(0) == mean(0) > mean(0.5)
    assert len(told) == 2
