"""Last blocks prepared: where a head reads class tokens only, the last block computes no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import Attention
from tessella.blocks import Block, PreNorm
from tessella.heads import ClassesHead, DistilledHead
from tessella.inference.attention import PreparedAttention
from tessella.inference.products import Product
from tessella.models import EncoderModel
from tessella.positions import Grid
from tessella.trunks.cvt import ConvAttention, CvtTrunk
from tessella.trunks.plain import PlainEncoder


def shortened(model: EncoderModel, product: Product, rewritten: Callable[[nn.Module], nn.Module]) -> None:
    """Puts a `LastBlock` in the place of the last block, if it is a pre-norm one that only class tokens are read of."""
    blocks = LAST.get(type(model.trunk), lambda trunk: None)(model.trunk)
    if not blocks or type(blocks[-1]) is not Block or type(blocks[-1].attn_residual) is not PreNorm:
        return
    block, count = blocks[-1], READ.get(type(model.head), lambda head: 0)(model.head)
    if not count:
        return
    if type(block.attn) is Attention:
        attn: nn.Module = LastAttention(block.attn, count, product)
    elif type(block.attn) is ConvAttention:
        attn = LastConvAttention(rewritten(block.attn), count)
    else:
        return
    blocks[-1] = LastBlock(block, attn, rewritten(block.mlp))


LAST: dict[type[nn.Module], Callable[[Any], nn.ModuleList]] = {
    PlainEncoder: lambda trunk: trunk.blocks,
    CvtTrunk: lambda trunk: trunk.stages[-1].blocks,
}
"""Trunk -> its last blocks, after which only a norm comes, token by token."""

READ: dict[type[nn.Module], Callable[[Any], int]] = {
    ClassesHead: lambda head: 1 if head.pool == "first" else 0,
    DistilledHead: lambda head: 2,
}
"""Head -> how many tokens in front are all that it reads; 0 if it reads others."""


class LastBlock(nn.Module):
    """`Block`, of as many tokens in front as its attention returns: b n d -> b count d."""

    def __init__(self, block: Any, attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attn, self.mlp = attn, mlp
        self.attn_residual, self.mlp_residual = block.attn_residual, block.mlp_residual

    def forward(self, x: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        seen = look(self.attn_residual.norm(x))
        return self.mlp_residual(x[:, : seen.shape[1]] + seen, self.mlp)


class LastAttention(PreparedAttention):
    """`PreparedAttention` with queries of the tokens in front only; of all while `watch` looks on."""

    def __init__(self, attention: Attention, count: int, product: Product) -> None:
        super().__init__(attention, product, ("k", "v"))
        self.count = count

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        asking = x if self.attend.seen is not None else x[:, : self.count]
        return super().forward(asking, self.keys_values(x), mask)


class LastConvAttention(ConvAttention):
    """`ConvAttention` likewise: class tokens meet no convolution on their way to queries."""

    def __init__(self, attention: Any, count: int) -> None:
        nn.Module.__init__(self)
        self.near_q, self.near_k, self.near_v = attention.near_q, attention.near_k, attention.near_v
        self.inner, self.count = attention.inner, count

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        cut = x.shape[1] - grid[0] * grid[1]
        if self.inner.attend.seen is not None or cut < self.count:
            return super().forward(x, grid)
        special, raster = x[:, :cut], rearrange(x[:, cut:], "b (r c) d -> b d r c", r=grid[0])
        k, v = (torch.cat([special, near(raster)], dim=1) for near in (self.near_k, self.near_v))
        return self.inner(special[:, : self.count], self.inner.keys_values(k, v))
