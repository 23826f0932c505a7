"""Launch once, replay often: what a GPU does for inputs of one shape is recorded as a CUDA graph.

Python launches the thousands of kernels of a network one by one, which takes longer than a large GPU needs to run them.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

KEPT = 3  # graphs of a function; each holds its inputs, and all of a pipeline share the memory of the largest
_COUNTED = 64  # shapes whose calls are counted
_CALLS = 8  # of a shape within one round, or the first of its second round: a recording takes as long as two calls


def replayed(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function of tensors, networks and constants: within `Replays.during` a GPU replays it.

    The function may read nothing from the device, and use no number that is drawn; constants must be hashable.
    """

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        replays = None if torch.compiler.is_compiling() else _at_work.get()
        if replays is None:
            return function(*arguments, **named)
        done: R = replays(function, *arguments, **named)
        return done

    return call


class Replays:
    """Recordings of the functions that `replayed` marks, made when a shape comes back.

    Args:
        training: record gradients too, which the next step overwrites; a function that is called again within a step
            is computed anew. KEPT shapes of a function are recorded, and others never. Otherwise the shapes that were
            used last are kept.
    """

    def __init__(self, training: bool = False) -> None:
        self.training = training
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one in another process, begins anew."""
        return Replays, (self.training,)

    def clear(self) -> None:
        """Forget everything; the memory is free when torch's allocator is next asked to empty its cache."""
        self.round = 0
        self._weights: tuple[int, ...] = ()
        self._seen: OrderedDict[Any, _Seen] = OrderedDict()
        self._recordings: dict[Any, OrderedDict[Any, _Recording]] = {}
        self._pool: Any = None

    @contextmanager
    def during(self, parts: Iterable[nn.Module] = ()) -> Iterator[None]:
        """Within, what `replayed` marks is replayed.

        Args:
            parts: networks that it uses, as they are now: where a weight has another place than last time, as after a
                change of type or with another adapter, everything is recorded anew; where one is on no GPU, or is
                fetched when it is used, nothing is.
        """
        weights = _places(parts)
        if weights is None:
            yield
            return
        if weights != self._weights:
            self.clear()
            self._weights = weights
        self.round += 1
        token = _at_work.set(self)
        try:
            yield
        except torch.OutOfMemoryError:
            self.clear()  # who tries again needs the room
            raise
        finally:
            _at_work.reset(token)

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What the function returns, replayed where it was recorded."""
        leaves, form = tree_flatten((arguments, named))
        tensors = [leaf for leaf in leaves if _is_tensor(leaf)]
        cached = torch.is_autocast_enabled("cuda") and torch.is_autocast_cache_enabled()  # weights of another type
        if cached or {tensor.device for tensor in tensors} != {_gpu()}:
            return function(*arguments, **named)
        half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        modes = half, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        key = (form, modes, *map(_described, leaves))
        recordings = self._recordings.setdefault(function, OrderedDict())
        if key not in recordings and self._worth(function, key, len(recordings)):
            made = self._record(function, leaves, form)
            if made is not None:
                recordings[key] = made
        if key not in recordings or (self.training and recordings[key].round == self.round):
            return function(*arguments, **named)
        recordings[key].round = self.round
        recordings.move_to_end(key)
        if len(recordings) > KEPT:
            self._seen.pop((function, recordings.popitem(last=False)[0]), None)
        return recordings[key](tensors)

    def _worth(self, function: Any, key: Any, kept: int) -> bool:
        seen = self._seen.setdefault((function, key), _Seen(self.round, 0))
        self._seen.move_to_end((function, key))
        if len(self._seen) > _COUNTED:
            self._seen.popitem(last=False)
        if seen.calls is None or (self.training and kept == KEPT):
            return False
        self._seen[function, key] = seen._replace(calls=seen.calls + 1)
        return self.round > seen.round + self.training or seen.calls + 1 == _CALLS

    def _record(self, function: Any, leaves: list[Any], form: Any) -> "_Recording | None":
        if self._pool is None or self.training:  # what gradients need stays while another function is replayed
            self._pool = torch.cuda.graph_pool_handle()
        call = _Call(function, [leaf for leaf in leaves if isinstance(leaf, nn.Module)])
        taught = torch.is_grad_enabled() and any(map(_learns, chain(filter(_is_tensor, leaves), call.parameters())))
        kind = _TrainingStep if taught else _Recording
        try:
            with torch.cuda.stream(torch.cuda.current_stream()):  # come back to, also from a recording that broke off
                return kind(call, leaves, form, self._pool)
        except RuntimeError as error:  # such as memory that is too small
            log.warning("%s is not replayed: %s", function.__name__, str(error).splitlines()[0])
            self._seen[next(reversed(self._seen))] = _Seen(self.round, None)
        torch.cuda.empty_cache()
        return None


class _Seen(NamedTuple):
    """Round in which a shape was seen first, and how often it was called; None once recording it has failed."""

    round: int
    calls: int | None


class _Call(nn.Module):
    """A function as a module with the weights of the networks that it is given, which can be exchanged for a call."""

    def __init__(self, function: Callable[..., Any], networks: list[nn.Module]) -> None:
        super().__init__()
        self.function, self.networks = function, nn.ModuleList(networks)

    def forward(self, arguments: Any, named: Any) -> Any:
        return self.function(*arguments, **named)


class _Recording:
    """A call that was recorded, and is replayed for other values of the same shapes."""

    def __init__(self, call: _Call, leaves: list[Any], form: Any, pool: Any) -> None:
        self.inputs = [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in leaves if _is_tensor(leaf)]
        inputs = iter(self.inputs)
        given = tree_unflatten([next(inputs) if _is_tensor(leaf) else leaf for leaf in leaves], form)
        self.graph, made = _graph_of(lambda: self.compute(call, given), pool)
        self.outputs, self.form = tree_flatten(made)
        self.round = 0  # in which it was replayed last

    def compute(self, call: _Call, given: Any) -> Any:
        """What is recorded."""
        return call(*given)

    def run(self, tensors: Iterable[Tensor]) -> None:
        """Compute the outputs of other inputs."""
        for held, new in zip(self.inputs, tensors, strict=True):
            held.copy_(new)
        self.graph.replay()

    def __call__(self, tensors: list[Tensor]) -> Any:
        """What the function returns."""
        self.run(tensors)
        return tree_unflatten([output.clone() for output in self.outputs], self.form)


class _TrainingStep(_Recording):
    """The same with gradients, which are recorded beside it."""

    weights: list[nn.Parameter]
    twins: list[Tensor]

    def __init__(self, call: _Call, leaves: list[Any], form: Any, pool: Any) -> None:
        super().__init__(call, leaves, form, pool)
        self.told = [torch.zeros_like(output) for output in self.outputs if any(map(_learns, self.outputs))]
        if not self.told:
            return
        judged = [pair for pair in zip(self.outputs, self.told, strict=True) if _learns(pair[0])]
        outputs, told = zip(*judged, strict=True)
        ours, count = [*self.inputs, *self.twins], len(self.inputs)
        sought = list(filter(_learns, ours))
        self.backward, found = _graph_of(lambda: torch.autograd.grad(outputs, sought, told, allow_unused=True), pool)
        gradients = iter(found)
        every = [next(gradients) if _learns(tensor) else None for tensor in ours]
        used = [pair for pair in zip(self.weights, every[count:], strict=True) if pair[1] is not None]
        self.weights, self.gradients = [weight for weight, _ in used], [*every[:count], *(found for _, found in used)]
        self.outputs = [output.detach() for output in self.outputs]

    def compute(self, call: _Call, given: Any) -> Any:
        """With twins of the weights, in the same memory: nothing else that learns by the weights waits for these."""
        learning = {name: weight for name, weight in call.named_parameters() if _learns(weight)}
        twins = {name: weight.detach().requires_grad_() for name, weight in learning.items()}
        self.weights, self.twins = list(learning.values()), list(twins.values())
        return torch.func.functional_call(call, twins, given)

    def __call__(self, tensors: list[Tensor]) -> Any:
        """What the function returns, whose gradients are replayed where it has any."""
        if not self.told:
            return super().__call__(tensors)
        return tree_unflatten(list(_Replayed.apply(self, *tensors, *self.weights)), self.form)


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: _TrainingStep, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        step.run(inputs[: len(step.inputs)])
        return tuple(output.detach() for output in step.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        step: _TrainingStep = ctx.step
        for held, given in zip(step.told, gradients, strict=True):
            held.copy_(given)
        step.backward.replay()
        return None, *(None if found is None else found.detach() for found in step.gradients)


def _graph_of(work: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # workers pin memory meanwhile
        made = work()
    return graph, made


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _learns(tensor: Tensor) -> bool:
    return tensor.requires_grad


def _gpu() -> torch.device | None:
    """The GPU that is current, whose streams are recorded; what is on another one is not."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def _described(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.requires_grad) if _is_tensor(leaf) else leaf


def weights_of(parts: Iterable[nn.Module]) -> list[Tensor]:
    """Every parameter and buffer of some networks; shared ones more than once.

    torch's own `parameters` takes ten times as long, longer than a GPU takes for a photo.
    """
    found: list[Tensor | None] = []
    left: list[nn.Module | None] = [*parts]
    while left:
        if (module := left.pop()) is not None:
            found += module._parameters.values()
            found += module._buffers.values()
            left += module._modules.values()
    return [weight for weight in found if weight is not None]


def _places(parts: Iterable[nn.Module]) -> tuple[int, ...] | None:
    """Addresses of all weights; None where one is not on a GPU, or waits elsewhere until it is used."""
    held = list(parts)
    weights, gpu = weights_of(held), _gpu()
    if any(hasattr(part, "_hf_hook") for part in held) or any(weight.device != gpu for weight in weights):
        return None
    return tuple(weight.data_ptr() for weight in weights)


_at_work: ContextVar[Replays | None] = ContextVar("replays", default=None)
