import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data as photos
from transformers import AutoModelForImageTextToText, AutoProcessor

from sspir.captioners import vision_language
from sspir.captioners.base import QUESTION, CaptionerUnavailableError, pil_image
from sspir.captioners.vision_language import VisionLanguageCaptioner
from sspir.config.compose import compose_config
from sspir.errors import UserError
from tests.captioners.models import save_llava

PHOTO = torch.from_numpy(photos.astronaut()[::8, ::8].copy()).permute(2, 0, 1) / 255
IMAGES = [PHOTO, PHOTO[:, :30].flip(2), 1 - PHOTO[:, :, :40]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def captioner(folder: Path, **options: Any) -> VisionLanguageCaptioner:
    return VisionLanguageCaptioner(str(folder), **{"max_new_tokens": 8, "device": "cpu", **options})


def test_captions_are_what_the_library_generates(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    picture = Image.fromarray((PHOTO * 255).round().byte().permute(1, 2, 0).numpy())
    prompt = f"USER: <image>\n{QUESTION}\nASSISTANT:"
    inputs = processor(images=[picture], text=[prompt], return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    expected = " ".join(processor.batch_decode(answer, skip_special_tokens=True)[0].split())
    assert captioner(folder)(PHOTO[None], [""]) == [expected]
    assert expected


def test_batches_change_nothing_and_images_and_questions_do(folder: Path) -> None:
    together = captioner(folder, batch_size=2)(IMAGES, [""] * 3)
    alone = [captioner(folder)([image], [""])[0] for image in IMAGES]
    assert together == alone
    assert len(set(together)) > 1
    assert captioner(folder, question="What is it?")(IMAGES, [""] * 3) != together


def test_greedy_repeats_itself_and_drawing_follows_the_seed(folder: Path) -> None:
    state = torch.get_rng_state()
    drawn = [captioner(folder, temperature=2.0, seed=seed)(IMAGES, [""] * 3) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_is_loaded_once_and_freed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    loads: list[Any] = []
    load = vision_language.load_transformers

    def counted(*arguments: Any, **options: Any) -> Any:
        model = load(*arguments, **options)
        loads.append(weakref.ref(model))
        return model

    monkeypatch.setattr(vision_language, "load_transformers", counted)
    asking = captioner(folder)
    assert loads == []
    first = asking(PHOTO[None], [""])
    assert asking(PHOTO[None], [""]) == first
    assert len(loads) == 1
    assert loads[0]() is not None
    asking.close()
    assert loads[0]() is None
    assert asking(PHOTO[None], [""]) == first
    assert len(loads) == 2


def test_types_of_weights(folder: Path) -> None:
    asking = captioner(folder, dtype="bfloat16")
    asking(PHOTO[None], [""])
    assert asking._loaded is not None
    assert asking._loaded[1].dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_an_incomplete_folder_is_one_sentence(folder: Path, missing: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "llava")
    (tmp_path / "llava" / missing).unlink()
    with pytest.raises(CaptionerUnavailableError, match=r"captioner\.path") as error:
        captioner(tmp_path / "llava")(PHOTO[None], [""])
    assert "\n" not in str(error.value)


def test_other_troubles_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"quantization=2bit is not known"):
        captioner(folder, quantization="2bit")
    with pytest.raises(CaptionerUnavailableError, match=r"captioner\.path\) does not exist"):
        captioner(folder / "missing")(PHOTO[None], [""])
    with pytest.raises(CaptionerUnavailableError, match=r"captioner\.path\) is no folder here and the hub"):
        VisionLanguageCaptioner("nobody/no-such-model")(PHOTO[None], [""])

    asking = captioner(folder)
    asking(PHOTO[None], [""])
    assert asking._loaded is not None

    def exhausted(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(asking._loaded[1], "generate", exhausted)
    with pytest.raises(CaptionerUnavailableError, match=r"lower captioner\.batch_size"):
        asking(PHOTO[None], [""])


def test_quantization_without_its_library_is_one_sentence(folder: Path) -> None:
    pytest.importorskip("transformers")
    try:
        import bitsandbytes  # noqa: F401 (is it there?)
    except ImportError:
        with pytest.raises(CaptionerUnavailableError, match="bitsandbytes"):
            captioner(folder, quantization="4bit")(PHOTO[None], [""])
    else:
        pytest.skip("bitsandbytes is installed")


def test_pictures_are_rounded_and_reduced() -> None:
    assert pil_image(torch.full((3, 4, 6), 0.999), 100).getpixel((0, 0)) == (255, 255, 255)
    assert pil_image(torch.rand(3, 40, 60), 30).size == (30, 20)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen_vl", "smolvlm", "endpoint"])
def test_the_papers_question_is_the_default(name: str) -> None:
    chosen, other = (compose_config("train", [f"captioner={each}"]) for each in (name, "none"))
    assert chosen.captioner.question == QUESTION
    chosen.captioner = other.captioner
    assert chosen == other  # no other line changes
