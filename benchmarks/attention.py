"""Attention: three ways to compute it, by sequence length, forward and backward on one core.

    python benchmarks/attention.py

Prints processor milliseconds (smallest of several interleaved runs, so that neighbours on the machine do not count) of
``F.scaled_dot_product_attention``, of plain ``softmax(q k^T) v`` in fp32, and of ``tessella.dot``'s whole rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tessella.dot import WholeRows

SHAPES = [
    # rows, heads, queries, keys, width of a head
    (1024, 8, 1, 16, 32),
    (256, 4, 15, 15, 32),
    (256, 8, 16, 16, 32),
    (128, 8, 32, 32, 32),
    (64, 8, 64, 64, 64),
    (32, 8, 128, 128, 64),
    (16, 8, 256, 256, 64),
]
Ways = dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Equation 1 of Vaswani et al. 2017 as it stands, in fp32."""
    scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
    return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v.float()).to(v.dtype)


WAYS: Ways = {
    "sdpa": lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask),
    "plain": plain,
    "rows": lambda q, k, v, mask: WholeRows.apply(q, k, v, mask, q.shape[-1] ** -0.5),
}


def milliseconds(shape: tuple[int, ...], kind: torch.dtype, learns: bool, runs: int = 7) -> dict[str, float]:
    """Processor time of each way at one shape; with `learns`, of its backward pass too."""
    b, h, n, m, d = shape
    x = [torch.randn(b, length, h * d).to(kind).requires_grad_(learns) for length in (n, m, m)]
    keep = torch.arange(m) < torch.randint(max(m * 3 // 4, 1), m + 1, (b, 1))
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(runs):
        for name, way in WAYS.items():
            began = time.process_time()
            q, k, v = (t.view(b, -1, h, d).transpose(1, 2) for t in x)
            out = way(q, k, v, keep[:, None, None]).transpose(1, 2).reshape(b, n, h * d)
            if learns:
                torch.autograd.grad(out, x, torch.ones_like(out))
            least[name] = min(least[name], time.process_time() - began)
    return {name: 1000 * seconds for name, seconds in least.items()}


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'b h n m d':24}{'type':10}{'passes':10}" + "".join(f"{name:>9}" for name in WAYS))
    for kind in (torch.bfloat16, torch.float32):
        for learns in (True, False):
            for shape in SHAPES:
                row = milliseconds(shape, kind, learns)
                what = f"{' '.join(map(str, shape)):24}{str(kind)[6:]:10}{'both' if learns else 'forward':10}"
                print(what + "".join(f"{value:9.2f}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
