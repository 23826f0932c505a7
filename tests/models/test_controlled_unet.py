import copy

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from sspir.errors import UserError
from sspir.models.attention_adapter import AttentionAdapter, NoAttention, layers_of
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.structure_processor import NoProcessor, StructureProcessor
from tests.networks import tiny_inputs, tiny_network, tiny_unet, wake


def stock_prediction(network: ControlledUNet, given: dict[str, torch.Tensor]) -> torch.Tensor:
    residuals, mid = network.controlnet(
        given["sample"], given["timestep"], given["prompt_embeds"], given["lq"], return_dict=False
    )
    return network.unet(
        given["sample"], given["timestep"], given["prompt_embeds"],
        down_block_additional_residuals=residuals, mid_block_additional_residual=mid,
    ).sample  # fmt: skip


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1)])
@torch.no_grad()
def test_starts_as_stable_diffusion_and_controlnet(size: tuple[int, int]) -> None:
    network = tiny_network()
    wake(network.controlnet)  # residuals that show, while the adapters are still the identity
    given = tiny_inputs(*size)
    assert torch.equal(network(**given).noise, stock_prediction(network, given))


@torch.no_grad()
def test_sd21_shapes_start_as_stock_too() -> None:
    unet = tiny_unet(attention_head_dim=(1, 2), use_linear_projection=True)
    network = tiny_network(unet=unet)
    wake(network.controlnet)
    given = tiny_inputs()
    assert torch.equal(network(**given).noise, stock_prediction(network, given))


@torch.no_grad()
def test_random_start_moves_the_output_and_copies_the_image_attention() -> None:
    network = tiny_network(identity=False)
    given = tiny_inputs()
    assert not torch.allclose(network(**given).noise, stock_prediction(network, given))
    unet, controlnet = network.unet_image.state_dict(), network.controlnet_image.state_dict()
    assert controlnet
    assert all(torch.equal(unet[key], value) for key, value in controlnet.items())


def test_order_is_image_text_pixel() -> None:
    network = tiny_network()
    calls: list[str] = []
    for name, module in network.unet_image.attentions.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(f"image {name}"))
    for name, module in network.unet_pixel.attentions.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(f"pixel {name}"))
    for level, block in enumerate(network.unet.up_blocks):
        for index, resnet in enumerate(block.resnets):
            resnet.register_forward_hook(lambda *_, n=f"up{level}_{index}": calls.append(f"resnet {n}"))
        for index, text in enumerate(getattr(block, "attentions", [])):
            text.register_forward_hook(lambda *_, n=f"up{level}_{index}": calls.append(f"text {n}"))
    network(**tiny_inputs())
    up = [call for call in calls if "up" in call]
    assert up == [
        "resnet up0_0", "pixel up0_0", "resnet up0_1", "pixel up0_1",
        "resnet up1_0", "image up1_0", "text up1_0", "pixel up1_0",
        "resnet up1_1", "image up1_1", "text up1_1", "pixel up1_1",
    ]  # fmt: skip
    assert [call for call in calls if "up" not in call] == ["image down0_0", "image mid"]


def test_every_prior_reaches_the_output() -> None:
    network = wake(tiny_network())
    given = tiny_inputs()
    with torch.no_grad():
        before = network(**given).noise
        for name in ("prompt_embeds", "image_embeds", "lq"):
            changed = {**given, name: given[name].flip(0)}
            assert not torch.allclose(network(**changed).noise, before, atol=1e-4), name
        assert torch.allclose(network(**given, conditioning_scale=0.0).noise, network(
            **{**given, "lq": given["lq"].flip(0)}, conditioning_scale=0.0).noise)  # fmt: skip


def test_gradients_reach_all_that_is_trained_and_nothing_else() -> None:
    network = wake(tiny_network()).train()
    output = network(**tiny_inputs())
    (output.noise.square().mean() + sum(image.square().mean() for image in output.images)).backward()
    trained = {id(parameter) for part in network.trainable().values() for parameter in part.parameters()}
    for name, parameter in network.named_parameters():
        if id(parameter) in trained:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert name.startswith("unet.")
            assert parameter.grad is None


