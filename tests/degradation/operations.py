"""One example of every operation, with settings that do something and settings that do nothing."""

from sspir.degradation import (
    JPEG,
    AnisotropicBlur,
    Blur,
    CorrelatedNoise,
    Downsample,
    GaussianNoise,
    NearestDownsample,
    Operation,
    PoissonNoise,
    Quantize,
    RandomResize,
    Resize,
    Sharpen,
    Sinc,
)

ALL_KERNELS = {
    "iso": 1, "aniso": 1, "generalized_iso": 1, "generalized_aniso": 1, "plateau_iso": 1, "plateau_aniso": 1,
}  # fmt: skip

ACTIVE: dict[str, Operation] = {
    "blur": Blur([7, 21], ALL_KERNELS, [0.5, 3], [0.5, 4], [1, 2], sinc=0.2),
    "sinc": Sinc([7, 21]),
    "anisotropic_blur": AnisotropicBlur([7, 25], [0.5, 8]),
    "random_resize": RandomResize(0.4, 0.5, 0.1, [0.3, 1.5]),
    "random_resize_of_target": RandomResize(0.4, 0.5, 0.1, [0.3, 1.5], relative_to="target"),
    "resize": Resize(["area", "bilinear", "bicubic", "nearest"]),
    "antialiased_resize": Resize(["bilinear", "bicubic"], antialias=True),
    "downsample": Downsample([1, 4]),
    "nearest_downsample": NearestDownsample(2, [0.1, 1.2]),
    "gaussian_noise": GaussianNoise([5, 30], gray=0.4),
    "speckle_noise": GaussianNoise([5, 30], gray=0.4, speckle=1),
    "correlated_noise": CorrelatedNoise(25),
    "poisson_noise": PoissonNoise([0.5, 3], gray=0.4),
    "photon_noise": PoissonNoise([1, 1], gray=0.4, photons=[100, 10000]),
    "jpeg": JPEG([30, 95]),
    "sharpen": Sharpen(),
    "quantize": Quantize(),
}

IDLE: dict[str, Operation] = {
    "blur of no width": Blur([7, 21], {"iso": 1, "aniso": 1}, [0, 0]),
    "blur of one pixel": Blur([1, 1], {"iso": 1}, [1, 2]),
    "anisotropic blur of no width": AnisotropicBlur([7, 25], [0, 0]),
    "kept size": RandomResize(0, 0, 1, [0.3, 1.5]),
    "divided by one": Downsample([1, 1]),
    "no gaussian noise": GaussianNoise([0, 0]),
    "no correlated noise": CorrelatedNoise(0),
    "no poisson noise": PoissonNoise([0, 0]),
    "no sharpening": Sharpen(amount=0),
}
