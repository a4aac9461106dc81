"""Start: the weights that a fusion begins with, from a run of its kind or from one that reads one of its streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from tessella.data.columns import Schema
from tessella.predict import opened
from tessella.transfer import freeze, still, transfer

READS = {"classification": "image", "language": "text"}
"""Kind of a run -> the streams that its stem and trunk can read."""


def begin(
    model: nn.Module, start: str | None, frozen: bool, schema: Schema, say: Callable[[str], None], resume: bool
) -> None:
    """Fills a fresh model from the run `start`; `frozen`: what came from there does not learn.

    A fusion gives all but a head of other classes; a classifier of images, or a language model, gives stem and trunk of
    every stream of its kind (recipes/design has made these the same). A resumed model has its weights elsewhere.
    """
    if start is None:
        return
    run, theirs = opened(start)
    kind = READS.get(theirs.kind)
    if kind is None:
        if not resume:
            transfer(model, run.weights(), say)
        if frozen:
            freeze(model)
        return
    weights = {} if resume else run.weights()
    stem: Any = model.stem
    for read, (stream, holds) in zip(stem.stems, schema.streams.items(), strict=True):
        if holds != kind:
            continue
        if not resume:
            transfer(read.stem, below(weights, "stem."), say)
            transfer(read.trunk, below(weights, "trunk."), say)
            say(f"'{stream}' is read with the weights of {start}{', which stay as they are' if frozen else ''}")
        if frozen:
            still(read.stem)
            still(read.trunk)


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a part, by their names in it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
