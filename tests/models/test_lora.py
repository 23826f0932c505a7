import copy
import re
import sys
from pathlib import Path

import pytest
import torch

from sspir.errors import UserError
from sspir.models.lora import add_lora, base_names, lora_switched_off, merge_lora
from sspir.pretrained.adapter import fuse_adapter
from tests.needs import needs
from tests.networks import tiny_inputs, tiny_network, wake

TARGETS = ("to_q", "to_out.0", "conv1", "conv_in")


@pytest.fixture(autouse=True)
def _peft() -> None:
    needs("peft", "lora")


def adapted(targets: tuple[str, ...] = TARGETS, rank: int = 3, alpha: float | None = 5) -> torch.nn.Module:
    network = wake(tiny_network())
    torch.manual_seed(1)
    add_lora({"unet": network.unet, "controlnet": network.controlnet}, rank, alpha, targets)
    return network


@torch.no_grad()
def predicted(network: torch.nn.Module) -> torch.Tensor:
    return network(**tiny_inputs()).noise


def test_starts_as_the_base_is_switched_off_exactly_and_merges_to_plain_layers() -> None:
    base = wake(tiny_network())
    network = adapted()
    assert torch.equal(predicted(network), predicted(base))
    wake(network, seed=7)  # adapters that have learned something
    learned = predicted(network)
    assert not torch.allclose(learned, predicted(base), atol=1e-3)
    with lora_switched_off(network):
        assert torch.equal(predicted(network), predicted(base))
        with lora_switched_off(network.unet):
            pass
        assert torch.equal(predicted(network), predicted(base))  # still
    assert torch.equal(predicted(network), learned)
    assert all(weight.requires_grad for key, weight in network.named_parameters() if "lora_" in key)
    merge_lora(network)
    assert list(network.state_dict()) == list(base.state_dict())
    assert [type(part) for part in network.modules()] == [type(part) for part in base.modules()]
    assert torch.allclose(predicted(network), learned, atol=1e-5)
    merge_lora(network)  # nothing left to do
    assert torch.allclose(predicted(network), learned, atol=1e-5)


def test_the_base_is_frozen_and_named_and_what_is_new_in_a_controlnet_is_trained() -> None:
    network = adapted()
    for net in (network.unet, network.controlnet):
        frozen = {name for name, weight in net.named_parameters() if not weight.requires_grad}
        assert base_names(net) == frozen
        assert "conv_in.base_layer.weight" in frozen
    own = {name for name, _ in network.controlnet.named_parameters()} - base_names(network.controlnet)
    assert {name.partition(".")[0] for name in own if "lora_" not in name} == {
        "controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block",
    }  # fmt: skip
    assert not any("lora_" in name for name in own if name.startswith("controlnet_cond"))  # its conv_in is no target
    assert base_names(tiny_network().controlnet) == set()


def test_adapters_of_a_half_base_are_whole() -> None:
    unet = tiny_network().unet.bfloat16()
    add_lora({"unet": unet}, 2)
    kinds = {"lora_" in key: weight.dtype for key, weight in unet.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_a_target_may_fit_one_network_alone_and_the_other_stays_as_it_is() -> None:
    network = adapted(("up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",))
    assert len([key for key in network.state_dict() if "lora_" in key]) == 2
    assert all(weight.requires_grad for weight in network.controlnet.parameters())


def test_one_word_is_one_target() -> None:
    assert adapted("to_q").state_dict().keys() == adapted(("to_q",)).state_dict().keys()


@pytest.mark.parametrize("targets", [("to_q", "to_z"), ("o_q",), ("",), ()])
def test_a_target_that_fits_nothing_is_refused_with_the_names_there_are(targets: tuple[str, ...]) -> None:
    network = tiny_network()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError, match=re.escape("fits no layer of unet; there are ")) as caught:
        add_lora({"unet": network.unet}, 2, targets=targets)
    assert {"to_q", "to_out.0", "conv1", "conv_shortcut"} <= set(re.split(r"[ ,.]*[ ,]", str(caught.value)))
    assert list(network.state_dict()) == list(before)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 2.5}, {"rank": 2, "alpha": 0}, {"rank": 2, "alpha": "x"}])
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=r"lora\.(rank|alpha)"):
        add_lora({"unet": tiny_network().unet}, **wrong)


def test_where_peft_is_missing_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=re.escape("LoRA needs the package peft: pip install 'sspir[lora]'")):
        add_lora({"unet": tiny_network().unet}, 2)
    with pytest.raises(UserError, match=re.escape("backbone.unet.lora needs the package peft: pip install")):
        fuse_adapter(tiny_network().unet, str(tmp_path))
    network = tiny_network()  # and what needs none goes on
    merge_lora(network)
    assert base_names(network) == set()
