"""Norms: a layer norm in bf16 whose own gradients are added up in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def exact(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """What `norm` makes of x; its weight's and bias' gradients are those of an fp32 sum over all tokens.

    On a processor torch adds them up in the type of x, and in bf16 a sum of some thousand terms stands still before it
    is complete: they come out wrong by 3 to 9 percent of their length (`benchmarks/norms.py`). Here they are products
    of a matrix and a vector, which are added up in fp32; what flows on to x is torch's own.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or norm.weight is None or norm.bias is None:
        return nn.LayerNorm.forward(norm, x)
    return _Exact.apply(x, norm.weight, norm.bias, norm.eps)


class _Exact(torch.autograd.Function):
    """y = (x - m) r w + b, with the mean m and the reciprocal deviation r of each token; g is the gradient of y.

    dw = sum r (g x) - sum (m r) g and db = sum g, over tokens.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        g = gradients[0].contiguous()
        dx, _, _ = torch.ops.aten.native_layer_norm_backward(
            g, x, weight.shape, mean, rstd, weight, bias, [ctx.needs_input_grad[0], False, False]
        )
        rows, d = g.view(-1, len(weight)), rstd.view(1, -1)
        scaled = d.to(g.dtype) @ (rows * x.reshape(rows.shape)) - (mean.view(1, -1) * d).to(g.dtype) @ rows
        summed = torch.ones_like(d, dtype=g.dtype) @ rows
        return dx, scaled[0].to(weight.dtype), summed[0].to(bias.dtype), None
