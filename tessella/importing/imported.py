"""Imported: what readers of public checkpoints make of one, for a run to be written from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessella.models import Model
from tessella.recipes.recipe import Recipe
from tessella.weights import Rule, translate


@dataclass(frozen=True, slots=True)
class Imported:
    """A run that is not yet written: its recipe, its weights under our names, and its other files by name."""

    recipe: Recipe
    weights: dict[str, Tensor]
    files: Mapping[str, Callable[[Path], Any]]
    """File -> what writes it to a path."""
    notes: list[str] = field(default_factory=list)
    """What is not as in the checkpoint, a line each."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the run's manifest shall say of where it came from."""


def fitted_weights(model: Model, weights: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """A checkpoint's tensors, whatever their precision, under the names of a model, in float32 where they are real.

    Raises InputError where they are not exactly those of the model: see `weights.translate`.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in model.build().state_dict().items()}
    whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    for name in weights:  # early BatchNorms had no counter of batches, which changes nothing in an imported model
        if name.endswith(".running_mean"):
            whole.setdefault(f"{name.removesuffix('running_mean')}num_batches_tracked", torch.tensor(0))
    return translate(whole, rules, shapes)
