"""Dot: scaled dot-product attention, and a way to compute it that suits short sequences on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ROWS_UP_TO = 256
"""Keys up to which whole rows of weights beat tiles of them, in bf16 on a CPU (benchmarks/attention.py prints why)."""


def dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v (Vaswani et al. 2017, eq. 1): b h n d, b h m d, b h m d -> b h n d.

    mask: bool, broadcast to b h n m, True where a query may look (somewhere, in every row); scale: 1/sqrt(d) if None.
    bias, instead of a mask: w h n m, -inf where a query may not look; row i of the batch has the bias of row i mod w.
    It is ``F.scaled_dot_product_attention``, which computes in tiles and, in bf16 on a CPU, spends its time between
    tiles when sequences are short; there, the weights of the whole batch are computed as one tensor instead.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    auto = torch.is_autocast_enabled(q.device.type)
    kind = torch.get_autocast_dtype(q.device.type) if auto else q.dtype
    short = kind == torch.bfloat16 and q.device.type == "cpu" and 0 < k.shape[-2] <= ROWS_UP_TO
    if short and q.numel() and q.shape[:2] == k.shape[:2] and not torch.compiler.is_compiling():
        return WholeRows.apply(q.to(kind), k.to(kind), v.to(kind), mask, scale, bias)
    if bias is not None:
        mask = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


class WholeRows(torch.autograd.Function):
    """softmax(scale q k^T + bias) v with every row of weights at once; the arguments of ``dot_product_attention``.

    Products are in the type of q, k and v; the softmax is at least in fp32, in powers of two, whose exponential is the
    cheaper one. The gradient in the scores is w (g - sum of w g), w being the weights and g the gradient in them; that
    in the bias is its sum over the rows that share it.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None = None
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            q, k, v, heads = _flat(q), _flat(k), _flat(v), q.shape[:2]
            wide = torch.promote_types(q.dtype, torch.float32)
            z = _unflat(torch.bmm(q, k.transpose(1, 2)).to(wide), heads)
            if bias is not None:
                rows = z.view(-1, *bias.shape)
                torch.add(bias.to(wide) * math.log2(math.e), rows, alpha=scale * math.log2(math.e), out=rows)
            elif mask is not None:
                floor = torch.zeros(mask.shape, dtype=wide).masked_fill_(~mask, -math.inf)
                z = torch.add(floor, z, alpha=scale * math.log2(math.e), out=z)
            else:
                z *= scale * math.log2(math.e)
            z -= z.amax(-1, keepdim=True)
            z.exp2_()
            z /= z.sum(-1, keepdim=True)
            weights = _flat(z).to(q.dtype)
            ctx.save_for_backward(q, k, v, weights)
            ctx.scale, ctx.heads, ctx.wide = scale, heads, wide
            ctx.bias = None if bias is None else (bias.shape, bias.dtype)
            return _unflat(torch.bmm(weights, v), heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            grad = _flat(outer[0])
            d_v = torch.bmm(weights.transpose(1, 2), grad)
            scaled = weights.to(ctx.wide).mul_(ctx.scale)
            g = torch.bmm(grad, v.transpose(1, 2)).to(ctx.wide).mul_(scaled)
            d_z = g.sub_(scaled.mul_(g.sum(-1, keepdim=True).div_(ctx.scale)))
            d_bias = None
            if ctx.bias is not None and ctx.needs_input_grad[5]:
                shape, kind = ctx.bias
                d_bias = d_z.view(-1, *shape).sum(0).div_(ctx.scale).to(kind)
            d_z = d_z.to(q.dtype)
            grads = torch.bmm(d_z, k), torch.bmm(d_z.transpose(1, 2), q), d_v
            return *(_unflat(x, ctx.heads) for x in grads), None, None, d_bias


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:])


def _unflat(x: Tensor, heads: torch.Size) -> Tensor:
    return x.view(*heads, *x.shape[1:])
