"""Correct the colours of a restored image towards those of the low-quality one.

AdaIN and wavelet are what StableSR and SSP-IR do after sampling (SSP-IR `utils/wavelet_color_fix.py`), exactly;
YCbCr keeps the restored luma and takes the reference's chroma.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sspir.device import constant
from sspir.errors import UserError

ColourMode = Literal["none", "adain", "wavelet", "ycbcr"]
_LEVELS = 5  # blurs that separate low frequencies from high ones


def fix_colour(restored: Tensor, reference: Tensor, mode: ColourMode, strength: float = 1.0) -> Tensor:
    """Bring the colours of a restored image back to those of its reference.

    Args:
        restored: (B, 3, H, W) in [0, 1], RGB.
        reference: (B, 3, h, w) in [0, 1], RGB, the image whose colours are right; resized to H, W if need be.
        mode: "adain" matches mean and spread of each channel, "wavelet" takes the low frequencies, "ycbcr"
            the chroma; "none" changes nothing.
        strength: 0 for no change to 1 for the whole one.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        UserError: for another mode or a strength outside [0, 1].
    """
    if mode not in get_args(ColourMode):
        raise UserError(f"{mode!r} is no colour fix; choose one of {', '.join(get_args(ColourMode))}.")
    if not 0 <= strength <= 1:
        raise UserError(f"The colour fix has strength {strength}; give one from 0 (none) to 1 (whole).")
    if mode == "none" or strength == 0:
        return restored.clamp(0, 1)
    if reference.shape[-2:] != restored.shape[-2:]:
        size = restored.shape[-2:]
        reference = F.interpolate(reference, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    fixed = {"adain": adain, "wavelet": wavelet, "ycbcr": ycbcr}[mode](restored, reference)
    return torch.lerp(restored, fixed, strength).clamp(0, 1)


def adain(target: Tensor, source: Tensor) -> Tensor:
    """Give each channel of the target the source's mean and standard deviation.

    Args:
        target: (B, 3, H, W) in [0, 1], the restored image.
        source: (B, 3, h, w) in [0, 1], the image whose colours are right.

    Returns:
        (B, 3, H, W), not clamped.
    """
    target_mean, target_std = _moments(target)
    source_mean, source_std = _moments(source)
    return (target - target_mean) / target_std * source_std + source_mean


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    several = int(image[0, 0].numel() > 1)
    variance, mean = torch.var_mean(image, dim=(2, 3), keepdim=True, correction=several)
    return mean, (variance + 1e-5).sqrt()


def match_moments(target: Tensor, source: Tensor, strength: float = 1.0) -> None:
    """`adain` in place, for images so large that copies count; clamped to [0, 1].

    Args:
        target: (B, 3, H, W) in [0, 1].
        source: (B, 3, h, w) in [0, 1].
        strength: 0 for no change to 1 for the whole one.
    """
    target_mean, target_std = _moments(target)
    source_mean, source_std = _moments(source)
    gain = 1 + strength * (source_std / target_std - 1)
    shift = target_mean + strength * (source_mean - target_mean) - gain * target_mean
    target.mul_(gain).add_(shift).clamp_(0, 1)


def wavelet(target: Tensor, source: Tensor) -> Tensor:
    """The target's high frequencies over the source's low ones.

    Args:
        target: (B, 3, H, W) in [0, 1], the restored image.
        source: (B, 3, H, W) in [0, 1], the image whose colours are right.

    Returns:
        (B, 3, H, W), not clamped.
    """
    return target - low_frequencies(target) + low_frequencies(source)


def low_frequencies(image: Tensor) -> Tensor:
    """An image (B, C, H, W) after the à-trous blurs of radius 1, 2, 4, ..., edges replicated."""
    for level in range(_LEVELS):
        image = blur(image, radius=2**level)
    return image


def blur(image: Tensor, radius: int) -> Tensor:
    """One à-trous step: the 3 x 3 binomial kernel, its taps `radius` pixels apart, edges replicated."""
    channels = image.shape[1]
    taps = constant((0.25, 0.5, 0.25), image)
    kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=channels, dilation=radius)


def ycbcr(target: Tensor, source: Tensor) -> Tensor:
    """The target's luma with the source's chroma (ITU-R BT.601, full range).

    Args:
        target: (B, 3, H, W) in [0, 1], the restored image.
        source: (B, 3, H, W) in [0, 1], the image whose colours are right.

    Returns:
        (B, 3, H, W), not clamped.
    """
    # A colour is luma plus chroma, and chroma does not change when grey is added
    return source + (luma(target) - luma(source))


def luma(image: Tensor) -> Tensor:
    """Luma (..., 1, H, W) of RGB (..., 3, H, W), in the same range: ITU-R BT.601, full range, as JPEG has it."""
    red, green, blue = image.unbind(dim=-3)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)


def keep_grey(images: Tensor, given: Tensor) -> Tensor:
    """What has no colour gets none.

    Args:
        images: (B, 3, H, W), what was made of the photos.
        given: (B, 3, h, w), the photos.

    Returns:
        The images; of a photo whose channels are equal everywhere, their luma, written into their place.
    """
    grey = (given == given[:, :1]).flatten(1).all(dim=1)
    for image, colourless in zip(images, grey.tolist(), strict=True):
        if colourless:
            image.copy_(luma(image).expand_as(image))
    return images
