"""ResNet: residual networks (He et al. 2016), in the paper's sizes, its sizes for small images, and quick small ones.

    image -> 7 x 7 convolution, stride 2 -> maxima of 3 x 3, stride 2 -> stage 1 ... stage 4 -> mean -> classes

    block:  x -+-> [conv, norm, ReLU] -> [conv, norm] -+-> ReLU       stages 2 to 4 begin by halving rows and columns
               +------------- shortcut ---------------+

Small images (32 x 32) enter through a 3 x 3 convolution and are not pooled. `resnet20_cifar` and `resnet56_cifar` are
section 4.2 of the paper; `resnet18_cifar` is ResNet-18 with that entry; `micro`, `small` and `medium` are wide, shallow
and pooled early, for much accuracy after few minutes of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from tessella.errors import InputError, did_you_mean
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.spec import from_dict
from tessella.stems.patches import Pixels
from tessella.trunks.convnet import BRANCHES, Entry, ResNet, Staged
from tessella.weights import Rule
from tessella.zoo import config as read
from tessella.zoo.card import Card


class Size(NamedTuple):
    """Kind of block, blocks and channels of each stage, how pixels enter, and the shortcut where shapes change."""

    blocks: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    entry: Entry = Entry()
    shortcut: Literal["projected", "padded"] = "projected"
    pixels: int = 224
    """Rows and columns of the images it is meant for; it takes others."""


def small(width: int, pool: Literal["none", "max"] = "none") -> Entry:
    """How small images enter."""
    return Entry(width=width, size=3, stride=1, pool=pool)


WIDE = (256, 512, 1024, 2048)
SIZES = {
    "resnet18": Size("basic", (2, 2, 2, 2)),
    "resnet34": Size("basic", (3, 4, 6, 3)),
    "resnet50": Size("bottleneck", (3, 4, 6, 3), WIDE),
    "resnet101": Size("bottleneck", (3, 4, 23, 3), WIDE),
    "resnet152": Size("bottleneck", (3, 8, 36, 3), WIDE),
    "resnet18_cifar": Size("basic", (2, 2, 2, 2), entry=small(64), pixels=32),
    "resnet20_cifar": Size("basic", (3, 3, 3), (16, 32, 64), small(16), "padded", 32),
    "resnet56_cifar": Size("basic", (9, 9, 9), (16, 32, 64), small(16), "padded", 32),
    "resnet_micro": Size("basic", (1, 1, 1), (32, 64, 128), small(16, "max"), pixels=32),
    "resnet_small": Size("basic", (1, 1, 1), (64, 128, 256), small(32, "max"), pixels=32),
    "resnet_medium": Size("basic", (1, 1, 1), (96, 192, 384), small(48, "max"), pixels=32),
}


def resnet(
    size: str = "resnet50", classes: int = 1000, image_size: int = 224, channels: int = 3, drop_path: float = 0.0
) -> Encoder:
    """The spec of a ResNet. It takes images of any size; image_size is for the sake of other families."""
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
    return classifier(trunk, classes)


def classifier(trunk: Staged, classes: int) -> Encoder:
    """A convnet with what all but VGG have around it: single pixels in front, classes from the mean behind."""
    return Encoder(stem=Pixels(dim=trunk.dim), trunk=trunk, head=Classes(dim=trunk.width, classes=classes, pool="mean"))


VARIANTS: dict[str, Callable[..., Encoder]] = {
    name: partial(resnet, name, image_size=size.pixels) for name, size in SIZES.items()
}

TOP1 = {"resnet18": 69.758, "resnet50": 76.130, "resnet152": 78.312}
"""ImageNet-1k accuracy of torchvision's first weights (IMAGENET1K_V1), percent."""

CARDS = {
    **{name: Card(size.pixels) for name, size in SIZES.items()},
    **{
        name: Card(224, top1, "torchvision, IMAGENET1K_V1", "BSD-3-Clause", interpolation="bilinear")
        for name, top1 in TOP1.items()
    },
}


