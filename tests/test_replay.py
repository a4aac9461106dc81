"""Replay: chunks that are run again give the gradient of keeping everything, and keep nothing."""

from __future__ import annotations

import pytest
import tiny_towers as tiny
import torch
from torch import Tensor, nn

from tessella.contrast import Contrast
from tessella.errors import InputError
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.optimizers import Sgd
from tessella.precision import CopiedWeights
from tessella.processes import launch
from tessella.replay import replayed
from tessella.similarity import Sigmoid, Softmax
from tessella.stepper import Stepper
from tessella.transfer import freeze

PAIRS = 7


def kept(module: nn.Module, run, inputs: Tensor, chunk: int | None) -> Tensor:
    """What `replayed` has to equal: the same chunks, all of which stay in the graph."""
    return torch.cat([run(rows) for rows in inputs.split(chunk or len(inputs))])


def gradients(model: nn.Module, objective: Contrast, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(3)
    model.zero_grad()
    loss = objective(model, batch)["loss"]
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found, wanted, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=tolerance, atol=0)
    assert found[1].keys() == wanted[1].keys()
    whole = sum(gradient.square().sum() for gradient in wanted[1].values()) ** 0.5
    for name, gradient in wanted[1].items():
        apart = (found[1][name] - gradient).norm()
        # a bias of keys changes no attention: its gradient is rounding, of the size of all the others'
        assert apart <= tolerance * gradient.norm() + 1e-7 * whole, f"{name}: {apart / gradient.norm():.1e}"


@pytest.mark.parametrize("image", [tiny.vit(0.2, 0.3), tiny.swin(0.3)], ids=["vit", "swin"])
@pytest.mark.parametrize("loss", [Softmax(), Softmax(hardness=0.5), Sigmoid()], ids=lambda spec: spec.kind)
@pytest.mark.parametrize("chunk", [1, 3, 6])
def test_with_dropout_it_is_the_gradient_of_the_whole_batch(image, loss, chunk, monkeypatch):
    """Dropout and stochastic depth draw the same in both, since both draw for the same chunks in the same order."""
    model = tiny.built(image, tiny.causal(0.2), bias=-2.0 if isinstance(loss, Sigmoid) else None)
    batch = tiny.noise(PAIRS, negatives=5)
    objective = Contrast(loss=loss, chunk=chunk)
    found = gradients(model, objective, batch)
    monkeypatch.setattr("tessella.contrast.replayed", kept)
    wanted = gradients(model, objective, batch)
    assert_same(found, wanted)
    monkeypatch.undo()
    torch.manual_seed(4)
    assert objective(model, batch)["loss"] != wanted[0], "dropout is on"


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 8])
def test_without_dropout_chunks_are_not_to_be_seen(chunk):
    model, batch = tiny.built(tiny.swin(), tiny.causal()), tiny.noise(PAIRS, negatives=2)
    assert_same(gradients(model, Contrast(chunk=chunk), batch), gradients(model, Contrast(), batch))


def test_the_generator_goes_on_as_if_nothing_had_been_drawn_again():
    model, batch = tiny.built(tiny.vit(0.2), tiny.causal(0.2)), tiny.noise(PAIRS)
    loss = Contrast(chunk=2)(model, batch)["loss"]
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_one_chunk_at_a_time_has_a_graph():
    """How many rows the network holds for a gradient, at the moment when it runs on more."""
    held, most = [0], [0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            held[0] -= len(gradient)
            return gradient

    layer = nn.Linear(4, 4)

    def run(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            held[0] += len(x)
            most[0] = max(most[0], held[0])
        return Counted.apply(layer(x))

    replayed(layer, run, torch.randn(64, 4), 8).square().sum().backward()
    assert held[0] == 0 and most[0] == 8


def test_a_forward_pass_keeps_outputs_only():
    net, x = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), torch.randn(8, 4)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = replayed(net, net, x, 2)
    assert {t.data_ptr() for t in saved} == {x.data_ptr()} | {p.data_ptr() for p in net.parameters()}
    assert out.shape == x.shape


def test_a_frozen_tower_learns_nothing_and_the_other_one_all():
    model, batch = tiny.built(tiny.vit(), tiny.causal()), tiny.noise(PAIRS)
    model.image.requires_grad_(False)
    found = gradients(model, Contrast(chunk=2), batch)
    assert not any(name.startswith("image.") for name in found[1])
    assert_same(found, gradients(model, Contrast(), batch))


def test_inside_autocast_weights_keep_their_gradients():
    """One call without a gradient must not leave cast weights behind for one with: 7 captions in chunks, 2 at once."""
    model, batch = tiny.built(tiny.vit(0.1), tiny.causal(0.1)), tiny.noise(PAIRS, negatives=2)
    found = {}
    for where in ("inside", "outside"):
        torch.manual_seed(3)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = Contrast(chunk=3)(model, batch)["loss"]
            if where == "inside":
                loss.backward()
        if where == "outside":
            loss.backward()
        found[where] = (loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()})
    assert_same(found["inside"], found["outside"])
    assert all(gradient.any() for name, gradient in found["inside"][1].items() if not name.endswith("k.bias"))


