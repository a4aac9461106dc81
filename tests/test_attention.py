"""Attention and positions: the equations, and what the article claims of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tessella.attention import Additive, Attention, Dot, causal_mask, watch
from tessella.errors import InputError
from tessella.positions import LearnedPositions, SinusoidalPositions, sinusoids
from tessella.stems.words import Words
from tessella.tokens import Tokens
from tessella.trunks.plain import Plain


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 999))
def test_dot_is_the_paper_s_equation(b, h, n, m, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, h, s, 8, generator=generator, dtype=torch.float64) for s in (n, m, m))
    mask = torch.rand(b, 1, n, m, generator=generator) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(8)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    expected = torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v)
    torch.testing.assert_close(Dot()(q, k, v, mask), expected)
    torch.testing.assert_close(Dot()(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


def test_dot_learns_what_the_fused_kernel_learns():
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = causal_mask(5, 5, q.device)
    weight = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    ours = torch.autograd.grad((Dot()(q, k, v, mask) * weight).sum(), [q, k, v])
    theirs = torch.autograd.grad((F.scaled_dot_product_attention(q, k, v, mask) * weight).sum(), [q, k, v])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_additive_is_bahdanau_s_equation():
    scorer = Additive(6)
    q, k, v = torch.randn(2, 1, 1, 6), torch.randn(2, 1, 5, 6), torch.randn(2, 1, 5, 3)
    energies = torch.stack([torch.tanh(q[:, 0, 0] + k[:, 0, j]) @ scorer.weight for j in range(5)], dim=-1)
    expected = torch.einsum("bm,bmd->bd", energies.softmax(-1), v[:, 0])
    torch.testing.assert_close(scorer(q, k, v)[:, 0, 0], expected)


def test_heads_are_slices_of_one_projection():
    attn = Attention(12, 3)
    x = torch.randn(2, 5, 12)
    q, k, v = (p(x) for p in (attn.q, attn.k, attn.v))
    heads = [F.scaled_dot_product_attention(*(t[..., i * 4 : i * 4 + 4] for t in (q, k, v))) for i in range(3)]
    torch.testing.assert_close(attn(x), attn.out(torch.cat(heads, dim=-1)))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="12 is not divisible by heads 5"):
        Attention(12, 5)


def test_scaling_keeps_softmax_soft():
    """Without 1/sqrt(d), products of d = 512 independent numbers have variance d, and softmax picks one key."""
    torch.manual_seed(0)
    q, k = torch.randn(200, 512), torch.randn(64, 512)
    products = q @ k.T
    assert products.var() == pytest.approx(512, rel=0.1)

    def entropy(scores):
        p = scores.softmax(-1)
        return float(-(p * p.clamp(min=1e-30).log()).sum(-1).mean())

    assert entropy(products) < 0.4
    assert entropy(products / 512**0.5) > 3.5  # of ln 64 = 4.16


def test_sinusoids_are_unique_and_know_distances():
    table = sinusoids(5000, 512).double()
    torch.testing.assert_close(table.norm(dim=1), torch.full((5000,), 16.0, dtype=torch.float64), atol=1e-3, rtol=0)
    nearest = (table[1:] - table[:-1]).norm(dim=1)
    assert float(nearest.min()) == pytest.approx(3.71, abs=0.01)
    distances = torch.cdist(table[::7], table[::7]).fill_diagonal_(99)
    assert float(distances.min()) > 3.7
    products = table[:200] @ table[:200].T
    for offset in (1, 5, 50):
        row = products.diagonal(offset)
        torch.testing.assert_close(row, row[:1].expand_as(row), atol=2e-3, rtol=0)


def test_both_layouts_hold_the_same_waves():
    woven, halves = sinusoids(50, 16), sinusoids(50, 16, "halves")
    torch.testing.assert_close(woven[:, 0::2], halves[:, :8])
    torch.testing.assert_close(woven[:, 1::2], halves[:, 8:])
    assert woven[3, 0] == pytest.approx(math.sin(3))
    assert woven[3, 1] == pytest.approx(math.cos(3))


def test_sinusoids_grow_with_the_sentence_and_learned_positions_refuse():
    place = SinusoidalPositions(8)
    x = torch.zeros(1, 700, 8)
    torch.testing.assert_close(place(x)[0], sinusoids(700, 8))
    torch.testing.assert_close(place(x[:, :3], start=600)[0], sinusoids(603, 8)[600:])
    with pytest.raises(InputError, match="12 tokens are more than the 10"):
        LearnedPositions(10, 8)(torch.zeros(1, 4, 8), start=8)


def test_without_positions_a_sentence_is_a_bag_of_words():
    bag = Words(vocab=30, dim=16, positions={"kind": "no-positions"}).build().eval().double()
    placed = Words(vocab=30, dim=16).build().eval().double()
    encoder = Plain(dim=16, depth=2, heads=4, hidden=32).build().eval().double()
    ids, order = torch.randint(1, 30, (2, 9)), torch.randperm(9)

    def encode(stem, rows):
        return encoder(stem(rows)).x

    torch.testing.assert_close(encode(bag, ids)[:, order], encode(bag, ids[:, order]), atol=1e-12, rtol=0)
    assert (encode(placed, ids)[:, order] - encode(placed, ids[:, order])).abs().max() > 1e-3


def test_a_masked_token_has_no_influence_at_all():
    encoder = Plain(dim=16, depth=2, heads=2, hidden=32).build().eval()
    x, keep = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    keep[:, 4:] = False
    changed = x.clone()
    changed[:, 4:] = torch.randn(2, 2, 16) * 100
    assert torch.equal(encoder(Tokens(x, keep)).x[:, :4], encoder(Tokens(changed, keep)).x[:, :4])


def test_watching_ends_even_after_an_error():
    attn = Attention(8, 2)
    with pytest.raises(RuntimeError, match="stop"), watch(attn):
        raise RuntimeError("stop")
    assert attn.attend.seen is None


def test_calls_are_joined_along_the_queries():
    attn = Attention(8, 2)
    with watch(attn) as seen:
        attn(torch.randn(1, 3, 8))
        attn(torch.randn(1, 1, 8), attn.keys_values(torch.randn(1, 3, 8)))
    assert seen["attend"].shape == (1, 2, 4, 3)
    assert list(seen) == ["attend"]
    with pytest.raises(KeyError):
        seen["elsewhere"]
