"""Optimizers: how gradients change weights, and their memory by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from tessella.errors import InputError
from tessella.spec import Spec, spec


class OptimizerSpec(Spec):
    """Builds a torch optimizer; the learning rate comes from a schedule before each step."""

    def build(self, weights: Mapping[str, nn.Parameter]) -> Optimizer:
        """An optimizer over named fp32 weights; its groups know them in the order of the mapping."""
        raise NotImplementedError


@spec("adam")
class Adam(OptimizerSpec):
    """Adam (Kingma and Ba 2015); the defaults are those of Vaswani et al. 2017, section 5.3."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    eps: float = Field(1e-9, gt=0)

    def build(self, weights: Mapping[str, nn.Parameter]) -> Optimizer:
        groups = [{"params": list(weights.values())}]
        return torch.optim.Adam(groups, betas=(self.beta1, self.beta2), eps=self.eps, fused=_fused(weights))


@spec("adamw")
class AdamW(OptimizerSpec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    What is no matrix (biases, norms) and what says where a token stands (positions, class tokens) does not decay.
    layers: each layer's learning rate is so much of the next one's, for fine-tuning (Clark et al. 2020; Bao et al.
    2022); 1 for the same in all.
    """

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: float = Field(0.01, ge=0)
    layers: float = Field(1.0, gt=0, le=1)

    def build(self, weights: Mapping[str, nn.Parameter]) -> Optimizer:
        groups = grouped(weights, self.decay, self.layers)
        return torch.optim.AdamW(groups, betas=(self.beta1, self.beta2), eps=self.eps, fused=_fused(weights))


@spec("sgd")
class Sgd(OptimizerSpec):
    """Stochastic gradient descent with Nesterov's momentum; biases, norms, positions and class tokens do not decay."""

    momentum: float = Field(0.9, ge=0, lt=1)
    decay: float = Field(5e-4, ge=0)
    layers: float = Field(1.0, gt=0, le=1)

    def build(self, weights: Mapping[str, nn.Parameter]) -> Optimizer:
        groups = grouped(weights, self.decay, self.layers)
        return torch.optim.SGD(
            groups, lr=1e-3, momentum=self.momentum, nesterov=self.momentum > 0, fused=_fused(weights)
        )


def grouped(weights: Mapping[str, nn.Parameter], decay: float, layers: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups: with and without decay, and by layer where their rates differ (`scale`)."""
    numbers = _layer_numbers(weights)
    last = max(numbers.values(), default=0)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, weight in weights.items():
        decays = weight.ndim > 1 and not PLACES.search(name)
        groups.setdefault((decays, layers ** (last - numbers[name])), []).append(weight)
    return [
        {"params": params, "weight_decay": decay if decays else 0.0, "scale": scale}
        for (decays, scale), params in groups.items()
    ]


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """The learning rate of the next step, each group's by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


PLACES = re.compile(r"\b(table|special)$")
"""Names of positions, relative biases and class tokens."""


def _layer_numbers(names: Iterable[str]) -> dict[str, int]:
    """Weights of one block have one number; blocks and what is between them count up in the order of the model."""
    seen: dict[str, int] = {}
    numbers = {}
    for name in names:
        block = re.match(r".*\b(?:blocks|stages)\.\d+", name)
        layer = block[0] if block else name.split(".")[0]
        numbers[name] = seen.setdefault(layer, len(seen))
    return numbers


def _fused(weights: Mapping[str, nn.Parameter]) -> bool:
    return all(w.device.type in ("cpu", "cuda") and w.is_floating_point() for w in weights.values())


def memory(optimizer: Optimizer, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What an optimizer remembers, as tensors called ``weight/quantity`` (``head.weight/exp_avg``)."""
    return {
        f"{name}/{quantity}": value
        for name, weight in weights.items()
        for quantity, value in optimizer.state.get(weight, {}).items()
    }


def recall(optimizer: Optimizer, weights: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimizer back what ``memory`` took. Errors: InputError if it is of other weights."""
    rows: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, quantity = key.rpartition("/")
        rows.setdefault(name, {})[quantity] = tensor
    strangers = sorted(rows.keys() - weights.keys())
    if strangers:
        raise InputError(
            f"the checkpoint's optimizer knows '{strangers[0]}', the model does not; keep the recipe as it was"
        )
    for key, tensor in tensors.items():
        wanted = weights[key.rpartition("/")[0]].shape
        if tensor.ndim and tensor.shape != wanted:
            raise InputError(f"'{key}' is {tuple(tensor.shape)} in the checkpoint, {tuple(wanted)} in the model")
    order = {id(weight): name for name, weight in weights.items()}
    names = [order[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
    state = {index: dict(rows[name]) for index, name in enumerate(names) if name in rows}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
