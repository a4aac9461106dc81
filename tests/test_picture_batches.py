"""Picture batches: exactly resumable, the same on any number of workers, and nothing replaced in silence."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tessella.data.augment import DEIT, Augment
from tessella.data.batches import Position
from tessella.data.picture_batches import Held, Opened, PictureData, in_order, stream
from tessella.data.pictures import read_pictures
from tessella.data.pixels import Preprocess, fitted, normalised
from tessella.errors import InputError
from tessella.lesson import Lesson, Stream

SIZE = Preprocess(size=(12, 16))
SMALL = DEIT.replace(crop="pad")


def held(count: int, channels: int = 3) -> Held:
    """Pictures that differ; the first pixel is the picture's number."""
    pixels = torch.randint(0, 256, (count, channels, 12, 16), dtype=torch.uint8)
    pixels[:, :, 0, 0] = torch.arange(count)[:, None] % 256
    return Held(pixels, torch.arange(count) % 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(5):
            blocks = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            image = Image.fromarray(blocks).resize((70, 50), Image.Resampling.BICUBIC)
            image.save(tmp_path / label / f"{number}.{'png' if number % 2 else 'jpg'}")
    return tmp_path


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def all_the_same(ones, others) -> bool:
    return all(p == q and same(one, other) for (p, one), (q, other) in zip(ones, others, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(1, 4))
def test_an_epoch_has_every_picture_as_often_as_asked(count, size, number, repeats) -> None:
    data = PictureData(held(count), SIZE, Augment(repeats=repeats), seed=3)
    batches = data.epoch(number, size)
    assert batches.shape == ((count // size, size) if count >= size else (1, count))
    counts = np.bincount(batches.flatten(), minlength=count)
    dropped = count - batches.size
    assert dropped == (count % size if count > size else 0)
    assert counts.sum() == count - dropped and counts.max() <= repeats and (counts > 0).sum() <= -(-count // repeats)
    if not dropped and count % repeats == 0:
        assert sorted(counts.tolist()) == [0] * (count - count // repeats) + [repeats] * (count // repeats)
    assert np.array_equal(batches, data.epoch(number, size))


def test_repeats_stand_together_and_look_different() -> None:
    data = PictureData(held(30), SIZE, SMALL.replace(mixup=0, cutmix=0), seed=1)
    [(_, batch)] = islice(stream(data, 15), 1)
    index, image = batch["index"].reshape(5, 3), batch["image"].reshape(5, 3, -1)
    assert (index == index[:, :1]).all() and index[:, 0].unique().numel() == 5
    assert not torch.equal(image[:, 0], image[:, 1])


def test_epochs_and_seeds_differ() -> None:
    source = held(200)
    orders = [PictureData(source, SIZE, seed=seed).epoch(number, 200)[0] for seed, number in ((0, 0), (0, 1), (1, 0))]
    assert sum((a == b).mean() < 0.1 for a, b in ((orders[0], orders[1]), (orders[0], orders[2]))) == 2
    data, shifted = PictureData(source, SIZE, SMALL, seed=0), PictureData(source, SIZE, SMALL, seed=1)
    places = [data.batch(0, 0, range(8)), data.batch(0, 1, range(8)), data.batch(1, 0, range(8))]
    places.append(shifted.batch(0, 0, range(8)))
    for number, one in enumerate(places):
        assert not any(torch.equal(one["image"], other["image"]) for other in places[number + 1 :])
    assert same(data.batch(0, 0, range(8)), places[0])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 12), st.sampled_from([1, 3]))
def test_resumed_anywhere_is_uninterrupted(count, size, skipped, channels) -> None:
    preprocess = Preprocess(size=SIZE.size, channels=channels)
    data = PictureData(held(count, channels), preprocess, SMALL, seed=5)
    whole = list(islice(stream(data, size), 14))
    position = whole[skipped - 1][0] if skipped else Position()
    assert all_the_same(whole[skipped:], list(islice(stream(data, size, position), 14 - skipped)))
    assert all(p.batch < len(data.epoch(p.epoch, size)) for p, _ in whole)
    for _, batch in whole:
        rows = min(size, count)
        assert batch["image"].shape == (rows, channels, 12, 16) and batch["image"].dtype == torch.float32
        assert {name: (batch[name].dtype, tuple(batch[name].shape)) for name in batch if name != "image"} == {
            "label": (torch.long, (rows,)),
            "label2": (torch.long, (rows,)),
            "share": (torch.float32, (rows,)),
            "index": (torch.long, (rows,)),
        }
        assert torch.equal(batch["label"], data.source.labels[batch["index"]])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_change_nothing(folder: Path, start: str) -> None:
    pictures = read_pictures(folder)
    data = PictureData(Opened(pictures, SIZE), SIZE, DEIT, seed=2)
    alone = list(stream(data, 4, epochs=3))
    assert len(alone) == 6
    assert all_the_same(alone, list(stream(data, 4, epochs=3, workers=2, start=start)))
    if start == "fork":
        assert all_the_same(alone[3:], list(stream(data, 4, alone[2][0], epochs=3, workers=1, start=start)))
        ordered = list(in_order(data.source, SIZE, 4))
        assert all(same(a, b) for a, b in zip(ordered, in_order(data.source, SIZE, 4, workers=2), strict=True))


def test_no_global_random_number_is_used() -> None:
    data = PictureData(held(20), SIZE, SMALL)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(stream(data, 5, epochs=2))
    list(stream(data, 5, epochs=1, workers=1))
    after = torch.get_rng_state(), np.random.get_state()[1]
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_without_augmentation_pictures_are_themselves(folder: Path) -> None:
    pictures = read_pictures(folder)
    images = [fitted(pictures.decode(number, 3), SIZE) for number in range(len(pictures))]
    wanted = normalised(torch.from_numpy(np.stack(images)), SIZE)
    memory = Held(torch.from_numpy(np.stack(images)), torch.as_tensor(pictures.labels))
    for source in (Opened(pictures, SIZE), memory):
        batches = list(in_order(source, SIZE, 4))
        assert [len(batch["label"]) for batch in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([batch["image"] for batch in batches]), wanted)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(10))
        assert torch.cat([batch["label"] for batch in batches]).tolist() == list(pictures.labels)
        assert all(set(batch) == {"image", "label", "index"} for batch in batches)
        [(_, batch)] = stream(PictureData(source, SIZE), 10, epochs=1)
        assert torch.equal(batch["image"], wanted[batch["index"]])


def test_photos_can_be_cropped_either_way(folder: Path) -> None:
    source = Opened(read_pictures(folder), SIZE)
    made = [
        source.cropped(range(10), Augment(crop=crop), np.random.default_rng(0)) for crop in ("none", "pad", "resized")
    ]
    assert all(pixels.shape == (10, 3, 12, 16) and pixels.dtype == torch.uint8 for pixels in made)
    padded = torch.nn.functional.pad(made[0], (4,) * 4).unfold(2, 12, 1).unfold(3, 16, 1)
    assert all((padded[row] == one[:, None, None]).all(-1).all(-1).all(0).any() for row, one in enumerate(made[1]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_picture_that_broke_meanwhile_is_named_and_not_replaced(folder: Path, workers: int, damage: str) -> None:
    source = Opened(read_pictures(folder), SIZE)
    victim = folder / "dog" / "2.jpg"
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:400])
    with pytest.raises(InputError, match=r"2\.jpg") as caught:
        list(stream(PictureData(source, SIZE, DEIT.replace(repeats=1)), 2, epochs=1, workers=workers))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"2\.jpg"):
        list(in_order(source, SIZE, 4, workers=workers))


def test_the_loop_takes_it_as_it_is() -> None:
    data = PictureData(held(10), SIZE, SMALL)
    lesson = Lesson(nn.Identity(), lambda model, batch: {}, partial(stream, data, 3))
    taken = Stream(lesson, Position())
    batches = taken.take(4)
    assert taken.place == Position(1, 1)
    assert all(same(batch, wanted) for batch, (_, wanted) in zip(batches, stream(data, 3), strict=False))


def test_unusable_input_is_refused() -> None:
    data = PictureData(held(10), SIZE)
    with pytest.raises(InputError, match="epoch 0 has 2 batches, not 7"):
        next(stream(data, 5, Position(0, 7)))
    with pytest.raises(InputError, match="no batches of 5 can be made of 0 pictures"):
        next(stream(PictureData(Held(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0).long()), SIZE), 5))
    for pixels, labels in (
        (torch.zeros(2, 3, 4, 4), 2),
        (torch.zeros(2, 3, 4, 4).byte(), 3),
        (torch.zeros(2, 4).byte(), 2),
    ):
        with pytest.raises(InputError, match="bytes n v r c"):
            Held(pixels, torch.zeros(labels).long())
