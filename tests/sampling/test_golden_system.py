"""Training steps and sampling loops of the authors, reproduced by our classes."""

import diffusers.schedulers.scheduling_ddpm as ddpm
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

import sspir.sampling.loop
from sspir.encoders.text import caption_ids, clip_tokenizer
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.refine import RefineLayer
from sspir.sampling.sampler import Sampler
from sspir.training.losses import RestorationLoss
from sspir.weights import authors
from sspir.weights.authors import load_refine
from tests.models.test_golden import authors_network
from tests.reference import assert_golden, images, recording


def refine_layer() -> RefineLayer:
    layer = RefineLayer(32, 512)
    weights = recording("refine").weights
    load_refine(layer, {key: value for key, value in weights.items() if "visual_projection" in key})
    return layer


def ours_by_authors_name(network: ControlledUNet, refine: RefineLayer, name: str) -> Tensor:
    """Our parameter of the authors' name, "unet.", "controlnet." or "refine." in front."""
    net, key = name.split(".", 1)
    if net == "refine":
        return refine.get_parameter(key.replace("visual_projection", "projection"))
    part, ours = authors._place(net, key)
    return network.get_submodule(part).get_parameter(ours)


@pytest.mark.parametrize(
    ("name", "controlnet"),
    [("training_step", "controlnet_small"), ("training_loss_srresnet", "controlnet_small_srresnet")],
)
def test_training_step(name: str, controlnet: str) -> None:
    golden, given = recording(name), recording("training_step").inputs
    network, refine = authors_network(controlnet).train(), refine_layer()
    schedule = DDPMScheduler(**golden.config.get("scheduler", recording("training_step").config["scheduler"]))
    noisy = schedule.add_noise(given["latents"], given["noise"], given["timesteps"])
    tokens = refine(given["vision_hidden_state_24"][:, 1:])
    output = network(noisy, given["timesteps"], given["text"], tokens, images(given["cond_image_u8"]))
    assert_golden(output.noise.detach(), golden.outputs["eps"])

    loss = RestorationLoss(rgb=0.1, frequency=0.01, frequency_norm="backward")
    noise = loss.noise(output.noise, given["noise"], torch.ones(2), "epsilon")
    structure = loss.structure(output.images, images(given["gt_u8"]))
    total = noise + structure["rgb"] + structure["frequency"]
    parts = golden.config["loss"]
    assert total.item() == pytest.approx(parts["total"], rel=1e-6)
    assert noise.item() == pytest.approx(parts["diffusion_mse"], rel=1e-6)
    assert structure["rgb"].item() == pytest.approx(parts["pixel_l1_weighted"], rel=1e-6)
    assert structure["frequency"].item() == pytest.approx(parts["frequency_l1_weighted"], rel=1e-6)

    total.backward()
    for key, gradient in golden.tensors("gradients").items():
        assert_golden(ours_by_authors_name(network, refine, key).grad, gradient, 1e-5)
    if name != "training_step":
        return
    norms = golden.json("grad_norms")["norms"]
    trained = {id(p) for part in [*network.trainable().values(), refine] for p in part.parameters()}
    assert len(norms) == len(trained) == golden.config["n_trainable_tensors"]
    for key, norm in norms.items():
        assert ours_by_authors_name(network, refine, key).grad.norm().item() == pytest.approx(norm, rel=1e-4), key

    unet_before = {key: value.clone() for key, value in network.unet.state_dict().items()}
    parameters = [p for part in [*network.trainable().values(), refine] for p in part.parameters()]
    clipped = [p for part in network.trainable().values() for p in part.parameters()]
    norm = torch.nn.utils.clip_grad_norm_(clipped, 1.0)
    assert norm.item() == pytest.approx(golden.config["total_grad_norm_before_clip_controlnet_plus_unet"], rel=1e-5)
    torch.optim.AdamW(parameters, lr=5e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8).step()
    for key, after in golden.tensors("params_after_step").items():
        assert_golden(ours_by_authors_name(network, refine, key).detach(), after, 1e-5)
    assert all(torch.equal(value, unet_before[key]) for key, value in network.unet.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("case", ["ddpm_cfg_noise_start", "ddim_cfg_lr_start_152tok", "ddpm_nocfg_lr_start_500"])
def test_sampling_trace(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, about = recording("sampling"), recording("sampling").config["cases"][case]
    given = {k.removeprefix(f"{case}."): v for k, v in golden.inputs.items() if k.startswith(f"{case}.")}
    wanted = {k.removeprefix(f"{case}."): v for k, v in golden.outputs.items() if k.startswith(f"{case}.")}
    network = authors_network()
    schedule = DDPMScheduler(**golden.config["scheduler_config"])
    settings = Sampler(
        scheduler=about["scheduler"], steps=about["steps"], guidance=about["guidance_scale"], respace=False,
        start=None if about["start_point"] == "noise" else about["start_steps"],
        conditioning_scale=about["conditioning_scale"], tile=64,
        options={"set_alpha_to_one": False} if about["scheduler"] == "DDIMScheduler" else {},
    )  # fmt: skip
    settings.build(schedule)  # a solver is tried once, by no noise that is given below
    drawn = iter(range(about["steps"]))
    monkeypatch.setattr(sspir.sampling.loop, "_randn", lambda *_: given["initial_noise"])
    monkeypatch.setattr(ddpm, "randn_tensor", lambda *_, **__: given[f"step{next(drawn)}.variance_noise"])
    known = given.get("lq_latent_scaled", torch.zeros_like(given["initial_noise"]))
    features, _ = network.structure(images(given["image_u8"]))
    prompt_embeds = wanted.get("prompt_embeds_uncond_then_cond", wanted.get("prompt_embeds"))
    image_embeds = given["image_tokens"]
    predicted: list[Tensor] = []
    predict = sspir.sampling.loop.predict
    monkeypatch.setattr(sspir.sampling.loop, "predict", lambda *args: predicted.append(predict(*args)) or predicted[-1])
    steps: list[Tensor] = []
    final = sspir.sampling.loop.sample(
        network, schedule, settings, known, sspir.sampling.loop.Priors(prompt_embeds, image_embeds, features),
        [torch.Generator()], lambda step: steps.append(step.latents),
    )  # fmt: skip
    assert len(steps) == len(about["timesteps_run"])
    for number, latents in enumerate(steps):
        assert_golden(predicted[number], wanted[f"step{number}.guided_eps"], 1e-5)
        assert_golden(latents, wanted[f"step{number}.latent_after"], 1e-5)
    assert_golden(final, wanted["final_latent"], 1e-5)


def test_both_texts_of_guidance_have_one_length() -> None:
    about = recording("sampling").config["cases"]["ddim_cfg_lr_start_152tok"]
    ids = caption_ids(clip_tokenizer(), [about["negative_prompt"], about["prompt"]])
    assert ids.shape == (2, 152)
