"""Training to restore in one step: what is trained is what is restored, and a step is one update."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from torch import Tensor

from sspir.batch import Batch
from sspir.config.build import build
from sspir.errors import UserError
from sspir.models.latent import decode_latents, encode_latents, upscale
from sspir.objectives import OneStep, PictureLoss, PixelLoss, Term
from sspir.training.checkpoint import load_checkpoint
from sspir.training.module import RestorationModule
from sspir.training.run import build_module, find_checkpoint, load_run
from tests.networks import wake
from tests.peers.networks import rrdbnet_file
from tests.pipelines import photo
from tests.runs import ONE_STEP, tiny_config, tiny_run


def module_of(tmp_path: Path, *changes: str) -> RestorationModule:
    module = build_module(tiny_config(tmp_path, tmp_path, *ONE_STEP, "module.caption_dropout=0", *changes)).eval()
    wake(module.backbone)
    return module


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in range(2)]


def two_photos() -> Batch:
    hq = torch.stack([photo(32, 32, 0), photo(32, 32, 1)])
    return Batch(hq[..., ::4, ::4], hq, ["", ""], ["0", "1"])


def generated(module: RestorationModule, lq: Tensor) -> Tensor:
    seen = upscale(lq, (96, 80))
    batch = Batch(lq, torch.zeros(2, 3, 96, 80), ["a", "a"], ["0", "1"])
    with torch.no_grad():
        features, images = module.backbone.structure(seen)
        return module.objective.generate(module, batch, seen, features, images, generators()).pictures


@pytest.mark.parametrize(
    "kind", ["sample", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("epsilon", "v_prediction"))]
)
@pytest.mark.parametrize("residual", ["1.5", "null"])
def test_what_is_trained_is_what_is_restored(tmp_path: Path, kind: str, residual: str) -> None:
    changes = [f"noise_schedule.prediction_type={kind}", f"module.residual={residual}", "sampler.colour=none"]
    module = module_of(tmp_path, *changes, "captioner=none")
    lq = torch.stack([photo(24, 20, 0), photo(24, 20, 1)])
    restored = module.pipeline.restore(lq, ["a", "a"], seeds=[0, 1]).images
    pictures = generated(module, lq)
    texts = module.pipeline.restore(lq, ["", ""], seeds=[0, 1]).images
    assert (pictures.clamp(0, 1) - texts).abs().max() < 1e-4
    assert not torch.equal(restored, texts)  # the caption counts


@pytest.mark.thorough
def test_a_clean_start_is_the_same_for_every_seed_and_a_noised_one_is_not(tmp_path: Path) -> None:
    lq = photo()[None]
    for noised in (False, True):
        pipeline = module_of(tmp_path, f"objective.noised={noised}").pipeline
        one, two = (pipeline.restore(lq, ["a"], seeds=[seed]).images for seed in (0, 1))
        assert torch.equal(one, two) != noised


class Deep(PixelLoss):
    """A loss whose network takes pictures of 32 pixels, as LPIPS does."""

    shifted, least = True, 32


def test_patches_that_are_too_small_for_a_loss_are_told_by_their_setting(photo_folder: Path, tmp_path: Path) -> None:
    term = "{_target_:sspir.objectives.Term,weight:1,steps:[9,99],loss:{_target_:tests.objectives.test_one_step.Deep}}"
    with pytest.raises(UserError, match=r"^objective\.terms\.deep takes .* 32 it sees 29, .*train\.crop\.size to 35"):
        tiny_run(tmp_path / "run", photo_folder, *ONE_STEP, f"+objective.terms.deep={term}")


def test_the_knobs_of_a_one_step_model(tmp_path: Path) -> None:
    pipeline = module_of(tmp_path, "module.residual=1.0").pipeline
    assert pipeline.settings(fidelity=0.5, colour="none", steps=1).steps == 1
    for change in ({"steps": 4}, {"start": 100}, {"guidance": 3.0}, {"scheduler": "UniPCMultistepScheduler"}):
        with pytest.raises(UserError, match=f"takes no {next(iter(change))};"):
            pipeline.settings(**change)
    lq = photo()[None]
    done = [pipeline.restore(lq, ["a"], sampler=pipeline.settings(fidelity=share)) for share in (0, 0.5, 1)]
    full, half, none = (each.images for each in done)
    kept = decode_latents(pipeline.vae, encode_latents(pipeline.vae, done[2].structure[0])).clamp(0, 1)
    assert (none - kept).abs().max() < 1e-5
    inside = (full > 0) & (full < 1) & (none > 0) & (none < 1)
    assert ((full + none) / 2 - half)[inside].abs().max() < 1e-5
    saved = tmp_path / "saved"
    pipeline.save_pretrained(saved)
    loaded = type(pipeline).from_pretrained(saved)
    assert torch.equal(loaded.restore(lq, ["a"]).images, full)


class Constant(PictureLoss):
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        self.seen.append(target)
        return pictures.mean()


class Shifted(Constant):
    shifted = True


def losses_at(step: int, objective: OneStep, module: Any, batch: Batch) -> dict[str, Tensor]:
    class Module:  # the trainer's count, which a module without a trainer lacks
        global_step = step

        def __getattr__(self, name: str) -> Any:
            return getattr(module, name)

    lq = upscale(batch.lq, batch.size)
    features, images = module.backbone.structure(lq)
    return objective.losses(Module(), batch, lq, features, images)


def test_targets_follow_the_schedule(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    module.generators = lambda count: generators()
    batch = two_photos()
    losses = {name: Constant() for name in ("free", "both", "late")}
    terms = {
        "free": Term(losses["free"], 1.0),
        "both": Term(losses["both"], 2.0, "both"),
        "late": Term(losses["late"], 1.0, "truth", (3, 4)),
        "off": Term(PixelLoss(), 0.0),
    }
    objective = OneStep(terms, teacher=lambda lq: upscale(lq, (32, 32)), teacher_steps=2)
    made = upscale(batch.lq, (32, 32))
    assert losses_at(0, objective, module, batch).keys() == {"free", "both"}
    assert torch.equal(losses["free"].seen[-1], made)
    assert [torch.equal(a, b) for a, b in zip(losses["both"].seen, (batch.hq, made), strict=True)] == [True, True]
    assert losses_at(3, objective, module, batch).keys() == {"free", "both", "late"}
    assert torch.equal(losses["free"].seen[-1], batch.hq)
    losses_at(0, objective, module, replace(batch, teacher=batch.hq / 2))
    assert torch.equal(losses["free"].seen[-1], batch.hq / 2)
    wrong = OneStep(terms, teacher=lambda lq: lq, target="teacher")
    with pytest.raises(UserError, match="The teacher makes 8 x 8 pixels of 8 x 8, and the truth has 32 x 32"):
        losses_at(0, wrong, module, batch)
    late = {"late": Term(PixelLoss(), 1.0, "teacher", (100, 200)), "truth": Term(PixelLoss(), 1.0)}
    for untaught in (OneStep(terms, target="teacher"), OneStep(late)):  # said at once, not after a hundred steps
        with pytest.raises(UserError, match="sspir teach"):
            losses_at(0, untaught, module, batch)
    with pytest.raises(UserError, match="nothing finds the teacher 'realesrgan'"):
        OneStep(terms, teacher="realesrgan")
    with pytest.raises(UserError, match="no term"):
        OneStep({"off": terms["off"], "none": None})


def test_losses_that_look_with_a_stride_see_both_pictures_moved_alike(tmp_path: Path) -> None:
    module, loss = module_of(tmp_path), Shifted()
    batch = two_photos()
    places = set()
    for seed in range(8):
        seeds = (2 * seed, 2 * seed + 1)
        module.generators = lambda _, seeds=seeds: [torch.Generator().manual_seed(each) for each in seeds]
        losses_at(0, OneStep({"one": Term(loss, 1.0)}), module, batch)
        (first, second), size = loss.seen[-1], 29
        for image, seen in zip(batch.hq, (first, second), strict=True):
            corners = [(y, x) for y in range(4) for x in range(4)]
            found = [(y, x) for y, x in corners if torch.equal(image[:, y : y + size, x : x + size], seen)]
            assert len(found) == 1
            places.add(found[0])
    assert len(places) > 6


def trained(folder: Path) -> dict[str, Any]:
    return load_checkpoint(find_checkpoint(folder))


def test_a_step_is_one_update_of_the_generator(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    teacher = rrdbnet_file(tmp_path / "teacher.pth")
    changes = [*ONE_STEP, "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1"]
    done = tiny_run(folder, photo_folder, *changes, f"objective.teacher={teacher}", "objective.target=both")
    teacher.unlink()  # a run is read without its teacher
    state = trained(folder)
    assert (done["step"], state["global_step"]) == (4, 4)
    generator, discriminator = state["optimizer_states"][0], state["objective"]["optimizer"]
    for optimizer in (generator, discriminator):
        assert {int(each["step"]) for each in optimizer["state"].values()} == {4}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "loss/adversarial" in line]
    assert len(told) == 4
    figures = ("gradient_norm", "discriminator/gradient_norm", "discriminator/accuracy", "discriminator/loss")
    assert all(line[name] >= 0 for line in told[1:] for name in figures)
    record = OmegaConf.load(folder / "config.yaml")
    record.module.objective.terms.lpips.weight = 1.0  # whose weights are not on this machine either
    OmegaConf.save(record, folder / "config.yaml")
    assert load_run(folder).objective.one_step
    assert load_run(folder).pipeline.config.one_step
    keys = state["state_dict"].keys() | state["ema"].keys()
    assert not [key for key in keys if "discriminator" in key or "objective" in key]


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return one == two


class PowerCut(Callback):
    """Ends a run before its second batch."""

    batches = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.batches += 1
        if self.batches == 2:
            raise RuntimeError("no power")


@pytest.mark.thorough
def test_a_run_that_stopped_goes_on_to_the_last_bit(photo_folder: Path, tmp_path: Path) -> None:
    changes = [*ONE_STEP, "trainer.limit_val_batches=0", "trainer.accumulate_grad_batches=2", "checkpoint_every=1"]
    cut = "+callbacks.cut={_target_:tests.objectives.test_one_step.PowerCut}"
    tiny_run(tmp_path / "unbroken", photo_folder, *changes)
    tiny_run(tmp_path / "broken", photo_folder, *changes, "trainer.max_steps=2")
    with pytest.raises(RuntimeError, match="no power"):  # amid gradients that are accumulated
        tiny_run(tmp_path / "broken", photo_folder, *changes, cut)
    tiny_run(tmp_path / "broken", photo_folder, *changes)
    one, two = trained(tmp_path / "unbroken"), trained(tmp_path / "broken")
    for part in ("state_dict", "ema", "optimizer_states", "objective"):
        assert same(one[part], two[part]), part


class Broken(PixelLoss):
    """Has no finite gradient in the second step."""

    calls = 0

    def __call__(self, pictures: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return super().__call__(pictures, target) * (float("nan") if self.calls == 2 else 1)


@pytest.mark.thorough
def test_a_step_that_is_left_out_leaves_both_networks_sound(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    loss = "{_target_:tests.objectives.test_one_step.Broken}"
    changes = [*ONE_STEP, f"objective.terms.pixel.loss={loss}", "trainer.max_steps=3", "trainer.val_check_interval=3"]
    assert tiny_run(folder, photo_folder, *changes)["skipped_steps"] == 1
    state = trained(folder)
    assert {int(each["step"]) for each in state["optimizer_states"][0]["state"].values()} == {2}
    assert {int(each["step"]) for each in state["objective"]["optimizer"]["state"].values()} == {3}
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_settings_that_would_train_something_else_are_refused(tmp_path: Path) -> None:
    for change in ("sampler.steps=4", "sampler.guidance=2", "sampler.start=null"):
        with pytest.raises(UserError, match="add sampler=one_step"):
            build(tiny_config(tmp_path, tmp_path, *ONE_STEP, change).module)
    with pytest.raises(UserError, match="frequency is the name of another loss"):
        OneStep({"frequency": Term(PixelLoss(), 1.0)})
    for steps in (5, [5], [0, None]):
        with pytest.raises(UserError, match="first step"):
            Term(PixelLoss(), 1.0, steps=steps)
    with pytest.raises(UserError, match=r"steps=\[5, 3\] holds no step"):
        Term(PixelLoss(), 1.0, steps=[5, 3])
    with pytest.raises(UserError, match="-3 is no whole number from 0"):
        Term(PixelLoss(), 1.0, steps=[-3, 5])
    with pytest.raises(UserError, match="0 is no whole number"):
        Term(PixelLoss(), 1.0, every=0)


def test_a_step_of_nothing_is_a_step(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    module.generators = lambda count: generators()
    losses = losses_at(1, OneStep({"rare": Term(PixelLoss(), 1.0, every=2)}), module, two_photos())
    assert losses["nothing"].item() == 0
    losses["nothing"].backward()


def test_a_term_counts_in_its_steps_and_at_every_so_many_th() -> None:
    term = Term(PixelLoss(), 1.0, steps=(3, 9), every=2)
    assert [step for step in range(12) if term.acts(step)] == [3, 5, 7]


def test_all_losses_are_in_the_sum(tmp_path: Path) -> None:
    module = module_of(tmp_path, "objective.terms.spectrum.weight=1", "objective.adversary=null")
    module.generators = lambda count: generators()
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    total = module.training_step(two_photos(), 0)
    module.on_before_optimizer_step(None)
    parts = {name: value for name, value in logged.items() if name != "loss/total"}
    assert parts.keys() == {f"loss/{name}" for name in ("rgb", "frequency", "pixel", "spectrum")}
    assert total.item() == pytest.approx(sum(value.item() for value in parts.values()), rel=1e-5)
