"""Clips: the frames of a video in, Tokens out, one for a tubelet, a patch that lasts for some frames."""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from tessella.dropout import Dropout
from tessella.errors import InputError
from tessella.positions import TimeAndPlace
from tessella.spec import Part, spec
from tessella.stems.frames import kept, tiled
from tessella.stems.words import Stem
from tessella.tokens import Tokens


@spec("clips")
class Clips(Stem):
    """Tubelets of a video, each through one linear layer, behind class tokens (Arnab et al. 2021, ViViT, sec. 3.2).

    tubelet: frames, rows and columns of a tubelet; the last ones in time are filled with zeros, which is the mean.
    size: rows and columns of the frames. frames: how many it is made for; any other number is welcome.
    special: tokens in front.
    """

    dim: int
    tubelet: tuple[int, int, int] = (2, 16, 16)
    size: tuple[int, int] = (224, 224)
    frames: int = Field(8, ge=1)
    channels: int = Field(3, ge=1)
    special: int = Field(0, ge=0)
    positions: Part[TimeAndPlace] = TimeAndPlace()
    dropout: float = 0.0

    @model_validator(mode="after")
    def _tubelets_tile(self):
        _, rows, cols = self.tubelet
        if min(self.tubelet) < 1 or min(self.size) < 1 or self.size[0] % rows or self.size[1] % cols:
            raise InputError(f"frames of {_by(self.size)} pixels are not tiled by tubelets of {_by(self.tubelet)}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Moments of the clips it is made for, and tubelets of a moment."""
        duration, rows, cols = self.tubelet
        return -(-self.frames // duration), (self.size[0] // rows) * (self.size[1] // cols)

    def build(self) -> ClipsStem:
        return ClipsStem(self)


class ClipsStem(nn.Module):
    """float b f v r c -> Tokens b (special + f/t r/p c/q) d; its grid is moments x places.

    Frames of NaN are padding; tubelets of nothing else are not kept.
    """

    def __init__(self, s: Clips):
        super().__init__()
        self.size = s.size
        self.tubelet = nn.Conv3d(s.channels, s.dim, s.tubelet, s.tubelet)
        self.special = nn.Parameter(torch.empty(s.special, s.dim))
        nn.init.trunc_normal_(self.special, std=0.02)
        self.positions = s.positions.build(s.dim, s.grid, s.special)
        self.drop = Dropout(s.dropout)

    def forward(self, clip: Tensor) -> Tokens:
        if clip.shape[-2:] != self.size:
            raise InputError(f"frames of {_by(clip.shape[-2:])} pixels for a model of {_by(self.size)}; resize them")
        if clip.shape[2] != self.tubelet.in_channels:
            raise InputError(f"frames of {clip.shape[2]} channels for a model of {self.tubelet.in_channels}")
        filled, there = tiled(clip, self.tubelet.kernel_size[0])
        raster = self.tubelet(rearrange(filled, "b f v r c -> b v f r c"))
        grid = raster.shape[2], raster.shape[3] * raster.shape[4]
        special = self.special.to(raster.dtype).expand(len(clip), -1, -1)
        x = torch.cat([special, rearrange(raster, "b d f r c -> b (f r c) d")], dim=1)
        keep = kept(there, grid[1], len(self.special))
        return Tokens(self.drop(self.positions(x, grid)), keep=keep, grid=grid)


def _by(sizes) -> str:
    return " x ".join(map(str, sizes))
