"""Last blocks prepared: where a head reads class tokens only, or a text's last, the last block computes no others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import Attention
from tessella.blocks import Block, PreNorm
from tessella.heads import ClassesHead, DistilledHead, EmbedHead, ends
from tessella.inference.attention import PreparedAttention
from tessella.inference.products import Product
from tessella.models import EncoderModel
from tessella.positions import Grid
from tessella.tokens import Tokens
from tessella.trunks.cvt import ConvAttention, CvtTrunk
from tessella.trunks.plain import CausalEncoder, PlainEncoder


def shortened(model: EncoderModel, product: Product, rewritten: Callable[[nn.Module], nn.Module]) -> None:
    """Puts a `LastBlock` in the place of the last block, if it is a pre-norm one that only class tokens are read of.

    Where the last token of a text is all that is read, the trunk becomes an `EndEncoder`.
    """
    blocks = LAST.get(type(model.trunk), lambda trunk: None)(model.trunk)
    if not blocks or type(blocks[-1]) is not Block or type(blocks[-1].attn_residual) is not PreNorm:
        return
    if type(model.trunk) is CausalEncoder:
        if type(model.head) is EmbedHead and model.head.pool == "last" and type(blocks[-1].attn) is Attention:
            blocks[-1] = EndBlock(blocks[-1], product, rewritten)
            model.trunk = EndEncoder(model.trunk)
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
    CausalEncoder: lambda trunk: trunk.blocks,
    CvtTrunk: lambda trunk: trunk.stages[-1].blocks,
}
"""Trunk -> its last blocks, after which only a norm comes, token by token."""

READ: dict[type[nn.Module], Callable[[Any], int]] = {
    ClassesHead: lambda head: 1 if head.pool == "first" else 0,
    DistilledHead: lambda head: 2,
    EmbedHead: lambda head: 1 if head.pool == "first" else 0,
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


class EndBlock(nn.Module):
    """`Block`, of one token of each row: b n d -> b 1 d."""

    def __init__(self, block: Any, product: Product, rewritten: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.attn, self.mlp = PreparedAttention(block.attn, product, ("k", "v")), rewritten(block.mlp)
        self.attn_residual, self.mlp_residual = block.attn_residual, block.mlp_residual

    def forward(self, x: Tensor, ends: Tensor, mask: Tensor) -> Tensor:
        """ends: the token, long b; mask: whom each token may look at, 1 1 n n."""
        rows, h = torch.arange(len(x), device=x.device), self.attn_residual.norm(x)
        keys_values = self.attn.keys_values(h)
        if self.attn.attend.seen is not None:
            seen = self.attn(h, keys_values, mask)[rows, ends]
        else:
            seen = self.attn(h[rows, ends][:, None], keys_values, mask[0, 0, ends][:, None, None])[:, 0]
        return self.mlp_residual((x[rows, ends] + seen)[:, None], self.mlp)


class EndEncoder(CausalEncoder):
    """`CausalEncoder`, of which the last kept token is read: Tokens b n d -> Tokens b 1 d."""

    def __init__(self, trunk: Any) -> None:
        nn.Module.__init__(self)
        self.blocks, self.norm = trunk.blocks, trunk.norm

    def forward(self, tokens: Tokens) -> Tokens:
        x, mask = tokens.x, self.mask(tokens)
        for block in self.blocks[:-1]:
            x = block(x, partial(block.attn, mask=mask))
        return Tokens(self.norm(self.blocks[-1](x, ends(tokens), mask)))


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
