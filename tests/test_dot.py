"""Dot: attention by whole rows is the fused kernel's, in values and in every gradient."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tessella import dot
from tessella.dot import WholeRows, dot_product_attention


def make(b: int, h: int, n: int, m: int, d: int, kind: torch.dtype) -> list[Tensor]:
    made = torch.Generator().manual_seed(n * m)
    shapes = [(b, n, h, d), (b, m, h, d), (b, m, h, d)]
    return [
        torch.randn(s, generator=made, dtype=torch.float64).to(kind).transpose(1, 2).requires_grad_() for s in shapes
    ]


@given(
    b=st.integers(1, 3),
    h=st.integers(1, 3),
    n=st.integers(1, 7),
    m=st.integers(1, 9),
    d=st.integers(1, 6),
    masked=st.sampled_from(["nothing", "keys", "pairs"]),
    scale=st.sampled_from([1.0, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_equals_torch(b, h, n, m, d, masked, scale):
    parts = make(b, h, n, m, d, torch.float64)
    mask = None
    if masked != "nothing":
        mask = torch.rand(b, 1, 1 if masked == "keys" else n, m, generator=torch.Generator().manual_seed(m)) > 0.5
        mask[..., 0] = True
    ours = WholeRows.apply(*parts, mask, scale)
    theirs = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad(ours, parts, weight), torch.autograd.grad(theirs, parts, weight))


@given(b=st.integers(1, 3), w=st.integers(1, 3), h=st.integers(1, 3), n=st.integers(1, 5), m=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_a_bias_is_shared_by_every_wth_row(b, w, h, n, m):
    parts = make(b * w, h, n, m, 4, torch.float64)
    bias = torch.randn(w, h, n, m, dtype=torch.float64)
    bias[..., 1:].masked_fill_(torch.rand(w, h, n, m - 1) > 0.7, float("-inf"))
    bias.requires_grad_()
    ours = WholeRows.apply(*parts, None, 0.3, bias)
    every = bias.repeat(b, 1, 1, 1)
    theirs = F.scaled_dot_product_attention(*parts, attn_mask=every, scale=0.3)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(dot_product_attention(*parts, None, 0.3, bias), theirs)
    weight, all_parts = torch.randn_like(ours), [*parts, bias]
    torch.testing.assert_close(
        torch.autograd.grad(ours, all_parts, weight), torch.autograd.grad(theirs, all_parts, weight)
    )


def test_bf16_is_about_as_exact_as_torch():
    exact = make(4, 4, 15, 15, 32, torch.float32)
    parts = [p.detach().bfloat16().requires_grad_() for p in exact]
    weight = torch.randn(4, 4, 15, 32)

    def run(attend, x: list[Tensor]) -> list[Tensor]:
        out = attend(*x)
        return [out, *torch.autograd.grad(out, x, weight.to(out.dtype))]

    wanted = run(F.scaled_dot_product_attention, [p.detach().float().requires_grad_() for p in parts])
    ours, theirs = run(dot_product_attention, parts), run(F.scaled_dot_product_attention, parts)
    for own, other, want in zip(ours, theirs, wanted, strict=True):
        assert own.dtype == torch.bfloat16
        assert (own - want).norm() < 2 * (other - want).norm()


def test_rows_are_chosen_for_short_sequences_only(monkeypatch):
    used = []
    monkeypatch.setattr(WholeRows, "apply", lambda *a: used.append(a) or a[0])
    for m in (dot.ROWS_UP_TO, dot.ROWS_UP_TO + 1):
        dot_product_attention(*make(1, 1, 2, m, 4, torch.bfloat16))
    dot_product_attention(*make(1, 1, 2, 3, 4, torch.float32))
    assert len(used) == 1 and used[0][1].shape[2] == dot.ROWS_UP_TO


def test_autocast_casts_as_it_does_for_torch():
    parts = make(2, 2, 5, 5, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert dot_product_attention(*parts).dtype == torch.bfloat16
        torch.autograd.backward(dot_product_attention(*parts).float().sum())


def test_nothing_to_attend_to():
    q, k, v = make(0, 2, 3, 3, 4, torch.float32)
    assert dot_product_attention(q, k, v).shape == (0, 2, 3, 4)
