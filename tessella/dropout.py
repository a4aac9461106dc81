"""Dropout: zero with probability p, scale the rest; of elements, or of whole samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

STEPS = 256
"""On a CPU p is a multiple of 1/STEPS: one random byte decides about one element."""


class Dropout(nn.Module):
    """Each element becomes 0 with probability p, else it is divided by 1 - p (Srivastava et al. 2014); any shape.

    On a CPU, p is rounded to a multiple of 1/256, but never to 0 or 1; the scale is that of the rounded p, so that the
    mean is exact. Drawing a byte an element, from torch's default generator, is several times cheaper than
    ``F.dropout``, which is what runs on other devices. In eval, nothing happens.

    Raises ValueError unless 0 <= p <= 1.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"a dropout probability is between 0 and 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as x."""
        if not self.training or self.p == 0:
            return x
        if _draws_bytes(x, self.p):
            return _Dropped.apply(x, None, _kept(self.p))
        return F.dropout(x, self.p)

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + forward(x), in one pass over both; x must have the shape of residual."""
        if self.training and residual.dtype == x.dtype and residual.shape == x.shape and _draws_bytes(x, self.p):
            return _Dropped.apply(x, residual, _kept(self.p))
        return residual + self(x)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): a residual branch gives nothing for a sample with probability p.

    b ... -> b ...; samples that keep it are divided by 1 - p. In eval, nothing happens. Raises ValueError unless
    0 <= p < 1.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the probability of skipping a branch is at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * (kept / (1 - self.p)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Dropped(torch.autograd.Function):
    """x * mask / P(mask = 1), plus the residual; what is kept for the gradient is a byte an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, kept: int) -> Tensor:
        mask = _bytes(x).lt_(kept)
        ctx.save_for_backward(mask)
        ctx.scale = STEPS / kept
        if residual is None:
            return torch.mul(x, mask.to(x.dtype)).mul_(ctx.scale)
        return torch.addcmul(residual, x, mask.to(x.dtype), value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (mask,), grad = ctx.saved_tensors, outer[0]
        inner = torch.mul(grad, mask.to(grad.dtype)).mul_(ctx.scale) if ctx.needs_input_grad[0] else None
        return inner, grad if ctx.needs_input_grad[1] else None, None


def _draws_bytes(x: Tensor, p: float) -> bool:
    return x.device.type == "cpu" and x.is_floating_point() and 0 < p < 1 and not torch.compiler.is_compiling()


def _kept(p: float) -> int:
    """How many of the 256 values of a byte keep an element."""
    return min(max(round(STEPS * (1 - p)), 1), STEPS - 1)


def _bytes(x: Tensor) -> Tensor:
    """Uniform random bytes in the shape of x: the generator gives eight at a time."""
    eights = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    return eights.view(torch.uint8)[: x.numel()].view(x.shape)
