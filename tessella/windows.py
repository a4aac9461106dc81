"""Windows: a raster of tokens in squares that attend each among themselves, shifted by half a square at every turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.attention import Dot
from tessella.errors import InputError
from tessella.positions import Grid


@dataclass(frozen=True, slots=True)
class Tiling:
    """Windows of `window` x `window` tokens on a raster of `grid` tokens (Liu et al. 2021, sec. 3.2).

    They cover the raster padded on the right and at the bottom, rolled by `shift` rows and columns. What does not
    belong together, because the roll or the padding brought it into one window, is kept apart by `mask`.
    """

    grid: Grid
    window: int
    shift: Grid = (0, 0)

    def shifted(self) -> Tiling:
        """The same by half a window; an axis that one window covers stays."""
        down, right = (self.window // 2 if n > self.window else 0 for n in self.grid)
        return replace(self, shift=(down, right))

    @property
    def padding(self) -> Grid:
        """Rows below and columns on the right that complete the last windows."""
        rows, cols = self.grid
        return -rows % self.window, -cols % self.window

    def cut(self, x: Tensor) -> Tensor:
        """Raster b (r c) d -> windows (b r c) (w w) d: those of an image are neighbours in the batch."""
        below, right = self.padding
        x = F.pad(rearrange(x, "b (r c) d -> b r c d", r=self.grid[0]), (0, 0, 0, right, 0, below))
        x = x.roll((-self.shift[0], -self.shift[1]), (1, 2)) if any(self.shift) else x
        return rearrange(x, "b (r v) (c w) d -> (b r c) (v w) d", v=self.window, w=self.window)

    def paste(self, x: Tensor) -> Tensor:
        """Windows (b r c) (w w) d -> raster b (r c) d; the inverse of `cut`."""
        (rows, cols), (below, right) = self.grid, self.padding
        r, c = (rows + below) // self.window, (cols + right) // self.window
        x = rearrange(x, "(b r c) (v w) d -> b (r v) (c w) d", r=r, c=c, v=self.window)
        x = x.roll(self.shift, (1, 2)) if any(self.shift) else x
        return rearrange(x[:, :rows, :cols], "b r c d -> b (r c) d")

    def mask(self, device: torch.device) -> Tensor | None:
        """(r c) 1 (w w) (w w), one window of an image after the other: True where two tokens are of one region.

        Regions are what lies between the seams of the roll, and the padding, whose tokens see each other and are seen
        by nobody else. None where every window is of one region.
        """
        if not any(self.shift) and not any(self.padding):
            return None
        if torch.compiler.is_compiling():  # what is made while a program is traced belongs to that program
            return _mask(self, device)
        return _kept_mask(self, device)


def _mask(tiling: Tiling, device: torch.device) -> Tensor:
    region = torch.ones(1, *tiling.grid, 1, device=device)
    region[:, : tiling.shift[0]] += 1
    region[:, :, : tiling.shift[1]] += 2
    cells = tiling.cut(rearrange(region, "1 r c 1 -> 1 (r c) 1"))
    return rearrange(cells, "w n 1 -> w 1 n 1") == rearrange(cells, "w m 1 -> w 1 1 m")


@lru_cache(maxsize=64)
def _kept_mask(tiling: Tiling, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _mask(tiling, device)


def offsets(window: int) -> Tensor:
    """n n: the number of the offset from key to query, (row + M - 1)(2M - 1) + column + M - 1, for M = window.

    Rows and columns of the offset lie in -(M - 1) .. M - 1, so there are (2M - 1)^2 of them.
    """
    row, col = torch.arange(window**2) // window, torch.arange(window**2) % window
    down, right = row[:, None] - row, col[:, None] - col
    return (down + window - 1) * (2 * window - 1) + right + window - 1


class Windowed(Dot):
    """q k^T / sqrt(d) + B: a learned bias for every offset and head (Liu et al. 2021, eq. 4).

    `table` is (2M-1)^2 h, N(0, 0.02) at first.
    """

    def __init__(self, window: int, heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("offsets", offsets(window), persistent=False)
        self.offsets: Tensor

    def bias(self) -> Tensor:
        """h n m."""
        return rearrange(self.table[self.offsets], "n m h -> h n m")

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(q, k) + self.bias()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q, k, v: (b w) h n d, the windows of b images; mask: w 1 n n, the same for every image."""
        images = 1 if mask is None else q.shape[0] // mask.shape[0]
        if self.seen is not None:
            every = None if mask is None else mask.repeat(images, 1, 1, 1)
            return super(Dot, self).forward(q, k, v, every)
        bias = self.bias()[None]
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf")).repeat(images, 1, 1, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=self.scale)

    def adapted(self, name: str, tensor: Tensor) -> Tensor:
        """A table made for another window, resized bicubically to ours, as Microsoft's code does.

        Raises InputError where it is no table of as many heads.
        """
        side, heads = round(tensor.shape[0] ** 0.5), self.table.shape[1]
        if name != "table" or tensor.dim() != 2 or side**2 != len(tensor) or tensor.shape[1] != heads or side % 2 == 0:
            raise InputError(
                f"'{name}' of {tuple(tensor.shape)} cannot be resized to {tuple(self.table.shape)}; "
                f"it needs {heads} heads and (2M-1)^2 offsets"
            )
        now = round(len(self.table) ** 0.5)
        raster = rearrange(tensor.float(), "(r c) h -> 1 h r c", r=side)
        raster = F.interpolate(raster, size=(now, now), mode="bicubic", align_corners=False)
        return rearrange(raster, "1 h r c -> (r c) h").to(tensor.dtype)
