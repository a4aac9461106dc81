"""Inference: a prepared model computes what the plain one does, whoever searches with it and whoever looks on."""

from __future__ import annotations

import copy

import pytest
import torch

from tessella.attention import watch
from tessella.blocks import ACTIVATIONS
from tessella.decode import Decoding, _largest, _normaliser, search
from tessella.errors import InputError
from tessella.inference import products
from tessella.inference.prepare import prepare
from tessella.models import EncoderDecoder
from tessella.stems.words import Words
from tessella.trunks.plain import Plain, PlainDecoder
from tessella.zoo.seq2seq import seq2seq
from tessella.zoo.transformer import transformer

VOCAB = 701
CLOSE = {"float32": 1e-5, "bfloat16": 0.2, "int8": 0.3}
"""How far logits of a standard deviation of about 3 may lie from those in fp32."""

int8 = pytest.param("int8", marks=pytest.mark.skipif(not products.quantises(), reason="needs AVX-512"))


def strong(spec):
    """A model with weights large enough for its answers to differ."""
    torch.manual_seed(0)
    model = spec.build().eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" not in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
        elif name == "source.embedding.weight":
            torch.nn.init.normal_(parameter, 0, 3 * parameter.shape[1] ** -0.5)
    return model


def plain(**changes):
    return strong(transformer("tiny", vocab=VOCAB, **changes))


def texts():
    source, target = torch.randint(4, VOCAB, (5, 9)), torch.randint(4, VOCAB, (5, 12))
    source[1, 6:], source[4, 2:] = 0, 0
    return source, target


