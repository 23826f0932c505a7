"""The knob from realism to faithfulness: back-projection towards the low-quality image."""

from torch import Tensor
from torch.nn import functional as F


def back_project(lq: Tensor, images: Tensor, fidelity: float) -> Tensor:
    """Draw restored images towards the low-quality ones.

    One step of back-projection (Irani and Peleg, 1991): the restored image is downsampled to the size of the
    low-quality one, and `fidelity` times their difference, upsampled, is added. Detail that the low-quality image
    cannot show stays.

    Args:
        lq: (B, 3, h, w) in [0, 1].
        images: (B, 3, H, W) in [0, 1].
        fidelity: share of the difference; 0 changes nothing, 1 adds all of it.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if fidelity == 0:
        return images
    again = F.interpolate(images, lq.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    difference = F.interpolate(lq - again, images.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    return difference.mul_(fidelity).add_(images).clamp_(0, 1)
