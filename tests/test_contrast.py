"""Contrast: the losses are their formulas; chunks, negatives and hardness do what they say and nothing else."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import tiny_towers as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tessella import losses
from tessella.contrast import Contrast
from tessella.errors import InputError
from tessella.objectives import Objective
from tessella.similarity import Sigmoid, Softmax, hard_cross_entropy
from tessella.spec import from_dict, to_dict

BIAS = torch.tensor(-2.0, dtype=torch.float64)


def sides(b: int, k: int = 0, seed: int = 0) -> list[Tensor]:
    """Images b e, captions (b+k) e and the scale, in fp64."""
    drawn = torch.Generator().manual_seed(seed)
    x, y = (F.normalize(torch.randn(n, 5, generator=drawn, dtype=torch.float64), dim=1) for n in (b, b + k))
    return [part.requires_grad_() for part in (x, y, torch.tensor(7.0, dtype=torch.float64))]


def softmax_by_definition(x: Tensor, y: Tensor, scale: Tensor, hardness: float = 0.0) -> Tensor:
    """Written out pair by pair."""

    def one(z: Tensor, own: int) -> Tensor:
        others = [j for j in range(len(z)) if j != own]
        counts = (hardness * z[others]).exp().detach()
        counts = counts / counts.mean()
        return -(z[own].exp() / (z[own].exp() + (counts * z[others].exp()).sum())).log()

    z = scale * x @ y.t()
    b = len(x)
    return sum(one(z[i], i) + one(z[:, :b].t()[i], i) for i in range(b)) / (2 * b)


def sigmoid_by_definition(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    z = scale * x @ y.t() + bias
    signs = torch.full_like(z, -1.0)
    signs.fill_diagonal_(1.0)
    return -(1 / (1 + (-signs * z).exp())).log().sum(dim=1).mean()


def assert_same(found: Tensor, wanted: Tensor, parts: list[Tensor]) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    pairs = zip(torch.autograd.grad(found, parts), torch.autograd.grad(wanted, parts), strict=True)
    for own, want in pairs:
        torch.testing.assert_close(own, want, rtol=1e-9, atol=1e-12)


@given(
    b=st.integers(2, 9),
    k=st.integers(0, 4),
    hardness=st.sampled_from([0.0, 0.3, 2.0]),
    held=st.sampled_from([1, 64, 2**22]),
)
@settings(max_examples=25, deadline=None)
def test_softmax_is_its_formula(b, k, hardness, held):
    parts = sides(b, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.CHUNK, "cpu", held)
        found, right = Softmax(hardness=hardness)(*parts, None)
        assert_same(found, softmax_by_definition(*parts, hardness), parts)
    x, y, scale = parts
    assert right == ((scale * x @ y.t()).argmax(1) == torch.arange(b)).sum()


@given(b=st.integers(2, 9), k=st.integers(0, 4), held=st.sampled_from([1, 64, 2**22]))
@settings(max_examples=20, deadline=None)
def test_sigmoid_is_its_formula(b, k, held):
    parts, bias = sides(b, k), BIAS.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.CHUNK, "cpu", held)
        found, _ = Sigmoid()(*parts, bias)
        assert_same(found, sigmoid_by_definition(*parts, bias), [*parts, bias])


@pytest.mark.parametrize("b", [2, 5, 64])
@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_nothing_known_is_ln_b(b, hardness):
    """All embeddings the same: every caption is as likely, and negatives are alike hard."""
    x = F.normalize(torch.ones(b, 8), dim=1).requires_grad_()
    loss, _ = Softmax(hardness=hardness)(x, x, torch.tensor(100.0), None)
    assert loss.item() == pytest.approx(math.log(b), abs=2e-5)
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_perfect_pairs_cost_nothing_even_at_the_largest_scale():
    x = torch.eye(16, requires_grad=True)
    loss, right = Softmax()(x, x, torch.tensor(100.0), None)
    assert loss.item() < 1e-6 and right == 16
    loss, right = Sigmoid()(x, x, torch.tensor(100.0), torch.tensor(-50.0))
    assert loss.item() < 1e-6 and right == 16


@pytest.mark.parametrize("pairing", [Softmax(), Softmax(hardness=0.5), Sigmoid()])
def test_the_order_of_pairs_is_nothing(pairing):
    x, y, scale = sides(8)
    order = torch.randperm(8)
    bias = BIAS if isinstance(pairing, Sigmoid) else None
    one, other = pairing(x, y, scale, bias), pairing(x[order], y[order], scale, bias)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_softmax_does_not_care_which_side_is_which():
    x, y, scale = sides(8)
    torch.testing.assert_close(Softmax()(x, y, scale, None)[0], Softmax()(y, x, scale, None)[0], rtol=1e-12, atol=0)


def test_no_hardness_is_infonce_and_next_to_none_is_next_to_it():
    parts = sides(6, 2)
    plain = F.cross_entropy(parts[2] * parts[0] @ parts[1].t(), torch.arange(6))
    plain = (plain + F.cross_entropy(parts[2] * parts[1][:6] @ parts[0].t(), torch.arange(6))) / 2
    assert Softmax()(*parts, None)[0].item() == pytest.approx(plain.item(), rel=1e-12)
    assert Softmax(hardness=1e-9)(*parts, None)[0].item() == pytest.approx(plain.item(), rel=1e-7)


def test_the_harder_the_more_is_learned_from_the_nearest():
    """The share that its nearest wrong caption has in all that is pushed away from an image."""
    x, y, scale = sides(8)
    nearest = (x[0] @ y.t())[1:].argmax()
    shares = []
    for hardness in (0.0, 0.2, 0.5, 1.0, 3.0):
        loss, _ = hard_cross_entropy(x[:1] * scale, y, torch.tensor([0]), hardness)
        pushes = torch.autograd.grad(loss, y)[0][1:].norm(dim=1)
        shares.append((pushes[nearest] / pushes.sum()).item())
    assert all(less < more for less, more in pairwise(shares)) and shares[-1] > 0.99, shares


def test_negatives_are_columns_of_images_only():
    x, y, scale = sides(6, 3)
    loss, _ = Softmax()(x, y, scale, None)
    rows = F.cross_entropy(scale * x @ y.t(), torch.arange(6))
    columns = F.cross_entropy(scale * y[:6] @ x.t(), torch.arange(6))
    torch.testing.assert_close(loss, (rows + columns) / 2, rtol=1e-12, atol=0)
    assert loss > Softmax()(x, y[:6], scale, None)[0]
    assert Sigmoid()(x, y, scale, BIAS)[0] > Sigmoid()(x, y[:6], scale, BIAS)[0]


@pytest.mark.parametrize("pairing", [Softmax(), Sigmoid()])
def test_numerical_gradient(pairing):
    bias = BIAS if isinstance(pairing, Sigmoid) else None
    x, y, scale = sides(4, 1)
    assert torch.autograd.gradcheck(lambda *parts: pairing(*parts, bias)[0], (x, y, scale))


class Largest(TorchDispatchMode):
    """The most elements that any result had, of the forward and of the backward pass."""

    most = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        out = operation(*arguments, **(named or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, Tensor):
                self.most = max(self.most, made.numel())
        return out


@pytest.mark.parametrize("pairing", [Softmax(), Softmax(hardness=0.5), Sigmoid()])
def test_the_whole_matrix_never_exists(pairing, monkeypatch):
    monkeypatch.setitem(losses.CHUNK, "cpu", 2048)
    x, y, scale = sides(128)
    with Largest() as seen:
        pairing(x, y, scale, BIAS if isinstance(pairing, Sigmoid) else None)[0].backward()
    assert x.grad is not None and 512 <= seen.most <= 2048 < 128 * 128


def test_it_is_what_the_model_says():
    model, batch = tiny.built(tiny.vit(), tiny.causal()), tiny.noise(7)
    found = Contrast()(model, batch)
    logits, own = model(batch["image"], batch["text"]), torch.arange(7)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
    torch.testing.assert_close(found["loss"], wanted)
    assert found["weight"] == 7 and found["accuracy"] == (logits.argmax(1) == own).float().mean()
    theirs = torch.autograd.grad(wanted, list(model.parameters()))
    for own, want in zip(torch.autograd.grad(found["loss"], list(model.parameters())), theirs, strict=True):
        torch.testing.assert_close(own, want, rtol=1e-4, atol=1e-6)


def test_the_scale_is_held_in_the_loss_too():
    model, batch = tiny.built(tiny.vit(), tiny.causal()), tiny.noise(7)
    model.log_scale.data.fill_(math.log(model.largest) + 3)
    x, y = model.embed_image(batch["image"]), model.embed_text(batch["text"])
    loss = Contrast()(model, batch)["loss"]
    torch.testing.assert_close(loss, Softmax()(x, y, torch.tensor(model.largest), None)[0], rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(loss, model.log_scale)[0] >= 0, "no step leads further out"


def test_bf16_pictures_still_give_an_fp32_loss():
    model, batch = tiny.built(tiny.vit(), tiny.causal()), tiny.noise(7)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x, y = model.embed_image(batch["image"]), model.embed_text(batch["text"])
        loss = Contrast()(model, batch)["loss"]
    wanted = softmax_by_definition(x.double(), y.double(), model.scale.detach().double())
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("pairing", [Softmax(), Softmax(hardness=0.2), Sigmoid()])
def test_it_survives_json(pairing):
    spec = Contrast(loss=pairing, chunk=64)
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Objective) == spec


@pytest.mark.parametrize(
    ("objective", "bias", "pairs", "told"),
    [
        (Contrast(), None, 1, "at least two"),
        (Contrast(loss=Sigmoid()), -10.0, 1, "at least two"),
        (Contrast(loss=Sigmoid()), None, 4, "needs a bias"),
        (Contrast(), -10.0, 4, "a bias does nothing in a softmax"),
    ],
)
def test_what_cannot_be_learned_is_one_line(objective, bias, pairs, told):
    model = tiny.built(tiny.vit(), tiny.causal(), bias=bias)
    with pytest.raises(InputError, match=told):
        objective(model, tiny.noise(pairs))


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"loss": {"kind": "softmax", "hardness": -1}}])
def test_bad_numbers_are_refused(wrong):
    with pytest.raises(InputError):
        from_dict({"kind": "contrast", **wrong})
