"""Record batches: rows of mixed columns as training sees them, a pure function of seed, epoch and place.

A batch is ``{"source": {stream: Tensor}, "label": Tensor, "index": long b}``. A source has the image (float b v r c),
sound (float b t m), clip (float b f v r c), text (long b n) or table (float b k) of each stream, and
``"<stream>.there"`` (bool b) for a stream that not all rows of the batch have; in its place such rows have a filler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessella.data.augment import Augment, erase
from tessella.data.clips import Watching
from tessella.data.clips import stacked as stacked_clips
from tessella.data.columns import Schema
from tessella.data.decoded import Decode, Frames, Heard, Opened, Seen, Watched, decoded
from tessella.data.ids import Ids, Reading
from tessella.data.picture_batches import IN_MEMORY, PLAIN, batches_of
from tessella.data.pictures import reporter
from tessella.data.pixels import Preprocess, normalised
from tessella.data.quarantine import Quarantine
from tessella.data.records import Records
from tessella.data.sound_augment import SoundAugment
from tessella.data.sounds import Hearing
from tessella.data.sounds import stacked as stacked_sounds
from tessella.errors import InputError

Batch = dict[str, Any]
THERE = ".there"
ALIKE = 20
"""Batches whose texts are dealt out among them by length."""
UNLIKE = 1.5
"""So much longer than the mean the longest text must be: where it is not, length may tell what is asked, as it does of
questions, and batches of one kind of question teach less than mixed ones."""


@dataclass(frozen=True)
class Preparation:
    """How each kind of stream becomes what a model reads; what a schema has no column for may be None."""

    schema: Schema
    image: Preprocess | None = None
    sound: Hearing | None = None
    clip: Watching | None = None
    reading: Reading | None = None

    def __post_init__(self) -> None:
        ways = {"image": self.image, "sound": self.sound, "video": self.clip, "text": self.reading, "table": ()}
        lacking = sorted({holds for holds in self.schema.streams.values() if ways[holds] is None})
        if lacking:
            raise InputError(f"there are columns of {', '.join(lacking)}, but nothing says how to read such")

    def decode(self, holds: str) -> Decode:
        """What makes frames of a file of a kind."""
        if holds == "image":
            return Seen(self.image or Preprocess())
        if holds == "sound":
            return Heard(self.sound or Hearing())
        return Watched(self.clip or Watching())


@dataclass(frozen=True, eq=False)
class Prepared:
    """Records that a model can read: their files decoded or to be decoded, their texts as ids."""

    records: Records
    preparation: Preparation
    frames: dict[str, Frames]
    ids: Ids | None
    there: dict[str, np.ndarray]
    """Which rows have each stream, bool n."""

    def __len__(self) -> int:
        return len(self.records)

    def source(
        self, numbers: np.ndarray, augment: Augment, sound: SoundAugment, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """The streams of some rows, augmented with these random numbers; without any, as they are."""
        made: dict[str, Tensor] = {}
        streams = self.preparation.schema.streams
        rngs = [None] * len(streams) if rng is None else rng.spawn(len(streams))
        for (stream, holds), own in zip(streams.items(), rngs, strict=True):
            if holds == "table":
                made[stream] = torch.from_numpy(self.records.table[self.records.index[numbers]])
            elif holds == "text":
                assert self.ids is not None
                made[stream] = self.ids.padded(numbers)
            elif holds == "image":
                made[stream] = self._images(stream, numbers, augment, own)
            elif holds == "sound":
                made[stream] = self._sounds(stream, numbers, sound, own)
            else:
                made[stream] = self._clips(stream, numbers)
            there = self.there[stream][numbers]
            if not there.all():
                made[stream + THERE] = torch.from_numpy(there)
        return made

    def _images(self, stream: str, numbers: np.ndarray, augment: Augment, rng: np.random.Generator | None) -> Tensor:
        how = self.preparation.image
        assert how is not None
        found = [self.frames[stream][number] for number in numbers]
        blank = np.zeros((1, how.channels, *how.size), np.uint8)
        images = torch.from_numpy(np.concatenate([blank if one is None else one for one in found]))
        if rng is None:
            return normalised(images, how)
        crops, changes, boxes = rng.spawn(3)
        images = augment.changed(augment.cropped(images, crops), changes, [round(255 * mean) for mean in how.mean])
        return erase(normalised(images, how), augment.erasing, boxes)

    def _sounds(
        self, stream: str, numbers: np.ndarray, augment: SoundAugment, rng: np.random.Generator | None
    ) -> Tensor:
        how = self.preparation.sound
        assert how is not None
        found = [self.frames[stream][number] for number in numbers]
        sounds = [np.zeros((1, how.mels), np.float32) if one is None else one.astype(np.float32) for one in found]
        if rng is not None and augment != SoundAugment():
            sounds = [augment.changed(one, own) for one, own in zip(sounds, rng.spawn(len(sounds)), strict=True)]
        return stacked_sounds(sounds)

    def _clips(self, stream: str, numbers: np.ndarray) -> Tensor:
        how = self.preparation.clip
        assert how is not None
        blank = np.zeros((1, how.channels, *how.size), np.uint8)
        found = [self.frames[stream][number] for number in numbers]
        return stacked_clips([blank if one is None else one for one in found], how)


def prepared(
    records: Records, preparation: Preparation, quarantine: Quarantine | None = None, room: int = IN_MEMORY
) -> Prepared:
    """Records whose files have all been decoded once, and are kept if they take no more than ``room`` bytes.

    A row with a file that cannot be decoded goes to ``quarantine``; without one it is an error. The records of what is
    returned are the others. Raises InputError where none is left.
    """
    report = reporter(quarantine)
    good = np.ones(len(records), bool)
    frames: dict[str, Frames] = {}
    for column_stream, holds in preparation.schema.streams.items():
        if column_stream not in records.media:
            continue
        opened = Opened(records, column_stream, preparation.decode(holds))
        there = np.flatnonzero(records.there(column_stream) & good)
        kept, failed = decoded(opened, there, room)
        for number, error in failed.items():
            good[number] = False
            report(*records.place(number), f"{error.reason} in '{column_stream}'", error.detail)
        frames[column_stream] = opened if kept is None else kept
        room -= 0 if kept is None else kept.frames.nbytes
    if not good.all():
        chosen = np.flatnonzero(good)
        records, frames = records.take(chosen), {stream: found.take(chosen) for stream, found in frames.items()}
    if not len(records):
        raise InputError(f"{', '.join(records.files)}: no row can be used; see what was set aside")
    return _put_together(records, preparation, frames)


def opened(records: Records, preparation: Preparation) -> Prepared:
    """Records whose files are decoded when a batch wants them, which raises Unreadable for one that cannot be."""
    streams = preparation.schema.streams
    frames: dict[str, Frames] = {
        stream: Opened(records, stream, preparation.decode(streams[stream])) for stream in records.media
    }
    return _put_together(records, preparation, frames)


@dataclass(frozen=True, eq=False)
class RecordData:
    """Prepared records, shuffled and augmented. What a batch looks like depends on seed, epoch and number only.

    Raises InputError where images are to be mixed or repeated, for a row is more than its image.
    """

    rows: Prepared
    augment: Augment = PLAIN
    sound: SoundAugment = SoundAugment()  # noqa: RUF009 - frozen
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augment.mixes or self.augment.repeats > 1:
            raise InputError("a row is more than its image: set augment.mixup and .cutmix to 0, augment.repeats to 1")

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, number: int, size: int) -> np.ndarray:
        """The rows of each batch of an epoch (from 0), long batches ``size``, less an incomplete last batch.

        Where there are fewer rows than ``size``, they are one batch. Texts of very different lengths are dealt out by
        length, those of some batches at a time, for less padding; which batch comes when stays a matter of luck.
        """
        count, rng = len(self), np.random.default_rng([self.seed, number])
        order = rng.permutation(count)
        if count < size:
            return order.reshape(1, count)
        order = order[: count - count % size]
        lengths = np.ones(1) if self.rows.ids is None else self.rows.ids.rows.lengths[order]
        if lengths.max() > UNLIKE * lengths.mean():
            pool = np.arange(len(order)) // (ALIKE * size)
            order = rng.permutation(order[np.lexsort((lengths, pool))].reshape(-1, size))
        return order.reshape(-1, size)

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        """One batch. Raises InputError that names a row whose file cannot be read."""
        rng = np.random.default_rng([self.seed, epoch, number])
        return _batch(
            self.rows,
            np.asarray(indices, np.int64),
            self.rows.source(np.asarray(indices), self.augment, self.sound, rng),
        )


@dataclass(frozen=True, eq=False)
class _Plain:
    """Prepared records as they are."""

    rows: Prepared

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, number: int, size: int) -> np.ndarray:
        """Not shuffled; the last batch is left to ``in_order``."""
        raise NotImplementedError

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> Batch:
        """One batch."""
        numbers = np.asarray(indices, np.int64)
        return _batch(self.rows, numbers, self.rows.source(numbers, PLAIN, SoundAugment(), None))


def in_order(rows: Prepared, size: int, workers: int = 0, start: str | None = None) -> Iterator[Batch]:
    """All rows once and in order, as they are; the last batch may be smaller than ``size``."""
    keys = [(0, at, range(at, min(at + size, len(rows)))) for at in range(0, len(rows), size)]
    return batches_of(_Plain(rows), keys, workers, start)


def _batch(rows: Prepared, numbers: np.ndarray, source: dict[str, Tensor]) -> Batch:
    batch: Batch = {"source": source, "index": torch.from_numpy(numbers)}
    marks = rows.records.marks
    if marks is not None:
        label = torch.from_numpy(marks[rows.records.index[numbers]])
        batch["label"] = label.float() if rows.preparation.schema.task == "labels" else label
    return batch


def _put_together(records: Records, preparation: Preparation, frames: dict[str, Frames]) -> Prepared:
    there = {stream: records.there(stream) for stream in preparation.schema.streams}
    ids = None
    if preparation.schema.texts:
        assert preparation.reading is not None
        ids = preparation.reading(_Texts(records))
    return Prepared(records, preparation, frames, ids, there)


class _Texts(Sequence[str]):
    """The texts of records, made when they are asked for."""

    def __init__(self, records: Records):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.records.text(number) for number in range(*place.indices(len(self)))]
        return self.records.text(place)
