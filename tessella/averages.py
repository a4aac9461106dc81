"""Averages: weights smoother than those of any single step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


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
