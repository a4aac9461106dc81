"""Catalog: every model by name; what `create` and `tessella models` know."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import nn

from tessella.errors import InputError, did_you_mean
from tessella.models import Model, Towers
from tessella.spec import explain
from tessella.zoo import bert, bit, clip, cvt, deit, gpt2, regnet, resnet, swin, vgg, vit
from tessella.zoo.card import Card
from tessella.zoo.counts import multiply_adds, parameters
from tessella.zoo.seq2seq import seq2seq
from tessella.zoo.transformer import SIZES, transformer

VISION = (vit, deit, swin, cvt, resnet, bit, regnet, vgg)
"""Pages of models that classify images."""
LANGUAGE = {**bert.VARIANTS, **gpt2.VARIANTS}
"""Models that learn from texts alone: name -> function of (vocab, ...)."""

MODELS: dict[str, Callable[..., Model]] = {
    **{f"transformer_{size}": partial(transformer, size) for size in SIZES},
    **{f"transformer_{size}_prenorm": partial(transformer, size, norm="pre") for size in SIZES},
    **{
        f"seq2seq_{cell}{suffix}": partial(seq2seq, attention=attention, cell=cell)
        for cell in ("gru", "lstm")
        for suffix, attention in {"": "none", "_additive": "additive", "_dot": "dot", "_general": "general"}.items()
    },
    **{name: make for page in (*VISION, clip) for name, make in page.VARIANTS.items()},
    **LANGUAGE,
}
"""name -> function of the remaining arguments (vocab, or classes, image_size ...) -> Spec."""

CLASSIFIERS: dict[str, Card] = {
    name: getattr(page, "CARDS", {}).get(name) or Card(size=inspect.signature(make).parameters["image_size"].default)
    for page in VISION
    for name, make in page.VARIANTS.items()
}
"""What is published about each model that classifies images."""
CARDS = {**CLASSIFIERS, **clip.CARDS}
"""The same of each model that reads images."""

SHORT = {
    **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
    "vit_huge": "vit_huge_patch14_224",
    **{f"deit_{size}": f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")},
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")},
}
"""Short name -> the variant that is meant."""

VOCAB = 37_000
"""The joint vocabulary with which models of text are counted."""


def full_name(name: str, known: Collection[str] = MODELS) -> str:
    """The name in the catalog of a model called by that or its short name. Raises InputError for any other."""
    full = SHORT.get(name, name)
    if full not in known:
        raise InputError(f"no model called '{name}'{did_you_mean(name, [*known, *SHORT])}")
    return full


def model_spec(name: str, options: dict[str, Any]) -> Model:
    """The spec of a named model; options are the arguments of its page's function."""
    name = full_name(name)
    make = MODELS[name]
    known = inspect.signature(make).parameters
    for option in options:
        if option not in known:
            raise InputError(f"'{name}' has no option '{option}'{did_you_mean(option, known)}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    if missing:
        raise InputError(f"'{name}' needs {', '.join(missing)}")
    try:
        return make(**options)
    except ValidationError as error:
        raise InputError(f"'{name}' cannot be so: {explain(error)}") from None


class Listed(NamedTuple):
    """A row of `tessella models`."""

    name: str
    parameters: int
    macs: int | None
    """Multiply-adds for one image of the card's size; None for models of text."""
    text_macs: int | None
    """Multiply-adds for one text of full length, where there is a tower for texts."""
    card: Card | None
    about: str


def listing(pattern: str = "") -> Iterator[Listed]:
    """Every model whose name contains the pattern, counted; translators with one vocabulary of `VOCAB` pieces."""
    for name, make in MODELS.items():
        if pattern not in name:
            continue
        page = inspect.getmodule(getattr(make, "func", make))
        about = (page.__doc__ or "").splitlines()[0] if page else ""
        card = CARDS.get(name)
        spec = model_spec(name, {"vocab": VOCAB} if is_translator(name) else {})
        image, macs, text_macs = getattr(spec, "image", spec), None, None
        if card:
            macs = multiply_adds(image, (1, channels(image), card.size, card.size))
        if isinstance(spec, Towers):
            length = spec.text.stem.positions.length  # pyright: ignore[reportAttributeAccessIssue]  # of our own pages
            text_macs = multiply_adds(spec.text, (1, length), dtype=torch.long)
        yield Listed(name, parameters(spec), macs, text_macs, card, about)


def is_translator(name: str) -> bool:
    """Whether a model reads texts in one language and writes them in another."""
    return name not in CARDS and name not in LANGUAGE


def channels(spec: Model) -> int:
    """Of the images that a model reads."""
    stem: Any = getattr(spec, "stem", None)
    return getattr(stem, "channels", getattr(stem, "dim", 3))


def create(name: str, **options: Any) -> nn.Module:
    """A fresh model by name: ``create("transformer_base", vocab=8000)``, ``create("cvt_13", classes=10)``."""
    return model_spec(name, options).build()
