"""Search: beam 1 is greedy, a wide beam is exhaustive, hypotheses and sentences come and go without a trace."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.decode import Decoding, beam, greedy, search
from tessella.state import State

START, END = 0, 1


def markov(table: torch.Tensor, per_sentence: torch.Tensor | None = None):
    """A step whose next word depends on the last two and, through the memory, on the sentence."""

    def step(ids, state):
        before = state.past["before"]
        logits = table[before, ids[:, 0]]
        if per_sentence is not None:
            rows = len(ids) // len(state.memory["bias"])
            logits = logits + state.memory["bias"].repeat_interleave(rows, 0)
        return logits, state.after({"before": ids[:, 0]}, 1)

    return step


def fresh(b: int, words: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(words, words, words, generator=generator) * 2
    bias = torch.randn(b, words, generator=generator)
    state = State(memory={"bias": bias}, past={"before": torch.zeros(b, dtype=torch.long)})
    return markov(table, bias), state, table, bias


def exhaustive(table, bias, limit: int, how: Decoding):
    """Every sentence up to the limit, best first."""
    scored = []
    words = range(table.shape[0])
    for n in range(1, limit + 1):
        for sentence in itertools.product(words, repeat=n):
            if END in sentence[:-1] or (n < limit and sentence[-1] != END):
                continue
            before, last, total = 0, START, 0.0
            for word in sentence:
                total += float((table[before, last] + bias).log_softmax(-1)[word])
                before, last = last, word
            scored.append((total / how.divisor(n), [w for w in sentence if w != END]))
    return sorted(scored, reverse=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["gnmt", "power"]), st.sampled_from([0.0, 0.6, 1.0]))
def test_a_wide_beam_is_exhaustive(seed, penalty, alpha):
    step, state, table, bias = fresh(2, 4, seed)
    how = Decoding(beam=64, nbest=3, alpha=alpha, penalty=penalty)
    found = search(step, state, how, start=START, end=END, limits=torch.tensor([4, 3]))
    for i, limit in enumerate([4, 3]):
        expected = exhaustive(table, bias[i], limit, how)[:3]
        assert [h.ids for h in found[i]] == [ids for _, ids in expected]
        assert [h.score for h in found[i]] == pytest.approx([score for score, _ in expected], abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 2.0]))
def test_a_beam_of_one_is_greedy(seed, alpha):
    step, state, *_ = fresh(5, 8, seed)
    limits = torch.tensor([9, 3, 1, 12, 6])
    penalty = Decoding(alpha=alpha).divisor
    one = beam(step, state, 1, 1, penalty, start=START, end=END, limits=limits, forbid=[5])
    plain = greedy(step, state, start=START, end=END, limits=limits, penalty=penalty, forbid=[5])
    assert [h[0].ids for h in one] == [h.ids for h in plain]
    assert [h[0].score for h in one] == pytest.approx([h.score for h in plain], abs=1e-4)
    assert [h[0].ended for h in one] == [h.ended for h in plain]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_a_sentence_is_searched_the_same_alone_and_in_a_batch(seed, width):
    step, state, *_ = fresh(4, 7, seed)
    limits = torch.tensor([10, 4, 7, 2])
    how = Decoding(beam=width, nbest=2)
    together = search(step, state, how, start=START, end=END, limits=limits)
    for i in range(4):
        row = torch.tensor([i])
        alone = search(step, state.select(row, row), how, start=START, end=END, limits=limits[row])
        assert [h.ids for h in alone[0]] == [h.ids for h in together[i]]


def test_forbidden_words_are_never_written():
    step, state, *_ = fresh(3, 6, 1)
    limits = torch.full((3,), 8)
    for width in (1, 3):
        found = search(step, state, Decoding(beam=width), start=START, end=END, limits=limits, forbid=[START, END, 4])
        assert all(len(h.ids) == 8 and not {START, END, 4} & set(h.ids) and not h.ended for f in found for h in f)


def test_longer_is_allowed_by_alpha():
    step, state, *_ = fresh(6, 8, 3)
    limits = torch.full((6,), 20)
    lengths = [
        sum(len(f[0].ids) for f in search(step, state, Decoding(alpha=a), start=START, end=END, limits=limits))
        for a in (0.0, 2.0)
    ]
    assert lengths[0] <= lengths[1]


@pytest.mark.parametrize("bad", [{"beam": 0}, {"beam": 2, "nbest": 3}, {"alpha": -1.0}])
def test_senseless_settings_are_refused(bad):
    with pytest.raises(ValueError, match=r"must"):
        Decoding(**bad)
