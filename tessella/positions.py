"""Positions: sinusoidal, learned, or none, in rows or in rasters; each adds where a token stands to what it is."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.errors import InputError
from tessella.spec import Spec, spec

Grid = tuple[int, int]
"""(rows, cols) of a raster of tokens."""


class Positions(Spec):
    """Role: builds a module (x: b n d, start: int) -> b n d."""

    def build(self, dim: int) -> nn.Module:
        """The module for tokens of width dim."""
        raise NotImplementedError


@spec("no-positions")
class NoPositions(Positions):
    """Tokens stay a bag: for models that read in order, or have order by other means."""

    def build(self, dim: int) -> nn.Module:
        return Unplaced()


@spec("sinusoidal")
class Sinusoidal(Positions):
    """Fixed sines and cosines (Vaswani et al. 2017, sec. 3.5), for any length.

    layout: the paper interleaves (sin, cos, sin, cos ..); tensor2tensor and Marian put all sines before all cosines.
    """

    layout: Literal["interleaved", "halves"] = "interleaved"

    def build(self, dim: int) -> nn.Module:
        return SinusoidalPositions(dim, self.layout)


@spec("learned")
class Learned(Positions):
    """One trained vector a position, up to a length; N(0, spread) at first."""

    length: int
    spread: float = 0.02

    def build(self, dim: int) -> nn.Module:
        return LearnedPositions(self.length, dim, self.spread)


class GridPositions(Spec):
    """Role: builds a module (x: b n d, grid: (rows, cols) of the last tokens) -> b n d."""

    def build(self, dim: int, grid: Grid, special: int) -> nn.Module:
        """The module for tokens of width dim, `special` of them in front of a raster that usually has this grid."""
        raise NotImplementedError


@spec("no-grid")
class NoGrid(GridPositions):
    """Patches stay a bag."""

    def build(self, dim: int, grid: Grid, special: int) -> nn.Module:
        return Unplaced()


@spec("learned-grid")
class LearnedGrid(GridPositions):
    """A trained vector a token, N(0, spread) at first (Dosovitskiy et al. 2021, sec. 3.1); resized for other grids."""

    spread: float = 0.02

    def build(self, dim: int, grid: Grid, special: int) -> nn.Module:
        return LearnedGridPositions(dim, grid, special, self.spread)


@spec("sincos-grid")
class SinCosGrid(GridPositions):
    """Fixed sines and cosines, half of the width for the row and half for the column (Chen et al. 2021, MoCo v3)."""

    def build(self, dim: int, grid: Grid, special: int) -> nn.Module:
        return SinCosGridPositions(dim, special)


@spec("time-and-place")
class TimeAndPlace(GridPositions):
    """Of rasters whose rows are moments, as many as there may be: fixed sines and cosines of the moment (Vaswani et al.
    2017, sec. 3.5) and a trained vector for each place in a row, N(0, spread) at first.
    """

    spread: float = 0.02

    def build(self, dim: int, grid: Grid, special: int) -> nn.Module:
        return TimeAndPlacePositions(dim, grid[1], special, self.spread)


class Unplaced(nn.Module):
    """x as it is."""

    def forward(self, x: Tensor, place: int | Grid = 0) -> Tensor:
        return x


class SinusoidalPositions(nn.Module):
    """x + PE[start : start + n]; PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos of the same."""

    def __init__(self, dim: int, layout: str = "interleaved"):
        super().__init__()
        if dim % 2:
            raise ValueError(f"sinusoidal positions need an even width, got {dim}")
        self.dim, self.layout = dim, layout
        self.register_buffer("table", sinusoids(256, dim, layout), persistent=False)
        self.table: Tensor

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        stop = start + x.shape[1]
        if stop > len(self.table):
            self.table = sinusoids(2 * stop, self.dim, self.layout).to(self.table)
        return x + self.table[start:stop].to(x.dtype)


class LearnedPositions(nn.Module):
    """x + table[start : start + n]; longer inputs are refused, never cut."""

    def __init__(self, length: int, dim: int, spread: float = 0.02):
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, dim).normal_(0, spread))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        stop = start + x.shape[1]
        if stop > len(self.table):
            raise InputError(f"{stop} tokens are more than the {len(self.table)} learned positions; shorten the input")
        return x + self.table[start:stop].to(x.dtype)


class LearnedGridPositions(nn.Module):
    """x + table; `table` (special + r c) d belongs to one grid, and is resized bicubically where x has another."""

    def __init__(self, dim: int, grid: Grid, special: int, spread: float = 0.02):
        super().__init__()
        self.grid, self.special = grid, special
        self.table = nn.Parameter(torch.empty(special + grid[0] * grid[1], dim))
        nn.init.trunc_normal_(self.table, std=spread)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return x + resized(self.table, self.grid, grid, self.special).to(x.dtype)

    def adapted(self, name: str, tensor: Tensor, grid: Grid | None = None) -> Tensor:
        """A table of another grid (a square one, unless given) as a table of this one.

        Raises InputError where the width differs, or where the tokens are not `special` ones and that grid.
        """
        n, dim = tensor.shape[0] - self.special, self.table.shape[1]
        rows, cols = grid or (math.isqrt(max(n, 0)),) * 2
        if tensor.dim() != 2 or tensor.shape[1] != dim or rows * cols != n or n < 1:
            size, special = " x ".join(map(str, tensor.shape)), self.special
            raise InputError(f"'{name}' is {size}, which is not {special} tokens and a grid of them, each {dim} wide")
        return resized(tensor, (rows, cols), self.grid, self.special)


class SinCosGridPositions(nn.Module):
    """x + [sines and cosines of the row | of the column]; tokens in front of the raster get nothing."""

    def __init__(self, dim: int, special: int):
        super().__init__()
        if dim % 4:
            raise ValueError(f"sines and cosines of two axes need a width that 4 divides, got {dim}")
        self.dim, self.special = dim, special

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        rows, cols = (sinusoids(n, self.dim // 2, "halves").to(x) for n in grid)
        rows, cols = rows[:, None].expand(*grid, -1), cols[None].expand(*grid, -1)
        table = rearrange(torch.cat([rows, cols], dim=-1), "r c d -> (r c) d")
        return x + torch.cat([table.new_zeros(self.special, self.dim), table])


class TimeAndPlacePositions(nn.Module):
    """x + time[row] + place[column]; tokens in front of the raster get nothing. A moment's own is the same in any grid.

    So padding behind the last moment changes nothing, which resizing to the longest of a batch would not grant.
    """

    def __init__(self, dim: int, places: int, special: int, spread: float = 0.02):
        super().__init__()
        self.special = special
        self.time = SinusoidalPositions(dim, "halves")
        self.place = nn.Parameter(torch.empty(places, dim))
        nn.init.trunc_normal_(self.place, std=spread)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        front, raster = x[:, : self.special], x[:, self.special :]
        moments = self.time(raster.new_zeros(1, grid[0], raster.shape[2]))
        table = rearrange(moments, "1 r d -> r 1 d") + self.place.to(x.dtype)
        return torch.cat([front, raster + rearrange(table, "r c d -> (r c) d")], dim=1)


def resized(table: Tensor, old: Grid, new: Grid, special: int = 0) -> Tensor:
    """(special + r c) d for another grid: the raster bicubically, what stands in front of it as it is.

    Bicubic, not bilinear, keeps the vectors' norms (Touvron et al. 2021, sec. 6).
    """
    if old == new:
        return table
    raster = rearrange(table[special:], "(r c) d -> 1 d r c", r=old[0])
    raster = F.interpolate(raster.float(), size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:special], rearrange(raster, "1 d r c -> (r c) d").to(table.dtype)])


def sinusoids(n: int, dim: int, layout: str = "interleaved") -> Tensor:
    """n x dim table in float32, computed in float64; wavelengths from 2 pi to 10000 * 2 pi."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(torch.arange(n, dtype=torch.float64), rates)
    both = [angles.sin(), angles.cos()]
    if layout == "halves":
        return torch.cat(both, dim=1).float()
    return rearrange(torch.stack(both), "two n i -> n (i two)").float()