def _torchvision_stage(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of one stage, whatever its blocks are."""
    return (
        *(Rule(f"{theirs}.{{b}}.conv{i + 1}.weight", f"{ours}.{{b}}.branch.{i}.conv.weight") for i in range(3)),
        *(Rule(f"{theirs}.{{b}}.bn{i + 1}.{{p}}", f"{ours}.{{b}}.branch.{i}.norm.{{p}}") for i in range(3)),
        Rule(f"{theirs}.{{b}}.downsample.0.weight", f"{ours}.{{b}}.shortcut.conv.weight"),
        Rule(f"{theirs}.{{b}}.downsample.1.{{p}}", f"{ours}.{{b}}.shortcut.norm.{{p}}"),
    )


TORCHVISION = (
    Rule("conv1.weight", "trunk.entry.conv.weight"),
    Rule("bn1.{p}", "trunk.entry.norm.{p}"),
    *(rule for s in range(4) for rule in _torchvision_stage(f"layer{s + 1}", f"trunk.stages.{s}")),
    Rule("fc.{p}", "head.scores.{p}"),
)

STAGES = "resnet.encoder.stages.{s}.layers.{b}"
LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "torchvision": TORCHVISION,
    "timm": TORCHVISION,
    "hf": (
        Rule("resnet.embedder.embedder.convolution.weight", "trunk.entry.conv.weight"),
        Rule("resnet.embedder.embedder.normalization.{p}", "trunk.entry.norm.{p}"),
        Rule(f"{STAGES}.layer.{{i}}.convolution.weight", "trunk.stages.{s}.{b}.branch.{i}.conv.weight"),
        Rule(f"{STAGES}.layer.{{i}}.normalization.{{p}}", "trunk.stages.{s}.{b}.branch.{i}.norm.{p}"),
        Rule(f"{STAGES}.shortcut.convolution.weight", "trunk.stages.{s}.{b}.shortcut.conv.weight"),
        Rule(f"{STAGES}.shortcut.normalization.{{p}}", "trunk.stages.{s}.{b}.shortcut.norm.{p}"),
        Rule("classifier.1.{p}", "head.scores.{p}"),
    ),
}


def from_config(config: Mapping[str, Any]) -> Encoder:
    """The model that a `config.json` with `model_type` "resnet" describes.

    Fields left out are those of `transformers`' ResNetConfig. Raises InputError, naming the field, for what is not
    supported.
    """
    read.demand(config, model_type="resnet", hidden_act="relu", downsample_in_bottleneck=False)
    blocks = config.get("layer_type", "bottleneck")
    if blocks not in BRANCHES:
        raise InputError(f"config.json: layer_type '{blocks}' is not known{did_you_mean(str(blocks), BRANCHES)}")
    fields = {
        "dim": read.whole(config, "num_channels", 3),
        "entry": Entry(width=read.whole(config, "embedding_size", 64)),
        "depths": read.wholes(config, "depths", (3, 4, 6, 3)),
        "widths": read.wholes(config, "hidden_sizes", WIDE),
        "first": 2 if config.get("downsample_in_first_stage", False) else 1,
        "blocks": blocks,
    }
    return classifier(from_dict(fields, ResNet), read.classes(config))


def to_config(model: Encoder) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of ours. Raises InputError where it cannot be said."""
    trunk, head = model.trunk, model.head
    if not (isinstance(trunk, ResNet) and isinstance(head, Classes)):
        raise InputError(f"a model of '{trunk.kind}' and '{head.kind}' has no ResNet layout; 'resnet', 'classes' do")
    read.agree(
        "ResNet",
        first_convolution=(trunk.entry.size, 7),
        stride_of_the_first_convolution=(trunk.entry.stride, 2),
        pool=(trunk.entry.pool, "max"),
        norm=(trunk.norm, "batch"),
        shortcut=(trunk.shortcut, "projected"),
        pooling_of_the_head=(head.pool, "mean"),
    )
    if trunk.first > 2:
        raise InputError(
            f"the ResNet layout needs a stride of 1 or 2 in the first stage, but the model has {trunk.first}"
        )
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": trunk.dim,
        "embedding_size": trunk.entry.width,
        "hidden_sizes": list(trunk.widths),
        "depths": list(trunk.depths),
        "layer_type": trunk.blocks,
        "hidden_act": "relu",
        "downsample_in_first_stage": trunk.first == 2,
        "downsample_in_bottleneck": False,
        "num_labels": head.classes,
    }
