"""What a network's prediction means, whichever kind it is."""

from diffusers import DDPMScheduler
from torch import Tensor


def pred_original_sample(schedule: DDPMScheduler, noisy: Tensor, predicted: Tensor, timestep: Tensor) -> Tensor:
    """Clean latents (B, C, h, w) that a prediction implies.

    Args:
        schedule: the noise schedule of training.
        noisy: (B, C, h, w), what the network was given.
        predicted: (B, C, h, w), what it made of it: noise, velocity or sample.
        timestep: scalar.
    """
    kept = schedule.alphas_cumprod[int(timestep)]
    signal, noise = kept.sqrt(), (1 - kept).sqrt()  # not read: the schedule may have moved to a GPU
    if schedule.config.prediction_type == "sample":
        return predicted
    if schedule.config.prediction_type == "v_prediction":
        return signal * noisy - noise * predicted
    return (noisy - noise * predicted) / signal
