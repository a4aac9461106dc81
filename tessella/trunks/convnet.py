"""Convnets: pixels into tokens by stages of convolutions in residual blocks; ResNet, and what its kin share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.dropout import DropPath
from tessella.errors import InputError
from tessella.spec import Spec, spec
from tessella.tokens import Tokens
from tessella.trunks.plain import Trunk, rates

Make = Callable[..., nn.Module]
relu: Make = partial(nn.ReLU, inplace=True)


def conv(
    dim: int, width: int, size: int, stride: int = 1, groups: int = 1, bias: bool = False, of: Make = nn.Conv2d
) -> nn.Module:
    """A convolution b dim r c -> b width r/stride c/stride, its weights drawn as in He et al. 2015, eq. 14."""
    made = of(dim, width, size, stride, padding=size // 2, groups=groups, bias=bias)
    nn.init.normal_(made.weight, 0, (2 * groups / (size**2 * width)) ** 0.5)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def group_norm(dim: int, of: Make = nn.GroupNorm) -> nn.Module:
    """Groups of channels, each normalised over all its pixels (Wu and He 2018)."""
    if dim % GROUPS:
        raise InputError(f"norm 'group' needs widths divisible by {GROUPS}, got {dim}")
    return of(GROUPS, dim)


class PixelNorm(nn.LayerNorm):
    """Each pixel's channels normalised over themselves, as in a Transformer: b d r c -> b d r c."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(rearrange(x, "b d r c -> b r c d")), "b r c d -> b d r c")


GROUPS = 32
NORMS: dict[str, Make] = {"batch": nn.BatchNorm2d, "group": group_norm, "layer": PixelNorm}
"""What normalises a raster, given its width."""

Pool = Literal["none", "max", "max-of-zeros", "mean"]
POOLS: dict[Pool, Make] = {
    "none": nn.Identity,
    "max": partial(nn.MaxPool2d, 3, 2, padding=1),
    "max-of-zeros": lambda: nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)),
    "mean": lambda: Means(2),
}
"""What follows the first convolution; beyond the border lies nothing, or zeros."""


class Means(nn.Module):
    """Means of squares of pixels, b d r c -> b d r/size c/size, rounding down."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.shape[-2:]
        if min(rows, cols) < self.size:
            raise InputError(
                f"the image is too small: {rows} x {cols} of its pixels are left where {self.size} x {self.size} are "
                "averaged; use a larger one"
            )
        return F.avg_pool2d(x, self.size)


class Layer(nn.Module):
    """act(norm(conv(x))), on rasters b d r c."""

    def __init__(self, conv: nn.Module, norm: nn.Module, act: nn.Module):
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    """relu(shortcut(x) + branch(x)), on rasters b d r c (He et al. 2016, fig. 2)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, path: float = 0.0):
        super().__init__()
        self.branch, self.shortcut = branch, shortcut
        self.path = DropPath(path)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.path(self.branch(x)))


class Padded(nn.Module):
    """Every stride-th pixel, zeros as the new channels: a shortcut without weights (He et al. 2016, option A)."""

    def __init__(self, dim: int, width: int, stride: int):
        super().__init__()
        if width < dim:
            raise InputError(f"a 'padded' shortcut cannot lead from {dim} channels to {width}; use 'projected'")
        self.more, self.stride = width - dim, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


@spec("entry")
class Entry(Spec):
    """The first convolution, from pixels to `width` channels, and the pool after it."""

    width: int = Field(64, ge=1)
    size: int = Field(7, ge=1)
    stride: int = Field(2, ge=1)
    pool: Pool = "max"


