"""Compiling: blocks of a prepared model whose steps between two products torch's compiler makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tessella.attention import Attend
from tessella.blocks import Block


def compiled(model: nn.Module) -> nn.Module:
    """A prepared model, in place, that is quicker from the third batch of a size on, and computes the same.

    Worth it for many batches of one size: compiling takes seconds to minutes a size, of which torch keeps the result on
    disk, and needs a C++ compiler. Norms with residuals, activations of attention and changes of layout go through
    memory once; products stay oneDNN's. Blocks of one shape share a program. Quantised models have nothing to gain.
    """
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if type(part) is Block and part.cross is None:
                setattr(module, name, Compiled(part))
    return model


class Compiled(nn.Module):
    """`Block`, b n d -> b n d, compiled for the last size that it saw twice in a row.

    The first batch of a size runs as ever, which makes ready what is kept for it. Where attention would have lost
    something, the program answers NaN (see `powers`), which no later step of a block forgets; then, and while `watch`
    looks on, the block runs as ever.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block, self.attn = block, block.attn  # trunks bind `attn`
        self.attends = [module for module in block.modules() if isinstance(module, Attend)]
        self.size: torch.Size | None = None

    def forward(self, x: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        known, self.size = self.size == x.shape, x.shape
        if known and all(attend.seen is None for attend in self.attends):
            found = PROGRAM(self.block, x, look)
            if not found[..., 0].isnan().any():
                return found
        return self.block(x, look)


def _run(block: nn.Module, x: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
    return block(x, look)


PROGRAMS = 64
"""Programs that are made at most, one for each kind of block and size; blocks after those run as ever."""
PROGRAM = torch.compile(_run, dynamic=False, recompile_limit=PROGRAMS)
"""Block, tokens, what it looks at -> tokens; blocks that do the same to tensors of the same sizes share a program."""
