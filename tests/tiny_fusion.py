"""Tiny models over mixed rows, in every scheme, and rows for them."""

from __future__ import annotations

import torch
from torch import Tensor

from tessella.fusion import (
    BottleneckFusion,
    CrossAttention,
    CrossToConcat,
    EarlyConcat,
    EarlySum,
    ManyToOne,
    OneToMany,
    Scheme,
)
from tessella.heads import Classes, Head
from tessella.models import Encoder
from tessella.stems.clips import Clips
from tessella.stems.columns import Columns
from tessella.stems.frames import Frames
from tessella.stems.patches import Patches
from tessella.stems.streams import THERE, Streams
from tessella.stems.words import Stem, Words
from tessella.trunks.plain import Plain

SCHEMES = ("early-sum", "early-concat", "many-to-one", "one-to-many", "cross", "cross-to-concat", "bottleneck")
DIM, VOCAB, CLASSES = 16, 23, 5
STEMS: dict[str, Stem] = {
    "text": Words(vocab=VOCAB, dim=DIM, dropout=0.0),
    "image": Patches(dim=DIM, patch=8, size=(16, 16), special=0),
    "table": Columns(dim=DIM, sizes=(0, 3, 0, 7), periods=2),
    "sound": Frames(dim=DIM, mels=8, patch=(4, 4), length=12),
    "clip": Clips(dim=DIM, tubelet=(2, 8, 8), size=(8, 8), frames=6),
}
"""One of each kind."""


def stack(depth: int, norm: str = "pre") -> Plain:
    return Plain(dim=DIM, depth=depth, heads=2, hidden=24, dropout=0.0, norm=norm, activation="gelu")


def scheme(kind: str, names: tuple[str, ...], norm: str = "pre") -> Scheme:
    both = {"dim": DIM, "streams": names}
    make = {
        "early-sum": lambda: EarlySum(**both, joint=stack(2, norm), stretch="linear"),
        "early-concat": lambda: EarlyConcat(**both, joint=stack(2, norm)),
        "many-to-one": lambda: ManyToOne(**both, own=stack(1, norm), joint=stack(1, norm)),
        "one-to-many": lambda: OneToMany(**both, own=stack(1, norm), joint=stack(1, norm)),
        "cross": lambda: CrossAttention(**both, own=stack(2, norm)),
        "cross-to-concat": lambda: CrossToConcat(**both, own=stack(1, norm), joint=stack(1, norm)),
        "bottleneck": lambda: BottleneckFusion(**both, own=stack(1, norm), after=stack(2, norm), tokens=2),
    }
    return make[kind]()


def spec_of(
    kind: str, names: tuple[str, ...] = ("text", "image", "table"), drop: float = 0.0, head: Head | None = None
) -> Encoder:
    stem = Streams(dim=DIM, stems={name: STEMS[name] for name in names}, drop=drop)
    head = head or Classes(dim=DIM, classes=CLASSES, pool="streams")
    return Encoder(stem=stem, trunk=scheme(kind, names), head=head)


def built(spec, dtype: torch.dtype = torch.float64):
    """Always the same weights, which hide nothing."""
    torch.manual_seed(1)
    model = spec.build()
    for name, parameter in model.named_parameters():
        if "norm" in name or "absent" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    return model.to(dtype).eval()


def rows(names: tuple[str, ...] = tuple(STEMS), b: int = 4, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Noise; the second row is shorter in every stream that can be, and has an empty cell."""
    drawn = torch.Generator().manual_seed(2)
    text = torch.randint(1, VOCAB, (b, 6), generator=drawn)
    table = torch.randn(b, 4, generator=drawn)
    table[:, 1], table[:, 3] = torch.tensor([1.0, 3, 2, 1])[:b], torch.tensor([4.0, 7, 0, 1])[:b]
    sound, clip = torch.randn(b, 12, 8, generator=drawn), torch.randn(b, 6, 3, 8, 8, generator=drawn)
    image = torch.randn(b, 3, 16, 16, generator=drawn)
    text[1, 3:], table[1, 2], sound[1, 5:], clip[1, 2:] = 0, torch.nan, torch.nan, torch.nan
    all_of_them = {"text": text, "image": image, "table": table, "sound": sound, "clip": clip}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in all_of_them.items() if name in names}


def lacking(batch: dict[str, Tensor], **there: list[int]) -> dict[str, Tensor]:
    """The same rows, of which some lack a stream: name -> 0 or 1 a row."""
    return {**batch, **{name + THERE: torch.tensor(rows, dtype=torch.bool) for name, rows in there.items()}}


def garbage(batch: dict[str, Tensor], name: str, row: int) -> dict[str, Tensor]:
    """What cannot be computed with, in the place of a row's stream."""
    other = batch[name].clone()
    other[row] = float("nan") if other.is_floating_point() else 10**9
    return {**batch, name: other}
