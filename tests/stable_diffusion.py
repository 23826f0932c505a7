"""A Stable Diffusion folder and a CLIP folder in the libraries' own formats: tiny, random, seeded."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModel

TEXT_DIM, VISION_DIM = 16, 16
XL_DIM, XL_POOLED = 24, 12


def save_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16, 16),
        norm_num_groups=4,
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        layers_per_block=1,
    ).save_pretrained(folder / "vae")
    DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        prediction_type=prediction_type,
    ).save_pretrained(folder / "scheduler")
    text = CLIPTextConfig(
        hidden_size=TEXT_DIM, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=49408,
        bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """Two text models, added conditions, transformers of depth 2 and none at the finest level."""
    save_stable_diffusion(folder)
    torch.manual_seed(2)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        norm_num_groups=4,
        cross_attention_dim=TEXT_DIM + XL_DIM,
        attention_head_dim=(1, 2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=XL_POOLED + 6 * 4,
    ).save_pretrained(folder / "unet")
    text = CLIPTextConfig(
        hidden_size=XL_DIM, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=49408,
        bos_token_id=49406, eos_token_id=49407, projection_dim=XL_POOLED, hidden_act="gelu",
    )  # fmt: skip
    CLIPTextModelWithProjection(text).save_pretrained(folder / "text_encoder_2")
    return folder


def save_clip(folder: Path) -> Path:
    torch.manual_seed(1)
    vision = CLIPVisionConfig(
        hidden_size=VISION_DIM, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=28,
        patch_size=14,
    )  # fmt: skip
    CLIPVisionModel(vision).save_pretrained(folder)
    return folder


def overrides(stable_diffusion: Path, clip: Path) -> list[str]:
    """What points an experiment on Stable Diffusion to these folders, on a CPU, for a few steps."""
    return [
        "trainer=cpu",
        "logger=jsonl",
        f"backbone.path={stable_diffusion}",
        f"text_encoder.dim={TEXT_DIM}",
        f"image_encoder.path={clip}",
        f"image_encoder.dim={VISION_DIM}",
        "workers=0",
        "batch_size=1",
        "callbacks.progress=null",
        "trainer.enable_progress_bar=false",
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "trainer.limit_val_batches=1",
        "trainer.log_every_n_steps=1",
        "dataset.train.crop.size=48",
        "dataset.validation.photos.crop.size=48",
        "sampler.steps=2",
    ]
