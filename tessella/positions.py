"""Positions: sinusoidal, learned, or none; each adds where a token stands to what it is."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.errors import InputError
from tessella.spec import Spec, spec


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
    """One trained vector a position, up to a length; N(0, 0.02) at first."""

    length: int

    def build(self, dim: int) -> nn.Module:
        return LearnedPositions(self.length, dim)


class Unplaced(nn.Module):
    """x as it is."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
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

    def __init__(self, length: int, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, dim).normal_(0, 0.02))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        stop = start + x.shape[1]
        if stop > len(self.table):
            raise InputError(f"{stop} tokens are more than the {len(self.table)} learned positions; shorten the input")
        return x + self.table[start:stop].to(x.dtype)


def sinusoids(n: int, dim: int, layout: str = "interleaved") -> Tensor:
    """n x dim table in float32, computed in float64; wavelengths from 2 pi to 10000 * 2 pi."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(torch.arange(n, dtype=torch.float64), rates)
    both = [angles.sin(), angles.cos()]
    if layout == "halves":
        return torch.cat(both, dim=1).float()
    return rearrange(torch.stack(both), "two n i -> n (i two)").float()
