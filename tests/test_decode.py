"""Search: beam 1 is greedy, a wide beam is exhaustive, hypotheses and sentences come and go without a trace."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tessella.decode import Decoding, beam, greedy, search
from tessella.repeats import completions, degenerate
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
@example(185, "gnmt", 0.0)  # two sentences as likely as each other
@given(st.integers(0, 10_000), st.sampled_from(["gnmt", "power"]), st.sampled_from([0.0, 0.6, 1.0]))
def test_a_wide_beam_is_exhaustive(seed, penalty, alpha):
    step, state, table, bias = fresh(2, 4, seed)
    how = Decoding(beam=64, nbest=3, alpha=alpha, penalty=penalty)
    found = search(step, state, how, start=START, end=END, limits=torch.tensor([4, 3]))
    for i, limit in enumerate([4, 3]):
        every = exhaustive(table, bias[i], limit, how)
        expected = every[:3]
        assert [h.score for h in found[i]] == pytest.approx([score for score, _ in expected], abs=1e-4)
        gaps = [a - b for (a, _), (b, _) in itertools.pairwise(every[:4])]
        if min(gaps) > 1e-5:
            assert [h.ids for h in found[i]] == [ids for _, ids in expected]
        else:  # as likely as each other but for rounding: whichever is found, its score is its own
            own = {tuple(ids): score for score, ids in every}
            assert len({tuple(h.ids) for h in found[i]}) == 3
            assert [own[tuple(h.ids)] for h in found[i]] == pytest.approx([h.score for h in found[i]], abs=1e-4)


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


def repeats(ids: list[int], n: int) -> bool:
    """Whether an n-gram comes twice, by looking at all of them."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) < len(grams)


def exhaustive_without_repeats(table, bias, limit: int, how: Decoding):
    """Every sentence in which no n-gram comes twice; what would make one has no share of the probability."""
    found, begun = [], [([], 0, START, 0.0)]
    while begun:
        ids, before, last, total = begun.pop()
        logits = (table[before, last] + bias).clone()
        for word in range(len(logits)):
            if word != END and repeats([*ids, word], how.no_repeat):
                logits[word] = float("-inf")
        for word, logprob in enumerate(logits.log_softmax(-1).tolist()):
            if logprob == float("-inf"):
                continue
            longer, length = ids if word == END else [*ids, word], len(ids) + 1
            if word == END or length == limit:
                found.append(((total + logprob) / how.divisor(length), longer))
            else:
                begun.append((longer, last, word, total + logprob))
    return sorted(found, reverse=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_a_wide_beam_without_repeats_is_exhaustive(seed, n):
    step, state, table, bias = fresh(2, 4, seed)
    how = Decoding(beam=200, nbest=3, no_repeat=n)
    found = search(step, state, how, start=START, end=END, limits=torch.tensor([5, 4]))
    for i, limit in enumerate([5, 4]):
        expected = exhaustive_without_repeats(table, bias[i], limit, how)[:3]
        assert [h.ids for h in found[i]] == [ids for _, ids in expected]
        assert [h.score for h in found[i]] == pytest.approx([score for score, _ in expected], abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([1, 3]))
def test_no_ngram_comes_twice_where_it_is_forbidden(seed, n, width):
    step, state, *_ = fresh(3, 9, seed)
    limits = torch.full((3,), 8)
    forbid = [START, END]  # so that answers are long; with single words forbidden, seven are left for eight places
    plain = search(step, state, Decoding(beam=width), start=START, end=END, limits=limits - 1, forbid=forbid)
    how = Decoding(beam=width, no_repeat=n)
    found = search(step, state, how, start=START, end=END, limits=limits - 1, forbid=forbid)
    assert not any(repeats(h.ids, n) for answers in found for h in answers)
    for before, after in zip(plain, found, strict=True):
        if width == 1 and not repeats(before[0].ids, n):
            assert before[0].ids == after[0].ids  # what greedy search does not repeat, nothing was forbidden of


def test_a_rule_that_never_applies_changes_nothing():
    step, state, *_ = fresh(4, 7, 11)
    limits = torch.tensor([9, 4, 7, 2])
    found = [
        search(step, state, Decoding(beam=4, nbest=2, no_repeat=n), start=START, end=END, limits=limits)
        for n in (0, 10)
    ]
    assert found[0] == found[1]


def test_completions_are_found_row_by_row():
    rows, words = completions(torch.tensor([[5, 6, 7, 5, 6], [1, 2, 3, 4, 1]]), 3)
    assert (rows.tolist(), words.tolist()) == ([0], [7])
    rows, words = completions(torch.tensor([[5, 6, 5, 7, 5]]), 2)
    assert (rows.tolist(), sorted(words.tolist())) == ([0, 0], [6, 7])


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("", True),
        ("a dog dog runs", True),
        ("a man in a man in a hat", True),
        ("Two Two dogs", True),
        ("a man in a red shirt and a man in a blue shirt", False),
        ("a dog is running .", False),
    ],
)
def test_degenerate_texts_say_something_twice_in_a_row(text, lost):
    assert degenerate(text) is lost
