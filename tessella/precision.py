"""Precision: in which numbers a model computes while its weights stay fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

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


class Weights:
    """The fp32 weights behind a model: what the optimizer moves, what is averaged and what is saved.

    Here they are the model's own parameters (fp32, or autocast around them). A model that computes with a bf16 copy
    needs another class with the same three methods: ``collect`` brings the copy's gradients to the fp32 weights,
    ``publish`` brings the fp32 weights to the copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self.named: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def collect(self) -> None:
        """After the backward passes of a step: gradients are in ``named`` from now on."""

    def publish(self) -> None:
        """After the optimizer, or after other values were loaded into ``named``: the model computes with them."""
