"""A graphics card that is not there: what is on `cuda` has a shape and a type but no values."""

import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

_ATEN = torch.ops.aten
_LIBRARIES = {"sspir", "diffusers", "transformers"}
_COPIES = (_ATEN._to_copy.default, _ATEN.copy_.default)
_SIZED_BY_VALUES = (
    _ATEN.nonzero.default,
    _ATEN.masked_select.default,
    _ATEN._unique2.default,
    _ATEN.bincount.default,
    _ATEN.repeat_interleave.Tensor,
)


class FakeCard(FakeTensorMode):
    """Within, tensors on `cuda` are fake and those on the CPU are real; an operation refuses both, as a card does.

    What depends on values is made up: what is read back is zero, and what is searched is found in the first place.

    Attributes:
        waits: where the CPU waited for the card: the innermost lines of ours, of diffusers or of transformers. It waits
            for what it reads, for sizes that values decide, and for every copy between the two but those that are
            asked not to block and come from pinned memory. Tests clear it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._pinned: dict[int, Any] = {}  # storages, kept so that none takes another's address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _ATEN._pin_memory.default:
            pinned = args[0].clone()
            self._pinned[pinned.untyped_storage()._cdata] = pinned.untyped_storage()
            return pinned
        if not any(map(_on_card, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        if self._waits(func, args, kwargs):
            self.waits.append(_line())
        if func is _ATEN._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is _ATEN.nonzero.default:
            with self:
                return torch.zeros(1, args[0].ndim, dtype=torch.long, device=args[0].device)
        target = args[0] if func is _ATEN.copy_.default else None
        if isinstance(target, Tensor) and not isinstance(target, FakeTensor):
            return target  # which keeps its values
        args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        done = super().__torch_dispatch__(func, types, args, kwargs)
        if func is _ATEN._to_copy.default and done.device.type == "cpu":
            return torch.zeros(done.shape, dtype=done.dtype)
        return done

    def _faked(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)

    def _waits(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func is _ATEN._local_scalar_dense.default or func in _SIZED_BY_VALUES:
            return True
        if func not in _COPIES:
            return False
        copies = func is _ATEN.copy_.default
        source = args[1] if copies else args[0]
        target = args[0].device if copies else torch.device(kwargs.get("device") or source.device)
        if source.device.type == target.type:
            return False
        asked = args[2] if copies and len(args) > 2 else kwargs.get("non_blocking", False)
        # What is fetched without blocking torch pins itself
        pinned = (source.device.type == "cuda" and not copies) or self._is_pinned(args[0] if copies else source)
        return not (asked and pinned)

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned


def _line() -> str:
    frames = traceback.extract_stack()[:-2]
    inner = next((each for each in reversed(frames) if _LIBRARIES & set(Path(each.filename).parts)), frames[-1])
    return f"{Path(inner.filename).name}: {inner.line}"


def _on_card(leaf: Any) -> bool:
    return isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == "cuda")


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Lightning's refuses all but a CPU."""


class _OnCard(SingleDeviceStrategy):
    def teardown(self) -> None:
        """Lightning's brings the network back, which is not there."""


def trainer_on_card(**settings: Any) -> pl.Trainer:
    """A trainer whose device is the card; gradients need one: a module's `backward` has to make them up."""
    return pl.Trainer(strategy=_OnCard(torch.device("cuda"), accelerator=_Accelerator()), **settings)


class Event:
    """Stands for `torch.cuda.Event`, which there is none of without a driver."""

    def record(self) -> None:
        """Does nothing."""

    def synchronize(self) -> None:
        """Does nothing."""
