"""Batches of rows of mixed columns: what is in them, that they are reproducible, and that they come quickly."""

from __future__ import annotations

import io
import pickle
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mixed_tables import files, gif, png, wav, written
from PIL import Image

from tessella.data import decoded as decoding
from tessella.data.augment import Augment
from tessella.data.batches import Position
from tessella.data.clips import Watching
from tessella.data.columns import read_schema
from tessella.data.decoded import Kept, Opened
from tessella.data.ids import Reading
from tessella.data.picture_batches import stream
from tessella.data.pixels import Preprocess, Unreadable, decode, fitted, normalised
from tessella.data.quarantine import Quarantine
from tessella.data.record_batches import Preparation, RecordData, in_order, opened, prepared
from tessella.data.records import read_records
from tessella.data.sound_augment import SoundAugment
from tessella.data.sounds import Hearing, heard
from tessella.errors import InputError
from tessella.text import CodecSpec, train_codec

IMAGE = Preprocess(size=8, crop=1.0)
HEARING = Hearing(rate=8000, seconds=1.0, mels=8)
WATCHING = Watching(frames=3, size=8)
AUGMENT = Augment(crop="pad", padding=2, flip=0.5, erasing=0.5)


def columns(count: int = 24) -> dict:
    """Rows of every kind; every fourth lacks its image, every fifth its sound, every sixth its text."""
    return {
        "photo": files([None if n % 4 == 3 else png((9 * n % 256, n, 0)) for n in range(count)]),
        "voice": files([None if n % 5 == 4 else wav(200 + 50 * n, 0.05 + 0.01 * (n % 3)) for n in range(count)]),
        "film": files([gif(2 + n % 2) for n in range(count)]),
        "said": [None if n % 6 == 5 else f"this is number {n} of all" for n in range(count)],
        "weight": [None if n == 3 else n / 7 for n in range(count)],
        "town": [("Ulm", "Bonn")[n % 2] for n in range(count)],
        "y": ["ab"[n % 2] for n in range(count)],
    }


KINDS = {"film": "video", "said": "text"}


@pytest.fixture(scope="module")
def reading() -> Reading:
    texts = [text for text in columns()["said"] if text]
    return Reading(train_codec(CodecSpec(size=300), texts, texts).source, 8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory, reading):
    """Everything in one table, prepared."""
    table = written(tmp_path_factory.mktemp("rows") / "t.parquet", columns())
    schema = read_schema([table], "y", KINDS)
    preparation = Preparation(schema, IMAGE, HEARING, WATCHING, reading)
    return prepared(read_records([table], schema), preparation)


def equal(one: dict, other: dict) -> bool:
    if one["source"].keys() != other["source"].keys():
        return False
    pairs = [(one["source"][name], other["source"][name]) for name in one["source"]]
    pairs += [(one["index"], other["index"]), (one["label"], other["label"])]
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in pairs)


def test_a_batch_has_every_stream_and_says_which_rows_have_it(rows):
    (batch,) = in_order(rows, 24)
    source = batch["source"]
    shapes = {name: tuple(tensor.shape) for name, tensor in source.items()}
    assert shapes.pop("voice")[::2] == (24, 8)
    assert shapes.pop("text")[0] == 24
    assert shapes == {
        "photo": (24, 3, 8, 8), "photo.there": (24,), "voice.there": (24,), "film": (24, 3, 3, 8, 8),
        "text.there": (24,), "table": (24, 2),
    }  # fmt: skip
    assert source["photo.there"].tolist() == [n % 4 != 3 for n in range(24)]
    assert source["voice.there"].tolist() == [n % 5 != 4 for n in range(24)]
    assert source["text.there"].tolist() == [n % 6 != 5 for n in range(24)]
    assert batch["label"].tolist() == [n % 2 for n in range(24)] and batch["label"].dtype == torch.long
    assert batch["index"].tolist() == list(range(24))
    assert source["table"][:4, 1].tolist() == [2, 1, 2, 1] and source["table"][3, 0].isnan()


