"""Swin: attention inside windows of a raster that shift from block to block, in stages of ever fewer, wider tokens."""

from __future__ import annotations

from functools import partial

from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.attention import Attention
from tessella.blocks import Block, FeedForward, PreNorm
from tessella.errors import InputError
from tessella.positions import Grid
from tessella.spec import spec
from tessella.tokens import Tokens
from tessella.trunks.plain import Trunk, rates
from tessella.windows import RelativeDot, Tiling, tiling


@spec("swin")
class Swin(Trunk):
    """Stages of pre-norm blocks (Liu et al. 2021, sec. 3.1); each after the first halves the raster, doubles the width.

    Every second block of a stage shifts its windows by half. A raster smaller than a window is padded; padding is
    seen by nobody, so that a window is never too large, only wasteful.
    """

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (7, 7, 7, 7)
    """Rows and columns of a window, in tokens, stage by stage."""
    ratio: float = Field(4.0, gt=0)
    """Width inside a feed-forward layer by the width of its tokens."""
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth: how often a sample skips a branch of the last block; less before, and never in the first."""
    eps: float = 1e-5

    @model_validator(mode="after")
    def _stages_agree(self):
        lengths = len(self.depths), len(self.heads), len(self.windows)
        if len(set(lengths)) > 1 or not self.depths:
            raise InputError("depths, heads and windows need a number each a stage, got {}, {} and {}".format(*lengths))
        if min(*self.depths, *self.heads, *self.windows) < 1:
            raise InputError("depths, heads and windows are at least 1")
        for dim, heads in zip(self.dims, self.heads, strict=True):
            if dim % heads:
                raise InputError(f"dim {dim} of a stage is not divisible by its heads {heads}")
        return self

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of every stage."""
        return tuple(self.dim * 2**stage for stage in range(len(self.depths)))

    @property
    def width(self) -> int:
        return self.dims[-1]

    def build(self) -> SwinTrunk:
        return SwinTrunk(self)


class SwinTrunk(nn.Module):
    """Tokens b (r c) d on a grid -> Tokens of a raster that every stage but the first has halved."""

    def __init__(self, s: Swin):
        super().__init__()
        paths = iter(rates(s.drop_path, sum(s.depths)))
        self.stages = nn.ModuleList(
            Stage(s, stage, [next(paths) for _ in range(depth)]) for stage, depth in enumerate(s.depths)
        )
        self.norm = nn.LayerNorm(s.width, s.eps)

    def forward(self, tokens: Tokens) -> Tokens:
        assert tokens.grid is not None and tokens.keep is None, "Swin reads whole rasters"
        x, grid = tokens.x, tokens.grid
        for stage in self.stages:
            x, grid = stage(x, grid)
        return Tokens(self.norm(x), grid=grid)


class Stage(nn.Module):
    """Patch merging, but not in the first stage, then blocks whose windows lie straight and shifted in turn."""

    def __init__(self, s: Swin, number: int, paths: list[float]):
        super().__init__()
        dim, heads, self.window = s.dims[number], s.heads[number], s.windows[number]
        self.merge = Merging(dim // 2, s.eps) if number else None
        self.blocks = nn.ModuleList(
            Block(
                Attention(dim, heads, attend=RelativeDot(self.window, heads)),
                FeedForward(dim, int(dim * s.ratio), "gelu"),
                partial(PreNorm, dim, s.dropout, s.eps, path),
            )
            for path in paths
        )

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """b (r c) d on a grid -> the same, on the grid after merging."""
        if self.merge is not None:
            x, grid = self.merge(x, grid)
        turns = [tiling(grid, self.window, shifted, x.device) for shifted in (False, True)]
        for i, block in enumerate(self.blocks):

            def look(x: Tensor, attn: nn.Module = block.attn, windows: Tiling = turns[i % 2]) -> Tensor:
                return windows.paste(attn(windows.cut(x), mask=windows.mask))

            x = block(x, look)
        return x, grid


class Merging(nn.Module):
    """Four neighbours become one token of twice the width (Liu et al. 2021, sec. 3.1); odd rasters get zeros."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """b (r c) d -> b (r/2 c/2) 2d."""
        rows, cols = grid
        x = F.pad(rearrange(x, "b (r c) d -> b r c d", r=rows), (0, 0, 0, cols % 2, 0, rows % 2))
        x = rearrange(x, "b (r v) (c w) d -> b (r c) (w v d)", v=2, w=2)  # the released weights go down, then right
        return self.reduce(self.norm(x)), ((rows + 1) // 2, (cols + 1) // 2)
