"""Counts: parameters and multiply-adds of a model, without computing anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tessella.attention import Attend
from tessella.blocks import ACTIVATIONS
from tessella.models import Model


def parameters(model: Model) -> int:
    """How many numbers a model learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in model.build().parameters())


def multiply_adds(model: Model, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Multiply-adds of products and convolutions (half of torch's count of FLOPs) for inputs of these shapes."""
    with torch.device("meta"):
        built = model.build()
        return multiply_adds_of(built, *(torch.empty(shape, dtype=dtype) for shape in shapes))


def multiply_adds_of(built: nn.Module, *inputs: Any) -> int:
    """The same of a model that is built, for these inputs; it is of no use afterwards. Streams need real tensors."""
    for module in built.eval().modules():
        if isinstance(module, Attend):
            module.forward = _two_products
        elif isinstance(module, ELEMENTWISE):
            module.forward = _as_it_is
    with torch.no_grad(), _Counter() as counter:
        built(*inputs)
    return counter.flops // 2


ELEMENTWISE = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, *map(type, (make() for make in ACTIVATIONS.values())))
"""Without a product, and slow to trace through."""


class _Counter(TorchDispatchMode):
    """Adds up what torch's table says of each operation; torch's own counter spends its time on who called what."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _two_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """What attention multiplies, whatever its scores and the kernel of a device."""
    return q @ k.transpose(-1, -2) @ v
