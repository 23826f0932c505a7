"""The knob from realism to faithfulness: what a restored image must not contradict."""

from torch import Tensor
from torch.nn import functional as F


def back_project(lq: Tensor, images: Tensor, fidelity: float) -> Tensor:
    """Draw restored images towards what was photographed.

    One step of back-projection (Irani and Peleg, 1991): the image, low-passed and downsampled like the photo, is
    compared with it, and the difference, upsampled, is taken off by that share. What the photo does not show is kept.

    Args:
        lq: (B, 3, h, w) in [0, 1].
        images: (B, 3, H, W) in [0, 1].
        fidelity: 0 changes nothing.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if fidelity == 0:
        return images
    again = F.interpolate(images, lq.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    difference = F.interpolate(lq - again, images.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    return difference.mul_(fidelity).add_(images).clamp_(0, 1)
