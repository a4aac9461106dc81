"""DeiT: a ViT that also learns from a teacher, through a token of its own (Touvron et al. 2021).

    image -> squares of 16 x 16 pixels -> linear -> [class] [distillation] [p1] [p2] .. [pN] + learned positions
          -> ViT's trunk
          -> [class] -> linear -> learns from the label ----+
             [distillation] -> linear -> learns from the teacher ----> their mean at test time

Models without "distilled" in their name are ViTs, trained by the same recipe and without a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tessella.errors import InputError
from tessella.heads import Classes, Distilled
from tessella.models import Encoder
from tessella.positions import GridPositions
from tessella.weights import Rule
from tessella.zoo import config as read
from tessella.zoo.card import Card
from tessella.zoo.vit import configured, described, vit
from tessella.zoo.vit_layouts import TIMM_TRUNK, hf_rules

DROP_PATH = 0.1
"""Stochastic depth of every published DeiT (table 9)."""


def deit(
    size: str = "base",
    patch: int = 16,
    image_size: int | tuple[int, int] = 224,
    classes: int = 1000,
    channels: int = 3,
    drop_path: float = DROP_PATH,
    dropout: float = 0.0,
    positions: GridPositions | None = None,
) -> Encoder:
    """The spec of a distilled DeiT; sizes and arguments are those of `vit`."""
    plain = untaught(size, patch, image_size, classes, channels, drop_path, dropout, positions)
    return plain.replace(stem=plain.stem.replace(special=2), head=Distilled(dim=plain.trunk.width, classes=classes))


def untaught(
    size: str = "base",
    patch: int = 16,
    image_size: int | tuple[int, int] = 224,
    classes: int = 1000,
    channels: int = 3,
    drop_path: float = DROP_PATH,
    dropout: float = 0.0,
    positions: GridPositions | None = None,
) -> Encoder:
    """The spec of a DeiT without the token: a ViT with the stochastic depth of the paper."""
    return vit(size, patch, image_size, classes, channels, drop_path, dropout, positions=positions)


class Published(NamedTuple):
    """Function, size, image size, and the paper's ImageNet-1k top-1."""

    make: Callable[..., Encoder]
    size: str
    pixels: int
    top1: float

    @property
    def name(self) -> str:
        """As timm has it."""
        return f"deit_{self.size}_{'distilled_' if self.make is deit else ''}patch16_{self.pixels}"


PUBLISHED = (
    Published(untaught, "tiny", 224, 72.202),
    Published(untaught, "small", 224, 79.854),
    Published(untaught, "base", 224, 81.846),
    Published(untaught, "base", 384, 82.890),
    Published(deit, "tiny", 224, 74.476),
    Published(deit, "small", 224, 81.164),
    Published(deit, "base", 224, 83.372),
    Published(deit, "base", 384, 85.224),
)
SMALL = {
    f"deit_{size}_{token}patch4_32": partial(make, f"{size}_32", patch=4, image_size=32, drop_path=0.0)
    for size in ("micro", "small")
    for token, make in {"": untaught, "distilled_": deit}.items()
}
"""For images of 32 x 32 pixels, and for trainings too short for stochastic depth to help."""

VARIANTS: dict[str, Callable[..., Encoder]] = {
    **SMALL,
    **{p.name: partial(p.make, p.size, patch=16, image_size=p.pixels) for p in PUBLISHED},
}
"""Every variant by its name in timm, and the small ones -> function of the remaining arguments -> Encoder."""

SOURCE = "facebookresearch/deit: ImageNet-1k"
CARDS = {
    **{name: Card(32) for name in SMALL},
    **{p.name: Card(p.pixels, p.top1, SOURCE, "Apache-2.0", crop=0.875 if p.pixels == 224 else 1.0) for p in PUBLISHED},
}


def _hf(*heads: Rule) -> tuple[Rule, ...]:
    tokens = "deit.embeddings.cls_token", "deit.embeddings.distillation_token"
    return (Rule(tokens, "stem.special", layout="n 1 d -> n d"), *hf_rules("deit"), *heads)


LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "hf": _hf(Rule("cls_classifier.{p}", "head.scores.{p}"), Rule("distillation_classifier.{p}", "head.distilled.{p}")),
    "hf-one-head": _hf(Rule("classifier.{p}", "head.scores.{p}")),
    "timm": (
        Rule(("cls_token", "dist_token"), "stem.special", layout="n 1 d -> n d"),
        *TIMM_TRUNK,
        Rule("head_dist.{p}", "head.distilled.{p}"),
    ),
}
"""Models without the token have ViT's layouts; `hf-one-head` has the token, but no classifier on it."""


def from_config(config: Mapping[str, Any]) -> Encoder:
    """The model that a `config.json` with `model_type` "deit" describes.

    Its `architectures` tell the head: two classifiers, or for "DeiTForImageClassification" one (layout "hf-one-head").
    Raises InputError, naming the field, for what is not supported.
    """
    read.demand(config, model_type="deit")
    stem, trunk = configured(config, special=2)
    one = config.get("architectures") == ["DeiTForImageClassification"]
    head = (Classes if one else Distilled)(dim=trunk.dim, classes=read.classes(config))
    return Encoder(stem=stem, trunk=trunk, head=head)


def to_config(model: Encoder) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of ours. Raises InputError where DeiT cannot compute it."""
    head = model.head
    if not isinstance(head, Classes | Distilled):
        raise InputError(f"the DeiT layout needs one classifier or two, but the model has a '{head.kind}' head")
    read.agree("DeiT", pool=(getattr(head, "pool", "first"), "first"))
    name = "DeiTForImageClassification" + ("WithTeacher" if isinstance(head, Distilled) else "")
    return {"model_type": "deit", "architectures": [name], **described(model, special=2)}
