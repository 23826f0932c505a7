"""What a network's prediction means, whichever kind it is."""

import torch
from diffusers import DDPMScheduler
from torch import Tensor


def signal_and_noise(schedule: DDPMScheduler, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of clean latents and of noise at a timestep, scalars; of (B,) timesteps (B, 1, 1, 1) on their device."""
    if timestep.ndim:
        kept = schedule.alphas_cumprod.to(timestep.device)[timestep].view(-1, 1, 1, 1)
    else:
        kept = schedule.alphas_cumprod[int(timestep)]  # not read: the schedule may have moved to a GPU
    return kept.sqrt(), (1 - kept).sqrt()


def pred_original_sample(schedule: DDPMScheduler, noisy: Tensor, predicted: Tensor, timestep: Tensor) -> Tensor:
    """Clean latents (B, C, h, w) that a prediction implies.

    Args:
        schedule: the noise schedule of training.
        noisy: (B, C, h, w), what the network was given.
        predicted: (B, C, h, w), what it made of it: noise, velocity or sample.
        timestep: scalar, or (B,) on their device.
    """
    signal, noise = signal_and_noise(schedule, timestep)
    if schedule.config.prediction_type == "sample":
        return predicted
    if schedule.config.prediction_type == "v_prediction":
        return signal * noisy - noise * predicted
    return (noisy - noise * predicted) / signal


def ddim_step(schedule: DDPMScheduler, noisy: Tensor, clean: Tensor, timesteps: Tensor, earlier: Tensor) -> Tensor:
    """Less noisy latents (B, C, h, w) on the path that DDIM takes (Song et al. 2021, without noise of its own).

    Args:
        schedule: the noise schedule of training.
        noisy: (B, C, h, w).
        clean: (B, C, h, w), what is estimated of them.
        timesteps: (B,) of the noisy ones.
        earlier: (B,) of the result, below `timesteps`; -1 for no noise at all.
    """
    signal, noise = signal_and_noise(schedule, timesteps)
    guessed = (noisy - signal * clean) / noise
    signal, noise = signal_and_noise(schedule, earlier.clamp(min=0))
    return torch.where((earlier < 0).view(-1, 1, 1, 1), clean, signal * clean + noise * guessed)