@pytest.mark.parametrize("norm", ["post", "post+final", "pre"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", int8])
def test_prepared_computes_what_was_defined(dtype, norm):
    model, (source, target) = plain(norm=norm), texts()
    fast = prepare(copy.deepcopy(model), dtype)
    with torch.inference_mode():
        expected = model(source, target)
        assert (fast(source, target).float() - expected).abs().max() < CLOSE[dtype] * expected.std() / 3
        state, steps = fast.begin(fast.encode(source)), []
        for t in range(target.shape[1]):
            logits, state = fast.step(target[:, t : t + 1], state)
            steps.append(logits.float())
        assert (torch.stack(steps, 1) - expected).abs().max() < CLOSE[dtype] * expected.std() / 3


def test_bfloat16_is_as_near_as_plain_bfloat16():
    model, (source, target) = plain(), texts()
    fast, slow = prepare(copy.deepcopy(model), "bfloat16"), copy.deepcopy(model).to(torch.bfloat16)
    with torch.inference_mode():
        expected = model(source, target)
        errors = [(m(source, target).float() - expected).pow(2).mean().sqrt() for m in (fast, slow)]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_searches_find_the_same(width, monkeypatch):
    """Long enough for a small cache to be compacted and to grow; sentences leave one by one."""
    monkeypatch.setattr("tessella.inference.decoder.COLUMNS", 8)
    model, (source, _) = plain(), texts()
    fast = prepare(copy.deepcopy(model), "float32")
    how = Decoding(beam=width, nbest=min(width, 2))
    found = []
    for one in (model, fast):
        with torch.inference_mode():
            begun = one.begin(one.encode(source))
        limits = torch.tensor([30, 5, 20, 9, 6])
        found.append(search(one.step, begun, how, start=1, end=2, limits=limits, forbid=[0, 1, 3]))
    for a, b in zip(*found, strict=True):
        assert [h.ids for h in a] == [h.ids for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-3)


def test_pieces_of_any_length_are_read_like_single_words():
    model, (source, target) = plain(), texts()
    fast = prepare(copy.deepcopy(model), "float32")
    with torch.inference_mode():
        expected = model(source, target)
        begun = fast.begin(fast.encode(source))
        first, state = fast.features(target[:, :5], begun)
        rows = torch.arange(5).repeat_interleave(2)
        state = state.select(rows)
        second, state = fast.features(target[rows, 5:8], state)
        state = state.select(torch.tensor([9, 1]), torch.tensor([4, 0]))
        third, _ = fast.features(target[[4, 0], 8:], state)
        assert (fast.head(first) - expected[:, :5]).abs().max() < 1e-5 * expected.std()
        assert (fast.head(second) - expected[rows, 5:8]).abs().max() < 1e-5 * expected.std()
        assert (fast.head(third) - expected[[4, 0], 8:]).abs().max() < 1e-5 * expected.std()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", int8])
def test_watching_sees_the_same_maps(dtype):
    model, (source, target) = plain(), texts()
    fast = prepare(copy.deepcopy(model), dtype)
    maps = []
    for one in (model, fast):
        with torch.inference_mode(), watch(one) as seen:
            one(source, target)
            maps.append({name: seen[name].float() for name in seen})
    assert maps[0].keys() == maps[1].keys()
    assert all((maps[0][name] - maps[1][name]).abs().max() < 0.1 for name in maps[0])
    with torch.inference_mode():
        before = fast.step(target[:, :1], fast.begin(fast.encode(source)))[0]
        with watch(fast) as seen:
            after = fast.step(target[:, :1], fast.begin(fast.encode(source)))[0]
        assert len(seen) and (before - after).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", int8])
@pytest.mark.parametrize("attention", ["none", "additive", "dot", "general"])
def test_recurrent_models_pass_unharmed(attention, dtype):
    model = seq2seq(VOCAB, attention, dim=32, hidden=32).build().eval()
    source, target = texts()
    fast = prepare(copy.deepcopy(model), dtype)
    with torch.inference_mode():
        expected = model(source, target)
        assert (fast(source, target).float() - expected).abs().max() < CLOSE[dtype] * expected.std()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", int8])
def test_every_activation_stays_what_it_is(activation, dtype):
    stack = {"dim": 32, "depth": 1, "heads": 2, "hidden": 48, "activation": activation}
    words = Words(vocab=VOCAB, dim=32)
    spec = EncoderDecoder(
        source=words, encoder=Plain(**stack), target=words, decoder=PlainDecoder(**stack, memory=32), bias=True
    )
    model, (source, target) = strong(spec), texts()
    with torch.inference_mode():
        expected = model(source, target)
        found = prepare(model, dtype)(source, target)
    assert (found - expected).abs().max() < CLOSE[dtype] * expected.std()


def test_without_the_private_operations_it_is_slower_and_equal(monkeypatch):
    monkeypatch.setattr("tessella.inference.products.packs", lambda weight: False)
    model, (source, target) = plain(), texts()
    with torch.inference_mode():
        expected = model(source, target)
        assert (prepare(model, "float32")(source, target) - expected).abs().max() < 1e-5 * expected.std()


@pytest.mark.skipif(not products.quantises(), reason="needs AVX-512")
def test_in_int8_no_row_depends_on_another():
    model, (source, _) = plain(), texts()
    fast = prepare(model, "int8")
    with torch.inference_mode():
        together = fast.encode(source).x
        for i in range(len(source)):
            assert (fast.encode(source[i : i + 1]).x - together[i]).abs().max() < 1e-4


def test_a_dtype_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(InputError, match="no dtype 'int4'; known: float32, bfloat16, int8"):
        prepare(plain(), "int4")
    monkeypatch.setattr("tessella.inference.prepare.quantises", lambda: False)
    with pytest.raises(InputError, match="int8 needs a processor"):
        prepare(plain(), "int8")


@pytest.mark.parametrize(("v", "k"), [(33_001, 10), (5_120, 10), (700, 3), (6, 10)])
def test_the_largest_are_the_largest(v, k):
    x = torch.randn(7, v)
    x[:, 5 % v] = float("-inf")
    values, ids = _largest(x, k)
    expected = x.topk(min(k, v), dim=1)
    assert torch.equal(values, expected.values) and torch.equal(ids, expected.indices)
    assert torch.allclose(_normaliser(x)[:, 0], x.logsumexp(1), atol=1e-5)
