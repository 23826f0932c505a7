"""A graphics card that is not there: what is on `cuda` has a shape and a type but no values."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

_ATEN = torch.ops.aten


class FakeCard(FakeTensorMode):
    """Within, tensors on `cuda` are fake and those on the CPU are real; an operation refuses both, as a card does.

    What depends on values is made up: what is read back is zero, and what is searched is found in the first place.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(map(_on_card, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        if func is _ATEN._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is _ATEN.nonzero.default:
            with self:
                return torch.zeros(1, args[0].ndim, dtype=torch.long, device=args[0].device)
        args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        done = super().__torch_dispatch__(func, types, args, kwargs)
        if func is _ATEN._to_copy.default and done.device.type == "cpu":
            return torch.zeros(done.shape, dtype=done.dtype)
        return done

    def _faked(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)


def _on_card(leaf: Any) -> bool:
    return isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == "cuda")
