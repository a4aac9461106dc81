"""Batches: every pair once an epoch, within the budget, with little padding, and the same on any number of workers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.batches import Position, TokenBatches, shard
from tessella.data.pairs import PairData, stream
from tessella.data.parallel import Pair, read_split
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.text import Codec, CodecSpec, SpecialIds, Tokenizer, train_codec

SHARED = Path(__file__).parents[2] / "shared" / "data"
LENGTHS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=200)
PAIRS = [Pair(" ".join(["dog"] * (1 + i % 7)), " ".join(["Hund"] * (1 + i % 5)), i + 1) for i in range(50)]
CODEC = train_codec(CodecSpec(size=300), ["dog"] * 5, ["Hund"] * 5)


@settings(max_examples=150, deadline=None)
@given(
    LENGTHS,
    st.integers(1, 500),
    st.integers(0, 9),
    st.integers(1, 80),
    st.sampled_from([0.0, 0.2, 3.0]),
    st.integers(1, 8),
)
def test_every_pair_once_and_within_the_budget(lengths, budget, seed, pool, noise, multiple) -> None:
    batches = TokenBatches(lengths, budget, seed, pool, noise, multiple)
    for number in (0, 1):
        epoch = batches.epoch(number)
        assert sorted(index for batch in epoch for index in batch) == list(range(len(lengths)))
        for batch in epoch:
            longest = np.asarray(lengths)[batch].max(0).sum()
            assert len(batch) == 1 or len(batch) * longest <= budget
        assert epoch == TokenBatches(lengths, budget, seed, pool, noise, multiple).epoch(number)


def test_epochs_and_seeds_differ() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 30, (1000, 2))
    batches = TokenBatches(lengths, 1000, seed=1)
    groups = [
        {frozenset(b) for b in e} for e in (batches.epoch(0), batches.epoch(1), TokenBatches(lengths, 1000).epoch(0))
    ]
    assert not groups[0] & groups[1] and not groups[0] & groups[2]


def test_rows_can_be_rounded() -> None:
    lengths = np.random.default_rng(0).integers(5, 30, (1000, 2))
    rows = [len(batch) for batch in TokenBatches(lengths, 1000, multiple=8).epoch(0)]
    assert sum(n % 8 != 0 for n in rows) <= 1 and sum(rows) == 1000


@given(LENGTHS, st.integers(1, 500), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_shards_make_up_the_global_batches(lengths, budget, world) -> None:
    batches = TokenBatches(lengths, budget).epoch(0)
    parts = [shard(batches, rank, world) for rank in range(world)]
    for number, batch in enumerate(batches):
        held = [part[number] for part in parts]
        assert sorted(index for rows in held for index in rows) == sorted(batch)
        assert all(held) or len(batch) < world


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"lengths": []}, "no pairs"),
        ({"budget": 0}, "budget .* at least 1"),
        ({"noise": -1.0}, "noise"),
        ({"multiple": 0}, "multiple"),
        ({"lengths": [(1, -1)]}, "negative"),
    ],
)
def test_unusable_settings(settings_, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenBatches(**({"lengths": [(1, 1)], "budget": 5} | settings_))
    with pytest.raises(InputError, match="rank 2"):
        shard([[1]], 2, 2)


def test_positions_advance_and_survive_json() -> None:
    assert Position().advance(2) == Position(0, 1) and Position(0, 1).advance(2) == Position(1, 0)
    assert Position.from_dict(Position(3, 4).to_dict()) == Position(3, 4)
    for wrong in ({}, {"epoch": -1, "batch": 0}, {"epoch": 1.0, "batch": 0}, [1, 2], None, {"epoch": True, "batch": 0}):
        with pytest.raises(InputError, match="position needs"):
            Position.from_dict(wrong)  # type: ignore[arg-type]


def test_collate_gives_the_contract() -> None:
    data = PairData([[5, 6, 2], [7, 2]], [[1, 8, 2], [1, 8, 9, 2]], pads=(0, 3))
    batch = data.collate([1, 0])
    assert batch["source"].tolist() == [[7, 2, 0], [5, 6, 2]]
    assert batch["target"].tolist() == [[1, 8, 9, 2], [1, 8, 2, 3]]
    assert batch["index"].tolist() == [1, 0] and all(t.dtype == torch.long for t in batch.values())
    assert data.lengths.tolist() == [[3, 3], [2, 4]]
    empty = data.collate([])
    assert empty["source"].shape == empty["target"].shape == (0, 1) and empty["index"].dtype == torch.long
    assert len(pickle.dumps(data)) < 2000
    with pytest.raises(InputError, match="1 sources but 0 targets"):
        PairData([[1]], [])


def test_pairs_are_encoded_with_the_codecs_own_ids() -> None:
    data = PairData.from_pairs(PAIRS, CODEC)
    batch = data.collate([0, 3])
    assert batch["source"][0].tolist()[-4:] == [2, 0, 0, 0] and batch["target"][:, 0].tolist() == [1, 1]
    assert CODEC.target.decode(batch["target"].tolist()) == [PAIRS[0].target, PAIRS[3].target]
    marian = Tokenizer(CODEC.source.model, SpecialIds(pad=7, bos=7, eos=2, unk=3))
    assert PairData.from_pairs(PAIRS[:1], Codec(CODEC.source, marian)).collate([0])["target"][0, 0] == 7


def test_long_pairs_are_set_aside() -> None:
    quarantine = Quarantine()
    data = PairData.from_pairs(PAIRS, CODEC, max_tokens=5, quarantine=quarantine, where="train.de")
    assert len(data) + len(quarantine) == len(PAIRS) and data.lengths.max() == 5
    assert next(iter(quarantine)).reason == "over 5 tokens"
    with pytest.raises(InputError, match=r"pairs line 4 has .* tokens, the limit is 5"):
        PairData.from_pairs(PAIRS[3:], CODEC, max_tokens=5)


def same(one, two) -> bool:
    return all(p == q and all(torch.equal(x[k], y[k]) for k in x) for (p, x), (q, y) in zip(one, two, strict=True))


def test_the_stream_goes_on_from_any_position() -> None:
    data = PairData.from_pairs(PAIRS, CODEC)
    batches = TokenBatches(data.lengths, 60, seed=3)
    whole = list(stream(data, batches, epochs=2))
    assert whole[-1][0] == Position(2, 0)
    for number in (0, 1, len(whole) // 2, len(whole) - 2):
        assert same(stream(data, batches, whole[number][0], epochs=2), whole[number + 1 :])
    assert list(stream(data, batches, Position(2, 0), epochs=2)) == []
    with pytest.raises(InputError, match="is it other data"):
        next(stream(data, batches, Position(0, 10_000)))
    with pytest.raises(InputError, match="the batches are of 1 pairs, the data has 50"):
        next(stream(data, TokenBatches([(1, 1)], 5)))


def test_every_process_sees_its_rows_of_the_same_batches() -> None:
    data = PairData.from_pairs(PAIRS, CODEC)
    batches = TokenBatches(data.lengths, 60, seed=3)
    ranks = [list(stream(data, batches, epochs=1, rank=rank, world=3)) for rank in range(3)]
    for (after, whole), *parts in zip(stream(data, batches, epochs=1), *ranks, strict=True):
        assert all(position == after for position, _ in parts)
        assert sorted(torch.cat([part["index"] for _, part in parts]).tolist()) == sorted(whole["index"].tolist())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_change_nothing(start: str) -> None:
    data = PairData.from_pairs(PAIRS, CODEC)
    batches = TokenBatches(data.lengths, 60, seed=3)
    before = torch.get_rng_state()
    workers = 2 if start == "fork" else 1
    assert same(
        stream(data, batches, Position(0, 1), 2, workers=workers, start=start), stream(data, batches, Position(0, 1), 2)
    )
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not (SHARED / "multi30k").is_dir(), reason="needs the multi30k data set beside the repository")
def test_little_is_padding_on_real_text() -> None:
    pairs = read_split(SHARED / "multi30k", "train", ("de", "en"))
    lengths = np.array([[len(p.source.split()) * 7 // 5, len(p.target.split()) * 7 // 5] for p in pairs])
    batches = TokenBatches(lengths, 4096)
    assert batches.padding(batches.epoch(0)) <= 0.07
