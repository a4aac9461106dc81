"""Precision: a bf16 copy computes, the fp32 weights are what there is before and after."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tessella.precision import CopiedWeights, Weights, choose, weights_of


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.LayerNorm(16))
    net.append(nn.Linear(16, 20, bias=False))
    net[5].weight = net[0].weight
    return net


def loss_of(net: nn.Module, ids: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return nn.functional.cross_entropy(net(ids).flatten(0, 1).float(), ids.flatten())


def test_computes_in_bf16_and_leaves_fp32():
    net = model()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    weights = CopiedWeights(net)
    with weights.computing():
        assert net[1].weight.dtype == torch.bfloat16 and net[4].weight.dtype == torch.float32
        assert net[0].weight is net[5].weight
        assert torch.equal(net[1].weight, before["1.weight"].bfloat16())
        loss_of(net, torch.arange(20)[None]).backward()
    for name, tensor in net.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])
    for weight in weights.named.values():
        assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_gradients_are_those_of_fp32_up_to_rounding():
    ids = torch.arange(20).view(4, 5)
    exact, copied = model(), model()
    nn.functional.cross_entropy(exact(ids).flatten(0, 1), ids.flatten()).backward()
    with CopiedWeights(copied).computing():
        loss_of(copied, ids).backward()
    for own, want in zip(copied.parameters(), exact.parameters(), strict=True):
        assert (own.grad - want.grad).norm() < 0.05 * want.grad.norm()


def test_gradients_of_several_passes_add_up_in_fp32():
    net, batches = model(), torch.arange(20).view(2, 2, 5)
    weights, single = CopiedWeights(net), []
    for ids in batches:
        net.zero_grad()
        with weights.computing():
            loss_of(net, ids).backward()
        single.append([p.grad.clone() for p in net.parameters()])
    net.zero_grad()
    for ids in batches:
        with weights.computing():
            loss_of(net, ids).backward()
    for p, one, other in zip(net.parameters(), *single, strict=True):
        assert torch.equal(p.grad, one + other)


def test_what_the_optimizer_and_a_checkpoint_do_is_seen():
    net = model()
    weights = CopiedWeights(net)
    optimizer = torch.optim.AdamW(weights.named.values(), 1e-2, fused=True)
    ids = torch.arange(20)[None]
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with weights.computing():
            loss = loss_of(net, ids)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    net.load_state_dict(model().state_dict())
    with weights.computing():
        assert abs(loss_of(net, ids).item() - losses[0]) < 1e-6
    net[1].weight.data = torch.zeros(32, 16)  # as averages.swapped does
    with weights.computing():
        assert (net[1].weight == 0).all()


def test_an_exception_leaves_the_weights_as_they_were():
    net = model()
    weights = CopiedWeights(net)
    with weights.computing():
        loss_of(net, torch.arange(20)[None]).backward()
    before = [p.data_ptr() for p in net.parameters()]
    with pytest.raises(KeyboardInterrupt), weights.computing():
        loss_of(net, torch.arange(20)[None]).backward()
        raise KeyboardInterrupt
    for p, place in zip(net.parameters(), before, strict=True):
        assert p.data_ptr() == place and p.dtype == p.grad.dtype == torch.float32


def test_weights_without_gradient():
    net = model()
    net[1].requires_grad_(False)
    weights = CopiedWeights(net)
    assert "1.weight" not in weights.named
    with weights.computing():
        assert net[1].weight.dtype == torch.bfloat16
        loss_of(net, torch.arange(20)[None]).backward()
    assert net[1].weight.grad is None and net[3].weight.grad is not None


def test_pixels_enter_as_fp32():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    with CopiedWeights(net).computing(), torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(4, 3, 8, 8)).float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_who_gets_a_copy():
    assert type(weights_of(model(), "32")) is Weights
    assert type(weights_of(model(), "bf16")) is CopiedWeights
    assert type(weights_of(model(), "bf16", processes=2)) is Weights
    assert choose("bf16", "cpu") == "bf16" and choose("auto", "cpu") in ("32", "bf16")