class Staged(Trunk):
    """What trunks of residual blocks share: stages, each of which starts by halving rows and columns.

    depths and widths: blocks and channels of each stage. first: stride of the first stage.
    """

    dim: int = 3
    entry: Entry = Entry()
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    first: int = Field(1, ge=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth: how often a sample skips the branch of the last block; less before, and never in the first."""

    @model_validator(mode="after")
    def _a_width_a_stage(self):
        check_stages(self.depths, self.widths)
        return self

    @property
    def width(self) -> int:
        return self.widths[-1]

    def enter(self) -> nn.Module:
        """The first layer, before its pool."""
        raise NotImplementedError

    def block(self, dim: int, width: int, stride: int, path: float) -> nn.Module:
        """One residual block, b dim r c -> b width r/stride c/stride."""
        raise NotImplementedError

    def final(self) -> nn.Module:
        """What follows the last block."""
        return nn.Identity()

    def build(self) -> Convnet:
        return Convnet(self)


@spec("resnet")
class ResNet(Staged):
    """Residual blocks of convolution, norm, ReLU (He et al. 2016).

    blocks: two 3 x 3 convolutions ("basic"), or 1 x 1 to a quarter of the width, 3 x 3, and 1 x 1 back ("bottleneck").
    The 3 x 3 one has the stride; in the paper, the 1 x 1 before it had.
    shortcut: what leads around a branch that changes the shape: a 1 x 1 convolution ("projected", the paper's option B)
    or nothing learned ("padded", its option A).
    """

    blocks: Literal["basic", "bottleneck"] = "basic"
    norm: Literal["batch", "group", "layer"] = "batch"
    shortcut: Literal["projected", "padded"] = "projected"

    def enter(self) -> Layer:
        return self.layer(self.dim, self.entry.width, self.entry.size, self.entry.stride)

    def block(self, dim: int, width: int, stride: int, path: float) -> Residual:
        branch = nn.Sequential(*BRANCHES[self.blocks](self.layer, dim, width, stride))
        return Residual(branch, self.around(dim, width, stride), path)

    def layer(self, dim: int, width: int, size: int, stride: int = 1, act: Make = relu) -> Layer:
        """Convolution, norm, activation."""
        return Layer(conv(dim, width, size, stride), NORMS[self.norm](width), act())

    def around(self, dim: int, width: int, stride: int) -> nn.Module:
        """The shortcut of a block."""
        if dim == width and stride == 1:
            return nn.Identity()
        if self.shortcut == "padded":
            return Padded(dim, width, stride)
        return self.layer(dim, width, 1, stride, act=nn.Identity)


def basic(layer: Make, dim: int, width: int, stride: int) -> list[nn.Module]:
    """The branch of a basic block (He et al. 2016, fig. 5 left)."""
    return [layer(dim, width, 3, stride), layer(width, width, 3, act=nn.Identity)]


def bottleneck(layer: Make, dim: int, width: int, stride: int) -> list[nn.Module]:
    """The branch of a bottleneck block (He et al. 2016, fig. 5 right)."""
    narrow = width // NARROWING
    return [layer(dim, narrow, 1), layer(narrow, narrow, 3, stride), layer(narrow, width, 1, act=nn.Identity)]


NARROWING = 4
BRANCHES: dict[str, Callable[..., list[nn.Module]]] = {"basic": basic, "bottleneck": bottleneck}


class Convnet(nn.Module):
    """Pixels b (r c) v -> Tokens b (r' c') d: entry, pool, stages of blocks, and what follows them."""

    def __init__(self, s: Staged):
        super().__init__()
        self.entry = s.enter()
        self.pool = POOLS[s.entry.pool]()
        path = iter(rates(s.drop_path, sum(s.depths)))
        stages, dim, stride = [], s.entry.width, s.first
        for depth, width in zip(s.depths, s.widths, strict=True):
            blocks = [s.block(dim, width, stride, next(path))]
            blocks += [s.block(width, width, 1, next(path)) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            dim, stride = width, 2
        self.stages = nn.Sequential(*stages)
        self.norm = s.final()

    def forward(self, tokens: Tokens) -> Tokens:
        return seen(tokens, self.norm(self.stages(self.pool(self.entry(raster(tokens))))))


def raster(tokens: Tokens) -> Tensor:
    """Tokens b (r c) d as a raster b d r c, in the order that convolutions are fastest in: channels last."""
    assert tokens.grid is not None
    x = rearrange(tokens.x, "b (r c) d -> b d r c", r=tokens.grid[0])
    return x.contiguous(memory_format=torch.channels_last)


def seen(tokens: Tokens, x: Tensor) -> Tokens:
    """The tokens that a raster b d r c is; a view, where channels are last."""
    return tokens.replace(x=rearrange(x, "b d r c -> b (r c) d"), grid=(x.shape[2], x.shape[3]))


def check_stages(depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Refuses stages that lack a depth or a width."""
    if len(depths) != len(widths) or min(depths, default=0) < 1 or min(widths) < 1:
        raise InputError(f"depths {depths} and widths {widths} must be positive numbers, one of each for every stage")
