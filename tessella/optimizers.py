"""Optimizers: how gradients change weights, and their memory by name."""

from __future__ import annotations

from collections.abc import Mapping

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
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); 1-D weights (biases, norms) do not decay."""

    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    decay: float = Field(0.01, ge=0)

    def build(self, weights: Mapping[str, nn.Parameter]) -> Optimizer:
        groups = [
            {"params": [w for w in weights.values() if w.ndim > 1], "weight_decay": self.decay},
            {"params": [w for w in weights.values() if w.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, betas=(self.beta1, self.beta2), eps=self.eps, fused=_fused(weights))


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