def test_streams_are_what_their_own_preparation_gives(rows, reading):
    (batch,) = in_order(rows, 24)
    source, raw = batch["source"], columns()
    photo = torch.from_numpy(fitted(decode(raw["photo"][2].as_py()["bytes"]), IMAGE))[None]
    torch.testing.assert_close(source["photo"][2:3], normalised(photo, IMAGE))
    voice = torch.from_numpy(heard(raw["voice"][2].as_py()["bytes"], HEARING))
    torch.testing.assert_close(source["voice"][2, : len(voice)], voice, atol=2e-3, rtol=2e-3)  # kept in 16 bits
    assert source["voice"][2, len(voice) :].isnan().all()
    assert source["film"][0].isnan().flatten(1).all(1).tolist() == [False, False, True]
    torch.testing.assert_close(source["text"][0], reading([raw["said"][0]]).padded([0], full=True)[0])


def test_a_stream_that_all_have_needs_no_mask(rows):
    batch = next(in_order(rows, 3))
    assert set(batch["source"]) == {"photo", "voice", "film", "text", "table"}


def test_in_order_is_every_row_once_whatever_the_size(rows):
    batches = list(in_order(rows, 7))
    assert [len(batch["index"]) for batch in batches] == [7, 7, 7, 3]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(24))
    (whole,) = in_order(rows, 24)
    for name in ("photo", "table"):
        torch.testing.assert_close(
            torch.cat([b["source"][name] for b in batches]), whole["source"][name], equal_nan=True
        )


def test_an_epoch_is_every_row_once_and_another_is_another(rows):
    data = RecordData(rows, seed=1)
    first = np.concatenate([batch["index"] for _, batch in stream(data, 6, epochs=1)])
    assert sorted(first) == list(range(24))
    assert data.epoch(0, 7).shape == (3, 7) and data.epoch(0, 50).shape == (1, 24)
    assert (data.epoch(0, 6) != data.epoch(1, 6)).any() and (
        data.epoch(0, 6) == RecordData(rows, seed=1).epoch(0, 6)
    ).all()


def test_a_batch_depends_on_seed_epoch_and_number_only(rows):
    data = RecordData(rows, AUGMENT, SoundAugment(mel_masks=1, time_masks=1), seed=5)
    numbers = data.epoch(2, 8)[1]
    torch.manual_seed(1)
    one = data.batch(2, 1, numbers)
    torch.manual_seed(2)
    assert equal(one, RecordData(rows, AUGMENT, SoundAugment(mel_masks=1, time_masks=1), seed=5).batch(2, 1, numbers))
    assert not equal(one, replace(data, seed=6).batch(2, 1, numbers))
    assert not equal(one, data.batch(3, 1, numbers))


def test_what_is_augmented_is_the_image_or_the_sound_and_nothing_else(rows):
    numbers = np.arange(24)
    plain = RecordData(rows).batch(0, 0, numbers)
    (still,) = in_order(rows, 24)
    assert equal(plain, still)
    seen = RecordData(rows, AUGMENT).batch(0, 0, numbers)["source"]
    loud = RecordData(rows, sound=SoundAugment(mel_masks=2)).batch(0, 0, numbers)["source"]
    for name, tensor in plain["source"].items():
        assert torch.equal(tensor.nan_to_num(7), seen[name].nan_to_num(7)) == (name != "photo")
        assert torch.equal(tensor.nan_to_num(7), loud[name].nan_to_num(7)) == (name != "voice")


@pytest.mark.parametrize("augment", [Augment(mixup=0.8), Augment(cutmix=1.0), Augment(repeats=3)])
def test_rows_are_not_mixed_or_repeated(rows, augment):
    with pytest.raises(InputError, match="a row is more than its image"):
        RecordData(rows, augment)


def test_worker_processes_make_the_same_batches(rows):
    data = RecordData(rows, AUGMENT, seed=3)
    here = [batch for _, batch in stream(data, 8, epochs=1)]
    there = [batch for _, batch in stream(data, 8, epochs=1, workers=1, start="fork")]
    assert len(here) == len(there) == 3 and all(map(equal, here, there))
    assert all(map(equal, in_order(rows, 10), in_order(rows, 10, workers=1, start="fork")))


