"""Tiny towers of different kinds, and batches of noise for them."""

from __future__ import annotations

import torch
from torch import Tensor

from tessella.heads import Embed
from tessella.models import Encoder, Towers
from tessella.positions import Learned
from tessella.stems.patches import Patches, Pixels, Raster
from tessella.stems.words import Words
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.plain import Causal, Plain
from tessella.trunks.swin import Swin

WIDTH, SIDE, VOCAB = 6, 16, 11


def vit(dropout: float = 0.0, drop_path: float = 0.0) -> Encoder:
    trunk = Plain(dim=16, depth=2, heads=2, hidden=32, dropout=dropout, norm="pre", drop_path=drop_path)
    return Encoder(stem=Patches(dim=16, patch=8, size=(SIDE, SIDE)), trunk=trunk, head=Embed(dim=16, width=WIDTH))


def swin(drop_path: float = 0.0) -> Encoder:
    trunk = Swin(dim=8, depths=(2, 2), heads=(2, 2), windows=(4, 2), drop_path=drop_path)
    return Encoder(stem=Raster(dim=8, patch=4), trunk=trunk, head=Embed(dim=16, width=WIDTH, pool="mean"))


def resnet() -> Encoder:
    """The one with batch norm."""
    trunk = ResNet(dim=3, entry=Entry(width=8, size=3, stride=2, pool="none"), depths=(1, 1), widths=(8, 16))
    return Encoder(stem=Pixels(dim=3), trunk=trunk, head=Embed(dim=16, width=WIDTH, pool="mean"))


def causal(dropout: float = 0.0) -> Encoder:
    words = Words(vocab=VOCAB, dim=16, positions=Learned(length=8), scale=1.0, dropout=dropout)
    trunk = Causal(dim=16, depth=2, heads=2, hidden=32, dropout=dropout, norm="pre")
    return Encoder(stem=words, trunk=trunk, head=Embed(dim=16, width=WIDTH, pool="last"))


def built(image: Encoder, text: Encoder, scale: float = 5.0, bias: float | None = None):
    """In training mode, always the same weights."""
    torch.manual_seed(0)
    return Towers(image=image, text=text, scale=scale, bias=bias).build()


def noise(pairs: int = 7, negatives: int = 0) -> dict[str, Tensor]:
    """The same noise for the same numbers."""
    drawn = torch.Generator().manual_seed(pairs)
    batch = {
        "image": torch.randn(pairs, 3, SIDE, SIDE, generator=drawn),
        "text": torch.randint(1, VOCAB, (pairs, 5), generator=drawn),
    }
    if negatives:
        batch["negative"] = torch.randint(1, VOCAB, (negatives, 4), generator=drawn)
    return batch
