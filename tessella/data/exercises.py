"""Exercises: what of a text is asked for: words that are hidden in it, or every next one; and the batches of them.

A batch is ``{"source": long b n, "label": long b n, "index": long b}``: `label` is the id that is asked for at each
place, -1 where none is. Hand ``TextData`` to ``picture_batches.stream``, with the most ids of a batch as its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tessella.data.batches import TokenBatches
from tessella.data.pairs import ENCODED_AT_ONCE, Ragged
from tessella.errors import InputError
from tessella.spec import Spec, spec
from tessella.text import Tokenizer

UNASKED = -1


@dataclass(frozen=True, eq=False)
class Pieces:
    """What an exercise knows of a vocabulary: the ids of padding and of the blank, and those of pieces of text."""

    pad: int
    mask: int
    text: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, mask: int | None = None) -> Pieces:
        """Those of a tokenizer. mask: the id of the blank; None: that of unknown pieces, which our own never use."""
        blank = tokenizer.unk if mask is None else mask
        if not 0 <= blank < tokenizer.size:
            raise InputError(f"the blank has the id {blank}, but the tokenizer has {tokenizer.size} ids")
        special = [tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk, blank]
        return cls(tokenizer.pad, blank, np.setdiff1d(np.arange(tokenizer.size), special))


class Exercise(Spec):
    """Role: makes source and label (long b n) of rows of ids."""

    def made(
        self, ids: np.ndarray, lengths: np.ndarray, pieces: Pieces, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """ids: long b n, padded; lengths: long b. The first id of a row is never asked for."""
        raise NotImplementedError


@spec("masked-words")
class MaskedWords(Exercise):
    """Some of the pieces are asked for, and mostly hidden (Devlin et al. 2019, sec. 3.1), anew each time.

    share: of the pieces, asked for, at least one of a row; of these, `masked` are replaced by the blank, `random` by
    any other piece, and the rest left as they are. Ends and beginnings are never asked for.
    """

    share: float = Field(0.15, gt=0, lt=1)
    masked: float = Field(0.8, ge=0, le=1)
    random: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _of_all(self):
        if self.masked + self.random > 1 + 1e-9:
            raise InputError(f"masked {self.masked:g} and random {self.random:g} are more than all that is asked for")
        return self

    def made(
        self, ids: np.ndarray, lengths: np.ndarray, pieces: Pieces, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Exercise`."""
        places = np.arange(ids.shape[1])
        there = (places >= 1) & (places < lengths[:, None]) & np.isin(ids, pieces.text)
        drawn = np.where(there, rng.random(ids.shape), 2.0)
        asked = there & (drawn <= np.maximum(self.share, drawn.min(axis=1, keepdims=True)))
        how, other = rng.random(ids.shape), rng.choice(pieces.text, ids.shape)
        source = np.where(asked & (how < self.masked), pieces.mask, ids)
        changed = asked & (how >= self.masked) & (how < self.masked + self.random)
        return np.where(changed, other, source), np.where(asked, ids, UNASKED)


@spec("next-words")
class NextWords(Exercise):
    """Every piece is asked for behind those before it, the end of a text too (Radford et al. 2018, eq. 1)."""

    def made(
        self, ids: np.ndarray, lengths: np.ndarray, pieces: Pieces, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Exercise`."""
        places = np.arange(1, ids.shape[1])
        return ids[:, :-1], np.where(places < lengths[:, None], ids[:, 1:], UNASKED)


def passages(texts: Sequence[str], tokenizer: Tokenizer, length: int, begin: int | None) -> Ragged:
    """The ids of texts, ending with eos and beginning with `begin` if there is one, in rows of `length` at most.

    A longer text becomes several rows; each begins with the last id of the one before, so that every id but the very
    first is asked for once. A text without any piece has no row. Raises InputError where a row has no room.
    """
    if length < 3:
        raise InputError(f"a text may have {length} ids; it needs 3 at least, its ends included")
    return Ragged.of(_rows(texts, tokenizer, length, [] if begin is None else [begin]))


def _rows(texts: Sequence[str], tokenizer: Tokenizer, length: int, front: list[int]) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        for row in tokenizer.encode(list(texts[start : start + ENCODED_AT_ONCE])):
            whole = np.asarray([*front, *row], np.int32)
            for at in range(0, len(whole) - 1 if len(row) > 1 else 0, length - 1):
                yield whole[at : at + length]


class TextData:
    """Rows of ids as exercises. What a batch looks like depends on seed, epoch and number only."""

    def __init__(self, rows: Ragged, pieces: Pieces, exercise: Exercise, seed: int = 0):
        self.rows, self.pieces, self.exercise, self.seed = rows, pieces, exercise, seed
        self._batches: dict[int, TokenBatches] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, number: int, size: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch (from 0): rows of like length, `size` ids at most, padding included."""
        if size not in self._batches:
            lengths = self.rows.lengths
            self._batches[size] = TokenBatches(np.stack([np.zeros_like(lengths), lengths], 1), size, self.seed)
        return [np.asarray(batch) for batch in self._batches[size].epoch(number)]

    def batch(self, epoch: int, number: int, indices: Sequence[int]) -> dict[str, Tensor]:
        """One batch."""
        ids = self.rows.padded(indices, self.pieces.pad).numpy()
        lengths = self.rows.lengths[np.asarray(indices, np.int64)]
        rng = np.random.default_rng([self.seed, epoch, number])
        source, label = self.exercise.made(ids, lengths, self.pieces, rng)
        made = {"source": source, "label": label, "index": np.asarray(indices, np.int64)}
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in made.items()}

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All rows once, as one set of exercises that is always the same, from the longest to the shortest."""
        order = np.argsort(-self.rows.lengths, kind="stable")
        at = number = 0
        while at < len(order):
            rows = max(1, size // int(self.rows.lengths[order[at]]))
            yield self.batch(0, number, order[at : at + rows].tolist())
            at, number = at + rows, number + 1
