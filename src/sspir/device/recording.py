"""A call on a GPU recorded as a CUDA graph, with its gradients where it has any."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten


class Call(nn.Module):
    """A function as a module with the weights of the networks that it is given, which can be exchanged for a call."""

    def __init__(self, function: Callable[..., Any], networks: list[nn.Module]) -> None:
        super().__init__()
        self.function, self.networks = function, nn.ModuleList(networks)

    def forward(self, arguments: Any, named: Any) -> Any:
        """Call the function."""
        return self.function(*arguments, **named)


class Recording:
    """A call that was recorded, and is replayed for other values of the same shapes.

    Attributes:
        round: in which it was replayed last.
        told: the gradients of what it returns; none where it returns nothing that learns.
    """

    round = 0
    told: tuple[Tensor, ...] = ()

    def __init__(self, call: Call, leaves: list[Any], form: Any, pool: Any) -> None:
        self.inputs = [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in leaves if is_tensor(leaf)]
        inputs = iter(self.inputs)
        given = tree_unflatten([next(inputs) if is_tensor(leaf) else leaf for leaf in leaves], form)
        self.graph, made = _graph_of(lambda: self.compute(call, given), pool)
        self.outputs, self.form = tree_flatten(made)

    def compute(self, call: Call, given: Any) -> Any:
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


class TrainingStep(Recording):
    """The same with gradients, which are recorded beside it."""

    weights: list[nn.Parameter]
    twins: list[Tensor]

    def __init__(self, call: Call, leaves: list[Any], form: Any, pool: Any) -> None:
        super().__init__(call, leaves, form, pool)
        self.judged = list(map(learns, self.outputs))
        if not any(self.judged):
            return
        outputs = tuple(filter(learns, self.outputs))
        self.told = tuple(map(torch.zeros_like, outputs))
        ours, count = [*self.inputs, *self.twins], len(self.inputs)
        sought = list(filter(learns, ours))
        self.backward, found = _graph_of(
            lambda: torch.autograd.grad(outputs, sought, self.told, allow_unused=True), pool
        )
        gradients = iter(found)
        every = [next(gradients) if learns(tensor) else None for tensor in ours]
        used = [pair for pair in zip(self.weights, every[count:], strict=True) if pair[1] is not None]
        self.weights, self.gradients = [weight for weight, _ in used], [*every[:count], *(found for _, found in used)]
        self.outputs = [output.detach() for output in self.outputs]

    def compute(self, call: Call, given: Any) -> Any:
        """With twins of the weights, in the same memory: nothing else that learns by the weights waits for these."""
        learning = {name: weight for name, weight in call.named_parameters() if learns(weight)}
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
    def forward(ctx: Any, step: TrainingStep, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        step.run(inputs[: len(step.inputs)])
        outputs = [output.detach() for output in step.outputs]
        ctx.mark_non_differentiable(
            *(output for output, judged in zip(outputs, step.judged, strict=True) if not judged)
        )
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        step: TrainingStep | None = ctx.step
        if step is None:
            raise RuntimeError("A replayed step has one backward pass; set module.capture=false for several.")
        ctx.step = None
        for held, given in zip(step.told, itertools.compress(gradients, step.judged), strict=True):
            held.copy_(given)
        step.backward.replay()
        return None, *(None if found is None else found.detach() for found in step.gradients)


def _graph_of(work: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # workers pin memory meanwhile
        made = work()
    return graph, made


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf of arguments is a tensor."""
    return isinstance(leaf, Tensor)


def learns(tensor: Tensor) -> bool:
    """Whether a tensor has a gradient."""
    return tensor.requires_grad
