"""The explicit semantic prior: captions of up to 300 tokens as text embeddings.

CLIP reads 77 tokens. A longer caption is read in up to four chunks of 75, each between its own start and end
token, and the embeddings are joined without the inner ones: SSP-IR `models/model.py:208-316`, which took the idea
from the web interfaces of Stable Diffusion.
"""

import gzip
import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sspir.device import replayed, sent
from sspir.encoders.drawn import draw_weights
from sspir.encoders.dual_text import DualTextEncoder
from sspir.errors import UserError
from sspir.models.offload import execution_device
from sspir.pretrained.load import load_transformers

CHUNK = 75
MAX_CHUNKS = 4
_START, _END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY = 49408


class TextEncoder:
    """A CLIP tokenizer and text model: captions to prompt embeddings.

    Args:
        tokenizer: of transformers.
        model: `CLIPTextModel` of transformers; its last hidden state, after the final layer norm, is used.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        dim: int = 768,
        subfolder: str = "",
        pad_token: str = _END,
        revision: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """A frozen text model with CLIP's vocabulary.

        Args:
            path: a local folder or hub id: a CLIP, or with subfolder "text_encoder" a Stable Diffusion 1.x or 2.x.
            dim: width that the model must have; the configuration states it for the parts that depend on it.
            subfolder: of the path.
            pad_token: what fills short captions: the end token, but "!" for Stable Diffusion 2.x.
            revision: commit, tag or branch of a hub id.
            dtype: of the weights: "float32", "bfloat16" or "float16".

        Raises:
            UserError: the model cannot be loaded, or has another width.
        """
        from transformers import CLIPTextModel

        model = load_transformers(CLIPTextModel, path, "text_encoder.path", subfolder, revision, dtype)
        return cls(clip_tokenizer(pad_token), model)._require_width(path, dim)

    @classmethod
    def from_xl(cls, path: str, dim: int = 2048, revision: str | None = None, dtype: str = "float32") -> Self:
        """The two frozen text models of a Stable Diffusion XL, as one; its embeddings end in a row of the whole text.

        Args:
            path: a local folder in the diffusers layout, or a hub id.
            dim: width of both together.
            revision: commit, tag or branch of a hub id.
            dtype: of the weights.

        Raises:
            UserError: as `from_pretrained`.
        """
        model = DualTextEncoder.from_stable_diffusion(path, revision, dtype)
        return cls(clip_tokenizer(), model)._require_width(path, dim)

    def _require_width(self, path: str, dim: int) -> Self:
        if self.dim != dim:
            raise UserError(f"{path} has embeddings of width {self.dim}; set text_encoder.dim to that, not {dim}.")
        return self

    @classmethod
    def tiny(cls, dim: int = 32, layers: int = 2, heads: int = 2, seed: int = 0) -> Self:
        """Random weights over the real vocabulary."""
        return cls(clip_tokenizer(), tiny_text_encoder(dim, layers, heads, seed))

    @property
    def dim(self) -> int:
        """Width of the embeddings, D."""
        return int(self.model.config.hidden_size)

    def __call__(self, captions: Sequence[str], length: int | None = None) -> Tensor:
        """Prompt embeddings (B, L, D): see `encode_captions`."""
        return encode_captions(self.tokenizer, self.model, captions, length)


def encode_captions(tokenizer: Any, text_encoder: Any, captions: Sequence[str], length: int | None = None) -> Tensor:
    """Embed captions, all at one length.

    Args:
        tokenizer: CLIP's.
        text_encoder: `CLIPTextModel`.
        captions: B >= 1 texts; what is beyond 300 tokens is left out, which is logged once.
        length: 77, 152, 227 or 302; by default the shortest of them that holds the longest caption. Captions that
            meet in guidance are encoded in one call, or with one length.

    Returns:
        (B, 75 m + 2, D) with m = 1 to 4 chunks, on the model's device and of its type.

    Raises:
        UserError: for another length.
    """
    ids = caption_ids(tokenizer, captions, length)
    return encode_ids(text_encoder, sent(ids, execution_device(text_encoder)))


def caption_ids(tokenizer: Any, captions: Sequence[str], length: int | None = None) -> Tensor:
    """Token ids (B, 75 m + 2) int64: start, caption, end, padding; arguments as of `encode_captions`.

    With Stable Diffusion 1's padding, which is the end token, this is the authors' order too: start, caption, padding,
    end. With another padding theirs would read it as words.
    """
    tokens = tokenizer(list(captions), add_special_tokens=False, verbose=False)["input_ids"]
    longest = max(map(len, tokens))
    chunks = _chunks(longest, length)
    if longest > chunks * CHUNK:
        _warn_of_length(longest, chunks * CHUNK)
    start, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [row[: chunks * CHUNK] for row in tokens]
    return torch.tensor([[start, *row, end, *[padding] * (chunks * CHUNK - len(row))] for row in rows])


def _chunks(longest: int, length: int | None) -> int:
    if length is None:
        return min(MAX_CHUNKS, max(1, -(-longest // CHUNK)))
    lengths = [CHUNK * chunks + 2 for chunks in range(1, MAX_CHUNKS + 1)]
    if length not in lengths:
        raise UserError(f"Captions cannot be {length} tokens long; choose one of {', '.join(map(str, lengths))}.")
    return length // CHUNK


@cache  # once per length
def _warn_of_length(tokens: int, kept: int) -> None:
    logging.getLogger(__name__).warning("A caption of %d tokens was cut to its first %d.", tokens, kept)


@replayed
def encode_ids(text_encoder: Any, ids: Tensor) -> Tensor:
    """Embed the ids (B, 75 m + 2) of `caption_ids`.

    Returns:
        (B, 75 m + 2, D); of a `DualTextEncoder` (B, 75 m + 3, D), whose last row is the pooled first chunk.
    """
    batch, chunks = len(ids), ids.shape[1] // CHUNK
    windows = ids.unfold(1, CHUNK + 2, CHUNK).clone()  # (B, m, 77), neighbours share two ids
    windows[:, :, 0], windows[:, :-1, -1] = ids[:, :1], _VOCABULARY - 1
    output = text_encoder(windows.reshape(batch * chunks, CHUNK + 2))
    hidden = output.last_hidden_state.reshape(batch, chunks, CHUNK + 2, -1)
    parts = [hidden[:, 0, :1], hidden[:, :, 1:-1].flatten(1, 2), hidden[:, -1, -1:]]
    if isinstance(text_encoder, DualTextEncoder):
        parts.append(output.pooled.reshape(batch, chunks, -1)[:, :1])
    return torch.cat(parts, dim=1)


def clip_tokenizer(pad_token: str = _END) -> Any:
    """CLIP's tokenizer, without a download: from the vocabulary that open_clip ships.

    Args:
        pad_token: what fills short captions: the end token, but "!" for Stable Diffusion 2.x.
    """
    from transformers import CLIPTokenizer

    words, merges = _vocabulary()
    ids = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=ids, merges=merges, pad_token=pad_token, model_max_length=CHUNK + 2)


@cache
def _vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Words in the order of their ids, and merges in their order (byte-pair encoding, Radford et al. 2021)."""
    spec = find_spec("open_clip")  # found, not imported: that takes seconds
    if spec is None or spec.origin is None:
        raise UserError("CLIP's vocabulary comes with open_clip; install it with: pip install open_clip_torch")
    with gzip.open(Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()[1:]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    count = _VOCABULARY - 2 * len(letters) - 2
    merges = [(first, second) for first, second in (line.split() for line in lines[:count])]
    words = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges]
    return [*words, _START, _END], merges


def tiny_text_encoder(dim: int = 32, layers: int = 2, heads: int = 2, seed: int = 0) -> Any:
    """A CLIP text model with random weights, the same for the same seed."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=_VOCABULARY,
        hidden_size=dim,
        intermediate_size=4 * dim,
        projection_dim=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=_VOCABULARY - 2,
        eos_token_id=_VOCABULARY - 1,
        pad_token_id=_VOCABULARY - 1,
    )
    with torch.random.fork_rng(devices=[]):
        model = CLIPTextModel(config).eval()
    draw_weights(model, seed)
    return model
