"""CLIP: images and texts in one space, learned from captions (Radford et al. 2021), in its sizes and small ones.

    image -> ViT or ResNet ------> linear -> vector \\
                                                      scaled cosine: how well they go together
    text  -> causal Transformer -> linear -> vector /
             (its last token)

The ViT has one more LayerNorm, before its blocks, and reads its class token; the ResNet ("RN50") has a stem of three
convolutions, averages before it halves, and is pooled by attention. OpenAI's texts have up to 77 ids of a vocabulary of
49,408, in which the last id ends a text. Its models compute QuickGELU; those of open_clip that are trained on LAION
compute GELU (`clip_vit_b32_gelu`).

`micro`, `small` and `medium` learn from thousands of captioned images: plain ResNets, pooled by their mean, and texts
of a vocabulary of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from tessella.blocks import Activation
from tessella.heads import AttentionPool, Embed
from tessella.models import Encoder, Towers
from tessella.positions import Learned, LearnedGrid
from tessella.stems.patches import Patches, Pixels
from tessella.stems.words import Words
from tessella.trunks.clip_resnet import ClipResNet
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.plain import Causal, Plain
from tessella.zoo.card import Card

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the red, green and blue of the images that the published weights were trained on, of 1."""
VOCAB, LENGTH = 49_408, 77
"""Of OpenAI's texts; their last id ends one."""


class Text(NamedTuple):
    """A text tower's width, blocks and heads."""

    dim: int
    depth: int
    heads: int


class ViT(NamedTuple):
    """An image tower's width, blocks, heads, and pixels of a patch's side."""

    dim: int
    depth: int
    heads: int
    patch: int


class RN(NamedTuple):
    """An image tower's blocks and channels of each stage; heads of its pool."""

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    heads: int = 32


class Size(NamedTuple):
    """Image tower, text tower, common width, pixels (tables 19 and 20); zero-shot ImageNet-1k top-1, percent."""

    image: ViT | RN
    text: Text
    width: int
    pixels: int
    top1: float


SIZES = {
    "rn50": Size(RN((3, 4, 6, 3)), Text(512, 12, 8), 1024, 224, 59.82),
    "rn101": Size(RN((3, 4, 23, 3)), Text(512, 12, 8), 512, 224, 62.28),
    "vit_b32": Size(ViT(768, 12, 12, 32), Text(512, 12, 8), 512, 224, 63.32),
    "vit_b16": Size(ViT(768, 12, 12, 16), Text(512, 12, 8), 512, 224, 68.34),
    "vit_l14": Size(ViT(1024, 24, 16, 14), Text(768, 12, 12), 768, 224, 75.54),
    "vit_l14_336": Size(ViT(1024, 24, 16, 14), Text(768, 12, 12), 768, 336, 76.56),
}
SOURCE = "open_clip: OpenAI's weights, zero-shot"


class Small(NamedTuple):
    """For little data: how pixels enter a plain ResNet, its blocks and channels, text tower, common width, pixels."""

    entry: Entry
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    text: Text
    width: int
    pixels: int


SMALL = {
    "micro": Small(Entry(width=16, size=3, stride=1), (1, 1, 1), (32, 64, 128), Text(128, 2, 2), 128, 32),
    "small": Small(Entry(width=32), (2, 2, 2, 2), (32, 64, 128, 256), Text(256, 3, 4), 256, 96),
    "medium": Small(Entry(width=64), (2, 2, 2, 2), (64, 128, 256, 512), Text(256, 4, 4), 256, 96),
}


def clip(
    size: str = "vit_b32",
    vocab: int = VOCAB,
    length: int = LENGTH,
    image_size: int = 224,
    channels: int = 3,
    drop_path: float = 0.0,
    activation: Activation = "quick-gelu",
    bias: float | None = None,
) -> Towers:
    """The spec of a CLIP; image_size in pixels.

    vocab: with OpenAI's, the last id ends a text; with another, id 0 is padding. length: the most ids of a text.
    drop_path: stochastic depth of the image tower. bias: see `Towers`; -10 with the sigmoid loss.
    """
    measures = SIZES[size]
    if isinstance(measures.image, ViT):
        *blocks, patch = measures.image
        trunk = {**stack(*blocks), "activation": activation, "drop_path": drop_path}
        image = vit_tower(trunk, measures.width, patch, (image_size, image_size), channels)
    else:
        image = resnet_tower(measures.image, measures.width, image_size, channels, drop_path)
    end = VOCAB - 1 if vocab == VOCAB else None
    words = {"vocab": vocab, "positions": Learned(length=length, spread=0.01), "end": end}
    text = text_tower({**stack(*measures.text), "activation": activation}, measures.width, words)
    return Towers(image=image, text=text, bias=bias)


