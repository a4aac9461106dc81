"""CLIP ResNet: a stem of three convolutions, and averages instead of strides."""

from __future__ import annotations

from torch import nn

from tessella.spec import spec
from tessella.trunks.convnet import NARROWING, Entry, Layer, Means, Residual, Staged, conv, relu


@spec("clip-resnet")
class ClipResNet(Staged):
    """ResNet-D with anti-aliased strides (Radford et al. 2021, sec. 2.4; He et al. 2019, fig. 2; Zhang 2019).

    entry: three 3 x 3 convolutions, the first two of half the width, the first with the stride; then means of 2 x 2.
    Blocks are bottlenecks. Where one has a stride, means are taken instead: in the branch before its last convolution,
    in the shortcut before its only one. Means round rows and columns down, the first convolution rounds them up.
    """

    entry: Entry = Entry(width=64, size=3, stride=2, pool="mean")
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)

    def enter(self) -> nn.Sequential:
        width, size = self.entry.width, self.entry.size
        half = width // 2
        return nn.Sequential(
            layer(self.dim, half, size, self.entry.stride), layer(half, half, size), layer(half, width, size)
        )

    def block(self, dim: int, width: int, stride: int, path: float) -> Residual:
        narrow = width // NARROWING
        last = layer(narrow, width, 1, act=nn.Identity())
        nn.init.zeros_(last.norm.weight)  # pyright: ignore[reportArgumentType]  # each block begins as its shortcut
        branch = nn.Sequential(layer(dim, narrow, 1), layer(narrow, narrow, 3), means(stride), last)
        if dim == width and stride == 1:
            return Residual(branch, nn.Identity(), path)
        return Residual(branch, nn.Sequential(means(stride), layer(dim, width, 1, act=nn.Identity())), path)


def layer(dim: int, width: int, size: int, stride: int = 1, act: nn.Module | None = None) -> Layer:
    """Convolution, BatchNorm, and ReLU or another activation."""
    return Layer(conv(dim, width, size, stride), nn.BatchNorm2d(width), act or relu())


def means(stride: int) -> nn.Module:
    """The means of stride x stride pixels."""
    return nn.Identity() if stride == 1 else Means(stride)
