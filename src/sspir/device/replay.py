"""Launch once, replay often: what a GPU does for inputs of one shape is recorded as a CUDA graph.

Python launches the thousands of kernels of a network one by one, which takes longer than a large GPU needs to run them.
"""

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from sspir.device.recording import Call, Recording, TrainingStep, is_tensor, learns

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

KEPT = 6  # graphs of a function: three shapes with guidance and without; all share the memory of the largest
_COUNTED = 64  # shapes whose calls are counted
_CALLS = 8  # of a shape within one round, or the first of its second round: a recording takes as long as three calls


def replayed(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function of tensors, networks and constants: within `replaying` a GPU replays it.

    The function may read nothing from the device, use no number that is drawn and keep no state, on the host or in
    buffers: its Python runs when it is rehearsed and recorded.
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
        training: record gradients too, which the next step overwrites; a function with gradients that is called again
            within a step is computed anew. KEPT shapes of a function are recorded, and others never. Otherwise the
            shapes that were used last are kept.
    """

    def __init__(self, training: bool = False) -> None:
        self.training = training
        self.state: Any = None  # of the networks when they were looked at; None where nothing can be replayed
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one in another process, begins anew."""
        return Replays, (self.training,)

    def clear(self) -> None:
        """Forget everything; the memory is free when torch's allocator is next asked to empty its cache.

        To be called when networks changed in a number that `look` does not know, such as an attribute of a class of
        your own.
        """
        self.round = 0
        self._seen: OrderedDict[Any, _Seen] = OrderedDict()
        self._recordings: dict[Any, OrderedDict[Any, Recording]] = {}
        self._pools: dict[Any, Any] = {}

    def look(self, parts: Iterable[nn.Module]) -> None:
        """Forget everything where networks are not what they were."""
        state = _state_of(parts)
        if state != self.state:
            self.clear()
            self.state = state

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What the function returns, replayed where it was recorded."""
        leaves, form = tree_flatten((arguments, named))
        tensors = [leaf for leaf in leaves if is_tensor(leaf)]
        if not all(isinstance(leaf, _KNOWN) for leaf in leaves):
            return function(*arguments, **named)
        cached = torch.is_autocast_enabled("cuda") and torch.is_autocast_cache_enabled()  # weights of another type
        if cached or {tensor.device for tensor in tensors} != {_gpu()}:
            return function(*arguments, **named)
        half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        modes = half, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        key = (form, modes, *map(_described, leaves))
        recordings = self._recordings.setdefault(function, OrderedDict())
        if key not in recordings and self._worth((function, key), len(recordings)):
            token = _at_work.set(None)  # what is called within is recorded, too
            try:
                made = self._record(function, leaves, form)
            finally:
                _at_work.reset(token)
            if made is None:
                self._seen[function, key] = _Seen(self.round, None)
            else:
                recordings[key] = made
        made = recordings.get(key)
        if made is None or (made.told and any(each.round == self.round for each in recordings.values())):
            return function(*arguments, **named)
        made.round = self.round
        recordings.move_to_end(key)
        if len(recordings) > KEPT:
            self._seen.pop((function, recordings.popitem(last=False)[0]), None)
        return made(tensors)

    def _worth(self, key: Any, kept: int) -> bool:
        seen = self._seen.setdefault(key, _Seen(self.round, 0))
        self._seen.move_to_end(key)
        if len(self._seen) > _COUNTED:
            self._seen.popitem(last=False)
        if seen.calls is None or (self.training and kept == KEPT):
            return False
        self._seen[key] = seen._replace(calls=seen.calls + 1)
        return self.round > seen.round + self.training or seen.calls + 1 == _CALLS

    def _record(self, function: Any, leaves: list[Any], form: Any) -> "Recording | None":
        owner = function if self.training else None  # what gradients need stays while another function is replayed
        if owner not in self._pools:
            self._pools[owner] = torch.cuda.graph_pool_handle()
        call = Call(function, [leaf for leaf in leaves if isinstance(leaf, nn.Module)])
        taught = torch.is_grad_enabled() and any(map(learns, chain(filter(is_tensor, leaves), call.parameters())))
        kind = TrainingStep if taught else Recording
        try:
            _require_no_wait(lambda: call(*tree_unflatten(leaves, form)))
            with torch.cuda.stream(torch.cuda.current_stream()):  # come back to, also from a recording that broke off
                return kind(call, leaves, form, self._pools[owner])
        except RuntimeError as error:  # such as memory that is too small
            log.warning("%s is not replayed: %s", function.__name__, str(error).splitlines()[0])
        torch.cuda.empty_cache()
        return None


@torch.no_grad()
def _require_no_wait(work: Callable[[], Any]) -> None:
    """Do some work, which must not wait for the GPU: a recording that breaks off by it spoils torch's random numbers.

    No other thread may wait for it meanwhile. Gradients are not tried: what waits in them alone breaks the recording.

    Raises:
        RuntimeError: it waits.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Seen(NamedTuple):
    """Round in which a shape was seen first, and how often it was called; None once recording it has failed."""

    round: int
    calls: int | None


def _gpu() -> torch.device | None:
    """The GPU that is current, whose streams are recorded; what is on another one is not."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def _described(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.requires_grad) if is_tensor(leaf) else leaf


def modules_of(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Every module of some networks; shared ones more than once.

    torch's own `modules` takes ten times as long, longer than a GPU takes for a photo.
    """
    found: list[nn.Module] = []
    left: list[nn.Module | None] = [*parts]
    while left:
        if (module := left.pop()) is not None:
            found.append(module)
            left += module._modules.values()
    return found


def weights_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Every parameter and buffer that some modules hold themselves."""
    held = chain.from_iterable((*module._parameters.values(), *module._buffers.values()) for module in modules)
    return [weight for weight in held if weight is not None]


def _state_of(parts: Iterable[nn.Module]) -> Any:
    """What recordings of networks depend on: places of weights, which of them learn, modes, and adapters.

    None where something is not on the GPU, waits elsewhere until it is used, or has hooks, which nobody would call.
    """
    modules, gpu = modules_of(parts), _gpu()
    weights = weights_of(modules)
    if any(map(_hooked, modules)) or any(weight.device != gpu for weight in weights):
        return None
    places = tuple((weight.data_ptr(), weight.requires_grad) for weight in weights)
    return places, tuple(module.training for module in modules), [*filter(None, map(_adapters, modules))]


def _adapters(module: nn.Module) -> Any:
    """Which of a layer's adapters count, and how much; peft keeps it in attributes."""
    held = module.__dict__
    if "_active_adapter" not in held:
        return None
    names = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")
    return repr([held.get(name) for name in names])


def _hooked(module: nn.Module) -> bool:
    """Whether a module has hooks but those of transformers, which gather what the same call returns."""
    held = module.__dict__
    hooks = (*held["_forward_hooks"].values(), *held["_forward_pre_hooks"].values())
    strange = any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)
    return strange or "_hf_hook" in held or "_diffusers_hook" in held


@contextmanager
def replaying(replays: Replays | None, parts: Iterable[nn.Module], again: bool = True) -> Iterator[None]:
    """Within, a GPU replays what `replayed` marks.

    Args:
        replays: the recordings; None launches everything.
        parts: networks that are used, as they are now: where a weight has another place than last time, as after a
            change of type, everything is recorded anew; where one is on no GPU, is fetched when it is used, or has
            hooks, nothing is.
        again: look at them although they were looked at before.
    """
    if replays is not None and (again or replays.state is None):
        replays.look(parts)
    usable = replays if replays is not None and replays.state is not None else None
    if usable is not None:
        usable.round += 1
    token = _at_work.set(usable)
    try:
        yield
    except torch.OutOfMemoryError:
        if usable is not None:
            usable.clear()  # who tries again needs the room
        raise
    finally:
        _at_work.reset(token)


_KNOWN = (Tensor, nn.Module, bool, int, float, str, type(None))
_at_work: ContextVar[Replays | None] = ContextVar("replays", default=None)
