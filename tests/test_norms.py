"""A layer norm in bf16: torch's values, and gradients of its own weights as an fp32 sum gives them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tessella.norms import exact
from tessella.precision import CopiedWeights


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def gradients(norm: nn.LayerNorm, x: torch.Tensor, g: torch.Tensor, forward) -> list[torch.Tensor]:
    """Output, and gradients of x, weight and bias."""
    norm.zero_grad()
    x = x.clone().requires_grad_()
    y = forward(x)
    y.backward(g)
    return [y.detach(), x.grad, norm.weight.grad, norm.bias.grad]


@pytest.mark.parametrize("shape", [(64, 80, 128), (3, 5, 16), (7, 32)])
def test_gradients_are_those_of_an_fp32_sum(shape):
    norm = nn.LayerNorm(shape[-1], 1e-6)
    nn.init.normal_(norm.weight, 1, 0.3)
    nn.init.normal_(norm.bias, 0, 0.3)
    x, g = (torch.randn(shape) + 0.3).bfloat16(), (torch.randn(shape) + 0.1).bfloat16()
    mine = gradients(norm, x, g, lambda x: exact(norm, x))
    torchs = gradients(norm, x, g, norm)
    wide = gradients(norm, x.float(), g.float(), norm)
    assert torch.equal(mine[0], torchs[0])
    assert torch.equal(mine[1], torchs[1])
    assert far(mine[2], wide[2]) < 0.01
    assert far(mine[3], wide[3]) < 0.01


def test_many_terms_are_not_lost():
    """Ten thousand ones are ten thousand."""
    norm = nn.LayerNorm(8)
    x = torch.randn(100, 100, 8).bfloat16()
    exact(norm, x.requires_grad_()).backward(torch.ones_like(x))
    assert norm.bias.grad.tolist() == pytest.approx([10_000] * 8, rel=4e-3)


def test_what_is_not_bf16_is_torchs():
    norm, x = nn.LayerNorm(8), torch.randn(4, 8)
    assert torch.equal(exact(norm, x), norm(x))
    bare = nn.LayerNorm(8, elementwise_affine=False)
    assert torch.equal(exact(bare, x.bfloat16()), bare(x.bfloat16()))


def test_layers_are_exact_while_a_copy_computes_and_as_before_outside():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    weights = CopiedWeights(model)
    with weights.computing():
        assert model(torch.randn(2, 8, dtype=torch.bfloat16)).grad_fn is not None
        assert "forward" in vars(model[1])
        assert model[1](torch.randn(2, 8, dtype=torch.bfloat16)).grad_fn.name() == "_ExactBackward"
    assert "forward" not in vars(model[1])
    with pytest.raises(RuntimeError, match="on purpose"), weights.computing():
        raise RuntimeError("on purpose")
    assert "forward" not in vars(model[1])
