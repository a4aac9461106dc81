"""VGG: stacks of 3 x 3 convolutions, each followed by a maximum of 2 x 2."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from torch import nn

from tessella.errors import InputError
from tessella.spec import spec
from tessella.tokens import Tokens
from tessella.trunks.convnet import Make, check_stages, conv, raster, relu, seen
from tessella.trunks.plain import Trunk

NORMS: dict[str, tuple[Make, ...]] = {"none": (), "batch": (nn.BatchNorm2d,)}
"""What stands between a convolution and its ReLU."""


@spec("vgg")
class VGG(Trunk):
    """Convolutions with bias, ReLU and maxima (Simonyan and Zisserman 2015, table 1); depths and widths of its stages.

    norm: "none" as in the paper, or BatchNorm after each convolution.
    """

    dim: int = 3
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: Literal["none", "batch"] = "none"

    @model_validator(mode="after")
    def _a_width_a_stage(self):
        check_stages(self.depths, self.widths)
        return self

    @property
    def width(self) -> int:
        return self.widths[-1]

    def build(self) -> VGGTrunk:
        return VGGTrunk(self)


class VGGTrunk(nn.Module):
    """Pixels b (r c) v -> Tokens b (r' c') d, with rows and columns halved once a stage, rounding down."""

    def __init__(self, s: VGG):
        super().__init__()
        layers, dim = [], s.dim
        for depth, width in zip(s.depths, s.widths, strict=True):
            for _ in range(depth):
                layers += [conv(dim, width, 3, bias=True), *(norm(width) for norm in NORMS[s.norm]), relu()]
                dim = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.halvings = len(s.depths)

    def forward(self, tokens: Tokens) -> Tokens:
        assert tokens.grid is not None
        if min(tokens.grid) < 2**self.halvings:
            rows, cols = tokens.grid
            raise InputError(f"an image of {rows} x {cols} pixels is too small to be halved {self.halvings} times")
        return seen(tokens, self.layers(raster(tokens)))