def small_clip(
    size: str = "small",
    vocab: int = 8000,
    length: int = 40,
    image_size: int = 96,
    channels: int = 3,
    dropout: float = 0.1,
    drop_path: float = 0.0,
    norm: Literal["batch", "group", "layer"] = "batch",
    bias: float | None = None,
) -> Towers:
    """The spec of two small towers. Images may have any size; image_size is for the sake of other families.

    length: the most ids of a text. dropout: of the text tower. drop_path: stochastic depth of the image tower. norm:
    of the image tower; "batch" is the quickest, but batches cannot be computed in chunks with it. bias: see `Towers`;
    -10 with the sigmoid loss.
    """
    measures = SMALL[size]
    trunk = ResNet(
        dim=channels,
        entry=measures.entry,
        depths=measures.depths,
        widths=measures.widths,
        drop_path=drop_path,
        norm=norm,
    )
    head = Embed(dim=trunk.width, width=measures.width, pool="mean")
    image = Encoder(stem=Pixels(dim=channels), trunk=trunk, head=head)
    words = {"vocab": vocab, "positions": Learned(length=length, spread=0.01), "dropout": dropout}
    text = text_tower({**stack(*measures.text), "dropout": dropout}, measures.width, words)
    return Towers(image=image, text=text, bias=bias)


def stack(dim: int, depth: int, heads: int) -> dict[str, Any]:
    """The fields of a Transformer's blocks as both towers have them."""
    return {
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "hidden": 4 * dim,
        "dropout": 0.0,
        "activation": "quick-gelu",
        "norm": "pre",
        "eps": 1e-5,
        "initial": "scaled",
    }


def vit_tower(trunk: dict[str, Any], width: int, patch: int, size: tuple[int, int], channels: int) -> Encoder:
    """An image tower: patches without bias, LayerNorm, blocks with these fields, a vector of the class token."""
    dim, spread = trunk["dim"], trunk["dim"] ** -0.5
    stem = Patches(
        dim=dim,
        patch=patch,
        size=size,
        channels=channels,
        positions=LearnedGrid(spread=spread),
        bias=False,
        norm=trunk["eps"],
        spread=spread,
    )
    return Encoder(stem=stem, trunk=Plain(**trunk), head=Embed(dim=dim, width=width))


def resnet_tower(size: RN, width: int, image_size: int, channels: int, drop_path: float = 0.0) -> Encoder:
    """An image tower whose pool has positions for images of this size."""
    trunk = ClipResNet(dim=channels, depths=size.depths, widths=size.widths, drop_path=drop_path)
    side = image_size // HALVED ** (len(size.depths) + 1)
    head = AttentionPool(dim=trunk.width, width=width, heads=size.heads, grid=(side, side))
    return Encoder(stem=Pixels(dim=channels), trunk=trunk, head=head)


HALVED = 2
"""By the first convolution, by the means after it, and by each stage but the first."""


def text_tower(trunk: dict[str, Any], width: int, words: dict[str, Any]) -> Encoder:
    """Texts without scale, blocks with these fields that look back only, a vector of the last token."""
    stem = Words(**{"dim": trunk["dim"], "scale": 1.0, "dropout": 0.0, "spread": 0.02, **words})
    return Encoder(stem=stem, trunk=Causal(**trunk), head=Embed(dim=trunk["dim"], width=width, pool="last"))


GELU = {f"{name}_gelu": name for name in ("vit_b32", "vit_b16", "vit_l14")}
VARIANTS: dict[str, Callable[..., Towers]] = {
    **{f"clip_{name}": partial(small_clip, name, image_size=size.pixels) for name, size in SMALL.items()},
    **{f"clip_{name}": partial(clip, name, image_size=size.pixels) for name, size in SIZES.items()},
    **{
        f"clip_{name}": partial(clip, size, image_size=SIZES[size].pixels, activation="gelu")
        for name, size in GELU.items()
    },
}
"""Every variant by name -> function of the remaining arguments -> Towers."""

PREPARED = {"mean": MEAN, "std": STD, "crop": 1.0}
CARDS = {
    **{f"clip_{name}": Card(size.pixels, crop=1.0) for name, size in SMALL.items()},
    **{f"clip_{name}": Card(size.pixels, size.top1, SOURCE, "MIT", **PREPARED) for name, size in SIZES.items()},
    **{f"clip_{name}": Card(SIZES[size].pixels, **PREPARED) for name, size in GELU.items()},
}
