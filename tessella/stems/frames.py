"""Frames: the spectrogram of a sound in, Tokens out, one for a patch of time and mel bands."""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.dropout import Dropout
from tessella.errors import InputError
from tessella.positions import TimeAndPlace
from tessella.spec import Part, spec
from tessella.stems.words import Stem
from tessella.tokens import Tokens


@spec("frames")
class Frames(Stem):
    """Patches of a log-mel spectrogram, each through one linear layer, behind class tokens (Gong et al. 2021, AST).

    patch: rows of time and mel bands of a patch; the last patches in time are filled with zeros, which is the mean.
    length: rows it is made for; any other number is welcome.
    special: tokens in front.
    """

    dim: int
    mels: int = Field(64, ge=1)
    patch: tuple[int, int] = (16, 16)
    length: int = Field(1000, ge=1)
    special: int = Field(0, ge=0)
    positions: Part[TimeAndPlace] = TimeAndPlace()
    dropout: float = 0.0

    @model_validator(mode="after")
    def _patches_tile(self):
        if min(self.patch) < 1 or self.mels % self.patch[1]:
            raise InputError(f"{self.mels} mel bands are not tiled by patches of {self.patch[0]} x {self.patch[1]}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Rows of patches of the sounds it is made for, and patches of a row."""
        return -(-self.length // self.patch[0]), self.mels // self.patch[1]

    def build(self) -> FramesStem:
        return FramesStem(self)


@spec("spectrogram")
class Spectrogram(Stem):
    """Every moment of every mel band a token of width 1: a picture in grey, for trunks that convolve.

    length: rows of time; what is longer loses its end, and behind what is shorter there are zeros, which is the mean.
    """

    dim: int = Field(1, ge=1, le=1)
    length: int = Field(100, ge=1)

    def build(self) -> SpectrogramStem:
        return SpectrogramStem(self.length)


class FramesStem(nn.Module):
    """float b t m -> Tokens b (special + t/p m/q) d; rows of NaN are padding, patches of nothing else are not kept."""

    def __init__(self, s: Frames):
        super().__init__()
        self.mels = s.mels
        self.patch = nn.Conv2d(1, s.dim, s.patch, s.patch)
        self.special = nn.Parameter(torch.empty(s.special, s.dim))
        nn.init.trunc_normal_(self.special, std=0.02)
        self.positions = s.positions.build(s.dim, s.grid, s.special)
        self.drop = Dropout(s.dropout)

    def forward(self, sound: Tensor) -> Tokens:
        if sound.shape[-1] != self.mels:
            raise InputError(f"a sound of {sound.shape[-1]} mel bands for a model of {self.mels}")
        filled, there = tiled(sound, self.patch.kernel_size[0])
        raster = self.patch(filled[:, None])
        grid = raster.shape[2], raster.shape[3]
        special = self.special.to(raster.dtype).expand(len(sound), -1, -1)
        x = torch.cat([special, rearrange(raster, "b d r c -> b (r c) d")], dim=1)
        keep = kept(there, grid[1], len(self.special))
        return Tokens(self.drop(self.positions(x, grid)), keep=keep, grid=grid)


class SpectrogramStem(nn.Module):
    """float b t m, NaN where there is padding -> Tokens b (length m) 1."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def forward(self, sound: Tensor) -> Tokens:
        whole = F.pad(sound.nan_to_num(0.0)[:, : self.length], (0, 0, 0, max(0, self.length - sound.shape[1])))
        return Tokens(rearrange(whole, "b t m -> b (t m) 1"), grid=(self.length, sound.shape[2]))


def tiled(values: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """b t ..., NaN where there is padding -> the same with zeros there and t filled up to whole patches; bool b r.

    The second says which patches of `patch` moments have one that is real.
    """
    t = values.shape[1]
    missing = max(patch, -(-t // patch) * patch) - t
    there = ~values.flatten(2).isnan().all(dim=2)
    values = torch.where(values.isnan(), values.new_zeros(()), values)
    values = F.pad(values, (*(0, 0) * (values.dim() - 2), 0, missing))
    there = F.pad(there, (0, missing))
    return values, rearrange(there, "b (r p) -> b r p", p=patch).any(dim=2)


def kept(there: Tensor, places: int, special: int) -> Tensor:
    """bool b r -> bool b (special + r places): what is in front, the first token, and all tokens of real moments."""
    keep = torch.cat([there.new_ones(len(there), special), there.repeat_interleave(places, dim=1)], dim=1)
    first = torch.arange(keep.shape[1], device=keep.device) == 0  # a sound of nothing but padding keeps one
    return keep | first
