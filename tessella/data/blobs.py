"""Blobs: the bytes of many files in one flat array, in memory or, when there are many, in a scratch file."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

IN_MEMORY = 2**31


class Blobs:
    """Byte strings by number: ``blobs[3]``. It holds two arrays and no object for each, so that worker processes get it
    quickly; a scratch file goes when the process that made it lets go of the blobs.
    """

    def __init__(self, flat: np.ndarray, lengths: np.ndarray, scratch: Path | None = None):
        self.flat, self.scratch = flat, scratch
        self.starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if scratch is not None:
            weakref.finalize(self, _remove, scratch, os.getpid())

    @classmethod
    def gather(cls, columns: Iterable[pyarrow.Array], in_memory: int = IN_MEMORY) -> Blobs:
        """The cells of Arrow columns of bytes, one after another; a missing cell is empty.

        With more than ``in_memory`` bytes in all they go to a scratch file in the folder for temporary files.
        """
        filling = Filling(in_memory)
        for column in columns:
            filling.add(column)
        return filling.done()

    @property
    def lengths(self) -> np.ndarray:
        """The number of bytes of each."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.flat[self.starts[index] : self.starts[index + 1]].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the scratch file itself; it neither copies nor removes it."""
        return {**self.__dict__, "flat": None if self.scratch else self.flat}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.scratch:
            self.flat = np.memmap(self.scratch, np.uint8, "r")


class Filling:
    """Blobs that come part by part: what ``Blobs.gather`` does, for those who fill several at once."""

    def __init__(self, in_memory: int = IN_MEMORY):
        self.room, self.held, self.scratch = in_memory, 0, None
        self.kept: list[np.ndarray] = []
        self.lengths: list[np.ndarray] = [np.zeros(0, np.int64)]

    def add(self, column: pyarrow.Array) -> None:
        """The cells of an Arrow column of bytes, behind those before; a missing cell is empty."""
        data, sizes = _flat(column)
        self.lengths.append(sizes)
        self.kept.append(data)
        self.held += len(data)
        if self.held > self.room:
            self.scratch = self.scratch or _scratch()
            self._spill(self.scratch)

    def done(self) -> Blobs:
        """All that came."""
        lengths = np.concatenate(self.lengths)
        if self.scratch is not None:
            self._spill(self.scratch)
            return Blobs(np.memmap(self.scratch, np.uint8, "r"), lengths, self.scratch)
        return Blobs(np.concatenate([np.zeros(0, np.uint8), *self.kept]), lengths)

    def _spill(self, scratch: Path) -> None:
        with scratch.open("ab") as file:
            file.writelines(part.data for part in self.kept)
        self.kept, self.held = [], self.room  # whatever comes goes there as well


def _flat(column: pyarrow.Array) -> tuple[np.ndarray, np.ndarray]:
    """(all bytes, length of each cell), read in place."""
    cells = column.cast(pyarrow.large_binary()).fill_null(b"")
    _, offsets, data = cells.buffers()
    ends = np.frombuffer(offsets, np.int64)[cells.offset : cells.offset + len(cells) + 1]
    if data is None or not len(cells):
        return np.zeros(0, np.uint8), np.zeros(len(cells), np.int64)
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].copy(), np.diff(ends)


def _scratch() -> Path:
    handle, name = tempfile.mkstemp(prefix="tessella-", suffix=".blobs")
    os.close(handle)
    return Path(name)


def _remove(scratch: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a forked worker that lets go of its copy
        scratch.unlink(missing_ok=True)
