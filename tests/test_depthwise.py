"""A depthwise convolution and its own gradient, held to torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tessella.depthwise import Depthwise, _Strided


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 4), st.integers(1, 3))
def test_gradients_are_those_of_torch(rows, cols, stride, dim):
    x = torch.randn(2, dim, rows, cols, dtype=torch.float64, requires_grad=True)
    conv = nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False, dtype=torch.float64)
    outer = torch.randn_like(conv(x))
    theirs = torch.autograd.grad(conv(x), (x, conv.weight), outer)
    ours = torch.autograd.grad(_Strided.apply(x, conv.weight, stride), (x, conv.weight), outer)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("auto", [True, False])
def test_in_bf16_it_is_the_same_convolution(auto):
    torch.manual_seed(0)
    conv = Depthwise(8, stride=2)
    x = torch.randn(2, 8, 6, 7, requires_grad=True)
    expected = torch.autograd.grad(conv(x).square().sum(), (x, conv.weight))
    if not auto:
        conv, x = conv.bfloat16(), x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=auto):
        out = conv(x)
        assert type(out.grad_fn).__name__ == "_StridedBackward", "the quick way was taken"
        got = torch.autograd.grad(out.float().square().sum(), (x, conv.weight))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.float(), b, atol=0.1, rtol=0.05)
