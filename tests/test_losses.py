"""Losses: the fused cross-entropy is torch's, in values and in every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tessella import losses
from tessella.losses import smoothed_cross_entropy


def make(t: int, d: int, v: int, kind: torch.dtype = torch.float64, bias: bool = True, seed: int = 0) -> list[Tensor]:
    made = torch.Generator().manual_seed(seed)
    shapes = [(t, d), (v, d), (v,)][: 3 if bias else 2]
    return [torch.randn(s, generator=made, dtype=torch.float64).to(kind).requires_grad_() for s in shapes]


def fused(parts: list[Tensor], labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    features, weight, *bias = parts
    return smoothed_cross_entropy(features, weight, bias[0] if bias else None, labels, smoothing)


@given(
    t=st.integers(1, 20),
    d=st.integers(1, 9),
    v=st.integers(1, 30),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    bias=st.booleans(),
    kind=st.sampled_from([torch.float64, torch.float32]),
    held=st.sampled_from([1, 64, 4096]),
)
@settings(max_examples=80, deadline=None)
def test_equals_torch(t, d, v, smoothing, bias, kind, held):
    parts = make(t, d, v, kind, bias)
    labels = torch.randint(0, v, (t,), generator=torch.Generator().manual_seed(t))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.CHUNK, "cpu", held)
        loss, correct = fused(parts, labels, smoothing)
    logits = F.linear(*parts)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    tolerance = {"atol": 1e-10, "rtol": 1e-9} if kind == torch.float64 else {"atol": 2e-5, "rtol": 2e-5}
    torch.testing.assert_close(loss, expected, **tolerance)
    if kind == torch.float64:
        assert correct == (logits.argmax(1) == labels).sum()
    grads, wanted = torch.autograd.grad(3 * loss, parts), torch.autograd.grad(3 * expected, parts)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, **tolerance)


def test_numerical_gradient():
    labels = torch.tensor([0, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda *parts: fused(list(parts), labels, 0.1)[0], make(4, 3, 5))


def test_huge_logits_stay_finite():
    parts = [(p * 300).detach().requires_grad_() for p in make(6, 4, 50, torch.float32)]
    labels = torch.arange(6)
    loss, _ = fused(parts, labels, 0.1)
    torch.testing.assert_close(
        loss, F.cross_entropy(F.linear(*parts), labels, label_smoothing=0.1), rtol=1e-4, atol=0.1
    )
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, parts))


def test_nothing_to_learn_from():
    parts = make(0, 3, 5)
    loss, correct = fused(parts, torch.zeros(0, dtype=torch.long), 0.1)
    assert loss == 0 and correct == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, parts))


def test_autocast_is_no_worse_than_that_of_torch():
    parts = make(200, 64, 500, torch.float32, bias=False)
    parts[1].data *= 64**-0.5
    labels = torch.randint(0, 500, (200,), generator=torch.Generator().manual_seed(2))
    exact = F.cross_entropy(F.linear(*parts), labels, label_smoothing=0.1)
    wanted = torch.autograd.grad(exact, parts)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = fused(parts, labels, 0.1)
        theirs = F.cross_entropy(F.linear(*parts), labels, label_smoothing=0.1)
    assert ours.dtype == torch.float32
    assert abs(ours - exact) < 2 * abs(theirs - exact) + 1e-3
    mine, others = torch.autograd.grad(ours, parts), torch.autograd.grad(theirs, parts)
    for own, other, want in zip(mine, others, wanted, strict=True):
        assert own.dtype == torch.float32
        assert (own - want).norm() < 1.2 * (other - want).norm()


def test_bf16_weights_get_bf16_gradients():
    parts = make(8, 4, 10, torch.bfloat16)
    loss, _ = fused(parts, torch.arange(8), 0.1)
    assert loss.dtype == torch.float32
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(loss, parts))


def test_no_gradient_where_none_is_wanted():
    features, weight = make(5, 3, 7, bias=False)
    labels = torch.arange(5)
    with torch.no_grad():
        loss, _ = smoothed_cross_entropy(features, weight, None, labels)
    assert not loss.requires_grad
    frozen = weight.detach()
    loss, _ = smoothed_cross_entropy(features, frozen, None, labels, 0.1)
    (grad,) = torch.autograd.grad(loss, features)
    (want,) = torch.autograd.grad(F.cross_entropy(features @ frozen.t(), labels, label_smoothing=0.1), features)
    torch.testing.assert_close(grad, want)


def test_tied_weight_gets_both_gradients():
    weight = torch.randn(9, 4, dtype=torch.float64).requires_grad_()
    ids, labels = torch.tensor([1, 2, 8]), torch.tensor([2, 8, 1])
    loss, _ = smoothed_cross_entropy(F.embedding(ids, weight), weight, None, labels, 0.1)
    expected = F.cross_entropy(F.embedding(ids, weight) @ weight.t(), labels, label_smoothing=0.1)
    torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))