def test_checkpointing_gives_the_same_gradients() -> None:
    plain = wake(tiny_network()).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_gradient_checkpointing()
    recomputed = [0]
    checkpointed.unet_pixel.attentions["up1_0"].transformer_blocks[0].register_forward_pre_hook(
        lambda *_: recomputed.__setitem__(0, recomputed[0] + 1)
    )
    for network in (plain, checkpointed):
        network(**tiny_inputs(seed=1)).noise.square().mean().backward()
    assert recomputed == [2]  # once forward, once in the backward pass
    for (name, ours), theirs in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad), name


@pytest.mark.slow
def test_compiles_into_one_graph() -> None:
    network = wake(tiny_network())
    given = tiny_inputs()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(**given).noise, network(**given).noise, atol=1e-6)


@torch.no_grad()
def test_switched_off_parts_pass_through() -> None:
    network = tiny_network(image_attention=[], pixel_attention=[], processor=NoProcessor([4, 6, 8]), identity=False)
    wake(network.controlnet)
    assert isinstance(network.unet_image, NoAttention)
    given = tiny_inputs()
    output = network(**given)
    assert output.images == []
    assert torch.equal(output.noise, stock_prediction(network, given))
    assert list(network.trainable()) == ["controlnet"]


def test_levels_choose_layers() -> None:
    network = tiny_network(image_attention=["down", "mid"], pixel_attention=["up0"])
    assert set(network.unet_image.attentions) == {"down0_0", "mid"}
    assert set(network.unet_pixel.attentions) == {"up0_0", "up0_1"}


def test_adapter_saves_and_loads(tmp_path) -> None:
    adapter = wake(tiny_network()).unet_pixel
    adapter.save_pretrained(tmp_path)
    again = AttentionAdapter.from_pretrained(tmp_path)
    assert again.state_dict().keys() == adapter.state_dict().keys()
    assert all(torch.equal(value, adapter.state_dict()[key]) for key, value in again.state_dict().items())


def test_real_size_counts() -> None:
    """997.8 M trained parameters with the Refine layer's 2.6 M, as the authors' code has them."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        network = ControlledUNet.from_unet(unet, StructureProcessor(), coarse_heads=1)
    trained = sum(p.numel() for part in network.trainable().values() for p in part.parameters())
    assert trained + 2_628_096 == 997_804_953
    image = sum(p.numel() for p in network.unet_image.parameters())
    pixel = sum(p.numel() for p in network.unet_pixel.parameters())
    assert (image, pixel) == (260_849_600, 248_234_560)
    heads = {name: net.config.num_attention_heads for name, net in network.unet_pixel.attentions.items()}
    assert [heads[f"up0_{n}"] for n in range(3)] == [1, 1, 1]
    assert {heads[f"up{level}_{n}"] for level in (1, 2, 3) for n in range(3)} == {8}
    assert len(network.unet_image.attentions) == 16
    assert len(network.controlnet_image.attentions) == 7


def test_layers_know_their_skips() -> None:
    names = {layer.name: layer for layer in layers_of(tiny_unet())}
    assert names["up0_1"].skip_channels == 8
    assert names["up0_0"].heads == 2
    assert not names["up0_0"].has_text
    controlnet = ControlNetModel.from_unet(tiny_unet(), conditioning_embedding_out_channels=(4, 6))
    assert [layer.name for layer in layers_of(controlnet)] == ["down0_0", "down1_0", "mid"]


def test_wrong_sizes_and_networks_are_refused_in_words() -> None:
    network, given = tiny_network(), tiny_inputs()
    with pytest.raises(UserError, match="must have the size of the output"):
        network(**{**given, "lq": given["lq"][..., :16, :16]})
    with pytest.raises(UserError, match="class_embed_type"):
        tiny_network(unet=tiny_unet(class_embed_type="timestep"))


@pytest.mark.parametrize("factor", [3, 0, -4, 2.5])
def test_a_front_that_halves_no_whole_number_of_times_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match=r"^processor.front_factor.* is no (power of two; give|whole number)"):
        StructureProcessor(front_features=4, front_factor=factor)  # type: ignore[arg-type]
