"""Random encoders are those of the models that come along, whatever version of transformers makes them."""

import pytest
import torch
from safetensors.torch import load_file

from sspir.encoders import CLIPImageEncoder, TextEncoder
from sspir.training.saved import MODELS


@pytest.mark.parametrize("model", ["small", "tiny"])
def test_random_encoders_are_those_that_come_along(model: str) -> None:
    state = torch.get_rng_state()
    text, image = TextEncoder.tiny().model, CLIPImageEncoder.tiny()
    assert torch.equal(torch.get_rng_state(), state)
    for part, folder, file in ((text, "text_encoder", "model"), (image, "image_encoder", "diffusion_pytorch_model")):
        theirs = load_file(MODELS / model / folder / f"{file}.safetensors")
        ours = {key: value for key, value in part.state_dict().items() if not key.endswith("position_ids")}
        assert sorted(ours) == sorted(theirs)
        assert all(torch.equal(ours[key].half(), value) for key, value in theirs.items())