def test_inside_autocast_it_is_the_gradient_of_the_whole_batch(monkeypatch):
    model, batch = tiny.built(tiny.vit(0.2, 0.2), tiny.causal(0.2)), tiny.noise(PAIRS)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(3)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = Contrast(chunk=3)(model, batch)["loss"]
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}

    found = run()
    monkeypatch.setattr("tessella.contrast.replayed", kept)
    assert_same(found, run(), tolerance=2e-2)


def test_in_the_training_loop_in_bf16(monkeypatch):
    """The step of the loop, bf16 copies and autocast and all; without chunks summed in fp32, bf16 sums differ more."""
    batch, found = tiny.noise(PAIRS, negatives=3), []
    loop = LoopSpec(steps=1, precision="bf16", device="cpu", clip=None)
    for replay in (replayed, kept):
        monkeypatch.setattr("tessella.contrast.replayed", replay)
        lesson = Lesson(tiny.built(tiny.vit(0.2, 0.2), tiny.causal(0.2)), Contrast(chunk=3), lambda place: iter(()))
        stepper = Stepper(launch(loop), lesson, loop, Sgd())
        row = stepper.take(1, [batch], rate=0.1, stop=False)
        gradients = {n: w.grad for n, w in stepper.weights.named.items() if w.grad is not None}
        assert gradients.keys() == stepper.weights.named.keys()
        found.append(((row[3] / row[0]).float(), gradients))
    assert all(gradient.dtype == torch.float32 for gradient in found[0][1].values())
    assert_same(*found, tolerance=2e-2)


def test_bf16_copies_are_in_force_again_and_chunks_add_up_in_fp32():
    """256 chunks of the same gradient: summed in bf16, it would have stopped growing long before."""
    layer = nn.Linear(4, 1, bias=False)
    x = torch.ones(1024, 4)
    seen = []

    def run(rows: Tensor) -> Tensor:
        seen.append(layer.weight.dtype)
        return layer(rows.to(layer.weight.dtype)).float()

    weights = CopiedWeights(layer)
    with weights.computing():
        replayed(layer, run, x, 1).sum().backward()
    assert set(seen) == {torch.bfloat16} and len(seen) == 2048
    assert torch.equal(layer.weight.grad, torch.full((1, 4), 1024.0))


def test_bytes_become_pixels_chunk_by_chunk():
    model = tiny.built(tiny.vit(), tiny.causal())
    batch = tiny.noise(PAIRS)
    batch["image"] = torch.randint(0, 256, (PAIRS, 3, tiny.SIDE, tiny.SIDE), dtype=torch.uint8)
    sizes = []

    def prepare(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.float() / 128 - 1

    found = Contrast(chunk=3)(model, batch, prepare)["loss"]
    found.backward()
    assert sizes == [3, 3, 1, 3, 3, 1]
    whole = Contrast()(model, {**batch, "image": batch["image"].float() / 128 - 1})["loss"]
    torch.testing.assert_close(found, whole)


def test_batch_norm_is_refused_unless_it_is_at_rest():
    model, batch = tiny.built(tiny.resnet(), tiny.causal()), tiny.noise(PAIRS)
    with pytest.raises(InputError, match=r"batch norm \('trunk\..*chunk"):
        Contrast(chunk=3)(model, batch)
    assert Contrast(chunk=PAIRS)(model, batch)["loss"].isfinite(), "one chunk is the whole batch"
    freeze(model.image)
    assert_same(gradients(model, Contrast(chunk=3), batch), gradients(model, Contrast(), batch))


def test_weights_that_changed_in_between_are_noticed():
    model, batch = tiny.built(tiny.vit(), tiny.causal()), tiny.noise(PAIRS)
    loss = Contrast(chunk=3)(model, batch)["loss"]
    with torch.no_grad():
        model.image.head.project.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_one_gradient_for_two_weights_is_two_gradients():
    """Autograd hands the same tensor to both summands; adding chunks in place must not count them twice."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x * 1.0 + (self.a + self.b)

    both = Both()
    replayed(both, both, torch.zeros(6, 3), 2).sum().backward()
    assert torch.equal(both.a.grad, torch.full((2, 3), 3.0)) and torch.equal(both.b.grad, both.a.grad)
