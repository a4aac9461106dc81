"""Gather: the rows of all processes, with gradients that find their way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """Rows b d of this process -> those of all, one process after the other, and which of them is the first of ours.

    Processes may have different numbers of rows. In the backward pass each row gets the sum of what all processes say
    about it, so that every process may compute a part of the loss only (the "local loss").

    All processes must call it alike. Where no gradient is wanted it gathers nothing: validation is for one process.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows, 0
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    return _Gathered.apply(rows, lengths), sum(lengths[: dist.get_rank()])


class _Gathered(torch.autograd.Function):
    """Rows travel padded to the longest of all, which every backend can do."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int]) -> Tensor:
        first = sum(lengths[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        total = outer[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None
