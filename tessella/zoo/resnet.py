"""ResNet: residual networks (He et al. 2016), in the paper's sizes, its sizes for small images, and quick small ones.

    image -> 7 x 7 convolution, stride 2 -> maxima of 3 x 3, stride 2 -> stage 1 ... stage 4 -> mean -> classes

    block:  x -+-> [conv, norm, ReLU] -> [conv, norm] -+-> ReLU       stages 2 to 4 begin by halving rows and columns
               +------------- shortcut ---------------+

Small images (32 x 32) enter through a 3 x 3 convolution and are not pooled. `resnet20_cifar` and `resnet56_cifar` are
section 4.2 of the paper; `resnet18_cifar` is ResNet-18 with that entry; `resnet_small` is wide, shallow and pooled
early, for much accuracy after few minutes of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from tessella.heads import Classes
from tessella.models import Encoder
from tessella.stems.patches import Pixels
from tessella.trunks.convnet import Entry, ResNet


class Size(NamedTuple):
    """Kind of block, blocks and channels of each stage, how pixels enter, and the shortcut where shapes change."""

    blocks: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    entry: Entry = Entry()
    shortcut: Literal["projected", "padded"] = "projected"


WIDE = (256, 512, 1024, 2048)
SIZES = {
    "18": Size("basic", (2, 2, 2, 2)),
    "34": Size("basic", (3, 4, 6, 3)),
    "50": Size("bottleneck", (3, 4, 6, 3), WIDE),
    "101": Size("bottleneck", (3, 4, 23, 3), WIDE),
    "152": Size("bottleneck", (3, 8, 36, 3), WIDE),
    "18_cifar": Size("basic", (2, 2, 2, 2), entry=Entry(width=64, size=3, stride=1, pool="none")),
    "20_cifar": Size("basic", (3, 3, 3), (16, 32, 64), Entry(width=16, size=3, stride=1, pool="none"), "padded"),
    "56_cifar": Size("basic", (9, 9, 9), (16, 32, 64), Entry(width=16, size=3, stride=1, pool="none"), "padded"),
    "small": Size("basic", (1, 1, 1), (96, 192, 384), Entry(width=64, size=3, stride=1, pool="max")),
}


def resnet(
    size: str = "50", classes: int = 1000, image_size: int = 224, channels: int = 3, drop_path: float = 0.0
) -> Encoder:
    """The spec of a ResNet. image_size is what the other families need; this one takes images of any size."""
    measures = SIZES[size]
    trunk = ResNet(
        dim=channels,
        entry=measures.entry,
        depths=measures.depths,
        widths=measures.widths,
        drop_path=drop_path,
        blocks=measures.blocks,
        shortcut=measures.shortcut,
    )
    head = Classes(dim=trunk.width, classes=classes, pool="mean")
    return Encoder(stem=Pixels(dim=channels), trunk=trunk, head=head)


VARIANTS: dict[str, Callable[..., Encoder]] = {
    **{f"resnet{size}": partial(resnet, size) for size in SIZES if size[0].isdigit()},
    "resnet_small": partial(resnet, "small", image_size=32),
}
