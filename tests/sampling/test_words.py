"""diffusers' words in the pipeline's call: the pictures are those of our own words."""

from typing import Any

import pytest
import torch

from sspir.errors import UserError
from sspir.sampling.loop import Step
from tests.pipelines import photo, tiny_pipeline


def restored(*images: torch.Tensor, **words: Any) -> torch.Tensor:
    return torch.stack(tiny_pipeline()(list(images or [photo()]), output_type="pt", **words).images)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_word_gives_the_picture_of_ours() -> None:
    theirs = restored(
        prompt="a", negative_prompt="b", num_inference_steps=3, guidance_scale=2.0, generator=seeded(7),
        controlnet_conditioning_scale=0.5,
    )  # fmt: skip
    words = {"caption": "a", "negative_caption": "b", "steps": 3, "guidance": 2.0, "seed": 7, "conditioning_scale": 0.5}
    assert torch.equal(theirs, restored(**words))
    for word, other in zip(words, ("c", "c", 2, 3.0, 8, 1.0), strict=True):
        assert not torch.equal(theirs, restored(**words | {word: other})), word


def test_a_generator_is_its_seed_however_much_was_drawn() -> None:
    used = [seeded(3), seeded(4)]
    torch.rand(5, generator=used[0])
    pair = photo(seed=1), photo(seed=2)
    assert torch.equal(restored(*pair, generator=used, steps=2), restored(*pair, seed=[3, 4], steps=2))
    assert torch.equal(restored(*pair, generator=used[1], steps=2), restored(*pair, seed=4, steps=2))
    assert torch.equal(restored(generator=seeded(-1), steps=2), restored(seed=2**32 - 1, steps=2))
    with pytest.raises(UserError, match=r"generator must be a .* or a list of them, not int"):
        restored(generator=[5])


def test_guidance_up_to_one_is_off_as_in_diffusers() -> None:
    assert torch.equal(restored(guidance_scale=0.0, steps=2), restored(guidance=1, steps=2))


def test_none_is_as_not_given() -> None:
    words = dict.fromkeys(("prompt", "num_inference_steps", "generator", "height", "callback_on_step_end"))
    assert torch.equal(restored(steps=2, **words), restored(steps=2))


def test_a_callback_sees_every_step_and_may_replace_the_latents() -> None:
    seen, steps = [], []

    def halve(pipe: Any, index: int, timestep: torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((type(pipe).__name__, index, int(timestep), list(kwargs)))
        return {"latents": kwargs["latents"] / 2}

    def halve_as_step(step: Step) -> torch.Tensor:
        steps.append((step.number - 1, int(step.timestep)))
        return step.latents / 2

    words = {"callback_on_step_end_tensor_inputs": ["latents"], "steps": 3, "start": 600}
    changed = restored(callback_on_step_end=halve, **words)
    assert torch.equal(changed, restored(on_step=halve_as_step, steps=3, start=600))
    assert [each[1:3] for each in seen] == steps
    assert seen[0] == ("RestorationPipeline", 0, 600, ["latents"])
    plain = restored(steps=3, start=600)
    assert not torch.equal(changed, plain)
    assert torch.equal(restored(callback_on_step_end=lambda *given: given[-1], **words), plain)
    assert torch.equal(restored(on_step=lambda step: bool(seen.append(step)), steps=3, start=600), plain)


def test_latents_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"A callback returned latents \(1, 1\); return \(1, 24, "):
        restored(on_step=lambda _: torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"steps": 2, "num_inference_steps": 2}, "num_inference_steps and steps are two words"),
        ({"caption": "a", "prompt": "a"}, "prompt and caption are two words"),
        ({"seed": 0, "generator": torch.Generator()}, "generator and seed are two words"),
        ({"height": 512}, "There is no height here: give scale=2.0"),
        ({"num_images_per_prompt": 2}, r"seed=\[0, 1\]"),
        ({"strength": 0.5}, "start=700"),
        ({"eta": 0.5}, "scheduler"),
        ({"negative_prompt": ["a"]}, "negative_caption=.* must be one text"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, r"must be \['latents'\]"),
        ({"num_inference_stepz": 2}, "Unknown setting num_inference_stepz"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        restored(**words)


def test_the_caption_may_stand_without_its_word() -> None:
    with pytest.raises(UserError, match="prompt and caption are two words"):
        tiny_pipeline()(photo(), "a", prompt="b")
