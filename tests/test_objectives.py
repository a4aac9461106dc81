"""What is learned: the loss's equation, padding, and teacher forcing as a ratio."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tessella.objectives import Translate
from tessella.precision import CopiedWeights
from tessella.zoo.catalog import create


@pytest.fixture(params=["transformer_tiny", "seq2seq_gru_additive", "seq2seq_lstm"])
def model(request):
    torch.manual_seed(0)
    return create(request.param, vocab=23).eval()


def pairs(b: int = 4):
    source, target = torch.randint(4, 23, (b, 6)), torch.randint(4, 23, (b, 7))
    target[:, 0] = 1
    target[1, 4:] = 0
    return {"source": source, "target": target}


def test_it_is_the_cross_entropy_of_real_words(model):
    batch = pairs()
    found = Translate(smoothing=0.1)(model, batch)
    logits, labels = model(batch["source"], batch["target"][:, :-1]), batch["target"][:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0, label_smoothing=0.1)
    torch.testing.assert_close(found["loss"], expected)
    assert int(found["weight"]) == int((labels != 0).sum())
    real = labels != 0
    assert float(found["accuracy"]) == pytest.approx(float((logits.argmax(-1) == labels)[real].float().mean()))


def test_smoothing_moves_the_loss_by_its_formula(model):
    batch = pairs()
    logits, labels = model(batch["source"], batch["target"][:, :-1]), batch["target"][:, 1:]
    logp = logits.log_softmax(-1)[labels != 0]
    nll = -logp.gather(1, labels[labels != 0][:, None]).mean()
    even = -logp.mean()
    torch.testing.assert_close(Translate(smoothing=0.3)(model, batch)["loss"], 0.7 * nll + 0.3 * even)


def test_reading_every_true_word_one_by_one_is_teacher_forcing(model):
    """The stepwise path with the truth at every step gives the same loss and gradient as the parallel one."""
    batch = pairs()
    forced = Translate()(model, batch)["loss"]
    objective = Translate(forcing=0.999999999)  # the draw is practically always the truth
    stepwise = objective(model, batch)["loss"]
    torch.testing.assert_close(forced, stepwise, atol=1e-5, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad(forced, parameters), torch.autograd.grad(stepwise, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_without_forcing_the_model_reads_its_own_words(model):
    """At forcing 0 the target has no influence on what is read: only on what is scored."""
    batch = pairs()
    seen = []
    read = model.target.forward
    model.target.forward = lambda ids, start=0: seen.append(ids.clone()) or read(ids, start)
    Translate(forcing=0.0)(model, batch)
    model.target.forward = read
    own = batch["target"][:, :1]
    state = model.begin(model.encode(batch["source"]))
    for t, ids in enumerate(seen):
        real = batch["target"][:, t] != 0
        assert torch.equal(ids[real], own[real])
        logits, state = model.step(ids, state)
        own = logits.argmax(-1, keepdim=True)
    assert len(seen) == batch["target"].shape[1] - 1


def test_a_ratio_between_mixes(model):
    batch = pairs(64)
    torch.manual_seed(3)
    free, half, forced = (float(Translate(forcing=f)(model, batch)["loss"].detach()) for f in (0.0, 0.5, 1.0))
    assert len({free, half, forced}) == 3
    torch.manual_seed(3)
    Translate(forcing=0.0)(model, batch)
    assert float(Translate(forcing=0.5)(model, batch)["loss"].detach()) == half, "the draw comes from torch's generator"


@pytest.mark.parametrize("bad", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"forcing": 1.5}])
def test_senseless_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=r"less than|greater than"):
        Translate(**bad)


@pytest.mark.parametrize("name", ["transformer_tiny", "seq2seq_gru_additive", "seq2seq_gru_dot", "seq2seq_lstm"])
def test_bf16_learns_nearly_the_same(name):
    """As training computes: a bf16 copy of the weights (precision.CopiedWeights)."""
    torch.manual_seed(0)
    model, batch = create(name, vocab=23).eval(), pairs()
    exact = Translate()(model, batch)["loss"]
    weights = CopiedWeights(model)
    with weights.computing():
        rough = Translate()(model, batch)["loss"]
        rough.backward()
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.03)
    assert all(w.grad is not None and w.grad.dtype == torch.float32 for w in weights.named.values())
