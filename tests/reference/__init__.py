"""Golden values of the authors' networks: `recording("refine").outputs["tokens"]`.

A recording is looked for in the folder named by the environment variable SSPIR_REFERENCE, then in
`../shared/reference` beside the repository, then here, where the small ones are kept.
"""

import json
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recording:
    """One folder of tensors; each file is read when it is first asked for."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config")

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return self.tensors("inputs")

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return self.tensors("outputs")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return self.tensors("weights")

    def tensors(self, file: str) -> dict[str, Tensor]:
        """What FILE.safetensors holds: "intermediates", "gradients", "schedule", ..."""
        path = self.folder / f"{file}.safetensors"
        if not path.is_file():
            pytest.skip(f"{path.parent.name}/{path.name} is not kept here; name its folder in SSPIR_REFERENCE")
        return load_file(path)

    def json(self, file: str) -> Any:
        """What FILE.json holds: "grad_norms", "tokens", ..."""
        return json.loads((self.folder / f"{file}.json").read_text())


@cache
def recording(name: str) -> Recording:
    """The recording of that name; the test is skipped where it is on no known folder."""
    named = os.environ.get("SSPIR_REFERENCE")
    roots = [Path(named)] if named else []
    for root in [*roots, HERE.parents[2] / "shared" / "reference", HERE]:
        if (root / name / "config.json").is_file():
            return Recording(root / name)
    pytest.skip(f"the recording {name} is not here; name its folder in SSPIR_REFERENCE")


def images(u8: Tensor) -> Tensor:
    """A stored uint8 image as the float32 network input in [0, 1], with a batch axis."""
    return (u8 if u8.ndim == 4 else u8[None]).float() / 255


def deviation(ours: Tensor, golden: Tensor) -> float:
    """Largest absolute difference relative to the largest golden value (the recordings' `rel_to_max`)."""
    assert ours.shape == golden.shape, f"{tuple(ours.shape)} instead of {tuple(golden.shape)}"
    return float((ours.double() - golden.double()).abs().max() / golden.double().abs().max())


def assert_golden(ours: Tensor, golden: Tensor, tolerance: float = 3e-6) -> None:
    """Fail unless `deviation` is within the tolerance; 3e-6 also catches a wrong epsilon in a norm."""
    assert torch.isfinite(ours).all()
    assert deviation(ours, golden) <= tolerance, f"{deviation(ours, golden):.1e} relative to the maximum"
