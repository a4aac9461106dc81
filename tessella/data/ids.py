"""Ids: texts as rows of token ids no longer than a model reads, packed, and padded when they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from torch import Tensor

from tessella.data.pairs import ENCODED_AT_ONCE, Ragged
from tessella.errors import InputError
from tessella.text import Tokenizer

SHOWN = 1
"""Sets the random numbers of which text is shown apart from those of how its picture looks."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are read: by which tokenizer, up to ``length`` ids (eos, and ``begin`` where there is one, included).

    ``begin`` is the id in front of each row, for models that were trained with one. A text that is too long loses its
    end, never eos. Raises InputError where no piece of a text would have room, or ``begin`` is no id of the tokenizer.
    """

    tokenizer: Tokenizer
    length: int
    begin: int | None = None

    def __post_init__(self) -> None:
        least = 2 if self.begin is None else 3
        if self.length < least:
            raise InputError(f"a text may have {self.length} ids; it needs {least} at least, its end included")
        if self.begin is not None and not 0 <= self.begin < self.tokenizer.size:
            raise InputError(f"texts begin with id {self.begin}, but the tokenizer has {self.tokenizer.size} ids")

    def __call__(self, texts: Sequence[str]) -> Ids:
        """The ids of texts, as many rows as texts."""
        front = [] if self.begin is None else [self.begin]
        room, cut = self.length - len(front), 0
        rows: list[np.ndarray] = []
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            for row in self.tokenizer.encode(list(texts[start : start + ENCODED_AT_ONCE])):
                cut += len(row) > room
                rows.append(np.asarray([*front, *row[: min(len(row), room) - 1], row[-1]], np.int32))
        return Ids(Ragged.of(rows), self.tokenizer.pad, self.length, cut)


@dataclass(frozen=True, slots=True)
class Ids:
    """Rows of ids by number. ``cut`` says how many texts were too long for ``length`` ids and lost their end."""

    rows: Ragged
    pad: int
    length: int
    cut: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def padded(self, numbers: Sequence[int] | np.ndarray, full: bool = False) -> Tensor:
        """Some rows as long b n, padded at the right to the longest of them, or to ``length`` where ``full``."""
        table = self.rows.padded(numbers, self.pad)
        if not full:
            return table
        whole = table.new_full((len(table), self.length), self.pad)
        whole[:, : table.shape[1]] = table
        return whole


@dataclass(frozen=True, slots=True)
class Sayings:
    """The ids of everything said of each picture: row ``starts[i]`` to row ``starts[i + 1]`` are picture i's."""

    ids: Ids
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], reading: Reading) -> Sayings:
        """Encode the texts of each picture, all of them once."""
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(reading(list(chain.from_iterable(texts))), np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """How many texts each picture has, long n."""
        return np.diff(self.starts)

    @property
    def picture(self) -> np.ndarray:
        """The picture that each text belongs to, long m."""
        return np.repeat(np.arange(len(self)), self.counts)

    def shown(self, epoch: int, seed: int) -> np.ndarray:
        """The row of each picture in an epoch (from 0), long n; -1 where a picture has none.

        A picture with k texts shows each once in k epochs, in an order drawn from the seed, then again in another.
        """
        rows = np.full(len(self), -1)
        for count in np.unique(self.counts[self.counts > 0]).tolist():
            members = np.flatnonzero(self.counts == count)
            drawn = np.random.default_rng([seed, count, epoch // count, SHOWN]).random((len(members), count))
            rows[members] = self.starts[members] + drawn.argsort(axis=1)[:, epoch % count]
        return rows

    def in_order(self, size: int, full: bool = False) -> Iterator[tuple[Tensor, np.ndarray]]:
        """All texts in order, ``size`` at a time: (long b n, the picture of each, long b)."""
        picture = self.picture
        for start in range(0, len(self.ids), size):
            numbers = np.arange(start, min(start + size, len(self.ids)))
            yield self.ids.padded(numbers, full), picture[numbers]
