"""CUDA graphs that are not there: a CPU notes the operations of a recording, and a replay does them again in place."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sspir.device import replay


class FakeGraph:
    """Stands for `torch.cuda.CUDAGraph`.

    Attributes:
        made: all of them.
        replays: how often this one was replayed.
    """

    made: list["FakeGraph"]

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        FakeGraph.made.append(self)

    @torch.no_grad()
    def replay(self) -> None:
        """Do every operation again, with the values that its inputs have now."""
        self.replays += 1
        for function, arguments, named, held in self.steps:
            arguments, named = _views((arguments, named))
            made = function(*arguments, **named)
            for old, new in zip(tree_leaves(held), tree_leaves(made), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = _views((args, kwargs or {}))
        made = func(*args, **(kwargs or {}))
        self.graph.steps.append((func, *given, _views(made)))
        return made


def _views(tree: Any) -> Any:
    """The same memory in shapes of their own: `squeeze_` changes a tensor's."""
    return tree_map_only(Tensor, Tensor.detach, tree)


class _Waits(TorchDispatchMode):
    """Stands for torch's debug mode "error": who waits for the device is told so."""

    def set(self, mode: str) -> None:
        self.__enter__() if mode == "error" else self.__exit__(None, None, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("called a synchronizing CUDA operation")
        return func(*args, **(kwargs or {}))


class _Capture:
    """Stands for `torch.cuda.graph`."""

    def __init__(self, graph: FakeGraph, pool: object, capture_error_mode: str) -> None:
        self.mode = _Recorder(graph)

    def __enter__(self) -> None:
        self.mode.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mode.__exit__(kind, error, trace)


@contextmanager
def fake_graphs() -> Iterator[type[FakeGraph]]:
    """Within, the CPU is taken for a GPU that can record."""
    FakeGraph.made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "_gpu", lambda: torch.device("cpu"))
        patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        patch.setattr(torch.cuda, "graph", _Capture)
        patch.setattr(torch.cuda, "graph_pool_handle", object)
        patch.setattr(torch.cuda, "current_stream", lambda: None)
        patch.setattr(torch.cuda, "stream", nullcontext)
        patch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
        patch.setattr(torch.cuda, "set_sync_debug_mode", _Waits().set)
        # It keeps keys and values by the identity of a tensor, and no GPU attends by it
        for module in ("sspir.sampling.loop", "sspir.training.fit"):
            patch.setattr(f"{module}.cpu_attention", lambda *_, **__: nullcontext())
        yield FakeGraph
