"""Compiled and plain give the same picture."""

from pathlib import Path

import pytest
import torch

from sspir.models.attention_processor import cpu_attention
from sspir.sampling.pipeline import RestorationPipeline
from tests.devices import GPU
from tests.networks import tiny_inputs, tiny_network, tiny_unet, wake
from tests.pipelines import photo, tiny_pipeline

ONE_LEVEL = {
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}


@pytest.mark.thorough
@torch.no_grad()
def test_a_step_is_one_graph_for_every_step_and_image() -> None:
    torch._dynamo.reset()
    network, given = wake(tiny_network(unet=tiny_unet(**ONE_LEVEL))), tiny_inputs(batch=1)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(network.predict, backend=backend, fullgraph=True)
    texts = torch.cat([given["prompt_embeds"], 2 * given["prompt_embeds"]])
    for image in (given["lq"], given["lq"].flip(3)):
        features, _ = network.structure(image)
        with cpu_attention(network, image.device):
            for timestep in (torch.tensor(800), torch.tensor(300)):
                arguments = (given["sample"], timestep, texts, given["image_embeds"], features)
                assert (compiled(*arguments) - network.predict(*arguments)).abs().max() < 1e-5
    assert len(graphs) == 1


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), GPU])
def test_the_compiled_pipeline_gives_the_same_picture(device: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    tiny_pipeline().save_pretrained(tmp_path)
    compiled = RestorationPipeline.from_pretrained(tmp_path).to(device).compiled()
    settings = {"steps": 2, "guidance": 3.0, "output_type": "pt"}
    tolerance = 1e-4 if device == "cpu" else 1e-2  # a GPU rounds what convolutions are given to ten bits
    wanted = tiny_pipeline()(photo(12, 8), "a house", **settings).images[0]
    assert (compiled(photo(12, 8), "a house", **settings).images[0].cpu() - wanted).abs().max() < tolerance
