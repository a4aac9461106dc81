"""Decoded: the pictures, sounds and videos of records at the size of the model, kept where they have room."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tessella.data.clips import Watching, watched
from tessella.data.pictures import LARGE_FILE
from tessella.data.pixels import Preprocess, Unreadable, decode, fitted
from tessella.data.records import Records
from tessella.data.sounds import Hearing, heard

AT_ONCE = 256
"""Files that threads may be ahead."""
Decode = Callable[[bytes | Path], np.ndarray]
"""The frames of a file: uint8 1 v r c of a picture, uint8 f v r c of a video, float t m of a sound."""


@dataclass(frozen=True)
class Seen:
    """Files of pictures to uint8 1 v r c."""

    how: Preprocess

    def __call__(self, source: bytes | Path) -> np.ndarray:
        return fitted(decode(source, self.how.channels), self.how)[None]


@dataclass(frozen=True)
class Heard:
    """Files of sounds to float t m."""

    how: Hearing

    def __call__(self, source: bytes | Path) -> np.ndarray:
        return heard(source, self.how)


@dataclass(frozen=True)
class Watched:
    """Files of videos to uint8 f v r c."""

    how: Watching

    def __call__(self, source: bytes | Path) -> np.ndarray:
        return watched(source, self.how)


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

    def key(self, number: int) -> bytes:
        """The same for rows of the same file: a hash of its bytes, or its path."""
        cell = self.records.read(self.stream, number)
        return os.fsencode(cell) if isinstance(cell, Path) else hashlib.sha256(cell or b"").digest()

    def size(self, number: int) -> int:
        """The size of a row's file."""
        cell = self.records.read(self.stream, number)
        if isinstance(cell, Path):
            return cell.stat().st_size if cell.is_file() else 0
        return len(cell or b"")

    def take(self, numbers: np.ndarray) -> Opened:
        """Those of some rows."""
        return Opened(self.records.take(numbers), self.stream, self.decode)


def decoded(
    opened: Opened, numbers: Sequence[int] | np.ndarray, room: int
) -> tuple[Kept | None, dict[int, Unreadable]]:
    """(the frames of some rows if they have no more than ``room`` bytes, else None; what could not be read).

    Every file is decoded once, whether there is room or not, and however many rows have it: an image with ten
    questions takes the room of one. Rows that are not among ``numbers`` have no frames.
    """
    rows_of: dict[bytes, list[int]] = {}
    for number in numbers:
        rows_of.setdefault(opened.key(int(number)), []).append(int(number))
    starts, ends = (np.zeros(len(opened.records), np.int64) for _ in range(2))
    growing: _Growing | None = _Growing(room)
    failed: dict[int, Unreadable] = {}
    for rows, outcome in zip(rows_of.values(), _each(opened, [rows[0] for rows in rows_of.values()]), strict=True):
        if isinstance(outcome, Unreadable):
            failed.update(dict.fromkeys(rows, outcome))
        elif outcome is not None and growing is not None:
            starts[rows] = growing.count
            growing = growing if growing.add(outcome, len(rows_of)) else None
            ends[rows] = growing.count if growing else 0
    return None if growing is None else Kept(growing.done(), starts, ends), failed


def _each(opened: Opened, numbers: Sequence[int]) -> Iterator[np.ndarray | Unreadable | None]:
    """What is decoded of each, or what was wrong. Threads do the work of large files, in their order."""

    def attempt(number: int) -> np.ndarray | Unreadable | None:
        try:
            return opened[number]
        except Unreadable as error:
            return error

    sizes = [opened.size(number) for number in numbers[:: max(1, len(numbers) // 20)]]
    if not sizes or np.median(sizes) < LARGE_FILE or (os.cpu_count() or 1) < 2:
        yield from map(attempt, numbers)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(numbers), AT_ONCE):
            yield from pool.map(attempt, numbers[start : start + AT_ONCE])


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
