"""ViT: an image is worth 16 x 16 words (Dosovitskiy et al. 2021), in the paper's sizes and two for small images.

    image -> squares of 16 x 16 pixels -> linear -> [class] [p1] [p2] .. [pN] + learned positions
          -> [LayerNorm, self-attention, LayerNorm, feed-forward] x L -> LayerNorm -> linear on [class] -> classes

Images of other sizes are welcome: the positions are resized bicubically. `small_32` is ViT-Lite-7 of Hassani et al.
2021, for images of 32 x 32 pixels. With pool "mean" there is no class token, and the patches' mean is classified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.positions import GridPositions, LearnedGrid
from tessella.stems.patches import Patches
from tessella.trunks.plain import Plain
from tessella.zoo import config as read
from tessella.zoo.card import HALVES, Card
from tessella.zoo.vit_layouts import LAYOUTS as LAYOUTS


class Size(NamedTuple):
    """Width, width inside the feed-forward layers, blocks, heads (table 1 of the paper; tiny and small are DeiT's)."""

    dim: int
    hidden: int
    depth: int
    heads: int


SIZES = {
    "micro_32": Size(128, 256, 6, 4),
    "small_32": Size(256, 512, 7, 4),
    "tiny": Size(192, 768, 12, 3),
    "small": Size(384, 1536, 12, 6),
    "base": Size(768, 3072, 12, 12),
    "large": Size(1024, 4096, 24, 16),
    "huge": Size(1280, 5120, 32, 16),
}

EPS = 1e-6
"""Of every LayerNorm, as in the paper's code."""


def vit(
    size: str = "base",
    patch: int = 16,
    image_size: int | tuple[int, int] = 224,
    classes: int = 1000,
    channels: int = 3,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    pool: Literal["first", "mean"] = "first",
    positions: GridPositions | None = None,
) -> Encoder:
    """The spec of a ViT; image_size in pixels, one number for squares or (rows, columns)."""
    dim, hidden, depth, heads = SIZES[size]
    rows, cols = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Encoder(
        stem=Patches(
            dim=dim,
            patch=patch,
            size=(rows, cols),
            channels=channels,
            special=1 if pool == "first" else 0,
            positions=positions or LearnedGrid(),
            dropout=dropout,
        ),
        trunk=Plain(
            dim=dim,
            depth=depth,
            heads=heads,
            hidden=hidden,
            dropout=dropout,
            activation="gelu",
            norm="pre",
            eps=EPS,
            drop_path=drop_path,
        ),
        head=Classes(dim=dim, classes=classes, pool=pool),
    )


SOURCE, LICENCE = "timm: AugReg on ImageNet-21k, then ImageNet-1k", "Apache-2.0"


class Published(NamedTuple):
    """Size, patch, image size; ImageNet-1k top-1 of the weights with AugReg (Steiner et al. 2022), where there are."""

    size: str
    patch: int
    pixels: int
    top1: float | None = None

    @property
    def name(self) -> str:
        """As timm has it."""
        return f"vit_{self.size}_patch{self.patch}_{self.pixels}"

    @property
    def source(self) -> str:
        """Where the weights with this accuracy are."""
        return SOURCE if self.top1 else ""

    @property
    def crop(self) -> float:
        """Which share of an image they were tested on."""
        return 0.9 if self.pixels == 224 else 1.0


PUBLISHED = (
    Published("tiny", 16, 224, 75.452),
    Published("tiny", 16, 384),
    Published("small", 16, 224, 81.402),
    Published("small", 16, 384),
    Published("small", 32, 224, 76.010),
    Published("base", 16, 224, 84.534),
    Published("base", 16, 384, 86.010),
    Published("base", 32, 224, 80.732),
    Published("base", 32, 384),
    Published("large", 16, 224, 85.856),
    Published("large", 16, 384, 87.096),
    Published("large", 32, 224),
    Published("large", 32, 384),
    Published("huge", 14, 224),
)

VARIANTS: dict[str, Callable[..., Encoder]] = {
    "vit_micro_patch4_32": partial(vit, "micro_32", patch=4, image_size=32),
    "vit_small_patch4_32": partial(vit, "small_32", patch=4, image_size=32),
    **{p.name: partial(vit, p.size, patch=p.patch, image_size=p.pixels) for p in PUBLISHED},
}
"""Every variant by its name in timm, and the small ones -> function of the remaining arguments -> Encoder."""

CARDS = {
    **{name: Card(32) for name in ("vit_micro_patch4_32", "vit_small_patch4_32")},
    **{p.name: Card(p.pixels, p.top1, p.source, p.source and LICENCE, *HALVES, p.crop) for p in PUBLISHED},
}


def from_config(config: Mapping[str, Any]) -> Encoder:
    """The model that a `config.json` with `model_type` "vit" describes.

    Fields left out are those of `transformers`' ViTConfig. Dropout of attention weights, which none of the published
    models has, is left out. Raises InputError, naming the field, for what is not supported.
    """
    read.demand(config, model_type="vit")
    stem, trunk = configured(config, special=1)
    return Encoder(stem=stem, trunk=trunk, head=Classes(dim=trunk.dim, classes=read.classes(config)))


def configured(config: Mapping[str, Any], special: int) -> tuple[Patches, Plain]:
    """The stem and the trunk of a ViT or DeiT `config.json`, with `special` tokens in front of the patches."""
    read.demand(config, qkv_bias=True)
    dim, dropout = read.whole(config, "hidden_size", 768), read.number(config, "hidden_dropout_prob", 0.0)
    stem = Patches(
        dim=dim,
        patch=read.whole(config, "patch_size", 16),
        size=read.rows_and_columns(config, "image_size", 224),
        channels=read.whole(config, "num_channels", 3),
        special=special,
        dropout=dropout,
    )
    trunk = Plain(
        dim=dim,
        depth=read.whole(config, "num_hidden_layers", 12, most=1000),
        heads=read.whole(config, "num_attention_heads", 12),
        hidden=read.whole(config, "intermediate_size", 3072),
        dropout=dropout,
        activation=read.activation(config),
        norm="pre",
        eps=read.number(config, "layer_norm_eps", 1e-12),
    )
    return stem, trunk


def to_config(model: Encoder) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of ours. Raises InputError where ViT cannot compute it."""
    head = model.head
    if not isinstance(head, Classes):
        raise InputError(f"the ViT layout needs one classifier, but the model has a '{head.kind}' head")
    read.agree("ViT", pool=(head.pool, "first"))
    return {"model_type": "vit", "architectures": ["ViTForImageClassification"], **described(model, special=1)}


def described(model: Encoder, special: int) -> dict[str, Any]:
    """The fields that ViT and DeiT have in common; `special` tokens are what the layout has."""
    stem, trunk = model.stem, model.trunk
    if not (isinstance(stem, Patches) and isinstance(trunk, Plain)):
        raise InputError(f"a model of '{stem.kind}' and '{trunk.kind}' has no layout of a ViT; 'patches', 'plain' do")
    read.agree(
        "ViT",
        special_tokens=(stem.special, special),
        positions=(stem.positions.kind, LearnedGrid.kind),
        norm=(trunk.norm, "pre"),
    )
    rows, cols = stem.size
    return {
        "image_size": rows if rows == cols else [rows, cols],
        "patch_size": stem.patch,
        "num_channels": stem.channels,
        "hidden_size": trunk.dim,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.heads,
        "intermediate_size": trunk.hidden,
        "hidden_act": read.theirs(trunk.activation),
        "hidden_dropout_prob": trunk.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": trunk.eps,
        "qkv_bias": True,
        "num_labels": getattr(model.head, "classes", 0),
    }
