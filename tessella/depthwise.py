"""Depthwise: a 3 x 3 convolution of each channel by itself, with a quick gradient where torch's is slow."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Depthwise(nn.Conv2d):
    """b d r c -> b d r/stride c/stride, no bias, padded by 1; an `nn.Conv2d` in all but one gradient.

    In bf16 on a CPU, oneDNN has no kernel for the gradient in the input of a strided depthwise convolution, and what
    stands in for it takes longer than all else in a CvT together (benchmarks/depthwise.py prints by how much).
    """

    def __init__(self, dim: int, stride: int = 1):
        super().__init__(dim, dim, 3, stride, padding=1, groups=dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and self.stride[0] > 1 and torch.is_grad_enabled():
            kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            if kind == torch.bfloat16 and not torch.compiler.is_compiling():
                return _Strided.apply(x.to(kind), self.weight.to(kind), self.stride[0])
        return super().forward(x)


class _Strided(torch.autograd.Function):
    """The gradient in the input is a plain depthwise convolution of the outer gradient, spread out with zeros between.

    Output row i has read rows s i - 1 .. s i + 1: its gradient stands at row s i, and meets the kernel turned around.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, 1, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), s, grad = ctx.saved_tensors, ctx.stride, outer[0]
        spread = rearrange(grad.new_zeros(len(x), *x.shape[2:], x.shape[1]), "b r c d -> b d r c")
        spread[:, :, ::s, ::s] = grad
        in_x = F.conv2d(spread, weight.flip(2, 3), None, 1, 1, 1, len(weight))
        how = (None, [s, s], [1, 1], [1, 1], False, [0, 0], len(weight), [False, True, False])
        in_weight = torch.ops.aten.convolution_backward(grad, x, weight, *how)[1]
        return in_x, in_weight, None