@pytest.mark.slow
def test_workers_that_start_afresh_make_the_same_batches(rows):
    assert all(map(equal, in_order(rows, 10), in_order(rows, 10, workers=1, start="spawn")))


def test_rows_can_be_handed_to_another_process(rows):
    there = pickle.loads(pickle.dumps(RecordData(rows, AUGMENT, seed=3)))
    assert equal(there.batch(0, 0, [1, 2, 3]), RecordData(rows, AUGMENT, seed=3).batch(0, 0, [1, 2, 3]))


def test_a_resumed_stream_goes_on(rows):
    data = RecordData(rows, AUGMENT)
    whole = list(stream(data, 8, epochs=2))
    rest = list(stream(data, 8, whole[1][0], epochs=2))
    assert whole[1][0] == Position(0, 2) and len(rest) == 4
    assert all(equal(a, b) for (_, a), (_, b) in zip(whole[2:], rest, strict=True))


def test_files_without_room_are_opened_when_it_is_their_turn(rows, monkeypatch):
    lean = prepared(rows.records, rows.preparation, room=3000)
    assert isinstance(rows.frames["photo"], Kept) and isinstance(lean.frames["photo"], Opened)
    lazy = opened(rows.records, rows.preparation)
    for one, two, three in zip(in_order(rows, 5), in_order(lean, 5), in_order(lazy, 5), strict=True):
        for name, tensor in one["source"].items():
            torch.testing.assert_close(tensor, two["source"][name], atol=2e-3, rtol=2e-3, equal_nan=True)
            torch.testing.assert_close(tensor, three["source"][name], atol=2e-3, rtol=2e-3, equal_nan=True)
    monkeypatch.setattr(decoding, "LARGE_FILE", 0)  # threads
    pooled = prepared(rows.records, rows.preparation)
    assert all(map(equal, in_order(rows, 24), in_order(pooled, 24)))


def cut(picture: bytes) -> bytes:
    """Its header and half of the rest."""
    return picture[: len(picture) // 2]


def test_what_cannot_be_decoded_is_set_aside_by_row(tmp_path):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(noise, "PNG")
    broken = cut(noise.getvalue())
    cells = {"photo": files([png(), broken, None, broken, png()]), "x": ["some words"] * 3 + ["other words"] * 2}
    table = written(tmp_path / "t.parquet", {**cells, "y": [0, 1, 0, 1, 1]})
    schema = read_schema([table], "y", {"x": "category"})
    records = read_records([table], schema)
    quarantine = Quarantine()
    kept = prepared(records, Preparation(schema, IMAGE), quarantine)
    assert [(item.line, item.reason) for item in quarantine] == [
        (2, "truncated image in 'photo'"),
        (4, "truncated image in 'photo'"),
    ]
    assert [kept.records.place(n)[1] for n in range(3)] == [1, 3, 5]
    (batch,) = in_order(kept, 9)
    assert batch["source"]["photo.there"].tolist() == [True, False, True]
    torch.testing.assert_close(batch["source"]["photo"][0], batch["source"]["photo"][2])
    with pytest.raises(InputError, match=r"t.parquet row 2 is not usable: truncated image in 'photo'"):
        prepared(records, Preparation(schema, IMAGE))
    lazy = opened(records, Preparation(schema, IMAGE))
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"t.parquet row 2, 'photo' is not usable: truncated image"):
            list(in_order(lazy, 2, workers))
    with pytest.raises(InputError, match="no row can be used"):
        prepared(records.take([1, 3]), Preparation(schema, IMAGE), Quarantine())


def test_a_file_of_many_rows_is_decoded_and_kept_once(tmp_path):
    table = written(tmp_path / "t.parquet", {"photo": files([png(), png((0, 0, 9))] * 20), "y": [0, 1] * 20})
    schema = read_schema([table], "y")
    rows = prepared(read_records([table], schema), Preparation(schema, IMAGE))
    kept = rows.frames["photo"]
    assert isinstance(kept, Kept) and len(kept.frames) == 2
    (batch,) = in_order(rows, 40)
    assert torch.equal(batch["source"]["photo"][2:], batch["source"]["photo"][:-2])


