"""Windows: a raster of tokens in squares that attend each among themselves, and where tokens stand to each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.attention import Dot
from tessella.dot import dot_product_attention
from tessella.errors import InputError
from tessella.positions import Grid


class Tiling(NamedTuple):
    """How windows of w x w tokens cover a raster of r x c (Liu et al. 2021, sec. 3.2), as one gather there and back."""

    window: int
    tokens: Tensor
    """Which token of the raster stands where in the windows, one window after the other; r * c for padding."""
    places: Tensor
    """Where in the windows the tokens of the raster stand."""
    mask: Tensor | None
    """windows 1 n n, n = w * w: True where two tokens may see each other; None where all may."""

    def cut(self, x: Tensor) -> Tensor:
        """Raster b (r c) d -> windows (b windows) n d, those of an image in a row."""
        if len(self.tokens) > len(self.places):
            x = F.pad(x, (0, 0, 0, 1))  # what padding is made of
        return rearrange(x.index_select(1, self.tokens), "b (w n) d -> (b w) n d", n=self.window**2)

    def paste(self, x: Tensor) -> Tensor:
        """Windows (b windows) n d -> raster b (r c) d; the inverse of `cut`, and padding is gone."""
        together = rearrange(x, "(b w) n d -> b (w n) d", w=len(self.tokens) // self.window**2)
        return together.index_select(1, self.places)


def tiling(grid: Grid, window: int, shifted: bool, device: torch.device) -> Tiling:
    """Windows on a raster, padded on the right and below to whole ones and then, if `shifted`, rolled by half a window.

    What a roll brings from one side of the picture to the other belongs to another region than what it meets there
    (ibid., figure 4), and so does padding: tokens see their own region only. An axis that one window covers is not
    rolled.
    """
    key = grid, window, shifted, device
    if key in KEPT:
        return KEPT[key]
    with torch.inference_mode(False):
        made = _tiling(*key)
    if type(made.tokens) is Tensor and not torch.compiler.is_compiling():  # a traced program's own are for it alone
        if len(KEPT) >= SIZES_KEPT:
            KEPT.clear()
        KEPT[key] = made
    return made


KEPT: dict[tuple[Grid, int, bool, torch.device], Tiling] = {}
"""Tilings by size: they depend on nothing that is learned, and every image of a size needs the same few."""
SIZES_KEPT = 64


def _tiling(grid: Grid, window: int, shifted: bool, device: torch.device) -> Tiling:
    rows, cols = grid
    padding = (0, -cols % window, 0, -rows % window)
    down, right = (window // 2 if shifted and n > window else 0 for n in grid)
    token = torch.arange(rows * cols, device=device).view(rows, cols)
    region = torch.ones_like(token)
    region[:down] += 1
    region[:, :right] += 2
    token, region = (
        rearrange(
            F.pad(x, padding, value=outside).roll((-down, -right), (0, 1)),
            "(r v) (c w) -> (r c) (v w)",
            v=window,
            w=window,
        )
        for x, outside in ((token, rows * cols), (region, 0))
    )
    mask = rearrange(region, "w n -> w 1 n 1") == rearrange(region, "w m -> w 1 1 m")
    apart = any(padding) or down or right
    order = token.flatten()
    return Tiling(window, order, order.argsort()[: rows * cols], mask if apart else None)


def offsets(window: int) -> Tensor:
    """n n: the number of the offset from key to query, (row + M - 1)(2M - 1) + column + M - 1, for M = window.

    Rows and columns of the offset lie in -(M - 1) .. M - 1, so there are (2M - 1)^2 of them.
    """
    row, col = torch.arange(window**2) // window, torch.arange(window**2) % window
    down, right = row[:, None] - row, col[:, None] - col
    return (down + window - 1) * (2 * window - 1) + right + window - 1


class RelativeDot(Dot):
    """q k^T / sqrt(d) + B: a learned bias for every offset and head (Liu et al. 2021, eq. 4).

    `table` is (2M-1)^2 h for windows of M x M, N(0, 0.02) at first.
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
        if self.seen is not None:
            every = None if mask is None else mask.repeat(q.shape[0] // mask.shape[0], 1, 1, 1)
            return super(Dot, self).forward(q, k, v, every)
        bias = self.bias()[None]
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf"))
        return dot_product_attention(q, k, v, None, self.scale, bias)

    def adapted(self, name: str, tensor: Tensor) -> Tensor:
        """The table of another window, resized bicubically to this one, as Microsoft's code does to fine-tune.

        Raises InputError where it is no table of as many heads.
        """
        heads, side = self.table.shape[1], round(len(tensor) ** 0.5)
        if name != "table" or tensor.dim() != 2 or tensor.shape[1] != heads or side**2 != len(tensor) or side % 2 == 0:
            sizes = " x ".join(map(str, tensor.shape))
            raise InputError(
                f"'{name}' of {sizes} cannot be resized: it needs (2 * window - 1)^2 rows, {heads} columns"
            )
        raster = rearrange(tensor.float(), "(r c) h -> 1 h r c", r=side)
        now = round(len(self.table) ** 0.5)
        raster = F.interpolate(raster, size=(now, now), mode="bicubic", align_corners=False)
        return rearrange(raster, "1 h r c -> (r c) h").to(tensor.dtype)
