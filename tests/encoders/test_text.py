import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sspir.encoders.text import (
    TextEncoder,
    caption_ids,
    clip_tokenizer,
    encode_captions,
    encode_ids,
    tiny_text_encoder,
)
from sspir.errors import UserError
from tests.reference import assert_golden, recording

CASES = ("empty", "short", "long", "batch_short_long_empty", "very_long", "exactly_75", "exactly_76")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return clip_tokenizer()


@pytest.fixture(scope="module")
def recorded_model() -> Any:
    golden = recording("text")
    weights = {name.removeprefix("text_model."): value for name, value in golden.weights.items()}
    table = torch.zeros(49408, 48)
    table[weights.pop("used_token_ids")] = weights.pop("used_token_embedding_rows")
    weights["embeddings.token_embedding.weight"] = table
    model = CLIPTextModel(CLIPTextConfig(**golden.config["text_config"])).eval()
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("case", [*CASES, "negative_padded_to_152"])
def test_ids_equal_the_recorded(tokenizer: Any, case: str) -> None:
    golden = recording("text")
    length = 152 if case == "negative_padded_to_152" else None
    ids = caption_ids(tokenizer, golden.json("tokens")[case]["prompts"], length)
    assert torch.equal(ids, golden.inputs[f"ids.{case}"])


@pytest.mark.parametrize("case", CASES)
def test_embeddings_equal_the_recorded(tokenizer: Any, recorded_model: Any, case: str) -> None:
    golden = recording("text")
    prompts = golden.json("tokens")[case]["prompts"]
    with torch.no_grad():
        ours = encode_captions(tokenizer, recorded_model, prompts)
        assert_golden(ours, golden.outputs[case])
        assert torch.equal(ours, TextEncoder(tokenizer, recorded_model)(prompts))


def test_negative_caption_can_have_the_length_of_the_other(recorded_model: Any) -> None:
    golden = recording("text")
    with torch.no_grad():
        ours = encode_ids(recorded_model, golden.inputs["ids.negative_padded_to_152"])
    assert_golden(ours, golden.outputs["negative_padded_to_152"])


def test_padding_rule_of_the_recording_but_for_the_end_token() -> None:
    """Its own small ids: there padding lies between caption and end, which are one and the same token for SD 1.5."""
    example = recording("text").config["pad_tokens_example"]

    class Numbers:
        bos_token_id, eos_token_id, pad_token_id = example["bos"], example["eos"], example["pad"]

        def __call__(self, captions: list[str], **_: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[int(word) for word in caption.split()] for caption in captions]}

    captions = [" ".join(map(str, tokens)) for tokens in example["tokens"]]
    ours = caption_ids(Numbers(), captions, example["max_length"]).tolist()
    for row, theirs, tokens in zip(ours, example["result"], example["tokens"], strict=True):
        assert theirs[1 : 1 + len(tokens)] == tokens
        assert theirs[-1] == example["eos"]
        assert row == [*theirs[: 1 + len(tokens)], example["eos"], *theirs[1 + len(tokens) : -1]]


def test_caption_of_ten_thousand_characters_is_cut_and_reported(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caption = "a weathered boat " * 600
    with caplog.at_level(logging.WARNING):
        ids = caption_ids(tokenizer, [caption, ""])
        assert torch.equal(ids, caption_ids(tokenizer, [caption, ""]))
    assert ids.shape == (2, 302)
    assert [record.getMessage() for record in caplog.records] == ["A caption of 2400 tokens was cut to its first 300."]


def test_other_lengths_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="77, 152, 227, 302"):
        caption_ids(tokenizer, [""], 100)


def test_tokenizer_equals_open_clips(tokenizer: Any) -> None:
    import open_clip

    captions = ["", "Don't   stop!", "ünïcode 東京 😀 naïve", "a b\nc\t1234 #tag e.g. £5", "x" * 50]
    theirs = open_clip.SimpleTokenizer()(captions)
    ours = caption_ids(tokenizer, captions)
    end = tokenizer.eos_token_id
    for row, expected in zip(ours.tolist(), theirs.tolist(), strict=True):
        assert row[: row.index(end) + 1] == expected[: expected.index(end) + 1]


def test_stable_diffusion_2_pads_with_another_token() -> None:
    tokenizer = clip_tokenizer(pad_token="!")
    stock = tokenizer(["a cup", "", "a " * 80], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(torch.cat([caption_ids(tokenizer, [text], 77) for text in ("a cup", "", "a " * 80)]), stock)
    assert stock[0, 3:].unique().tolist() == [0, 49407]


def test_tiny_encoder_is_the_same_for_the_same_seed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = tiny_text_encoder(dim=16, seed=3), tiny_text_encoder(dim=16, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = tiny_text_encoder(dim=16, seed=4)
    assert not torch.equal(first.embeddings.token_embedding.weight, other.embeddings.token_embedding.weight)


def test_pretrained_folder_round_trip_and_its_faults(tmp_path: Path) -> None:
    tiny = TextEncoder.tiny(dim=16)
    tiny.model.save_pretrained(tmp_path / "sd" / "text_encoder")
    again = TextEncoder.from_pretrained(str(tmp_path / "sd"), 16, subfolder="text_encoder")
    assert again.dim == 16
    with torch.no_grad():
        assert torch.equal(again(["a cup"]), tiny(["a cup"]))

    with pytest.raises(UserError, match=r"text_encoder.dim to that, not 768"):
        TextEncoder.from_pretrained(str(tmp_path / "sd"), subfolder="text_encoder")
    with pytest.raises(UserError, match=r"text_encoder.path.*does not exist"):
        TextEncoder.from_pretrained(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"does not hold config.json"):
        TextEncoder.from_pretrained(str(tmp_path))
    weights_file = tmp_path / "sd" / "text_encoder" / "model.safetensors"
    weights = load_file(weights_file)
    name = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != name}, weights_file, {"format": "pt"})
    with pytest.raises(UserError, match=f"lacks 1 weights .*{name}"):
        TextEncoder.from_pretrained(str(tmp_path / "sd"), subfolder="text_encoder")
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not hold"):
        TextEncoder.from_pretrained(str(tmp_path / "sd"), subfolder="text_encoder")


def test_hub_id_without_network_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match=r"set text_encoder.path"):
        TextEncoder.from_pretrained("nobody/no-such-model")
