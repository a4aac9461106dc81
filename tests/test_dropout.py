"""Dropout: the right share is dropped, the mean stays, and the gradient sees the same mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tessella.dropout import STEPS, Dropout

TYPES = [torch.float32, torch.bfloat16, torch.float64]


def kept_share(p: float) -> float:
    return min(max(round(STEPS * (1 - p)), 1), STEPS - 1) / STEPS


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9, 0.001])
def test_share_and_mean(p):
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(400_000))
    share = kept_share(p)
    assert abs((y != 0).float().mean() - share) < 5 * (share * (1 - share) / y.numel()) ** 0.5
    assert torch.equal(y.unique(), torch.tensor([0.0, 1 / share]))
    assert abs(1 - share - p) <= 1 / STEPS


def test_neighbours_and_places_are_independent():
    torch.manual_seed(1)
    mask = (Dropout(0.3)(torch.ones(40_000, 8)) != 0).float()
    assert (mask.mean(0) - kept_share(0.3)).abs().max() < 0.015  # each of the eight bytes of a draw
    off_diagonal = torch.corrcoef(mask.t()) - torch.eye(8)
    assert off_diagonal.abs().max() < 0.03
    rows = torch.corrcoef(torch.stack([mask.flatten()[:-8], mask.flatten()[8:]]))
    assert rows[0, 1].abs() < 0.02


@given(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4),
    p=st.floats(0, 1),
    kind=st.sampled_from(TYPES),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_is_zero_or_scaled(shape, p, kind, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=kind)
    y = Dropout(p)(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    scale = 1 / kept_share(p) if 0 < p < 1 else 1.0
    torch.testing.assert_close(y, torch.where(y == 0, torch.zeros_like(x), x * scale))


@pytest.mark.parametrize("kind", TYPES)
def test_gradient_is_mask_times_scale(kind):
    x = torch.randn(64, 33, dtype=kind).abs().add(0.5).requires_grad_()
    y = Dropout(0.25)(x)
    weight = torch.randn_like(x)
    (grad,) = torch.autograd.grad(y, x, weight)
    torch.testing.assert_close(grad, weight * (y != 0) / 0.75)


@pytest.mark.parametrize("kind", TYPES)
def test_add_is_residual_plus_dropout(kind):
    x, residual = (torch.randn(50, 31, dtype=kind).requires_grad_() for _ in range(2))
    drop = Dropout(0.3)
    torch.manual_seed(5)
    apart = residual + drop(x)
    torch.manual_seed(5)
    fused = drop.add(residual, x)
    torch.testing.assert_close(fused, apart, atol=0.03 if kind == torch.bfloat16 else 1e-6, rtol=0.01)
    weight = torch.randn_like(x)
    for one, other in zip(
        torch.autograd.grad(fused, (x, residual), weight),
        torch.autograd.grad(apart, (x, residual), weight),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_add_takes_mixed_types_and_broadcasts_like_plus():
    x, residual = torch.randn(4, 6).bfloat16(), torch.randn(4, 6)
    assert Dropout(0.5).add(residual, x).dtype == torch.float32
    assert Dropout(0.5).add(torch.randn(1, 6), torch.randn(4, 6)).shape == (4, 6)


def test_eval_and_zero_are_the_identity():
    x = torch.randn(7, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(Dropout(0.5).eval().add(x, x), 2 * x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))


def test_the_seed_decides():
    x, drop = torch.ones(1000), Dropout(0.5)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first) and not torch.equal(first, second)
    state = torch.get_rng_state()
    third = drop(x)
    torch.set_rng_state(state)
    assert torch.equal(drop(x), third)


def test_views_and_strides():
    x = torch.randn(6, 8).t().requires_grad_()
    y = Dropout(0.5)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, (y != 0) * 2.0)


def test_traced_as_the_one_of_torch():
    torch.manual_seed(0)
    expected = F.dropout(torch.ones(64), 0.5)
    torch.manual_seed(0)
    assert torch.equal(torch.compile(Dropout(0.5), backend="eager")(torch.ones(64)), expected)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(p)
