"""Captions by a vision-language model of transformers that runs here."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sspir.captioners.base import QUESTION, Captioner, CaptionerUnavailableError, Images, one_line, pil_image
from sspir.errors import UserError
from sspir.memory import choose_device
from sspir.numbers import COUNT, WEIGHT
from sspir.pretrained.load import load_preprocessor, load_transformers

if TYPE_CHECKING:
    from PIL.Image import Image

QUANTIZATIONS = ("8bit", "4bit")


class VisionLanguageCaptioner(Captioner):
    """Any image-text-to-text model of transformers: LLaVA, LLaVA-OneVision, Qwen-VL, SmolVLM and their kin.

    The model is loaded at the first call and stays until `close`.

    Args:
        path: a local folder as `save_pretrained` writes it, or a hub id.
        revision: commit or tag of the hub id; a commit makes captions repeatable. None: the newest.
        question: what the model is asked about each image.
        max_new_tokens: of an answer.
        temperature: 0 always takes the likeliest word, so captions repeat; above 0 words are drawn, from `seed`.
        top_p: share of probability that words are drawn from.
        seed: of the drawing; its captions also depend on which images are asked about together.
        batch_size: images per pass.
        longest_side: pixels; larger images are reduced before the model's own preprocessing.
        dtype: "auto" as the file has it, or "float32", "bfloat16", "float16".
        quantization: None, "8bit" or "4bit" weights (needs bitsandbytes and a GPU).
        device: "auto" (a GPU if there is one), "cpu", "cuda:1", ...
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        question: str = QUESTION,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 4,
        longest_side: int = 1024,
        dtype: str = "auto",
        quantization: str | None = None,
        device: str = "auto",
    ) -> None:
        if quantization not in (None, *QUANTIZATIONS):
            raise UserError(f"captioner.quantization={quantization} is not known; choose 8bit, 4bit or null.")
        for count, value in {"max_new_tokens": max_new_tokens, "batch_size": batch_size}.items():
            COUNT.require(f"captioner.{count}", value)
        COUNT.require("captioner.longest_side", longest_side)
        WEIGHT.require("captioner.temperature", temperature)
        self.path, self.revision, self.question = path, revision, question
        self.max_new_tokens, self.temperature, self.top_p, self.seed = max_new_tokens, temperature, top_p, seed
        self.batch_size, self.longest_side = batch_size, longest_side
        self.dtype, self.quantization, self.device = dtype, quantization, device
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, images: Images, known: Sequence[str]) -> list[str]:
        """The model's answer for each image; arguments as of `Captioner`."""
        pictures = [pil_image(image, self.longest_side) for image in images]
        batches = [pictures[start : start + self.batch_size] for start in range(0, len(pictures), self.batch_size)]
        return [caption for batch in batches for caption in self._ask(batch)]

    def provenance(self) -> dict[str, str]:
        """Model, revision and question, and how the answer was decoded."""
        decoding = f"temperature {self.temperature}, seed {self.seed}" if self.temperature else "greedy"
        weights = self.quantization or self.dtype
        return {
            **super().provenance(),
            "model": self.path,
            "revision": self.revision or "",
            "question": self.question,
            "decoding": f"{decoding}, {self.max_new_tokens} tokens, {weights}, {self.longest_side} pixels",
        }

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _ask(self, pictures: list["Image"]) -> list[str]:
        """Answers of one pass."""
        import torch

        preprocessor, model = self._loaded = self._loaded or self._load()
        content = [[{"type": "image", "image": each}, {"type": "text", "text": self.question}] for each in pictures]
        options: dict[str, Any] = {"do_sample": False}
        if self.temperature:
            options = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        with _enough_memory(), torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            inputs = preprocessor.apply_chat_template(
                [[{"role": "user", "content": each}] for each in content],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left"},
            ).to(model.device, model.dtype)
            answers = model.generate(**inputs, max_new_tokens=self.max_new_tokens, **options)
        texts = preprocessor.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [one_line(text) for text in texts]

    def _load(self) -> tuple[Any, Any]:
        """The preprocessor and the model."""
        from transformers import AutoModelForImageTextToText

        device = choose_device(self.device)
        quantization = self._quantization_config() if self.quantization else None
        try:
            preprocessor = load_preprocessor(self.path, "captioner.path", self.revision)
            with _enough_memory():
                model = load_transformers(
                    AutoModelForImageTextToText, self.path, "captioner.path",
                    revision=self.revision, dtype=self.dtype, quantization=quantization, device=str(device),
                )  # fmt: skip
                return preprocessor, model if self.quantization else model.to(device)
        except CaptionerUnavailableError:
            raise
        except UserError as error:
            raise CaptionerUnavailableError(str(error)) from error

    def _quantization_config(self) -> Any:
        import torch
        from transformers import BitsAndBytesConfig

        try:
            return BitsAndBytesConfig(
                load_in_8bit=self.quantization == "8bit",
                load_in_4bit=self.quantization == "4bit",
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        except ImportError as error:
            raise CaptionerUnavailableError(
                f"captioner.quantization={self.quantization} needs bitsandbytes: pip install bitsandbytes, or set it "
                f"to null."
            ) from error


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turn running out of memory into a sentence that says what takes less."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise CaptionerUnavailableError(
            "The captioner ran out of memory; lower captioner.batch_size or captioner.longest_side, set "
            "captioner.dtype=bfloat16 or captioner.quantization=4bit, or take a smaller model (captioner=smolvlm)."
        ) from error
