"""Training as a LightningModule: glue between the data, the denoiser and the pipeline that users get."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from sspir.batch import Batch
from sspir.captioners.base import Captioner, captioner_of, provenance_of
from sspir.device import Replays, replaying
from sspir.encoders.base import encoder_of, tokens_of
from sspir.encoders.text import TextEncoder
from sspir.metrics.base import metric_of
from sspir.models.attention_adapter import AttentionAdapter
from sspir.models.controlled_unet import ControlledUNet
from sspir.models.latent import encode_latents, upscale
from sspir.models.structure_processor import StructureProcessor
from sspir.objectives.base import Objective
from sspir.objectives.diffusion import Diffusion
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.precision import plain
from sspir.sampling.sampler import Sampler
from sspir.seeding import sample_seed
from sspir.training.checkpoint import base_of, keep_saved, marks_of
from sspir.training.losses import RestorationLoss, StepLosses
from sspir.training.parts import keep_still, require_fitting, require_own, saved_weights, trained_first, trained_weights
from sspir.training.strategy import ShardedStrategy, alone, shard
from sspir.training.updates import OptimizerFactory, clip, optimizer_of
from sspir.training.validation import Validation

ScheduleFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


class RestorationModule(pl.LightningModule):
    """Trains a `ControlledUNet` and the Refine layer under a frozen autoencoder, text encoder and image encoder.

    Args:
        backbone: the denoiser.
        vae: autoencoder; frozen, as are text and image encoder.
        text_encoder: tokenizer and text model.
        image_encoder: images to tokens.
        refine: tokens to image embeddings; trained.
        captioner: images to texts.
        noise_schedule: of training; its prediction type says what the network predicts.
        loss: of noise, and of the Processor's images in colour and frequency.
        metrics: of validation, by name.
        sampler: settings of validation, and the defaults of the trained pipeline.
        optimizer: makes an optimizer from parameters.
        schedule: makes a learning-rate schedule, stepped every step; None keeps the rate.
        objective: what is minimised beside the losses of the Processor's images; None is `Diffusion`, the paper's.
        caption_dropout: share of captions replaced by "", so that guidance has an unguided half.
        caption_source: "hq" captions the truth, as the authors do, "lq" what will be there when restoring.
        residual: None diffuses the latent. A number: diffuses the difference to the Processor's full-size image,
            multiplied by it to bring it near unit variance.
        structure_steps: first optimizer steps, which train the Processor's full-size image alone. Residuals refer to
            it, so it stays as it is then; none without such an image or supervision.
        freeze: patterns of weights that stay as they are, such as "backbone.processor.front.*".
        gradient_checkpointing: recompute activations in the backward pass.
        capture: let a single GPU replay what it did for a shape, see `sspir.device.replay`.
        scale: upscaling of low-quality images.
        seed: of noise, timesteps and caption dropout, which depend on it, the step and the rank alone.
    """

    def __init__(
        self,
        backbone: ControlledUNet,
        vae: nn.Module,
        text_encoder: TextEncoder,
        image_encoder: nn.Module,
        refine: nn.Module,
        captioner: Captioner,
        noise_schedule: DDPMScheduler,
        loss: RestorationLoss,
        metrics: Mapping[str, Metric],
        sampler: Sampler,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory | None = None,
        objective: Objective | None = None,
        caption_dropout: float = 0.1,
        caption_source: str = "lq",
        residual: float | None = None,
        structure_steps: int = 0,
        freeze: Sequence[str] = (),
        gradient_checkpointing: bool = False,
        capture: bool = True,
        scale: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold what is trained only
        self.backbone, self.refine = backbone, refine
        self.vae, self.image_encoder, self.text_model = vae, encoder_of(image_encoder), text_encoder.model
        self.text_encoder, self.tokenizer = text_encoder, text_encoder.tokenizer
        self.captioner = captioner_of(captioner)
        self.noise_schedule = noise_schedule
        self.loss, self.step_losses, self.objective = loss, StepLosses(), objective or Diffusion()
        self.validation = Validation({name: metric_of(metric) for name, metric in metrics.items()})
        self.validated_at = -1  # step of the last validation
        self.gradient_norm: Tensor | None = None  # of the step at hand, before it is clipped
        self.sampler, self.optimizer, self.schedule = sampler, optimizer, schedule
        self.caption_dropout, self.caption_source = caption_dropout, caption_source
        self.structure_steps = structure_steps if backbone.processor.predicts_image and loss.supervises else 0
        self.capture = capture and not gradient_checkpointing
        self.replays: Replays | None = None
        self.residual, self.scale, self.seed = residual, scale, seed
        self.config: dict[str, Any] = {}
        self.brought: set[str] = set()  # parts whose base, under adapters, `init` has brought
        require_fitting(backbone, vae, text_encoder, refine, residual)
        self.objective.check(sampler)
        for part in self.frozen():
            part.requires_grad_(False).eval()
        keep_still(self.trainable(), freeze)
        self.first = trained_first(backbone.processor, self.structure_steps)
        if gradient_checkpointing:
            backbone.enable_gradient_checkpointing()

    def frozen(self) -> list[nn.Module]:
        """The parts that never change."""
        parts = [self.vae, self.image_encoder, self.text_model]
        if "unet" not in self.backbone.trainable():
            parts.append(self.backbone.unet)
        if not isinstance(self.backbone.unet_image, AttentionAdapter):
            parts.append(self.refine)  # no image attention reads its tokens
        return parts

    def always_frozen(self) -> dict[str, nn.Module]:
        """The parts that no configuration trains, by their setting."""
        return {"vae": self.vae, "text_encoder": self.text_model, "image_encoder": self.image_encoder}

    def frozen_by_setting(self) -> dict[str, nn.Module]:
        """The networks that this configuration does not train, by their setting."""
        trains_unet = "unet" in self.backbone.trainable()
        return self.always_frozen() | ({} if trains_unet else {"backbone.unet": self.backbone.unet})

    def trainable(self) -> dict[str, nn.Module]:
        """The parts that are trained, by their name in this module: the optimizer's and the checkpoint's content."""
        parts: dict[str, nn.Module] = {f"backbone.{name}": part for name, part in self.backbone.trainable().items()}
        return parts if self.refine in self.frozen() else {**parts, "refine": self.refine}

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of the trained parts; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen():
            part.eval()
        return self

    def configure_model(self) -> None:
        """Share the weights over the processes, where the strategy says so; called by the trainer."""
        if isinstance(self.trainer.strategy, ShardedStrategy):
            for part in (self.backbone, self.refine):
                shard(part, self.trainer.strategy.device_mesh["data_parallel"])

    @property
    def pipeline(self) -> RestorationPipeline:
        """The pipeline that users get, around the modules as they are now."""
        return RestorationPipeline.from_parts(
            self.backbone, self.sampler, vae=self.vae, tokenizer=self.tokenizer, text_encoder=self.text_model,
            image_encoder=self.image_encoder, refine=self.refine, scheduler=self.noise_schedule,
            residual=self.residual, scale=self.scale, captioner=provenance_of(self.captioner)["captioner"],
            one_step=self.objective.one_step, noised=self.objective.noised,
        )  # fmt: skip

    def on_fit_start(self) -> None:
        """Let the objective get ready, and steps be replayed."""
        self.objective.begin(self)
        self.replays = Replays(training=True) if self.capture else None

    def on_validation_start(self) -> None:
        """Give back the memory of what is replayed; at the end of the training, too."""
        if self.replays:
            self.replays.clear()

    on_fit_end = on_validation_start

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Freeze the Processor's full-size image, to which residuals refer, after `structure_steps`."""
        if self.structure_steps:
            front: Any = self.backbone.processor.front
            for name, weight in front.named_parameters():
                weight.requires_grad_(name in self.first and self.global_step < self.structure_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the objective's losses and those of the Processor's images."""
        lq = upscale(batch.lq, batch.size)
        processor = self.backbone.processor
        if isinstance(processor, StructureProcessor) and self.global_step < self.structure_steps:
            losses = self.loss.structure([processor.full_size(lq)], batch.hq)
        else:
            usable = self.replays if self.replays and alone(self.trainer) else None
            with replaying(usable, self.children(), again=not batch_idx):
                features, images = self.backbone.structure(lq)
                losses = self.loss.structure(images, batch.hq)
                losses |= self.objective.losses(self, batch, lq, features, images)
        self.log_dict(self.objective.figures(), batch_size=len(batch))
        return self.step_losses.add(losses)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the losses of the whole step."""
        self.log_dict(self.step_losses.mean())

    @torch.no_grad()
    def semantics(self, batch: Batch, lq: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Prompt embeddings (B, L, D), of some images for the empty caption, and image tokens (B, L, D) of lq."""
        captions = self.captioner(batch.hq if self.caption_source == "hq" else lq, batch.captions)
        dropped = [torch.rand((), generator=each).item() < self.caption_dropout for each in generators]
        captions = ["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        return self.text_encoder(captions).to(lq.dtype), tokens_of(self.image_encoder, lq).to(lq.dtype)

    @torch.no_grad()
    def latents(self, hq: Tensor, images: list[Tensor], generators: list[torch.Generator] | None = None) -> Tensor:
        """Latents (B, C, h, w) that are diffused: the truth's, or its scaled difference to the Processor's image."""
        latents = encode_latents(self.vae, hq, generators)
        if self.residual:
            base = (images[0].detach().float() / 2 + 0.5).clamp(0, 1)
            latents = (latents - encode_latents(self.vae, base)) * self.residual
        return latents

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Restore a batch as users do, and measure it beside bicubic upscaling and the Processor's own image.

        Only the denoiser runs in the precision of training, as for users.

        Returns:
            The batch as `RestorationOutput`, for callbacks that show it.
        """
        with plain(batch.lq.device):
            bicubic = upscale(batch.lq, batch.size)
            captions = self.captioner(bicubic, batch.captions)
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        counts = data.shares[dataloader_idx].counts(batch_idx)
        self.validation.enter(data.validation_names[dataloader_idx], counts, batch.lq.device)
        restored = self.validation.restore(self.pipeline, batch.lq, captions, batch.size, batch.ids)
        self.validation.measure(restored, bicubic, batch.hq)
        return restored

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation."""
        self.validated_at = self.global_step
        self.log_dict(self.validation.finish(), sync_dist=False)

    def configure_optimizers(self) -> Any:
        """An optimizer over exactly the trainable parts, and so clipping over them, and its schedule."""
        optimizer = optimizer_of(self.optimizer, list(trained_weights(self).values()), self)
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *settings: Any, **named: Any) -> None:
        """Clip as the trainer's settings say, which Lightning refuses to do for an update that is one kernel."""
        clip(self, optimizer, *settings, **named)

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Update the network, and then what the objective trains along, before anything is saved."""
        super().optimizer_step(*arguments, **settings)
        self.objective.end_step()

    def generators(self, count: int) -> list[torch.Generator]:
        """One generator per image, seeded by (seed, step, place in the global batch).

        Resuming then needs no generator state, ranks draw different numbers, and two processes with half the batch
        draw the same as one with all of it.
        """
        first = self.global_rank * count
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        return [torch.Generator().manual_seed(sample_seed(self.seed, step, f"place {first + n}")) for n in range(count)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out frozen networks, and add their marks, the configuration and the generator's state."""
        keep_saved(checkpoint, saved_weights(self))
        checkpoint |= {"config": self.config, "base": base_of(self.backbone), "rng": torch.get_rng_state()}
        checkpoint |= {"frozen": marks_of(self.always_frozen()), "objective": self.objective.state_dict()}
        checkpoint["brought"] = sorted(self.brought)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network."""
        require_own(self, checkpoint)
        self.objective.load_state_dict(checkpoint.get("objective", {}))
        torch.set_rng_state(checkpoint["rng"])

    @classmethod
    def from_run(cls, folder: str | Path, checkpoint: str = "last") -> Self:
        """Rebuild a trained module from its run folder, with averaged weights where they were kept.

        Args:
            folder: of a run: holds `config.yaml` and `checkpoints/`.
            checkpoint: "last", "best" or a file name in `checkpoints/`.
        """
        from sspir.training.run import load_run

        module: Self = load_run(Path(folder), checkpoint)
        return module
