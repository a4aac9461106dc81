"""Catalog: every model by name; what `create` and `tessella models` know."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from tessella.errors import InputError, did_you_mean
from tessella.models import Model
from tessella.zoo.seq2seq import seq2seq
from tessella.zoo.transformer import SIZES, transformer

MODELS: dict[str, Callable[..., Model]] = {
    **{f"transformer_{size}": partial(transformer, size) for size in SIZES},
    **{f"transformer_{size}_prenorm": partial(transformer, size, norm="pre") for size in SIZES},
    **{
        f"seq2seq_{cell}{suffix}": partial(seq2seq, attention=attention, cell=cell)
        for cell in ("gru", "lstm")
        for suffix, attention in {"": "none", "_additive": "additive", "_dot": "dot", "_general": "general"}.items()
    },
}
"""name -> function of the remaining arguments (vocab, ...) -> Spec."""


def model_spec(name: str, options: dict[str, Any]) -> Model:
    """The spec of a named model; options are the arguments of its page's function."""
    if name not in MODELS:
        raise InputError(f"no model called '{name}'{did_you_mean(name, MODELS)}")
    make = MODELS[name]
    known = inspect.signature(make).parameters
    for option in options:
        if option not in known:
            raise InputError(f"'{name}' has no option '{option}'{did_you_mean(option, known)}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    if missing:
        raise InputError(f"'{name}' needs {', '.join(missing)}")
    return make(**options)


class Listed(NamedTuple):
    """A row of `tessella models`."""

    name: str
    parameters: int
    about: str


def listing(vocab: int = 37000) -> list[Listed]:
    """Every model with its parameter count at one joint vocabulary of this size."""
    rows = []
    for name, make in MODELS.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in model_spec(name, {"vocab": vocab}).build().parameters())
        page = inspect.getmodule(getattr(make, "func", make))
        rows.append(Listed(name, count, (page.__doc__ or "").splitlines()[0] if page else ""))
    return rows


def create(name: str, **options: Any) -> nn.Module:
    """A fresh model by name: ``create("transformer_base", vocab=8000)``."""
    return model_spec(name, options).build()
