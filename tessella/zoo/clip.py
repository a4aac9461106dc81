"""CLIP: images and texts in one space, learned from captions (Radford et al. 2021), in its sizes and small ones.

    image -> ViT or ResNet ------> linear -> vector \\
                                                      scaled cosine: how well they go together
    text  -> causal Transformer -> linear -> vector /
             (its last token)

The ViT has one more LayerNorm, before its blocks, and reads its class token; the ResNet ("RN50") has a stem of three
convolutions, averages before it halves, and is pooled by attention. `micro`, `small` and `medium` learn from thousands
of captioned images: plain ResNets, pooled by their mean, and texts of a vocabulary of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from tessella.heads import Embed
from tessella.models import Encoder, Towers
from tessella.positions import Learned
from tessella.stems.patches import Pixels
from tessella.stems.words import Words
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.plain import Causal
from tessella.zoo.card import Card

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the red, green and blue of the images that the published weights were trained on, of 1."""


class Text(NamedTuple):
    """A text tower's width, blocks and heads."""

    dim: int
    depth: int
    heads: int


class Small(NamedTuple):
    """For little data: how pixels enter a plain ResNet, its blocks and channels, the text tower, the common width."""

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
    return Towers(image=image, text=texts(measures.text, measures.width, vocab, length, dropout), bias=bias)


def texts(size: Text, width: int, vocab: int, length: int, dropout: float = 0.0) -> Encoder:
    """The spec of a text tower, whose ids are padded with 0."""
    dim, depth, heads = size
    return Encoder(
        stem=Words(vocab=vocab, dim=dim, positions=Learned(length=length), scale=1.0, dropout=dropout),
        trunk=Causal(
            dim=dim,
            depth=depth,
            heads=heads,
            hidden=4 * dim,
            dropout=dropout,
            activation="quick-gelu",
            norm="pre",
        ),
        head=Embed(dim=dim, width=width, pool="last"),
    )


VARIANTS: dict[str, Callable[..., Towers]] = {
    f"clip_{name}": partial(small_clip, name, image_size=size.pixels) for name, size in SMALL.items()
}
"""Every variant by name -> function of the remaining arguments -> Towers."""

CARDS = {f"clip_{name}": Card(size.pixels, crop=1.0) for name, size in SMALL.items()}