def test_a_batch_without_a_stream_has_a_filler(rows):
    batch = RecordData(rows).batch(0, 0, [3, 7, 11])
    assert not batch["source"]["photo.there"].any()
    assert batch["source"]["photo"].shape == (3, 3, 8, 8) and batch["source"]["photo"].isfinite().all()
    batch = RecordData(rows).batch(0, 0, [4, 9])
    assert batch["source"]["voice"].shape == (2, 1, 8) and batch["source"]["voice"].isfinite().all()


def test_labels_of_each_task(tmp_path):
    cells = {"x": [n / 3 for n in range(6)], "a": [1.0, 2.0, 4.0] * 2, "b": [["r"], ["r", "s"], []] * 2}
    table = written(tmp_path / "t.parquet", cells)
    for label, shape in (("a", (6, 1)), ("b", (6, 2))):
        schema = read_schema([table], label, {"a": "ignore"} if label == "b" else {}, task={"a": "numbers"}.get(label))  # pyright: ignore
        (batch,) = in_order(prepared(read_records([table], schema), Preparation(schema)), 6)
        assert tuple(batch["label"].shape) == shape and batch["label"].dtype == torch.float32
    (batch,) = in_order(prepared(read_records([table], schema, labelled=False), Preparation(schema)), 6)
    assert "label" not in batch


def test_a_preparation_must_know_every_kind(rows):
    with pytest.raises(InputError, match="columns of sound, text, but nothing says how"):
        Preparation(rows.preparation.schema, image=IMAGE, clip=WATCHING)


def test_a_file_that_vanished_is_named(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png((number, 0, 0)))
    table = written(tmp_path / "t.csv", {"photo": ["0.png", "1.png"], "y": ["a", "b"]})
    schema = read_schema([table], "y")
    rows = opened(read_records([table], schema), Preparation(schema, IMAGE))
    (tmp_path / "1.png").unlink()
    with pytest.raises(Unreadable, match=r"t.csv row 2, 'photo' is not usable: no such file"):
        next(in_order(rows, 2))


def test_training_is_fed_quickly(tmp_path):
    """Small images, half a second of sound, a number and a category: thousands of rows a second from one process."""
    count = 1000
    pictures = [png((n % 256, n // 8 % 256, 0), 28) for n in range(200)]
    sounds = [wav(200 + n, 0.5) for n in range(20)]
    cells = {
        "photo": files([pictures[n % 200] for n in range(count)]),
        "voice": files([sounds[n % 20] for n in range(count)]),
        "weight": [n / 7 for n in range(count)],
        "town": [("Ulm", "Bonn")[n % 2] for n in range(count)],
        "y": [n % 10 for n in range(count)],
    }
    table = written(tmp_path / "t.parquet", cells)
    schema = read_schema([table], "y")
    preparation = Preparation(schema, Preprocess(size=28, crop=1.0), Hearing(rate=8000, seconds=1.0))
    data = RecordData(
        prepared(read_records([table], schema), preparation), Augment(crop="pad"), SoundAugment(mel_masks=1)
    )
    start = time.process_time()
    for _, batch in stream(data, 100, epochs=4):
        assert len(batch["index"]) == 100
    assert 4 * count / (time.process_time() - start) > 2000


def test_texts_of_a_batch_are_of_like_length(tmp_path):
    """Every row comes once all the same, and which batch comes when is drawn."""
    rng = np.random.default_rng(0)
    texts = [" ".join(["word"] * n) for n in rng.integers(1, 60, 640)]
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"about": texts, "label": [str(n % 2) for n in range(640)]}), path)
    schema = read_schema([path], "label", {"about": "text"})
    codec = train_codec(CodecSpec(size=300), texts, texts)
    rows = prepared(read_records([path], schema), Preparation(schema, reading=Reading(codec.source, 128)))
    lengths = rows.ids.rows.lengths
    batches = RecordData(rows).epoch(0, 16)
    assert sorted(batches.flatten().tolist()) == list(range(640))
    spread = [np.ptp(lengths[batch]) for batch in batches]
    assert np.mean(spread) < 0.2 * np.ptp(lengths)
    means = [lengths[batch].mean() for batch in batches]
    assert means != sorted(means)
