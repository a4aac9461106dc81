"""The gradient of a strided depthwise convolution in bf16 on a CPU: torch's own against tessella's, in one run.

python benchmarks/depthwise.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from tessella.depthwise import Depthwise


def seconds(conv: nn.Module, x: torch.Tensor, rounds: int) -> float:
    """Median time of a forward and backward pass."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        conv(x).sum().backward()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for batch, dim, side in ((128, 128, 16), (32, 64, 56), (32, 384, 14)):
        x = torch.randn(batch, side, side, dim, dtype=torch.bfloat16).permute(0, 3, 1, 2).requires_grad_()
        own = Depthwise(dim, stride=2).bfloat16()
        plain = nn.Conv2d(dim, dim, 3, 2, 1, groups=dim, bias=False).bfloat16()
        pair = [seconds(conv, x, arguments.rounds) for conv in (plain, own)]
        print(f"{batch} x {dim} x {side} x {side}: torch {1e3 * pair[0]:.1f} ms, here {1e3 * pair[1]:.1f} ms")


if __name__ == "__main__":
    main()
