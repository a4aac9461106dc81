"""RegNet: residual bottlenecks of grouped convolutions whose channels are weighed by what the whole image holds."""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import Tensor, nn

from tessella.errors import InputError
from tessella.spec import spec
from tessella.trunks.convnet import Entry, Layer, Residual, Staged, conv, relu

SQUEEZE = 4
"""How many times fewer channels than its block's input a SqueezeExcite has inside."""


@spec("regnet")
class RegNet(Staged):
    """RegNetY (Radosavovic et al. 2020, sec. 3.3 and 4): 1 x 1, 3 x 3 in groups, SqueezeExcite, 1 x 1.

    group: channels of one group of the 3 x 3 convolutions.
    """

    entry: Entry = Entry(width=32, size=3, stride=2, pool="none")
    first: int = Field(2, ge=1)
    group: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _groups_divide(self):
        wrong = [width for width in self.widths if width % self.group]
        if wrong:
            raise InputError(f"a width of {wrong[0]} is not divisible into groups of {self.group} channels")
        return self

    def enter(self) -> Layer:
        return layer(self.dim, self.entry.width, self.entry.size, self.entry.stride)

    def block(self, dim: int, width: int, stride: int, path: float) -> Residual:
        branch = nn.Sequential(
            layer(dim, width, 1),
            layer(width, width, 3, stride, groups=width // self.group),
            SqueezeExcite(width, max(round(dim / SQUEEZE), 1)),
            layer(width, width, 1, act=nn.Identity()),
        )
        same = dim == width and stride == 1
        return Residual(branch, nn.Identity() if same else layer(dim, width, 1, stride, act=nn.Identity()), path)


class SqueezeExcite(nn.Module):
    """x times a weight a channel, sigmoid(W2 relu(W1 mean(x))) (Hu et al. 2018, eq. 2 to 4); rasters b d r c."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.squeeze = conv(dim, hidden, 1, bias=True)
        self.act = relu()
        self.excite = conv(hidden, dim, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.excite(self.act(self.squeeze(means))).sigmoid()


def layer(dim: int, width: int, size: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> Layer:
    """Convolution, BatchNorm, and ReLU or another activation."""
    return Layer(conv(dim, width, size, stride, groups), nn.BatchNorm2d(width), act or relu())
