"""Averages: weights smoother than those of any single step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tessella.checkpoints import Checkpoints
from tessella.errors import InputError


class Ema:
    """The exponential moving average of named weights: ``average = d·average + (1-d)·weights`` after each step.

    ``d = min(decay, (1 + step) / (10 + step))``, so that the random beginning is soon forgotten.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: w.detach().clone() for name, w in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Takes in the weights after optimizer step ``step`` (from 1)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [weights[name].detach() for name in self.average], share)


@contextlib.contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other values for some of its parameters, by name; the old ones come back at the end."""
    parameters = dict(model.named_parameters())
    old = {name: parameters[name].data for name in weights}
    try:
        for name, value in weights.items():
            parameters[name].data = value.to(parameters[name].device)
        yield
    finally:
        for name, value in old.items():
            parameters[name].data = value


def mean(several: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several sets of floating point weights with the same names, summed in double precision."""
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    count = 0
    for count, weights in enumerate(several, 1):  # noqa: B007, the last count is used
        assert not total or total.keys() == weights.keys()
        for name, value in weights.items():
            kinds[name] = value.dtype
            total[name] = total[name] + value.double() if name in total else value.double()
    assert count, "nothing to average"
    return {name: (value / count).to(kinds[name]) for name, value in total.items()}


@dataclass
class Candidates:
    """The weights of several moments of a training, kept in files until their mean is taken at its end."""

    checkpoints: Checkpoints
    size: int
    """How many moments are kept; 0 for none."""
    mode: str = "max"
    """Whether the best ones have the greatest or the least value."""
    rows: list[list[Any]] = field(default_factory=list)
    """step, value (None where the last ones are kept, not the best), SHA-256: JSON data for the checkpoints."""

    def add(self, step: int, value: float | None, weights: Mapping[str, Tensor], writes: bool) -> None:
        """Takes in the weights of a step if they are among the last ones (value None) or the best ones.

        Files of rows that fall out go when no checkpoint knows them any more. Only the process that ``writes`` does.
        """
        rows = [*(row for row in self.rows if row[0] != step), [step, value, ""]]
        if value is not None:
            rows.sort(key=lambda row: row[1], reverse=self.mode == "min")  # the best one last
        self.rows = rows[-self.size :] if self.size else []
        for row in self.rows:
            if row[0] == step and writes:
                row[2] = self.checkpoints.save_weights(step, weights)

    def mean(self, say: Callable[[str], None]) -> tuple[list[int], dict[str, Tensor]]:
        """The steps and their mean weights; damaged files are left out, with one line through ``say`` each."""
        steps, several = [], []
        for step, _, sha256 in sorted(self.rows, key=lambda row: row[0]):
            try:
                several.append(self.checkpoints.read_weights(step, sha256))
                steps.append(step)
            except InputError as error:
                say(f"the average is without step {step}: {error}")
        return steps, mean(several) if several else {}
