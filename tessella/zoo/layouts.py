"""Layouts: the names that other libraries give to the weights and the sizes of a model that reads images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from tessella.errors import InputError, did_you_mean
from tessella.models import Encoder
from tessella.positions import Grid
from tessella.spec import to_dict
from tessella.stems.patches import Patches
from tessella.weights import Rule
from tessella.zoo import bit, cvt, deit, regnet, resnet, swin, vgg, vit

TRUNKS: dict[str, Callable[[Encoder], ModuleType]] = {
    "plain": lambda model: deit if isinstance(model.stem, Patches) and model.stem.special == 2 else vit,
    "swin": lambda model: swin,
    "cvt": lambda model: cvt,
    "resnet": lambda model: resnet,
    "bit": lambda model: bit,
    "regnet": lambda model: regnet,
    "vgg": lambda model: vgg,
}
"""Kind of trunk -> which page describes such models. A DeiT without its token is a ViT."""
ONLY_TRAINING = {"dropout", "drop_path"}
"""Fields that change how a model learns, not what it computes."""


def page_of(model: Encoder) -> ModuleType:
    """The page of the zoo that knows the layouts of a model."""
    if model.trunk.kind not in TRUNKS:
        raise InputError(f"no layout of another library has a place for a '{model.trunk.kind}'")
    return TRUNKS[model.trunk.kind](model)


def family(model: Encoder) -> str:
    """The name of its page."""
    return page_of(model).__name__.rpartition(".")[2]


def rules(model: Encoder, layout: str) -> tuple[Rule, ...]:
    """The weight rules of a model in the layout "hf", "timm", "torchvision" or "microsoft" (theirs -> ours)."""
    known: dict[str, tuple[Rule, ...]] = page_of(model).LAYOUTS
    if layout not in known:
        raise InputError(f"{family(model)} has no layout '{layout}'{did_you_mean(layout, known)}")
    one_head = f"{layout}-one-head"
    return known[one_head if one_head in known and model.head.kind == "classes" else layout]


def buffers(model: Encoder, layout: str) -> Mapping[str, Tensor]:
    """What a layout stores beside weights, computed from sizes."""
    return swin.buffers(model, layout) if page_of(model) is swin and layout != "hf" else {}


def name_of(model: Encoder, size: Grid, channels: int) -> str | None:
    """The catalog's name of a model for images of this size, made for it rather than for another; None without."""
    wanted, found = _computed(to_dict(model)), {}
    classes = getattr(model.head, "classes", 0)
    square = size[0] if size[0] == size[1] else size
    for page in (vit, deit, swin, cvt, resnet, bit, regnet, vgg):
        for name, make in page.VARIANTS.items():
            try:
                made = make(classes=classes, image_size=square, channels=channels)
            except (ValueError, TypeError):  # a size that this one does not take
                continue
            if _computed(to_dict(made)) == wanted:
                found[name] = abs(page.CARDS[name].size - size[0]) if name in page.CARDS else size[0]
    return min(found, key=lambda name: found[name], default=None)


def _computed(data: Any) -> Any:
    """A spec's data without what matters only in training."""
    if isinstance(data, dict):
        return {key: _computed(value) for key, value in data.items() if key not in ONLY_TRAINING}
    return data
