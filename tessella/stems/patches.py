"""Patches: an image in, Tokens out: patches for ViT, a normalised raster of them for Swin, or single pixels."""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.dropout import Dropout
from tessella.errors import InputError
from tessella.positions import Grid, GridPositions, LearnedGrid
from tessella.spec import Part, spec
from tessella.stems.words import Stem
from tessella.tokens import Tokens


@spec("patches")
class Patches(Stem):
    """Squares of pixels, each through one linear layer, behind class tokens (Dosovitskiy et al. 2021, eq. 1).

    size: rows and columns of the images it is made for; others are welcome, their positions are resized.
    special: tokens in front: 1 for ViT's class, 2 for DeiT's class and distillation, 0 for none.
    """

    dim: int
    patch: int = Field(16, ge=1)
    size: tuple[int, int] = (224, 224)
    channels: int = 3
    special: int = Field(1, ge=0)
    positions: Part[GridPositions] = LearnedGrid()
    dropout: float = 0.0
    bias: bool = True
    """A learned bias of the linear layer."""
    norm: float | None = Field(None, gt=0)
    """Epsilon of a LayerNorm behind the positions, as in CLIP; None for no such norm."""
    spread: float = 0.02
    """Standard deviation of the tokens in front at first."""

    @model_validator(mode="after")
    def _patches_tile(self):
        check_tiles(self.size, self.patch)
        return self

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    def build(self) -> PatchesStem:
        return PatchesStem(self)


@spec("raster")
class Raster(Stem):
    """Squares of pixels, each through one linear layer and LayerNorm, as a raster (Liu et al. 2021, sec. 3.1)."""

    dim: int
    patch: int = Field(4, ge=1)
    channels: int = 3
    eps: float = 1e-5

    def build(self) -> RasterStem:
        return RasterStem(self)


@spec("pixels")
class Pixels(Stem):
    """Every pixel a token as wide as it has channels: for trunks that make their own tokens by convolution."""

    dim: int = 3

    def build(self) -> PixelsStem:
        return PixelsStem()


class PatchesStem(nn.Module):
    """Image b v r c -> Tokens b (special + r/p c/p) d."""

    def __init__(self, s: Patches):
        super().__init__()
        self.patch = nn.Conv2d(s.channels, s.dim, s.patch, s.patch, bias=s.bias)
        self.special = nn.Parameter(torch.empty(s.special, s.dim))
        nn.init.trunc_normal_(self.special, std=s.spread)
        self.positions = s.positions.build(s.dim, s.grid, s.special)
        self.drop = Dropout(s.dropout)
        self.norm = nn.Identity() if s.norm is None else nn.LayerNorm(s.dim, s.norm)

    def forward(self, image: Tensor) -> Tokens:
        check_tiles(image.shape[-2:], self.patch.kernel_size[0])
        raster = self.patch(image)
        grid = raster.shape[2], raster.shape[3]
        special = self.special.to(raster.dtype).expand(image.shape[0], -1, -1)
        x = torch.cat([special, rearrange(raster, "b d r c -> b (r c) d")], dim=1)
        return Tokens(self.norm(self.drop(self.positions(x, grid))), grid=grid)


class RasterStem(nn.Module):
    """Image b v r c -> Tokens b (r/p c/p) d; zeros fill the last patches of a row or column."""

    def __init__(self, s: Raster):
        super().__init__()
        self.patch = nn.Conv2d(s.channels, s.dim, s.patch, s.patch)
        self.norm = nn.LayerNorm(s.dim, s.eps)

    def forward(self, image: Tensor) -> Tokens:
        p = self.patch.kernel_size[0]
        raster = self.patch(F.pad(image, (0, -image.shape[3] % p, 0, -image.shape[2] % p)))
        return Tokens(self.norm(rearrange(raster, "b d r c -> b (r c) d")), grid=(raster.shape[2], raster.shape[3]))


class PixelsStem(nn.Module):
    """Image b v r c -> Tokens b (r c) v; a view, as is the way back."""

    def forward(self, image: Tensor) -> Tokens:
        return Tokens(rearrange(image, "b v r c -> b (r c) v"), grid=(image.shape[2], image.shape[3]))


def check_tiles(size: tuple[int, ...] | torch.Size, patch: int) -> None:
    """Refuses an image that patches do not tile."""
    rows, cols = size
    if min(rows, cols) < patch or rows % patch or cols % patch:
        raise InputError(f"an image of {rows} x {cols} pixels is not tiled by patches of {patch} x {patch}; resize it")
