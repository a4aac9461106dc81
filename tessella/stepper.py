"""Stepper: one optimizer step, exact over several batches and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tessella import optimizers
from tessella.averages import Ema
from tessella.errors import InputError
from tessella.lesson import Batch, Lesson
from tessella.loop import LoopSpec
from tessella.optimizers import OptimizerSpec
from tessella.precision import choose, weights_of
from tessella.processes import seed_all


class _Judged(nn.Module):
    """A model inside its objective: the one thing whose forward pass lightning-fabric has to know."""

    def __init__(self, lesson: Lesson) -> None:
        super().__init__()
        self.model = lesson.model
        self.objective = lesson.objective

    def forward(self, batch: Batch) -> Mapping[str, Any]:
        return self.objective(self.model, batch)


class Stepper:
    """Moves the weights of a lesson's model.

    The gradient of a step is that of one big batch: ``sum(loss_i · weight_i) / sum(weight_i)`` over the batches i of
    all processes, whatever their weights.
    """

    def __init__(self, fabric: Fabric, lesson: Lesson, loop: LoopSpec, optimizer: OptimizerSpec) -> None:
        self.fabric, self.loop, self.model = fabric, loop, lesson.model
        self.module = fabric.setup(_Judged(lesson))
        precision = choose(loop.precision, fabric.device.type)
        self.weights = weights_of(lesson.model, precision, fabric.world_size)
        self.optimizer = optimizer.build(self.weights.named)
        self.ema = Ema(self.weights.named, loop.ema) if loop.ema else None
        self.names: tuple[str, ...] = ()
        """What the rows of ``take`` hold after weight, stop and norm: ``loss`` and the objective's other means."""

    def take(self, step: int, batches: list[Batch], rate: float, stop: bool) -> Tensor:
        """One optimizer step (counted from 1) at a learning rate.

        Out: a row of sums over all processes, not yet waited for: weight, number of processes asked to stop, the
        gradient's norm (of all together, before clipping), and weight times each of ``names``.
        """
        seed_all(self.loop.seed, step, self.fabric.global_rank)
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        row, unit = self._backward(batches)
        row[1] = float(stop)
        if self.fabric.world_size > 1:
            row = torch.as_tensor(self.fabric.all_reduce(row, reduce_op="sum"))
        gradients = [w.grad for w in self.weights.named.values() if w.grad is not None]
        if self.fabric.world_size * len(batches) > 1:
            torch._foreach_mul_(gradients, (self.fabric.world_size * unit / row[0]).float())
        norm = nn.utils.get_total_norm(gradients)
        if self.loop.clip is not None:
            nn.utils.clip_grads_with_norm_(self.weights.named.values(), self.loop.clip, norm)
        row[2] = norm
        optimizers.set_rate(self.optimizer, rate)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.weights.named, step)
        return row

    @property
    def best_guess(self) -> Mapping[str, Tensor]:
        """The weights to judge and to save: the moving average if there is one."""
        return self.ema.average if self.ema else self.weights.named

    def memory(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold besides the model: ``optimizer/weight/quantity`` and ``ema/weight``."""
        tensors = optimizers.memory(self.optimizer, self.weights.named)
        averages = self.ema.average if self.ema else {}
        return {f"optimizer/{n}": t for n, t in tensors.items()} | {f"ema/{n}": t for n, t in averages.items()}

    def recall(self, model: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> None:
        """Goes back to the model's state dict and the ``memory`` of a checkpoint. Errors: InputError if of another."""
        fill(self.model, model)
        own = {n.removeprefix("optimizer/"): t for n, t in memory.items() if n.startswith("optimizer/")}
        optimizers.recall(self.optimizer, self.weights.named, own)
        for name, average in (self.ema.average if self.ema else {}).items():
            if f"ema/{name}" not in memory:
                raise InputError(f"the checkpoint has no moving average of '{name}'; keep loop.ema as it was")
            average.copy_(memory[f"ema/{name}"])

    def _backward(self, batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Adds up the gradients of ``loss · weight / unit``; gives this process's row, and the unit.

        The unit is the same on all processes; alone, it is the first batch's weight, so that one batch alone has
        exactly the gradient of its loss. DDP has divided by the number of processes.
        """
        row = torch.zeros(0)
        unit = torch.ones((), dtype=torch.float64, device=self.fabric.device)
        for turn, batch in enumerate(batches):
            last = turn == len(batches) - 1
            with self.weights.computing(), self.fabric.no_backward_sync(self.module, enabled=not last):
                out = dict(self.module(self.fabric.to_device(batch)))
                loss, given = out.pop("loss"), out.pop("weight")
                weight = torch.as_tensor(given, dtype=torch.float64, device=self.fabric.device)
                if turn == 0:
                    self.names = ("loss", *sorted(out))
                    row = torch.zeros(3 + len(self.names), dtype=torch.float64, device=self.fabric.device)
                    unit = weight if self.fabric.world_size == 1 else unit
                self.fabric.backward(loss * (weight / unit).to(loss.dtype))
            means = [loss, *(out[name] for name in self.names[1:])]
            values = torch.stack([torch.as_tensor(m, device=row.device).detach().double() for m in means])
            row[0] += weight
            row[3:] += values * weight
        return row, unit


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies a state dict into a model. Errors: InputError unless names and shapes are the same on both sides."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ tensors.keys())
    if odd:
        whose = "model" if odd[0] in own else "checkpoint"
        raise InputError(f"only the {whose} has '{odd[0]}' ({len(odd)} such names); keep the recipe as it was")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(f"'{name}' is {tuple(own[name].shape)} here, {tuple(tensor.shape)} in the checkpoint")
    model.load_state_dict(tensors)
