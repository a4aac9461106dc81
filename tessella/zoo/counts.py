"""Counts: parameters and multiply-adds of a model, without computing anything."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tessella.attention import watch
from tessella.models import Model


def parameters(model: Model) -> int:
    """How many numbers a model learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in model.build().parameters())


def multiply_adds(model: Model, *shapes: tuple[int, ...]) -> int:
    """Multiply-adds of products and convolutions (half of torch's count of FLOPs) for inputs of these shapes."""
    with torch.device("meta"):
        built = model.build().eval()
    # Fake tensors have a device, which autocast asks for and "meta" is not; they have no values either.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        built = built.to_empty(device="cpu")
        # Watched, attention is two plain products, which are counted whatever kernel a device would use.
        with FlopCounterMode(display=False) as counter, watch(built):
            built(*(torch.empty(shape) for shape in shapes))
    return counter.get_total_flops() // 2
