"""Estimate the memory of a training step by running it on tensors that have shapes and no contents."""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sspir.models.latent import decode_latents
from sspir.training.parts import trained_weights

PROGRAM = 800 * 2**20
"""Bytes that Python and its libraries take themselves."""

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Estimate:
    """Memory of a training step, in bytes.

    Attributes:
        trained: parameters that are trained (a count).
        frozen: parameters that are not (a count).
        weights: of both, and of what judges pictures: distances and a discriminator.
        optimizer: what it keeps of every trained parameter, the discriminator's too.
        averaged: weights averaged over steps, where they are kept.
        passing: gradients, activations and whatever else is there at the worst moment of a step.
    """

    trained: int
    frozen: int
    weights: int
    optimizer: int
    averaged: int
    passing: int

    @property
    def total(self) -> int:
        """All of it, with the program itself."""
        return self.weights + self.optimizer + self.averaged + self.passing + PROGRAM


def estimate_step(
    module: Any, batch_size: int, size: int, precision: str, averaged: bool, processes: int = 1
) -> Estimate:
    """Run a training step's forward and backward pass on fake tensors of a CPU.

    Args:
        module: a `RestorationModule` built within `sspir.pretrained.load.shapes_only`; its weights are fake afterwards.
        batch_size: images per device.
        size: side of the images, pixels.
        precision: Lightning's name, such as "32-true" or "bf16-mixed".
        averaged: whether averaged weights are kept.
        processes: that share the denoiser and the Refine layer, as under trainer=fsdp; gradients are counted whole.
    """
    kept = list(trained_weights(module).values())
    trained = [weight for weight in kept if weight.requires_grad]
    everything = list(module.parameters())
    module.objective.prepare(module)
    known = {id(parameter) for parameter in everything}  # a frozen copy shares weights with the network
    networks = [*module.objective.networks()]
    judging = [weight for network in networks for weight in network.parameters() if id(weight) not in known]
    taught = [parameter for parameter in judging if parameter.requires_grad]
    of_trained, of_all, of_judging, of_taught = map(_bytes, (trained, everything, judging, taught))
    of_shared = _bytes([*module.backbone.parameters(), *module.refine.parameters()])
    half = HALF.get(precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        networks = [module.train(), *networks]
        for network in networks:
            network.to_empty(device="cpu")
        live = LiveBytes([tensor for network in networks for tensor in (*network.parameters(), *network.buffers())])
        with live:
            with torch.autocast("cpu", half, enabled=half is not None):
                loss = _loss(module, batch_size, size)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
    count = sum(parameter.numel() for parameter in trained)
    return Estimate(
        trained=count,
        frozen=sum(parameter.numel() for parameter in everything) - count,
        weights=of_all - of_shared + of_shared // processes + of_judging,
        optimizer=2 * (of_trained // processes + of_taught),  # Adam's two numbers per parameter
        averaged=_bytes(kept) // processes if averaged else 0,
        passing=max(live.peak, of_trained),
    )


def _bytes(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _loss(module: Any, batch_size: int, size: int) -> Tensor:
    """What `RestorationModule.training_step` runs, without its draws and its logging."""
    hq = torch.zeros(batch_size, 3, size, size)
    features, images = module.backbone.structure(hq)
    with torch.no_grad():
        latents = module.latents(hq, images)
        prompt_embeds, tokens = module.text_encoder([""] * batch_size), module.image_encoder(hq)
    timesteps = torch.zeros(batch_size, dtype=torch.long)
    refined = module.refine(tokens.to(hq.dtype))
    prediction = module.backbone.predict(latents, timesteps, prompt_embeds.to(hq.dtype), refined, features)
    objective = module.objective
    objective.rehearse(latents, hq, prompt_embeds.to(hq.dtype), tokens.to(hq.dtype))
    judged = objective.judged(decode_latents(module.vae, prediction)) if objective.one_step else []
    return torch.stack([part.float().square().mean() for part in (prediction, *images, *judged)]).sum()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while they live.

    Args:
        known: tensors that are there already and do not count.

    Attributes:
        peak: most bytes at any moment.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.now, self.peak = 0, 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
