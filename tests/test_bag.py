"""A text as one token: by hand, without padding, and refused nothing."""

from __future__ import annotations

import torch

from tessella.stems.bag import Bag
from tessella.stems.streams import Streams


def test_the_token_is_the_sum_of_words_and_pairs_over_the_root_of_their_number():
    stem = Bag(vocab=20, dim=6, buckets=11).build().eval()
    ids = torch.tensor([[5, 9, 7, 2]])
    tokens = stem(ids)
    assert tokens.x.shape == (1, 1, 6) and tokens.keep.all()
    (buckets,) = stem.hashed(ids)[0].tolist()
    expected = stem.embedding.weight[ids[0]].sum(0) + stem.pairs.weight[buckets].sum(0)
    torch.testing.assert_close(tokens.x[0, 0], expected / 7**0.5)


def test_padding_is_no_word_and_makes_no_pair():
    stem = Bag(vocab=20, dim=6, buckets=11).build().eval()
    short, long = stem(torch.tensor([[5, 9, 2]])), stem(torch.tensor([[5, 9, 2, 0, 0]]))
    torch.testing.assert_close(short.x, long.x)
    assert not stem(torch.zeros(1, 4, dtype=torch.long)).keep.any()


def test_order_counts_for_neighbours_only():
    stem = Bag(vocab=50, dim=6, buckets=10_007).build().eval()
    first, turned = stem(torch.tensor([[5, 9, 7]])).x, stem(torch.tensor([[7, 9, 5]])).x
    assert not torch.allclose(first, turned)


def test_what_is_forgotten_is_made_up_for_on_average():
    stem = Bag(vocab=20, dim=6, buckets=11, forget=0.5, spread=1.0).build()
    ids = torch.tensor([[5, 9, 7, 2]]).expand(20_000, -1)
    mean = stem.train()(ids).x.mean(dim=0)
    torch.testing.assert_close(mean, stem.eval()(ids[:1]).x[0], atol=0.05, rtol=0)


def test_a_text_of_no_words_is_an_absent_stream():
    stem = Streams(dim=6, stems={"text": Bag(vocab=20, dim=6, buckets=11)}).build().eval()
    tokens = stem({"text": torch.tensor([[0, 0], [5, 2]])})
    torch.testing.assert_close(tokens.x[0, 0], stem.absent[0])
