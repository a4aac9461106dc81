"""BiT: big transfer (Kolesnikov et al. 2020), ResNets whose every image is computed alone, for fine-tuning on anything.

    image -> 7 x 7 convolution, stride 2 -> maxima of 3 x 3, stride 2 -> stage 1 ... stage 4 -> norm, ReLU -> mean
          -> classes

    block:  x -> [norm, ReLU] -+-> [1 x 1] -> [norm, ReLU, 3 x 3] -> [norm, ReLU, 1 x 1] -+->
               (or from x) ----+------------------------ shortcut ------------------------+

GroupNorm instead of BatchNorm, and convolutions whose filters are standardised. "50x1" has 50 layers of ResNet-50's
widths, "152x4" 152 layers four times as wide. The published weights, pre-trained on ImageNet-21k, were fine-tuned and
tested at 448 x 448 pixels, 152x4 at 480 x 480.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.spec import from_dict
from tessella.trunks.bit import BiT
from tessella.trunks.convnet import GROUPS, Entry
from tessella.weights import Rule
from tessella.zoo import config as read
from tessella.zoo.card import HALVES, Card
from tessella.zoo.resnet import SIZES as RESNETS
from tessella.zoo.resnet import WIDE, classifier

POOL = "max-of-zeros"


class Size(NamedTuple):
    """The ResNet it is, how many times as wide; ImageNet-1k accuracy, percent, for images of so many pixels a side."""

    resnet: str
    wider: int
    top1: float
    pixels: int = 448


SIZES = {
    "50x1": Size("resnet50", 1, 80.386),
    "50x3": Size("resnet50", 3, 83.982),
    "101x1": Size("resnet101", 1, 82.332),
    "101x3": Size("resnet101", 3, 84.430),
    "152x2": Size("resnet152", 2, 84.468),
    "152x4": Size("resnet152", 4, 84.936, 480),
}


def bit(
    size: str = "50x1", classes: int = 1000, image_size: int = 448, channels: int = 3, drop_path: float = 0.0
) -> Encoder:
    """The spec of a BiT. It takes images of any size; image_size is for the sake of other families."""
    alike, wider = RESNETS[SIZES[size].resnet], SIZES[size].wider
    trunk = BiT(
        dim=channels,
        entry=Entry(width=alike.entry.width * wider, pool=POOL),
        depths=alike.depths,
        widths=tuple(width * wider for width in alike.widths),
        drop_path=drop_path,
    )
    return classifier(trunk, classes)


VARIANTS: dict[str, Callable[..., Encoder]] = {
    f"resnetv2_{name}_bit": partial(bit, name, image_size=size.pixels) for name, size in SIZES.items()
}

CARDS = {
    f"resnetv2_{name}_bit": Card(
        size.pixels, size.top1, "timm: BiT-M, ImageNet-21k, then 1k", "Apache-2.0", *HALVES, 1.0, "bilinear"
    )
    for name, size in SIZES.items()
}


def _blocks(theirs: str) -> tuple[Rule, ...]:
    """The rules of the blocks; theirs is the pattern of a block's name."""
    ours = "trunk.stages.{s}.{b}"
    norms = {"norm1": "norm", "norm2": "branch.1", "norm3": "branch.3"}
    convs = {"conv1": "branch.0", "conv2": "branch.2", "conv3": "branch.4", "downsample.conv": "shortcut"}
    return (
        *(Rule(f"{theirs}.{a}.{{p}}", f"{ours}.{b}.{{p}}") for a, b in norms.items()),
        *(Rule(f"{theirs}.{a}.weight", f"{ours}.{b}.weight") for a, b in convs.items()),
    )


LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "timm": (
        Rule("stem.conv.weight", "trunk.entry.weight"),
        *_blocks("stages.{s}.blocks.{b}"),
        Rule("norm.{p}", "trunk.norm.{p}"),
        Rule("head.fc.weight", "head.scores.weight", layout="k d 1 1 -> k d"),
        Rule("head.fc.bias", "head.scores.bias"),
    ),
    "hf": (
        Rule("bit.embedder.convolution.weight", "trunk.entry.weight"),
        *_blocks("bit.encoder.stages.{s}.layers.{b}"),
        Rule("bit.norm.{p}", "trunk.norm.{p}"),
        Rule("classifier.1.{p}", "head.scores.{p}"),
    ),
}

KNOWN = {
    "layer_type": "preactivation",
    "hidden_act": "relu",
    "global_padding": None,
    "embedding_dynamic_padding": False,
    "num_groups": GROUPS,
    "output_stride": 32,
    "width_factor": 1,
}
"""The switches of `transformers`' BitConfig, as the published models have them."""


def from_config(config: Mapping[str, Any]) -> Encoder:
    """The model that a `config.json` with `model_type` "bit" describes.

    Fields left out are those of `transformers`' BitConfig. Raises InputError, naming the field, for what is not
    supported.
    """
    read.demand(config, model_type="bit", **KNOWN)
    fields = {
        "dim": read.whole(config, "num_channels", 3),
        "entry": Entry(width=read.whole(config, "embedding_size", 64), pool=POOL),
        "depths": read.wholes(config, "depths", (3, 4, 6, 3)),
        "widths": read.wholes(config, "hidden_sizes", WIDE),
        "drop_path": read.number(config, "drop_path_rate", 0.0),
    }
    return classifier(from_dict(fields, BiT), read.classes(config))


def to_config(model: Encoder) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of ours. Raises InputError where it cannot be said."""
    trunk, head = model.trunk, model.head
    if not (isinstance(trunk, BiT) and isinstance(head, Classes)):
        raise InputError(f"a model of '{trunk.kind}' and '{head.kind}' has no BiT layout; 'bit', 'classes' do")
    read.agree(
        "BiT",
        first_convolution=(trunk.entry.size, 7),
        stride_of_the_first_convolution=(trunk.entry.stride, 2),
        pool=(trunk.entry.pool, POOL),
        stride_of_the_first_stage=(trunk.first, 1),
        pooling_of_the_head=(head.pool, "mean"),
    )
    return {
        "model_type": "bit",
        "architectures": ["BitForImageClassification"],
        **KNOWN,
        "num_channels": trunk.dim,
        "embedding_size": trunk.entry.width,
        "hidden_sizes": list(trunk.widths),
        "depths": list(trunk.depths),
        "drop_path_rate": trunk.drop_path,
        "num_labels": head.classes,
    }
