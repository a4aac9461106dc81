"""Precision: in which numbers a model computes while its weights stay fp32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tessella.norms import exact

PrecisionName = Literal["auto", "32", "bf16"]

FABRIC: dict[str, Literal["32-true", "bf16-mixed"]] = {"32": "32-true", "bf16": "bf16-mixed"}
"""What lightning-fabric calls them."""


def choose(name: PrecisionName, device: str) -> Literal["32", "bf16"]:
    """``auto`` becomes bf16 where the hardware multiplies it faster: device is ``cpu`` or ``cuda``."""
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "32"


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():  # macOS, Windows: fp32 is the safe answer
        return set()
    lines = (line for line in info.read_text(errors="replace").splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
"""Their few weights stay fp32 beside bf16 features: torch computes that mix, and faster."""


class Weights:
    """The fp32 weights behind a model: what the optimizer moves, what is averaged and what is saved.

    Forward and backward passes of training happen inside ``computing``. Here the model computes with the weights
    themselves (in fp32, or with autocast around them).
    """

    def __init__(self, model: nn.Module) -> None:
        self.named: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Around one forward and backward pass; gradients of several add up in ``named``."""
        yield


class CopiedWeights(Weights):
    """Weights that are fp32, except inside ``computing``, where the model has a bf16 copy of them.

    Autocast casts each weight anew in each pass and keeps what is added to residuals in fp32, so that most operations
    between products convert their inputs. With bf16 weights (Micikevicius et al. 2018: an fp32 master copy, which the
    optimizer moves) features are bf16 throughout; autocast stays on for what enters a model as fp32, like pixels.

    One copy is made at the start of each ``computing`` and its gradients are brought to fp32 at the end, so outside,
    a model is as it always was: to be saved, loaded, averaged, validated. Inside, layer norms add the gradients of
    their own weights up in fp32 (``norms.exact``). For one process; DistributedDataParallel holds on to gradients of
    the weights' own type.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        kept = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
        kept |= {id(p) for p in model.parameters() if not p.dim()}  # lone numbers, such as a temperature
        self._layers = [m for m in model.modules() if type(m) is nn.LayerNorm]
        self._copied = [p for p in model.parameters() if p.dtype == torch.float32 and id(p) not in kept]
        whole = torch.empty(sum(p.numel() for p in self._copied), dtype=torch.bfloat16, device=_device(self._copied))
        parts = whole.split([p.numel() for p in self._copied])
        self._copies = [part.view(p.shape) for part, p in zip(parts, self._copied, strict=True)]

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Not reentrant; after an exception inside, the weights are the fp32 ones again."""
        masters = [p.data for p in self._copied]
        before = [p.grad for p in self._copied]
        if masters:
            torch._foreach_copy_(self._copies, masters)
        _give(self._copied, self._copies)
        for layer in self._layers:
            layer.forward = partial(exact, layer)
        grads: list[Tensor | None] = before
        try:
            yield
            grads = _sums(before, [p.grad for p in self._copied])
        finally:
            for layer in self._layers:
                del layer.forward
            _give(self._copied, masters)
            for p, grad in zip(self._copied, grads, strict=True):
                p.grad = grad


def weights_of(model: nn.Module, precision: str, processes: int = 1) -> Weights:
    """The fastest way to hold a model's weights: precision is what ``choose`` chose, of fabric's names or ours."""
    return CopiedWeights(model) if precision.startswith("bf16") and processes == 1 else Weights(model)


def _device(parameters: list[nn.Parameter]) -> torch.device:
    return parameters[0].device if parameters else torch.device("cpu")


def _give(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    """Gives parameters other values, of another type if need be, and no gradients (those were of the old type)."""
    for p, value in zip(parameters, values, strict=True):
        p.grad = None
        p.data = value


def _sums(before: list[Tensor | None], new: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients in fp32: those from before plus new ones; None where there are neither."""
    fresh = [g for g in new if g is not None]
    wide = [torch.empty_like(g, dtype=torch.float32) for g in fresh]
    if fresh:
        torch._foreach_copy_(wide, fresh)
    given = iter(wide)
    sums: list[Tensor | None] = []
    for old, g in zip(before, new, strict=True):
        now = None if g is None else next(given)
        sums.append(old if now is None else now if old is None else old.add_(now))
    return sums
