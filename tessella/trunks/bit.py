"""BiT: pre-activation residual blocks of standardised convolutions and GroupNorm, which need no batch."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from tessella.dropout import DropPath
from tessella.spec import spec
from tessella.trunks.convnet import NARROWING, Entry, Make, Staged, conv, group_norm

EPS = 1e-10
"""Added to the variance of a filter, as in the paper's code."""


@spec("bit")
class BiT(Staged):
    """ResNet-v2 without BatchNorm (Kolesnikov et al. 2020, sec. 3.3; pre-activation: He et al. 2016b, fig. 4e)."""

    entry: Entry = Entry(pool="max-of-zeros")
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)

    def enter(self) -> nn.Module:
        return standardised(self.dim, self.entry.width, self.entry.size, self.entry.stride)

    def block(self, dim: int, width: int, stride: int, path: float) -> Preactivated:
        narrow = width // NARROWING
        branch = nn.Sequential(
            standardised(dim, narrow, 1),
            normed_relu(narrow),
            standardised(narrow, narrow, 3, stride),
            normed_relu(narrow),
            standardised(narrow, width, 1),
        )
        same = dim == width and stride == 1
        return Preactivated(normed_relu(dim), branch, None if same else standardised(dim, width, 1, stride), path)

    def final(self) -> nn.Module:
        return normed_relu(self.width)


class Standardised(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1, whatever their weights (Qiao et al. 2019, eq. 6)."""

    def forward(self, x: Tensor) -> Tensor:
        # Over one filter, standardising is a LayerNorm without gain and bias: fused, with statistics in fp32.
        weight = F.layer_norm(self.weight, self.weight.shape[1:], eps=EPS)
        return self._conv_forward(x, weight.to(self.weight.dtype), self.bias)


class GroupNormReLU(nn.GroupNorm):
    """relu(GroupNorm(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Preactivated(nn.Module):
    """x + branch(h), h = relu(norm(x)); where the branch changes the shape, shortcut(h) + branch(h)."""

    def __init__(self, norm: nn.Module, branch: nn.Module, shortcut: nn.Module | None, path: float = 0.0):
        super().__init__()
        self.norm, self.branch, self.shortcut = norm, branch, shortcut
        self.path = DropPath(path)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        around = x if self.shortcut is None else self.shortcut(h)
        return around + self.path(self.branch(h))


standardised: Make = partial(conv, of=Standardised)
normed_relu: Make = partial(group_norm, of=GroupNormReLU)
