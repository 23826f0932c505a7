"""Let our pipeline take the arguments of diffusers' pipelines, in their meaning."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.sampling.loop import OnStep, Step

Call = TypeVar("Call", bound=Callable[..., Any])

SAME = {
    "prompt": "caption",
    "negative_prompt": "negative_caption",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "controlnet_conditioning_scale": "conditioning_scale",
    "generator": "seed",
    "callback_on_step_end": "on_step",
    "shown": "captioner_input",  # ours, until version 0.3
}
"""Argument of diffusers -> our argument."""

ABSENT = {
    **dict.fromkeys(("height", "width"), "give scale=2.0, or another number; the sides follow the photo's"),
    **dict.fromkeys(("num_images_per_prompt", "latents"), "give image=[photo] * 2, seed=[0, 1], or more of them"),
    **dict.fromkeys(("strength", "denoising_start"), "give start=700, or another timestep, or fidelity=0.3"),
    **dict.fromkeys(("timesteps", "sigmas", "eta"), "give steps, start and scheduler"),
    **dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), "give the texts, as caption and negative_caption"),
    **dict.fromkeys(("control_image", "ip_adapter_image", "ip_adapter_image_embeds"), "image is all that steers"),
    **dict.fromkeys(("callback", "callback_steps"), "give on_step or callback_on_step_end"),
    "return_dict": "the result is a RestorationOutput",
}
"""Argument of diffusers that has no counterpart here -> what to do instead."""


def with_words_of_diffusers(call: Call) -> Call:
    """Let a pipeline's call, whose `**changes` are settings, take the words of diffusers too; None is as not given.

    The call raises:
        UserError: a word stands beside ours for the same thing, or there is no such thing here.
    """
    ours = signature(call)

    @wraps(call)
    def translated(*arguments: Any, **words: Any) -> Any:
        given = ours.bind(*arguments, **words).arguments
        given.update(given.pop("changes", {}))
        return call(**_in_our_words(given))

    return cast(Call, translated)


def _in_our_words(given: dict[str, Any]) -> dict[str, Any]:
    foreign = {*SAME, *ABSENT, "callback_on_step_end_tensor_inputs"}
    given_words = {word: value for word, value in given.items() if word in foreign and value is not None}
    kept = {word: value for word, value in given.items() if word not in foreign}
    if absent := next((word for word in given_words if word in ABSENT), None):
        raise UserError(f"There is no {absent} here: {ABSENT[absent]}.")
    tensors = given_words.pop("callback_on_step_end_tensor_inputs", ())
    if {*tensors} - {"latents"}:
        raise UserError(f"callback_on_step_end_tensor_inputs={tensors} must be ['latents'].")
    for word, value in given_words.items():
        if kept.get(SAME[word]) is not None:
            raise UserError(f"{word} and {SAME[word]} are two words for one setting; give one of them.")
        kept[SAME[word]] = _our_value(word, value, given["self"])
    return kept


def _our_value(word: str, value: Any, pipeline: Any) -> Any:
    """The value of one of diffusers' arguments, as our own argument takes it."""
    if word == "generator":
        return [_seed(each) for each in value] if isinstance(value, list | tuple) else _seed(value)
    if word == "callback_on_step_end":
        return _on_step(pipeline, value)
    if word == "guidance_scale" and isinstance(value, int | float):
        return max(1, value)  # to diffusers, everything up to 1 switches guidance off
    return value


def _seed(generator: Any) -> int:
    """The seed that a generator was made with, whatever was drawn from it since."""
    if not isinstance(generator, torch.Generator):
        raise UserError(f"generator must be a torch.Generator or a list of them, not {type(generator).__name__}.")
    return generator.initial_seed() % 2**32  # the CPU's draws by these bits alone


def _on_step(pipeline: Any, callback: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]) -> OnStep:
    def on_step(step: Step) -> Tensor | None:
        changed = callback(pipeline, step.number - 1, step.timestep, {"latents": step.latents})
        return (changed or {}).get("latents")

    return on_step
