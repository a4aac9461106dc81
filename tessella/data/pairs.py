"""Pairs: the token ids of all sentence pairs, and the stream of batches made of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tessella.data.batches import Position, TokenBatches, shard
from tessella.data.parallel import Pair
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.text import Codec

ENCODED_AT_ONCE = 10_000

Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of ids of different lengths in one flat array: row i is ``ids[starts[i] : starts[i + 1]]``."""

    ids: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Ids]) -> Ragged:
        """Pack rows of ids (each below 2**31)."""
        flat: list[np.ndarray] = []
        starts = [0]
        for row in rows:
            flat.append(np.asarray(row, dtype=np.int32))
            starts.append(starts[-1] + len(flat[-1]))
        ids = np.concatenate(flat) if flat else np.zeros(0, np.int32)
        return cls(ids, np.asarray(starts, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The number of ids of each row."""
        return np.diff(self.starts)

    def padded(self, indices: Sequence[int], pad: int) -> Tensor:
        """Some rows as a long tensor, padded at the right to the longest of them (at least one column)."""
        rows = [self.ids[self.starts[i] : self.starts[i + 1]] for i in indices]
        table = np.full((len(rows), max([1, *map(len, rows)])), pad, dtype=np.int64)
        for number, row in enumerate(rows):
            table[number, : len(row)] = row
        return torch.from_numpy(table)


class PairData(Dataset[dict[str, Tensor]]):
    """All pairs as ids: ``source`` rows end with eos, ``target`` rows are ``bos … eos``. ``data[[3, 7]]`` is a batch.

    ``pads`` are the pad ids of source and target. It holds flat arrays only, so that worker processes get it quickly.
    """

    def __init__(self, source: Iterable[Ids], target: Iterable[Ids], pads: tuple[int, int] = (0, 0)):
        self.source, self.target = Ragged.of(source), Ragged.of(target)
        self.pads = pads
        if len(self.source) != len(self.target):
            raise InputError(f"{len(self.source)} sources but {len(self.target)} targets; pairs need as many of both")

    @classmethod
    def from_pairs(
        cls,
        pairs: Sequence[Pair],
        codec: Codec,
        max_tokens: int | None = None,
        quarantine: Quarantine | None = None,
        where: str | os.PathLike[str] = "pairs",
    ) -> PairData:
        """Encode pairs. A pair with a side of over ``max_tokens`` ids goes to ``quarantine`` (file name: ``where``).

        Index i is the i-th pair that was kept. Raises InputError where a pair is too long and there is no quarantine.
        """
        sources: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        for start in range(0, len(pairs), ENCODED_AT_ONCE):
            chunk = pairs[start : start + ENCODED_AT_ONCE]
            source = codec.source.encode([pair.source for pair in chunk])
            target = codec.target.encode([pair.target for pair in chunk])
            for pair, row, translation in zip(chunk, source, target, strict=True):
                tokens = max(len(row), len(translation) + 1)
                if max_tokens is not None and tokens > max_tokens:
                    reason = f"over {max_tokens} tokens"
                    if quarantine is None:
                        raise InputError(f"{where} line {pair.line} has {tokens} tokens, the limit is {max_tokens}")
                    quarantine.add(where, pair.line, reason, pair.source)
                    continue
                sources.append(np.asarray(row, dtype=np.int32))
                targets.append(np.asarray([codec.target.bos, *translation], dtype=np.int32))
        return cls(sources, targets, (codec.source.pad, codec.target.pad))

    @property
    def lengths(self) -> np.ndarray:
        """(pairs, 2): the tokens of each source and target, bos and eos included; what TokenBatches wants."""
        return np.stack([self.source.lengths, self.target.lengths], axis=1)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self.collate(indices)

    def collate(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Pairs to ``{"source": long b n, "target": long b m, "index": long b}``, right-padded; b may be 0."""
        return {
            "source": self.source.padded(indices, self.pads[0]),
            "target": self.target.padded(indices, self.pads[1]),
            "index": torch.as_tensor(indices, dtype=torch.long),
        }


class _Schedule:
    """The index lists of all batches from a position on; ``after`` holds the positions of those handed out."""

    def __init__(self, batches: TokenBatches, position: Position, rank: int, world: int, epochs: int | None):
        self.batches, self.position, self.rank, self.world, self.epochs = batches, position, rank, world, epochs
        self.after: deque[Position] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        here = self.position
        while self.epochs is None or here.epoch < self.epochs:
            batches = self.batches.epoch(here.epoch)
            if here.batch >= len(batches):
                raise InputError(f"epoch {here.epoch} has {len(batches)} batches, not {here.batch}: is it other data?")
            for indices in shard(batches[here.batch :], self.rank, self.world):
                here = here.advance(len(batches))
                self.after.append(here)
                yield indices


def stream(
    data: PairData,
    batches: TokenBatches,
    position: Position = Position(),  # noqa: B008 - frozen
    epochs: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    start: str | None = None,
) -> Iterator[tuple[Position, dict[str, Tensor]]]:
    """Batches from ``position`` on, each with the position after it, without end or until ``epochs`` epochs are done.

    The content depends on neither ``workers`` (processes that collate) nor ``start`` ("fork", "spawn", "forkserver"),
    and nothing is drawn from torch's global random numbers, so that a resumed run goes on exactly. Rank r of ``world``
    gets its rows of each global batch. Raises InputError where the position is beyond the data.
    """
    if len(batches.lengths) != len(data):
        raise InputError(f"the batches are of {len(batches.lengths)} pairs, the data has {len(data)}")
    schedule = _Schedule(batches, position, rank, world, epochs)
    if workers == 0:
        for indices in schedule:
            yield schedule.after.popleft(), data.collate(indices)
        return
    loader = DataLoader(
        data,
        sampler=schedule,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=start,
        generator=torch.Generator(),  # else the loader draws its seed from the global generator
    )
    for batch in loader:
        yield schedule.after.popleft(), batch
