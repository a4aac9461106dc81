"""RegNet: widths on a line, designed by design spaces (Radosavovic et al. 2020); the 16 GF one is DeiT's teacher.

    image -> 3 x 3 convolution, stride 2 -> stage 1 ... stage 4, each beginning with stride 2 -> mean -> classes

    block:  x -+-> [1 x 1] -> [3 x 3 in groups] -> SqueezeExcite -> [1 x 1] -+-> ReLU
               +--------------------------- shortcut ------------------------+

Four numbers and a group's width say it all: blocks that grow in a line, w0 + wa i, rounded to powers of wm (equations 2
to 4 of the paper), so that stages come by themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tessella.models import Encoder
from tessella.trunks.regnet import RegNet
from tessella.weights import Rule
from tessella.zoo.card import Card
from tessella.zoo.resnet import classifier


class Size(NamedTuple):
    """Blocks, first width, slope, step between stages, channels of a group: the best of the paper's design space."""

    depth: int
    w0: int
    wa: float
    wm: float
    group: int


SIZES = {
    "032": Size(21, 80, 42.63, 2.66, 24),
    "040": Size(22, 96, 31.41, 2.24, 64),
    "080": Size(17, 192, 76.82, 2.19, 56),
    "120": Size(19, 168, 73.36, 2.37, 112),
    "160": Size(18, 200, 106.23, 2.48, 112),
    "320": Size(20, 232, 115.89, 2.53, 232),
}
"""By multiply-adds for an image of 224 x 224 pixels, in units of 100 million."""


def stages(size: Size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depths and widths of the stages: blocks of one rounded width are one stage."""
    line = [size.w0 + size.wa * i for i in range(size.depth)]
    powers = [round(math.log(width / size.w0) / math.log(size.wm)) for width in line]
    eights = [round(size.w0 * size.wm**power / 8) * 8 for power in powers]
    blocks = Counter(round(width / size.group) * size.group for width in eights)
    return tuple(blocks.values()), tuple(blocks)


def regnet(
    size: str = "160", classes: int = 1000, image_size: int = 224, channels: int = 3, drop_path: float = 0.0
) -> Encoder:
    """The spec of a RegNetY. It takes images of any size; image_size is for the sake of other families."""
    depths, widths = stages(SIZES[size])
    trunk = RegNet(dim=channels, depths=depths, widths=widths, group=SIZES[size].group, drop_path=drop_path)
    return classifier(trunk, classes)


VARIANTS: dict[str, Callable[..., Encoder]] = {f"regnety_{size}": partial(regnet, size) for size in SIZES}

CARDS = {
    "regnety_160": Card(224, 82.9, "Touvron et al. 2021, sec. 5.2, as DeiT's teacher", "Apache-2.0"),
}


def _block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of one block."""
    layers = {"conv1": "branch.0", "conv2": "branch.1", "conv3": "branch.3", "downsample": "shortcut"}
    return (
        *(Rule(f"{theirs}.{a}.conv.weight", f"{ours}.{b}.conv.weight") for a, b in layers.items()),
        *(Rule(f"{theirs}.{a}.bn.{{p}}", f"{ours}.{b}.norm.{{p}}") for a, b in layers.items()),
        Rule(f"{theirs}.se.fc1.{{p}}", f"{ours}.branch.2.squeeze.{{p}}"),
        Rule(f"{theirs}.se.fc2.{{p}}", f"{ours}.branch.2.excite.{{p}}"),
    )


DEEPEST = tuple(max(depths) for depths in zip(*(stages(size)[0] for size in SIZES.values()), strict=True))
"""The most blocks of each stage. timm counts stages and blocks from 1, so that every one has rules of its own."""

LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "timm": (
        Rule("stem.conv.weight", "trunk.entry.conv.weight"),
        Rule("stem.bn.{p}", "trunk.entry.norm.{p}"),
        *(
            rule
            for s, deepest in enumerate(DEEPEST)
            for b in range(deepest)
            for rule in _block(f"s{s + 1}.b{b + 1}", f"trunk.stages.{s}.{b}")
        ),
        Rule("head.fc.{p}", "head.scores.{p}"),
    ),
}
