"""The knob from realism to faithfulness."""

import pytest
import torch
from torch.nn import functional as F

from sspir.models.latent import decode_latents, encode_latents
from sspir.sampling.back_projection import back_project
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler
from tests.pipelines import photo, tiny_pipeline


def distance(image: torch.Tensor, lq: torch.Tensor) -> float:
    """How far an image, made small again, is from the photo."""
    again = F.interpolate(image[None], lq.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    return float((again[0] - lq).square().mean())


def turned(pipeline: RestorationPipeline, lq: torch.Tensor) -> list[torch.Tensor]:
    restored = [pipeline(lq, output_type="pt", fidelity=share).images[0] for share in (0, 0.25, 0.5, 0.75, 1)]
    assert torch.equal(restored[0], pipeline(lq, output_type="pt").images[0])
    return restored


def test_the_more_faithful_the_nearer_to_the_photo() -> None:
    lq = photo(24, 20)
    distances = [distance(image, lq) for image in turned(tiny_pipeline("module.residual=null"), lq)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.3 * distances[0]


def test_a_model_of_residuals_ends_at_the_processors_picture() -> None:
    lq = photo(24, 20)
    pipeline = tiny_pipeline()
    processor = pipeline(lq, output_type="pt").structure[0]
    processor = decode_latents(pipeline.vae, encode_latents(pipeline.vae, processor[None]))[0].clamp(0, 1)
    distances = [float((image - processor).square().mean()) for image in turned(pipeline, lq)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-9 < distances[0]


def test_an_image_that_agrees_with_the_photo_is_left_alone() -> None:
    image = photo(32, 32)[None]
    lq = F.interpolate(image, (8, 8), mode="bicubic", antialias=True, align_corners=False)
    assert (back_project(lq, image, 1.0) - image).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("fidelity", "start", "steps", "wanted"),
    [(0.0, 999, 50, (999, 50)), (0.5, 600, 20, (300, 20)), (1.0, 300, 4, (1, 1)), (0.99, None, 50, (10, 10))],
)
def test_the_start_sinks(fidelity: float, start: int | None, steps: int, wanted: tuple[int, int]) -> None:
    settings = Sampler(fidelity=fidelity, start=start, steps=steps).faithful()
    assert (settings.start, settings.steps) == wanted
