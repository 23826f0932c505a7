"""The pipeline from Python: what it takes, what it gives, and the laws that its results keep."""

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sspir
from sspir.captioners.base import NoCaption
from sspir.color import luma
from sspir.errors import UserError
from sspir.sampling.look import look
from tests.pipelines import photo, tiny_pipeline, write_photo

LONG = "a house with a red roof" + ", a red roof" * 30


def restored(*arguments: object, **options: object) -> list[torch.Tensor]:
    return tiny_pipeline()(*arguments, output_type="pt", **options).images


def test_save_and_load_change_no_bit(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = sspir.RestorationPipeline.from_pretrained(pretrained_model_name_or_path=tmp_path)
    expected = {name for name, part in pipeline.components.items() if part is not None}
    assert {name for name, part in loaded.components.items() if part is not None} == expected
    assert {"image_encoder", "refine", "processor", "unet_image", "controlnet_image", "unet_pixel"} <= expected
    assert torch.equal(loaded(photo(), "a", output_type="pt").images[0], restored(photo(), "a")[0])
    assert loaded.sampler == pipeline.sampler
    parameters = {id(p) for part in expected for p in getattr(getattr(loaded, part), "parameters", list)()}
    assert {id(p) for p in loaded.backbone.parameters()} <= parameters  # what runs is what is saved and moved


def test_a_pipeline_with_another_sampler_and_captioner_can_be_saved(tmp_path: Path) -> None:
    pipeline = sspir.load_pipeline("shipped/tiny")
    pipeline.sampler, pipeline.captioner = pipeline.settings(steps=3), NoCaption()
    pipeline.save_config(tmp_path)
    saved = json.loads((tmp_path / "model_index.json").read_text())
    assert (saved["sampler"]["steps"], saved["captioner"]) == (3, "MeasuredCaptioner")


@pytest.mark.thorough
def test_a_pipeline_that_has_restored_can_be_pickled_and_copied() -> None:
    pipeline = copy.deepcopy(tiny_pipeline())
    first = pipeline(photo(), "a", output_type="pt").images[0]
    for other in (pickle.loads(pickle.dumps(pipeline)), copy.deepcopy(pipeline), pipeline):
        assert torch.equal(other(photo(), "a", output_type="pt").images[0], first)


@pytest.mark.thorough
def test_a_first_look_of_a_model_of_one_step_takes_its_step() -> None:
    pipeline = copy.deepcopy(tiny_pipeline())
    pipeline.register_to_config(one_step=True)
    pipeline.sampler = replace(pipeline.sampler, steps=1, start=600)
    lq = photo()[None]
    shown = look(pipeline, lq, (96, 80), "restored")
    assert torch.equal(shown, pipeline.restore(lq, [""], (96, 80)).images)


@pytest.mark.thorough
def test_a_first_look_of_a_model_that_starts_low_takes_the_steps_that_there_are() -> None:
    pipeline = copy.deepcopy(tiny_pipeline())
    pipeline.sampler = replace(pipeline.sampler, steps=2, start=5)
    shown = look(pipeline, photo()[None], (96, 80), "restored")
    five = replace(pipeline.sampler, steps=5, guidance=1.0)
    assert torch.equal(shown, pipeline.restore(photo()[None], [""], (96, 80), sampler=five).images)


@pytest.mark.slow
def test_a_saved_pipeline_loads_in_a_fresh_process(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    code = f"import sspir; print(len(sspir.RestorationPipeline.from_pretrained({str(tmp_path)!r}).components))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(tiny_pipeline().components)), done.stderr


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, sspir; print('torch' in sys.modules, hasattr(sspir, 'nothing'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2


def test_the_same_seed_gives_the_same_picture_in_any_company() -> None:
    photos = [photo(24, 20, 1), photo(16, 24, 2), photo(24, 20, 3), photo(24, 20, 4)]
    captions = ["a", LONG, LONG, "b"]
    together = restored(photos, captions, seed=[5, 6, 7, 8], batch=4)
    backwards = restored(photos[::-1], captions[::-1], seed=[8, 7, 6, 5], batch=2)[::-1]
    for index in range(4):
        alone = restored(photos[index], captions[index], seed=5 + index)[0]
        assert (together[index] - alone).abs().max() < 1e-4
        assert (backwards[index] - alone).abs().max() < 1e-4
    for seed in (6, 5 + 2**32):
        assert (restored(photos[0], "a", seed=seed)[0] - together[0]).abs().max() > 1e-2


def test_captions_of_two_lengths_in_one_batch_stay_apart() -> None:
    pipeline = tiny_pipeline()
    lq = torch.stack([photo(seed=1), photo(seed=2), photo(seed=3)])
    batch = pipeline.restore(lq, [LONG, "a", LONG], seeds=[1, 2, 3])
    for index, caption in enumerate([LONG, "a", LONG]):
        alone = pipeline.restore(lq[[index]], [caption], seeds=[index + 1])
        assert (batch.images[index] - alone.images[0]).abs().max() < 1e-4
        assert batch.captions[index] == caption
        assert (batch.structure[0][index] - alone.structure[0][0]).abs().max() < 1e-4


def test_what_has_no_colour_gets_none_and_its_neighbour_keeps_its_own() -> None:
    pipeline, coloured = tiny_pipeline(), photo(seed=1)
    grey = luma(photo(seed=2)).expand(3, -1, -1)
    batch = pipeline.restore(torch.stack([grey, coloured]), ["", ""], seeds=[1, 2]).images
    assert (batch[0] - batch[0, :1]).abs().max() < 1e-6
    assert batch[0].std() > 1e-2
    alone = pipeline.restore(coloured[None], [""], seeds=[2]).images[0]
    assert (batch[1] - alone).abs().max() < 1e-4
    assert (batch[1] - batch[1, :1]).abs().max() > 1e-2


def test_photos_of_every_kind(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.png")
    array = np.array(Image.open(path))
    wanted = restored(path)[0]
    kinds = [str(path), Image.open(path), array, array.astype(np.float32) / 255, (array * np.uint16(257))]
    for kind in [*kinds, torch.from_numpy(array).permute(2, 0, 1) / 255]:
        assert (restored(kind)[0] - wanted).abs().max() < 1e-4
    pipeline = tiny_pipeline()
    assert np.abs(pipeline(path, output_type="np").images[0] - wanted.permute(1, 2, 0).numpy()).max() < 1e-6
    assert pipeline(path).images[0].size == (80, 96)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 7), (13, 9)])
@pytest.mark.parametrize("scale", [4, 1.5])
def test_any_size_comes_back_exactly(size: tuple[int, int], scale: float) -> None:
    image = restored(photo(*size), scale=scale)[0]
    assert image.shape == (3, max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    assert torch.isfinite(image).all()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.full((3, 8, 8), float("nan")), "NaN"),
        (torch.full((3, 8, 8), 200.0), "divide 8-bit values by 255"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "must be"),
        (np.zeros((8, 8, 4), np.uint8), r"\(H, W, 3\)"),
        (torch.zeros(3, 0, 8), "no pixels"),
        (None, "NoneType"),
        ("no such file.png", "cannot be read"),
    ],
)
def test_what_is_no_photo_is_refused(image: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        restored(image)


def test_unknown_settings_and_uneven_lists_are_refused() -> None:
    with pytest.raises(UserError, match="Unknown setting stepz"):
        restored(photo(), stepz=3)
    with pytest.raises(UserError, match="2 images came with 1 captions"):
        restored([photo(), photo()], ["one"])
    with pytest.raises(UserError, match="output_type"):
        tiny_pipeline()(photo(), output_type="jpeg")
    for caption in (5, [5], [None, b"a"]):
        with pytest.raises(UserError, match=r"^caption=.* is no text; give one"):
            restored([photo()] * 2, caption)
    for dtype in ("bf16", "int8", "nn", 16):
        with pytest.raises(UserError, match=f"^dtype={dtype!r} is no type of real numbers"):
            tiny_pipeline().in_dtype(dtype)


def test_every_step_is_told() -> None:
    steps: list[tuple[int, int]] = []
    restored(photo(), on_step=lambda step: steps.append((step.number, step.total)), steps=3)
    assert steps == [(1, 3), (2, 3), (3, 3)]
