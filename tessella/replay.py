"""Replay: a network run in chunks that keeps only what comes out, and runs again, chunk by chunk, for the gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tessella.errors import InputError

Run = Callable[[Tensor], Tensor]


def replayed(module: nn.Module, run: Run, inputs: Tensor, chunk: int | None) -> Tensor:
    """run(inputs), with at most `chunk` rows at a time in the network (Gao et al. 2021, GradCache).

    The gradient is that of keeping everything: the forward pass keeps the outputs alone, and once their gradient is
    known, each chunk is run again, with the random numbers and the precision of its first time, and forgotten. So the
    price is a second forward pass. Gradients of chunks are summed at least in fp32, also of bf16 weights.

    run: rows in, as many rows out, by the weights of `module`; inputs get no gradient. chunk: None, or as many as there
    are rows, for nothing special at all. Errors: InputError for batch norm in training, whose outputs depend on which
    rows it sees together.
    """
    if chunk is None or len(inputs) <= chunk:
        return run(inputs)
    refuse_batch_norm(module)
    return _Replayed.apply(run, chunk, inputs, *(p for p in module.parameters() if p.requires_grad))


class _Replayed(torch.autograd.Function):
    """One node of the graph for all chunks: so it is sure that one chunk's graph is gone when the next one's is made.

    Weights are inputs, so that whoever waits for their gradients (DistributedDataParallel) gets them once and whole.
    """

    @staticmethod
    def forward(ctx: Any, run: Run, chunk: int, inputs: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, *weights)  # which also notices weights that have changed in between
        ctx.run, ctx.chunk, ctx.generators = run, chunk, []
        device = inputs.device
        ctx.autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        ctx.types = [w.dtype for w in weights]
        outs = []
        with _precision(device, *ctx.autocast):
            for rows in inputs.split(chunk):
                ctx.generators.append(_generators(device))
                outs.append(run(rows))
        return torch.cat(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *weights = ctx.saved_tensors
        assert ctx.types == [w.dtype for w in weights], "the weights are of another type than in the forward pass"
        sums: list[Tensor | None] = [None] * len(weights)
        before = _generators(inputs.device)
        rows = zip(inputs.split(ctx.chunk), outer[0].split(ctx.chunk), ctx.generators, strict=True)
        for given, gradient, generators in rows:
            _set_generators(inputs.device, generators)
            with torch.enable_grad(), _precision(inputs.device, *ctx.autocast):
                again = ctx.run(given)
            _add(sums, torch.autograd.grad(again, weights, gradient, allow_unused=True))
            del again
        _set_generators(inputs.device, before)
        return None, None, None, *(None if s is None else s.to(t) for s, t in zip(sums, ctx.types, strict=True))


def _add(sums: list[Tensor | None], gradients: tuple[Tensor | None, ...]) -> None:
    """Adds in place, at least in fp32. The first are copied: autograd may give one tensor to several weights."""
    for number, gradient in enumerate(gradients):
        if gradient is None:
            continue
        so_far = sums[number]
        if so_far is None:
            sums[number] = gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True)
        else:
            so_far += gradient


@contextlib.contextmanager
def _precision(device: torch.device, enabled: bool, dtype: torch.dtype) -> Iterator[None]:
    """Autocast as it was, without its memory, where older torch finds weights that were cast without a gradient."""
    with torch.autocast(device.type, dtype, enabled, cache_enabled=False):
        yield


def _generators(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The states of torch's generators that a network on a device draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_generators(device: torch.device, states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)


def refuse_batch_norm(module: nn.Module) -> None:
    """Raises InputError where what comes out of a row depends on the rows beside it."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
            raise InputError(
                f"batch norm ('{name}') looks at all rows of a batch at once, so a chunk of them would teach something "
                "else; leave objective.chunk null, freeze that tower, or take one without batch norm"
            )
