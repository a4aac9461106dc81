"""Match scores against sorting by hand, against what chance does, and where everything is alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella import match_scores
from tessella.match_scores import Recall, owners, retrieval


def by_hand(scores: np.ndarray, right: np.ndarray) -> list[float]:
    """The rank of the best right candidate of each query, one comparison after the other."""
    ranks = []
    for row, good in zip(scores, right, strict=True):
        best = max(score for score, ok in zip(row, good, strict=True) if ok)
        above = sum(score > best for score, ok in zip(row, good, strict=True) if not ok)
        level = sum(score == best for score, ok in zip(row, good, strict=True) if not ok)
        ranks.append(1 + above + level / 2)
    return ranks


counts = st.lists(st.integers(1, 4), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 2**24]), st.booleans())
def test_ranks_are_those_of_sorting_by_hand(counts, seed, at_once, coarse):
    """In blocks of any size; coarse vectors of few values have many ties."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    draw = (lambda n: rng.integers(-1, 2, (n, 3))) if coarse else (lambda n: rng.standard_normal((n, 3)))
    images, texts = draw(len(counts)).astype(np.float32), draw(len(owner)).astype(np.float32)
    usual, match_scores.AT_ONCE = match_scores.AT_ONCE, at_once
    try:
        by_text, by_image = retrieval(images, texts, owner)
    finally:
        match_scores.AT_ONCE = usual
    right = owner[:, None] == np.arange(len(counts))[None]
    assert by_text.ranks.tolist() == by_hand(texts @ images.T, right)
    assert by_image.ranks.tolist() == by_hand(images @ texts.T, right.T)
    assert (by_text.candidates, by_image.candidates) == (len(counts), len(owner))
    for one in (by_text, by_image):
        assert all((one.ranks >= 1) & (one.ranks <= one.candidates))
        assert 0 < one.mean_reciprocal <= 1 and one.at(1) <= one.at(5) <= one.at(10)


def test_what_belongs_together_is_found():
    images = np.eye(6, dtype=np.float32)
    by_text, by_image = retrieval(images, images.repeat(3, axis=0), np.repeat(np.arange(6), 3))
    for one in (by_text, by_image):
        assert one.at(1) == one.median == one.mean_reciprocal == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40))
def test_a_model_that_tells_nothing_apart_stands_in_the_middle(n):
    """As chance does: the median of n places is (n + 1) / 2."""
    same = np.ones((n, 4), np.float32)
    by_text, by_image = retrieval(same, same, np.arange(n))
    assert by_text.ranks.tolist() == by_image.ranks.tolist() == [(n + 1) / 2] * n
    assert by_text.at(1) == 0


@pytest.mark.parametrize(("candidates", "relevant"), [(20, 1), (30, 5), (12, 2), (7, 1)])
def test_chance_is_what_random_orders_give(candidates, relevant):
    rng = np.random.default_rng(candidates)
    places = rng.permuted(np.tile(np.arange(candidates), (40_000, 1)), axis=1)[:, :relevant].min(axis=1) + 1
    chance = Recall(places.astype(float), candidates, float(relevant))
    for k in (1, 5, 10):
        assert chance.chance(k) == pytest.approx(chance.at(k), abs=0.01)
    assert chance.chance(candidates) == 1


def test_chance_of_one_right_answer_is_k_in_n():
    one = Recall(np.ones(1), 500, 1.0)
    assert [one.chance(k) for k in (1, 10)] == pytest.approx([0.002, 0.02])
    assert Recall(np.ones(1), 3, 1.0).chance(10) == 1
    told = one.to_dict()
    assert told["queries"] == 1 and told["candidates"] == 500 and told["chance R@10"] == pytest.approx(0.02)


def test_owners_follow_the_order_of_captions():
    assert owners([("a", "b"), ("c",), ("d", "e")]).tolist() == [0, 0, 1, 2, 2]
