"""Caption batches: exactly resumable, every caption in its turn, and texts cut to what a model reads."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.augment import DEIT, Augment
from tessella.data.batches import Position
from tessella.data.caption_batches import CaptionData, in_order
from tessella.data.captioned import Captioned, read_captioned
from tessella.data.ids import Reading, Sayings
from tessella.data.picture_batches import Held, Opened, PictureData, source_of, stream
from tessella.data.pixels import Preprocess, normalised
from tessella.errors import InputError
from tessella.text import CodecSpec, Tokenizer, train_codec

SIZE = Preprocess(size=(8, 10))
LIVELY = DEIT.replace(crop="pad", mixup=0, cutmix=0, repeats=1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = ["a dog runs", "two cats sleep", "호랑이 한 마리", *(f"number {number} of many" for number in range(200))]
    return train_codec(CodecSpec(size=400), words, words).source


def texts(counts: list[int]) -> list[tuple[str, ...]]:
    return [tuple(f"number {picture} {text}" for text in range(count)) for picture, count in enumerate(counts)]


def data(counts: list[int], tokenizer: Tokenizer, augment: Augment = LIVELY, seed: int = 0, **more) -> CaptionData:
    pixels = torch.randint(0, 256, (len(counts), 3, 8, 10), dtype=torch.uint8)
    pictures = PictureData(Held(pixels, torch.zeros(len(counts)).long()), SIZE, augment, seed)
    return CaptionData(pictures, Sayings.of(texts(counts), Reading(tokenizer, 12)), **more)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def all_the_same(ones, others) -> bool:
    return all(p == q and same(one, other) for (p, one), (q, other) in zip(ones, others, strict=True))


def test_texts_become_ids(tokenizer: Tokenizer) -> None:
    lines = ["a dog runs", "number 1 of many", "", "호랑이"]
    rows = tokenizer.encode(lines)
    plain = Reading(tokenizer, 100)(lines)
    assert plain.cut == 0 and len(plain) == 4
    table = plain.padded(range(4))
    assert table.dtype == torch.long and table.shape == (4, max(map(len, rows)))
    assert [row[: len(ids)].tolist() for row, ids in zip(table, rows, strict=True)] == rows
    assert all((row[len(ids) :] == tokenizer.pad).all() for row, ids in zip(table, rows, strict=True))
    assert torch.equal(plain.padded([2, 0], full=True)[:, : len(rows[0])], plain.padded([2, 0]))
    assert plain.padded([2, 0], full=True).shape == (2, 100)
    begun = Reading(tokenizer, 100, begin=tokenizer.bos)(lines).padded(range(4))
    assert (begun[:, 0] == tokenizer.bos).all() and torch.equal(begun[:, 1:], table)
    assert Reading(tokenizer, 5)([]).padded([]).shape == (0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=8), st.integers(3, 20), st.booleans())
def test_long_texts_lose_their_end_but_not_eos(tokenizer: Tokenizer, sizes, length, begins) -> None:
    begin = tokenizer.bos if begins else None
    lines = [" ".join(["dog"] * size) for size in sizes]
    ids = Reading(tokenizer, length, begin)(lines)
    whole = [([tokenizer.bos] if begins else []) + row for row in tokenizer.encode(lines)]
    assert ids.cut == sum(len(row) > length for row in whole)
    for number, row in enumerate(whole):
        got = ids.padded([number])[0].tolist()
        assert got == (row if len(row) <= length else [*row[: length - 1], tokenizer.eos])


def test_ten_thousand_words_are_kept_and_cut(tokenizer: Tokenizer) -> None:
    said = Sayings.of([("a dog", " ".join(["number"] * 10_000))], Reading(tokenizer, 32))
    assert said.ids.cut == 1 and said.ids.padded([0, 1]).shape == (2, 32)


def test_unusable_lengths(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="needs 2 at least"):
        Reading(tokenizer, 1)
    with pytest.raises(InputError, match="needs 3 at least"):
        Reading(tokenizer, 2, begin=1)
    with pytest.raises(InputError, match=f"id {tokenizer.size}, but the tokenizer has"):
        Reading(tokenizer, 9, begin=tokenizer.size)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 3))
def test_each_caption_is_shown_once_before_any_twice(tokenizer: Tokenizer, counts, seed) -> None:
    said = Sayings.of(texts(counts), Reading(tokenizer, 12))
    assert said.picture.tolist() == [picture for picture, count in enumerate(counts) for _ in range(count)]
    shown = np.stack([said.shown(epoch, seed) for epoch in range(120)])
    for picture, count in enumerate(counts):
        rows = shown[:, picture]
        if not count:
            assert (rows == -1).all()
            continue
        rounds = rows[: 120 // count * count].reshape(-1, count) - said.starts[picture]
        assert (np.sort(rounds, axis=1) == np.arange(count)).all()
        if count > 2:
            assert len({tuple(order) for order in rounds.tolist()}) > 1  # not always the same order
    assert np.array_equal(shown[7], said.shown(7, seed))


def test_pictures_and_seeds_have_orders_of_their_own(tokenizer: Tokenizer) -> None:
    said = Sayings.of(texts([5] * 400), Reading(tokenizer, 12))
    one, two, later = (said.shown(*key) - said.starts[:-1] for key in ((0, 0), (0, 1), (1, 0)))
    assert np.bincount(one).min() > 50 and (one == two).mean() < 0.3 and (one != later).all()


def test_batches_hold_what_belongs_together(tokenizer: Tokenizer) -> None:
    counts = [3, 1, 5, 2, 2, 4, 1]
    made = data(counts, tokenizer)
    spoken = texts(counts)
    for epoch, (position, batch) in enumerate(islice(stream(made, 7), 6)):
        assert position == Position(epoch + 1, 0)
        assert {name: (value.dtype, len(value)) for name, value in batch.items()} == {
            "image": (torch.float32, 7),
            "text": (torch.long, 7),
            "index": (torch.long, 7),
        }
        assert sorted(batch["index"].tolist()) == list(range(7))
        wanted = made.pictures.batch(epoch, 0, batch["index"].tolist())["image"]
        assert torch.equal(batch["image"], wanted)
        for picture, row in zip(batch["index"].tolist(), batch["text"], strict=True):
            assert row[row != tokenizer.pad].tolist() in tokenizer.encode(list(spoken[picture]))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=25), st.integers(1, 9), st.integers(0, 12))
def test_resumed_anywhere_is_uninterrupted(tokenizer: Tokenizer, counts, size, skipped) -> None:
    torch.manual_seed(0)
    made = data(counts, tokenizer, seed=5)
    whole = list(islice(stream(made, size), 14))
    position = whole[skipped - 1][0] if skipped else Position()
    fresh = CaptionData(made.pictures, made.captions)
    assert all_the_same(whole[skipped:], list(islice(stream(fresh, size, position), 14 - skipped)))


def test_wrong_captions_come_beside(tokenizer: Tokenizer) -> None:
    counts, wrong = [1, 1, 1, 1, 1], [(), ("a dog",), (), ("two cats", "a dog runs"), ()]
    negatives = Sayings.of(wrong, Reading(tokenizer, 12))
    made = data(counts, tokenizer, negatives=negatives)
    seen = set()
    for _, batch in islice(stream(made, 5), 2):
        assert batch["negative"].shape[0] == 2
        seen |= set(tokenizer.decode(batch["negative"].tolist()))
    assert seen == {"a dog", "two cats", "a dog runs"}
    assert "negative" not in made.batch(0, 0, [0, 2])
    assert made.batch(0, 0, [1]).keys() == {"image", "text", "index", "negative"}


def test_bytes_are_normalised_later(tokenizer: Tokenizer) -> None:
    augment = LIVELY.replace(erasing=0)
    torch.manual_seed(1)
    floats = data([2] * 9, tokenizer, augment)
    as_bytes = CaptionData(floats.pictures, floats.captions, as_bytes=True)
    for (_, one), (_, other) in zip(stream(floats, 4, epochs=2), stream(as_bytes, 4, epochs=2), strict=True):
        assert other["image"].dtype == torch.uint8
        assert same(one, {**other, "image": normalised(other["image"], SIZE)})


def saved(folder: Path) -> Captioned:
    """Photos as files, of more pixels than a model reads, in a tar."""
    with tarfile.open(folder / "t.tar", "w") as tar:
        for number in range(9):
            noise = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(noise).resize((35, 25)).save(file, "JPEG" if number % 2 else "PNG")
            for name, content in ((f"{number}.jpg", file.getvalue()), (f"{number}.txt", f"one {number}\ntwo".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return read_captioned(folder / "t.tar")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_change_nothing(tmp_path: Path, tokenizer: Tokenizer, start: str) -> None:
    found = saved(tmp_path)
    source = Opened(found.pictures, SIZE)
    pictures = PictureData(source, SIZE, LIVELY.replace(crop="resized"), seed=2)
    made = CaptionData(pictures, Sayings.of(found.captions, Reading(tokenizer, 12)))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # pyright: ignore[reportIndexIssue]
    alone = list(stream(made, 4, epochs=3))
    assert len(alone) == 6
    workers = 2 if start == "fork" else 1
    assert all_the_same(alone[3:], list(stream(made, 4, alone[2][0], epochs=3, workers=workers, start=start)))
    after = torch.get_rng_state(), np.random.get_state()[1]
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_in_order_for_evaluation(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = saved(tmp_path)
    said = Sayings.of(found.captions, Reading(tokenizer, 12))
    source = source_of(found.pictures, SIZE)
    assert isinstance(source, Held)
    batches = list(in_order(CaptionData(PictureData(source, SIZE, LIVELY), said), 4))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 1]
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), normalised(source.pixels, SIZE))
    first = [row for batch in batches for row in tokenizer.decode(batch["text"].tolist())]
    assert first == [texts[0] for texts in found.captions]
    parts = list(said.in_order(5, full=True))
    assert np.concatenate([picture for _, picture in parts]).tolist() == [number // 2 for number in range(18)]
    rows = torch.cat([ids for ids, _ in parts])
    assert rows.shape == (18, 12)
    assert tokenizer.decode(rows.tolist()) == [text for texts in found.captions for text in texts]


def test_unusable_combinations_are_refused(tokenizer: Tokenizer) -> None:
    for change, message in (
        ({"mixup": 0.8}, "a mixed picture has no caption"),
        ({"cutmix": 1.0}, "a mixed picture has no caption"),
    ):
        with pytest.raises(InputError, match=message):
            data([1, 1], tokenizer, LIVELY.replace(**change))
    with pytest.raises(InputError, match="boxes are erased from normalised pictures"):
        data([1, 1], tokenizer, as_bytes=True)
    with pytest.raises(InputError, match="picture 1 has no caption"):
        data([1, 0], tokenizer)
    made = data([1, 1], tokenizer)
    with pytest.raises(InputError, match="3 pictures have texts, but there are 2"):
        CaptionData(made.pictures, Sayings.of(texts([1, 1, 1]), Reading(tokenizer, 12)))
    with pytest.raises(InputError, match="epoch 0 has 1 batches, not 7"):
        next(stream(made, 2, Position(0, 7)))


def test_flickr8k_from_end_to_end(shared_data: Path, tokenizer: Tokenizer) -> None:
    if not (shared_data / "flickr8k").is_dir():
        pytest.skip("no flickr8k among the data sets")
    found = read_captioned(shared_data / "flickr8k", "test").take(range(40))
    image = Preprocess(size=32, crop=1.0)
    said = Sayings.of(found.captions, Reading(tokenizer, 24))
    made = CaptionData(PictureData(source_of(found.pictures, image), image, Augment(crop="pad", flip=0.5)), said)
    seen = [set() for _ in range(40)]
    for _, batch in stream(made, 20, epochs=5):
        assert batch["image"].shape == (20, 3, 32, 32) and batch["text"].shape[1] <= 24
        for picture, row in zip(batch["index"].tolist(), batch["text"].tolist(), strict=True):
            seen[picture].add(tuple(i for i in row if i != tokenizer.pad))
    assert sum(map(len, seen)) > 195  # all five of each, but for captions that begin alike
