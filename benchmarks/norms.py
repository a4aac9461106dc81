"""Norms: how far off gradients of a layer norm's weights are in bf16 on a processor, torch's and ours, and their time.

    python benchmarks/norms.py

Prints, for some shapes of tokens: the distance of the gradient of weight and bias from an fp32 sum of the same numbers,
relative to its length, for torch's own backward pass and for `tessella.norms.exact`; and the time of forward and
backward pass of the second over the first.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from tessella.norms import exact

SHAPES = [(64, 27, 64), (64, 80, 128), (64, 30, 512), (8, 197, 768)]


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for shape in SHAPES:
        norm, x = nn.LayerNorm(shape[-1]), (torch.randn(shape) + 0.3).bfloat16()
        for what, g in {"random": torch.randn(shape) + 0.1, "cancelling": torch.randn(shape) * 30 + 0.1}.items():
            g = g.bfloat16()
            wide = run(norm, x.float(), g.float(), norm)
            ways = {"torch": norm, "ours": lambda x, norm=norm: exact(norm, x)}
            off = {name: distance(run(norm, x, g, way), wide) for name, way in ways.items()}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(30):
                for name, way in ways.items():
                    start = time.process_time()
                    run(norm, x, g, way)
                    times[name].append(time.process_time() - start)
            ratio = statistics.median(times["ours"]) / statistics.median(times["torch"])
            told = "; ".join(f"{name}: weight {w:.2%}, bias {b:.2%}" for name, (w, b) in off.items())
            print(f"{shape} {what:<10}  off by {told}; time {ratio:.2f} x")


def run(norm: nn.LayerNorm, x: torch.Tensor, g: torch.Tensor, way) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of weight and bias."""
    norm.zero_grad()
    way(x.detach().clone().requires_grad_()).backward(g)
    assert norm.weight.grad is not None and norm.bias.grad is not None
    return norm.weight.grad.clone(), norm.bias.grad.clone()


def distance(found: tuple[torch.Tensor, ...], true: tuple[torch.Tensor, ...]) -> tuple[float, ...]:
    """Relative to the length of the true ones."""
    return tuple(float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True))


if __name__ == "__main__":
    main()
