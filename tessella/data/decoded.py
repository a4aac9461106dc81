"""Decoded: the pictures, sounds and videos of records at the size of the model, kept where they have room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tessella.data.pixels import Unreadable
from tessella.data.records import Records

Decode = Callable[[bytes | Path], np.ndarray]
"""The frames of a file: uint8 1 v r c of a picture, uint8 f v r c of a video, float t m of a sound."""


class Frames(Protocol):
    """The frames of each row of one stream, by number; None where a row has no such stream."""

    def __getitem__(self, number: int) -> np.ndarray | None:
        """uint8 1 v r c of a picture, uint8 f v r c of a video, float t m of a sound."""
        ...

    def take(self, numbers: np.ndarray) -> Frames:
        """Those of some rows."""
        ...


@dataclass(frozen=True, eq=False)
class Kept:
    """Frames in memory: those of row i are ``frames[starts[i] : ends[i]]``, none where a row has no such stream."""

    frames: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __getitem__(self, number: int) -> np.ndarray | None:
        start, end = self.starts[number], self.ends[number]
        return self.frames[start:end] if end > start else None

    def take(self, numbers: np.ndarray) -> Kept:
        """Those of some rows; no frame is copied."""
        return Kept(self.frames, self.starts[numbers], self.ends[numbers])


@dataclass(frozen=True, eq=False)
class Opened:
    """Files that are decoded when it is their turn."""

    records: Records
    stream: str
    decode: Decode

    def __getitem__(self, number: int) -> np.ndarray | None:
        """Raises Unreadable that names a row whose file cannot be read (any more)."""
        cell = self.records.read(self.stream, number)
        try:
            return None if cell is None else self.decode(cell)
        except Unreadable as error:
            where = f"{self.records.name(number)}, '{self.stream}'"
            raise Unreadable(where, error.reason, error.detail) from None

    def take(self, numbers: np.ndarray) -> Opened:
        """Those of some rows."""
        return Opened(self.records.take(numbers), self.stream, self.decode)


def decoded(
    opened: Opened, numbers: Sequence[int] | np.ndarray, room: int
) -> tuple[Kept | None, dict[int, Unreadable]]:
    """(the frames of some rows if they have no more than ``room`` bytes, else None; what could not be read).

    Every file is decoded once, whether there is room or not. Rows that are not among ``numbers`` have no frames.
    """
    count = len(opened.records)
    lengths = np.zeros(count, np.int64)
    growing: _Growing | None = _Growing(room)
    failed: dict[int, Unreadable] = {}
    for number in numbers:
        try:
            frames = opened[int(number)]
        except Unreadable as error:
            failed[int(number)] = error
            continue
        if frames is not None and growing is not None:
            lengths[number] = len(frames)
            growing = growing if growing.add(frames, len(numbers)) else None
    if growing is None:
        return None, failed
    ends = np.cumsum(lengths)
    return Kept(growing.done(), ends - lengths, ends), failed


class _Growing:
    """One array that frames are put into one behind the other."""

    def __init__(self, room: int):
        self.room, self.count = room, 0
        self.array: np.ndarray | None = None

    def add(self, frames: np.ndarray, rows: int) -> bool:
        """Whether there was room. ``rows`` is how many are expected in all."""
        if frames.dtype.kind == "f":
            frames = frames.astype(np.float16)
        if (self.count + len(frames)) * frames[0].nbytes > self.room:
            return False
        if self.array is None:
            self.array = np.empty((len(frames) * rows, *frames.shape[1:]), frames.dtype)  # untouched pages cost nothing
        if self.count + len(frames) > len(self.array):
            wider = np.empty((len(self.array) * 3 // 2 + len(frames), *frames.shape[1:]), frames.dtype)
            wider[: self.count] = self.array[: self.count]
            self.array = wider
        self.array[self.count : self.count + len(frames)] = frames
        self.count += len(frames)
        return True

    def done(self) -> np.ndarray:
        """All of them."""
        return np.zeros((0, 1), np.uint8) if self.array is None else self.array[: self.count]
