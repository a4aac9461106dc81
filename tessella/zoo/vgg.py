"""VGG: very deep convolutional networks (Simonyan and Zisserman 2015), with 16 layers that have weights.

    image -> [conv 3 x 3, ReLU] x 2 -> max 2 x 2 -> ... x 2, x 3, x 3, x 3 -> 7 x 7 x 512 -> linear -> linear -> classes

The paper's column D, and the same with BatchNorm after each convolution. The first hidden linear layer reads the raster
that an image of image_size becomes; that of an image of another size is averaged into as many rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from tessella.errors import InputError
from tessella.models import Encoder
from tessella.stems.patches import Pixels
from tessella.trunks.vgg import VGG
from tessella.vgg_head import VGGClasses
from tessella.weights import Rule
from tessella.zoo.card import Card

SIZES = {"16": ((2, 2, 3, 3, 3), (64, 128, 256, 512, 512))}
"""Convolutions and channels of each stage."""


def vgg(
    size: str = "16",
    classes: int = 1000,
    image_size: int = 224,
    channels: int = 3,
    norm: Literal["none", "batch"] = "none",
    dropout: float = 0.5,
) -> Encoder:
    """The spec of a VGG; dropout follows the two hidden layers."""
    depths, widths = SIZES[size]
    side = image_size // 2 ** len(depths)
    if side < 1:
        raise InputError(f"a VGG halves an image {len(depths)} times; one of {image_size} pixels is too small")
    trunk = VGG(dim=channels, depths=depths, widths=widths, norm=norm)
    head = VGGClasses(dim=trunk.width, classes=classes, grid=(side, side), dropout=dropout)
    return Encoder(stem=Pixels(dim=channels), trunk=trunk, head=head)


VARIANTS: dict[str, Callable[..., Encoder]] = {
    "vgg16": partial(vgg, "16"),
    "vgg16_bn": partial(vgg, "16", norm="batch"),
}

CARDS = {
    "vgg16": Card(224, 71.592, "torchvision, IMAGENET1K_V1", "BSD-3-Clause", interpolation="bilinear"),
    "vgg16_bn": Card(224, 73.360, "torchvision, IMAGENET1K_V1", "BSD-3-Clause", interpolation="bilinear"),
}

LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "torchvision": (
        Rule("features.{i}.{p}", "trunk.layers.{i}.{p}"),
        Rule("classifier.0.{p}", "head.first.{p}"),
        Rule("classifier.3.{p}", "head.second.{p}"),
        Rule("classifier.6.{p}", "head.scores.{p}"),
    ),
}
