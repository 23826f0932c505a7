"""The pipeline that people call: from low-quality images to restored ones."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from sspir.captioners.base import Captioner, NoCaption, Precomputed, captioner_of
from sspir.captioners.measured import MeasuredCaptioner
from sspir.device import Replays
from sspir.encoders.clip import CLIPImageEncoder
from sspir.encoders.text import caption_ids
from sspir.errors import UserError
from sspir.images.photo import Photo, to_tensor
from sspir.images.room import MAX_OUTPUT_PIXELS, Size, enlarged, require_room
from sspir.models.attention_adapter import AttentionAdapter, NoAttention
from sspir.models.block_dct import BlockDCT
from sspir.models.blocks import NoControlNet
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.refine import RefineLayer
from sspir.models.structure_processor import NoProcessor, StructureProcessor
from sspir.numbers import COUNT, SEED
from sspir.pretrained.load import require_whole, unmapped
from sspir.sampling.look import captions_of, listed, look
from sspir.sampling.loop import OnStep
from sspir.sampling.output import RestorationOutput, grouped
from sspir.sampling.pickled import Pickled
from sspir.sampling.precision import floating, networks_of
from sspir.sampling.restoration import restore_batch
from sspir.sampling.sampler import Sampler
from sspir.sampling.words import with_words_of_diffusers
from sspir.seeding import torch_seed

# diffusers loads classes of a saved pipeline only from modules that are imported.
PARTS = (AttentionAdapter, BlockDCT, CLIPImageEncoder, RefineLayer, StructureProcessor)
ABSENT = (NoAttention, NoControlNet, NoProcessor)
WEIGHTLESS = {kind.__name__: kind for kind in (NoCaption, Precomputed, MeasuredCaptioner)}  # what a saved one names


class RestorationPipeline(Pickled, DiffusionPipeline):
    """Restores images under three priors: caption, image embedding, structure.

    A diffusers pipeline in its own file format. A part that an ablation switched off is None.

    Args:
        vae: autoencoder of diffusers, or one with its calls.
        tokenizer: of the text encoder.
        text_encoder: CLIP text model: the explicit semantic prior.
        image_encoder: images in [0, 1] -> tokens: the implicit semantic prior.
        refine: tokens -> image embeddings.
        unet: Stable Diffusion's.
        controlnet: with the Processor's trunk as its conditioning embedding.
        scheduler: noise schedule of training.
        processor: RGB heads of the structure prior.
        unet_image: image cross-attention of the U-Net.
        controlnet_image: image cross-attention of the ControlNet.
        unet_pixel: pixel attention of the U-Net.
        sampler: default settings, the fields of `Sampler`.
        residual: None restores the latent itself. A number: restores the difference to the Processor's full-size
            image, which was multiplied by it in training.
        scale: default upscaling.
        captioner: class of the captioner it was trained with. `pipeline.captioner` is one of these where it needs no
            weights, else `NoCaption` until it is set, as `load_pipeline` does for a run.
        one_step: whether it was trained to restore in a single step, at the sampler's start.
        noised: whether noise is added to what the first step is given; False after such a training without.
    """

    # Without the ControlNet and the adapters: they take turns with the U-Net at every step, so they stay once fetched
    model_cpu_offload_seq = "text_encoder->image_encoder->refine->processor->unet->vae"
    _optional_components = ["controlnet", "processor", "unet_image", "controlnet_image", "unet_pixel"]  # noqa: RUF012 (diffusers')

    max_output_pixels: float = MAX_OUTPUT_PIXELS  # of a restored photo; set infinity for any number

    def __init__(
        self,
        vae: Any,
        tokenizer: Any,
        text_encoder: Any,
        image_encoder: Any,
        refine: Any,
        unet: Any,
        controlnet: Any,
        scheduler: Any,
        processor: Any = None,
        unet_image: AttentionAdapter | None = None,
        controlnet_image: AttentionAdapter | None = None,
        unet_pixel: AttentionAdapter | None = None,
        sampler: dict[str, Any] | None = None,
        residual: float | None = None,
        scale: int = 4,
        captioner: str = "NoCaption",
        one_step: bool = False,
        noised: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, tokenizer=tokenizer, text_encoder=text_encoder, image_encoder=image_encoder, refine=refine,
            unet=unet, controlnet=controlnet, scheduler=scheduler, processor=processor, unet_image=unet_image,
            controlnet_image=controlnet_image, unet_pixel=unet_pixel,
        )  # fmt: skip
        self.register_to_config(residual=residual, scale=scale, captioner=captioner, one_step=one_step, noised=noised)
        self.sampler = Sampler(**(sampler or {}))
        self.replays: Replays | None = Replays()  # None launches every step anew
        self.captioner: Captioner = WEIGHTLESS.get(captioner, NoCaption)()
        self.backbone = ControlledUNet(
            unet,
            controlnet or NoControlNet(unet),
            processor or NoProcessor(),
            unet_image or NoAttention(),
            controlnet_image or NoAttention(),
            unet_pixel or NoAttention(),
        )

    @property
    def _execution_device(self) -> torch.device:
        """As diffusers', which looks through every module first: that takes longer than a GPU takes for a photo."""
        device: torch.device = next(self.backbone.unet.parameters()).device
        return device if device.type == "cuda" else super()._execution_device

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep captioner and sampler out of diffusers' saved configuration, which gets the sampler's settings alone.

        Any callable is taken for a captioner.
        """
        if name not in ("captioner", "sampler"):
            super().__setattr__(name, value)
            return
        object.__setattr__(self, name, captioner_of(value) if name == "captioner" else value)
        if name == "sampler":
            self.register_to_config(sampler=asdict(value))

    @classmethod
    def from_parts(cls, backbone: ControlledUNet, sampler: Sampler, **parts: Any) -> Self:
        """Compose from a backbone; `parts` are the other components and settings of the class."""
        held: dict[str, Any] = {
            name: None if isinstance(part, ABSENT) else part for name, part in backbone.named_children()
        }
        return cls(sampler=asdict(sampler), **held, **parts)

    @torch.no_grad()
    @with_words_of_diffusers
    def __call__(
        self,
        image: Photo | Sequence[Photo],
        caption: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        scale: float | Size | None = None,
        output_type: str = "pil",
        captioner_input: str = "lq",
        on_step: OnStep | None = None,
        batch: int = 1,
        **changes: Any,
    ) -> RestorationOutput:
        """Restore photos.

        Args:
            image: a photo of any kind that `sspir.images.photo.to_tensor` takes, or a list of those.
            caption: what they show; None asks `self.captioner`.
            seed: of the noise; one for all, or one per image.
            scale: upscaling, or a `sspir.images.room.Size`; the trained one by default.
            captioner_input: what of a photo a captioner describes, see `sspir.sampling.look.look`.
            output_type: "pil" pictures, "np" (H, W, 3) arrays or "pt" (3, H, W) tensors, both of floats in [0, 1].
            on_step: called after each step with a `Step`: its number, how many there are, the latents, and a preview
                of the result that costs next to nothing. The loop goes on with latents that it returns.
            batch: images of one size that are restored together; how many changes no picture.
            changes: fields of `Sampler` to use instead of the pipeline's, such as steps=20 or guidance=5.5. The words
                of diffusers do too (`sspir.sampling.words.SAME`); a generator stands for the seed it was made with.

        Returns:
            The images as a list in the order given, and the captions that steered.

        Raises:
            UserError: a setting or an image is not understood.
        """
        if output_type not in ("pil", "np", "pt"):
            raise UserError(f"output_type={output_type!r} is not known; choose pil, np or pt.")
        photos: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        seeds = list(seed) if isinstance(seed, Sequence) else [seed] * len(photos)
        captions = listed(caption, len(photos))
        if not len(photos) == len(seeds) == len(captions):
            raise UserError(f"{len(photos)} images came with {len(captions)} captions and {len(seeds)} seeds.")
        seeds = [torch_seed(SEED.require("seed", each)) for each in seeds]
        COUNT.require("batch", batch)
        settings = self.settings(**changes)
        for photo in photos:
            if isinstance(photo, str | Path):
                require_room(photo, self.config.scale if scale is None else scale, self.max_output_pixels)
        images = [to_tensor(photo)[0] for photo in photos]
        sizes = [self.size_of(image, scale) for image in images]
        texts = captions_of(self, images, captions, scale, captioner_input)
        results: dict[int, RestorationOutput] = {}
        for group in grouped([image.shape for image in images], batch):
            lq, given = torch.stack([images[index] for index in group]), [texts[index] for index in group]
            together = self.restore(lq, given, sizes[group[0]], [seeds[index] for index in group], settings, on_step)
            results |= {index: together[number] for number, index in enumerate(group)}
        return RestorationOutput.listed([results[index] for index in range(len(photos))], output_type)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load a pipeline that `save_pretrained` wrote; arguments as of `DiffusionPipeline.from_pretrained`.

        `sspir.weights.load.load_pipeline` checks a stranger's folder for code and strange classes first; this does not.

        Raises:
            UserError: a part of a local folder lacks weights, which the libraries would draw at random.
        """
        pipeline: Self = super().from_pretrained(pretrained_model_name_or_path, **options)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                require_whole(Path(pretrained_model_name_or_path), name, part)
                unmapped(part)
        return pipeline

    def in_dtype(self, dtype: str | torch.dtype) -> Self:
        """Run the denoiser in a type such as "bfloat16"; parts that run once per image stay in float32."""
        kind = floating(dtype)
        for part in self.backbone.children():
            if part is not self.backbone.processor:
                torch.nn.Module.to(part, kind)  # diffusers' own warns that it does not keep anything in float32
        self.backbone.controlnet.controlnet_cond_embedding.to(torch.float32)
        return self

    def compiled(self, backend: str = "inductor") -> Self:
        """Compile the denoiser, for a GPU and many photos of few sizes: the first step at each size takes minutes.

        Args:
            backend: of `torch.compile`.
        """
        self.backbone.predict = torch.compile(self.backbone.predict, backend=backend)  # type: ignore[method-assign]  # as torch documents
        return self

    def save_pretrained(self, *arguments: Any, **settings: Any) -> None:
        """Save the pipeline as diffusers does.

        Raises:
            UserError: the weights are offloaded layer by layer.
        """
        if any(parameter.is_meta for part in networks_of(self) for parameter in part.parameters()):
            raise UserError("Weights that are offloaded layer by layer cannot be saved; call remove_all_hooks() first.")
        super().save_pretrained(*arguments, **settings)

    def size_of(self, lq: Tensor, scale: float | Size | None = None) -> tuple[int, int]:
        """Height and width of the restored images of lq (..., 3, h, w); by default at the trained scale.

        Raises:
            UserError: they have more than `max_output_pixels`.
        """
        wanted = self.config.scale if scale is None else scale
        return enlarged((lq.shape[-2], lq.shape[-1]), wanted, self.max_output_pixels)

    def caption(self, lq: Tensor, size: tuple[int, int], captioner_input: str = "lq") -> list[str]:
        """Captions of lq (B, 3, h, w); `size` and `captioner_input` as of `sspir.sampling.look.look`."""
        return self.captioner(look(self, lq, size, captioner_input), [""] * len(lq))

    def settings(self, **changes: Any) -> Sampler:
        """The pipeline's sampler with some fields changed.

        Raises:
            UserError: a field is not known, or means nothing to a model that restores in one step.
        """
        return self.sampler.changed(changes, Sampler.OF_MANY_STEPS if self.config.one_step else ())

    @torch.no_grad()
    def restore(
        self,
        lq: Tensor,
        captions: Sequence[str],
        size: tuple[int, int] | None = None,
        seeds: Sequence[int] | None = None,
        sampler: Sampler | None = None,
        on_step: OnStep | None = None,
    ) -> RestorationOutput:
        """Restore a batch of images of one size.

        Args:
            lq: (B, 3, h, w) in [0, 1], RGB.
            captions: one text per image; "" for none.
            size: (H, W) of the result; the default scale times (h, w). A smaller one than (h, w) is reduced to.
            seeds: one per image: the same seed gives the same noise whatever the batch. Default: 0, 1, ...
            sampler: settings; the pipeline's own by default.
            on_step: called after each step with a `Step`.
        """
        settings = sampler or self.sampler
        settings = settings if self.config.one_step else settings.faithful()  # one step knows one start
        lq = lq.to(self._execution_device, torch.float32)
        size = size or self.size_of(lq)
        seeds = list(range(len(lq))) if seeds is None else list(seeds)
        texts = [f"{caption} {settings.caption_suffix}".strip() for caption in captions]
        groups = grouped([caption_ids(self.tokenizer, [text]).shape[1] for text in texts], len(lq))
        # A caption is embedded at its own length, so that no neighbour's changes it
        parts = [
            restore_batch(self, lq[some], [texts[n] for n in some], size, [seeds[n] for n in some], settings, on_step)
            for some in groups
        ]
        self.maybe_free_model_hooks()
        return parts[0] if len(parts) == 1 else RestorationOutput.joined(parts, [n for group in groups for n in group])
