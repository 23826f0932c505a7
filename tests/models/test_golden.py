"""Our networks against the authors', with the authors' weights."""

import json

import pytest
import torch
from torch import Tensor

from sspir.errors import UserError
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.structure_processor import StructureProcessor
from sspir.weights.authors import network_of
from tests.reference import assert_golden, images, recording

CASES = [("controlnet_small", "a"), ("controlnet_small", "b"), ("controlnet_small_srresnet", "a")]


def authors_network(controlnet: str = "controlnet_small") -> ControlledUNet:
    unet = recording("unet_small")
    return network_of(unet.weights, recording(controlnet).weights, unet.config["config"]).eval()


def inputs_of(name: str, case: str) -> dict[str, Tensor]:
    stored = recording(name).inputs
    found = {key.removeprefix(f"{case}."): value for key, value in stored.items() if key.startswith(f"{case}.")}
    found["lq"] = images(found.pop("cond_image_u8"))
    return found


@torch.no_grad()
@pytest.mark.parametrize(("name", "case"), CASES)
def test_controlnet(name: str, case: str) -> None:
    net, given, golden = authors_network(name), inputs_of(name, case), recording(name).outputs
    features, maps = net.structure(given["lq"])
    residuals, mid = net.control(
        given["sample"], given["timestep"], given["text"], given["image_tokens"], features,
        given.get("conditioning_scale", 1.0),
    )  # fmt: skip
    for k, image in enumerate(maps):
        assert_golden(image, golden[f"{case}.rgb.{k}"])
    for s, residual in enumerate(residuals):
        assert_golden(residual, golden[f"{case}.down_block_res_samples.{s}"])
    assert_golden(mid, golden[f"{case}.mid_block_res_sample"])
    assert f"{case}.rgb.{len(maps)}" not in golden


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_whole_network(case: str) -> None:
    net, given = authors_network(), inputs_of("controlnet_small", case)
    predicted = net(
        given["sample"], given["timestep"], given["text"], given["image_tokens"], given["lq"],
        given.get("conditioning_scale", 1.0),
    )  # fmt: skip
    assert_golden(predicted.noise, recording("unet_small").outputs[f"{case}.eps"])


@torch.no_grad()
def test_every_layer_of_the_unet() -> None:
    golden = recording("unet_small").tensors("intermediates")
    net, given = authors_network(), inputs_of("controlnet_small", "a")
    seen: dict[str, Tensor] = {}

    def remember(name: str):
        return lambda module, args, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    for name, module in net.unet.named_modules():
        module.register_forward_hook(remember(name))
    for kind, adapter in (("image", net.unet_image), ("pixel", net.unet_pixel)):
        for name, module in adapter.attentions.items():
            place = "mid_block" if name == "mid" else f"{name[:-3]}_blocks.{name[-3]}"
            module.register_forward_hook(remember(f"{place}.{kind}_attentions.{name[-1] if name != 'mid' else 0}"))
    net(given["sample"], given["timestep"], given["text"], given["image_tokens"], given["lq"])
    compared = [key for key in golden if key.removeprefix("a.") in seen]
    assert len(compared) == len(golden) - 7  # whole blocks are iterated, not called
    for key in compared:
        assert_golden(seen[key.removeprefix("a.")], golden[key])


@torch.no_grad()
@pytest.mark.parametrize("name", ["layer_image_attention", "layer_pixel_attention", "layer_pixel_attention_upblock"])
def test_single_layer(name: str) -> None:
    layer = recording(name)
    place = layer.config["taken_from"].removeprefix("unet_small: ").split(",")[0]
    path, kind, index = place.replace("_blocks.", "").rsplit(".", 2)
    net = authors_network()
    adapter = net.unet_image if kind.startswith("image") else net.unet_pixel
    module = adapter.attentions[f"{path}_{index}"]
    inner: dict[str, Tensor] = {}
    for key, part in module.named_modules():
        part.register_forward_hook(lambda m, a, output, key=key: inner.update({key: output}))
    output = module(layer.inputs["hidden_states"], layer.inputs["encoder_hidden_states"], return_dict=False)[0]
    assert_golden(output, layer.outputs["output"])
    for key, golden in layer.outputs.items():
        if key.startswith("inner."):
            assert_golden(inner[key.removeprefix("inner.")], golden)


@torch.no_grad()
def test_processor() -> None:
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    golden = recording("processor")
    widths = golden.config["block_out_channels"]
    embedding = ControlNetConditioningEmbedding(golden.config["conditioning_embedding_channels"], 3, widths)
    processor = StructureProcessor(widths)
    trunk = {key: value for key, value in golden.weights.items() if not key.startswith("to_rgbs")}
    heads = {key.replace("to_rgbs", "heads"): value for key, value in golden.weights.items() if key not in trunk}
    embedding.load_state_dict(trunk)
    processor.load_state_dict(heads)
    features, maps = processor(embedding, images(golden.inputs["image_u8"]))
    assert_golden(features, golden.outputs["embedding"])
    for k, image in enumerate(maps):
        assert_golden(image, golden.outputs[f"rgb.{k}"])


@pytest.mark.parametrize("config", ["unet_small", "controlnet_small", "whole file"])
def test_dimensions_come_from_either_config(config: str) -> None:
    name = "unet_small" if config == "whole file" else config
    dimensions = recording(name).config if config == "whole file" else recording(name).config["config"]
    json.dumps(dimensions)
    net = network_of(recording("unet_small").weights, recording("controlnet_small").weights, dimensions)
    assert net.unet.config.block_out_channels == [16, 24, 24]


def test_refuses_other_weights_with_the_list() -> None:
    unet, controlnet = recording("unet_small"), recording("controlnet_small").weights
    lacking = dict(unet.weights)
    del lacking["up_blocks.0.pixel_attentions.0.proj_out.weight"]
    lacking["surplus"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        network_of(lacking, controlnet, unet.config)
    assert "missing unet_pixel.attentions.up0_0.proj_out.weight" in str(error.value)
    assert "unexpected unet.surplus" in str(error.value)
