"""CvT: attention whose queries, keys and values first look at their neighbours, in stages of convolutional tokens."""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from tessella.attention import Attention, Dot
from tessella.blocks import Activation, Block, FeedForward, PreNorm
from tessella.depthwise import Depthwise
from tessella.errors import InputError
from tessella.positions import Grid
from tessella.spec import spec
from tessella.tokens import Tokens
from tessella.trunks.plain import Trunk, rates


@spec("cvt")
class Cvt(Trunk):
    """Stages of a convolution that makes tokens and of blocks (Wu et al. 2021, table 1); a number a stage.

    dim: channels of the image. kernels, strides, paddings: of the convolution. kv_stride: one key for kv_stride x
    kv_stride tokens. special: class tokens that join in the last stage.
    """

    dim: int = 3
    widths: tuple[int, ...] = (64, 192, 384)
    depths: tuple[int, ...] = (1, 2, 10)
    heads: tuple[int, ...] = (1, 3, 6)
    kernels: tuple[int, ...] = (7, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2)
    paddings: tuple[int, ...] = (2, 1, 1)
    drop_path: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Stochastic depth of each stage's last block; less before, and never in its first."""
    kv_stride: int = Field(2, ge=1)
    ratio: int = Field(4, ge=1)
    """How much wider the feed-forward layers are inside."""
    activation: Activation = "quick-gelu"
    special: int = Field(1, ge=0)
    eps: float = 1e-5

    @model_validator(mode="after")
    def _stages_agree(self):
        for name in ("depths", "heads", "kernels", "strides", "paddings", "drop_path"):
            if len(getattr(self, name)) != len(self.widths):
                raise InputError(f"{name} has {len(getattr(self, name))} stages, but widths has {len(self.widths)}")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise InputError(f"a width of {width} is not divisible by {heads} heads")
        return self

    @property
    def width(self) -> int:
        return self.widths[-1]

    def embedding(self, stage: int) -> ConvEmbedding:
        """What makes a stage's tokens of the raster before."""
        before = self.widths[stage - 1] if stage else self.dim
        how = self.kernels[stage], self.strides[stage], self.paddings[stage]
        return ConvEmbedding(nn.Conv2d(before, self.widths[stage], *how), nn.LayerNorm(self.widths[stage], self.eps))

    def blocks(self, stage: int) -> list[Block]:
        """A stage's blocks."""
        dim, heads = self.widths[stage], self.heads[stage]
        return [
            Block(
                ConvAttention(dim, heads, self.kv_stride),
                FeedForward(dim, self.ratio * dim, self.activation),
                partial(PreNorm, dim, eps=self.eps, path=path),
            )
            for path in rates(self.drop_path[stage], self.depths[stage])
        ]

    def build(self) -> CvtTrunk:
        return CvtTrunk(self)


class CvtTrunk(nn.Module):
    """Tokens of pixels b (r c) v -> Tokens b (special + r/s c/s) d, s being the product of all strides."""

    def __init__(self, s: Cvt):
        super().__init__()
        last = len(s.widths) - 1
        self.stages = nn.ModuleList(
            CvtStage(s.embedding(i), s.blocks(i), s.widths[i], s.special if i == last else 0) for i in range(last + 1)
        )
        self.norm = nn.LayerNorm(s.width, s.eps)

    def forward(self, tokens: Tokens) -> Tokens:
        for stage in self.stages:
            tokens = stage(tokens)
        return tokens.replace(x=self.norm(tokens.x))


class CvtStage(nn.Module):
    """New tokens from the raster of the old ones, class tokens in front of them if there are any, then the blocks."""

    def __init__(self, embed: nn.Module, blocks: list[Block], dim: int, special: int):
        super().__init__()
        self.embed = embed
        self.special = nn.Parameter(torch.empty(special, dim)) if special else None
        if self.special is not None:
            nn.init.trunc_normal_(self.special, std=0.02)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tokens) -> Tokens:
        tokens = self.embed(tokens)
        x, grid = tokens.x, tokens.grid
        if self.special is not None:
            x = torch.cat([self.special.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, partial(block.attn, grid=grid))
        return tokens.replace(x=x)


class ConvEmbedding(nn.Module):
    """Tokens of a raster -> Tokens of a coarser one: a convolution, whose windows overlap, and LayerNorm (sec. 3.1)."""

    def __init__(self, conv: nn.Conv2d, norm: nn.LayerNorm):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, tokens: Tokens) -> Tokens:
        grid = tokens.grid
        assert grid is not None
        check_reaches(grid, self.conv)
        # Channels last is the order of tokens: what the convolution returns in it becomes tokens without a copy.
        raster = rearrange(tokens.x, "b (r c) d -> b d r c", r=grid[0]).contiguous(memory_format=torch.channels_last)
        raster = self.conv(raster)
        return Tokens(self.norm(rearrange(raster, "b d r c -> b (r c) d")), grid=(raster.shape[2], raster.shape[3]))


class ConvAttention(nn.Module):
    """Attention among tokens that have looked at their neighbours (sec. 3.2): b n d -> b n d.

        x -+- 3 x 3 ------- q --+
           +- 3 x 3, stride 2 - k -- softmax(q k^T / sqrt(dim)) v      dim is the whole width here, not a head's
           +- 3 x 3, stride 2 - v --+

    Class tokens have no neighbours: they pass by the convolutions and go through the linear projections only. Those
    are the "pointwise" half of the paper's separable convolutions: on tokens, a 1 x 1 convolution is a linear layer.
    """

    def __init__(self, dim: int, heads: int, kv_stride: int):
        super().__init__()
        self.near_q, self.near_k, self.near_v = Nearby(dim), Nearby(dim, kv_stride), Nearby(dim, kv_stride)
        self.inner = Attention(dim, heads, attend=Dot(dim**-0.5))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """The last r*c tokens are the raster of this grid."""
        cut = x.shape[1] - grid[0] * grid[1]
        special, raster = x[:, :cut], rearrange(x[:, cut:], "b (r c) d -> b d r c", r=grid[0])
        near = (self.near_q(raster), self.near_k(raster), self.near_v(raster))
        q, k, v = (torch.cat([special, tokens], dim=1) for tokens in near) if cut else near
        return self.inner(q, self.inner.keys_values(k, v))


class Nearby(nn.Module):
    """Every channel by its own 3 x 3 convolution, then BatchNorm: raster b d r c -> tokens b (r/stride c/stride) d."""

    def __init__(self, dim: int, stride: int = 1):
        super().__init__()
        self.conv = Depthwise(dim, stride)
        # Over tokens is the same as over rasters, and the gradient of tokens behind a class token is no raster's.
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, raster: Tensor) -> Tensor:
        near = rearrange(self.conv(raster), "b d r c -> (b r c) d")
        return rearrange(self.norm(near), "(b n) d -> b n d", b=raster.shape[0])


def check_reaches(grid: Grid, conv: nn.Module) -> None:
    """Refuses an image of which nothing is left for a stage's convolution."""
    kernel, padding = conv.kernel_size[0], int(conv.padding[0])
    if min(grid) + 2 * padding < kernel:
        rows, cols = grid
        raise InputError(f"a convolution of {kernel} x {kernel} finds only {rows} x {cols} tokens; use larger images")
