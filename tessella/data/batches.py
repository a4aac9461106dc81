"""Batches: which pairs are trained on together, as a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tessella.errors import InputError

WIDEST_BAND = 6


@dataclass(frozen=True, slots=True)
class Position:
    """Where training stands: the next batch to see is number ``batch`` of epoch ``epoch``, both from 0."""

    epoch: int = 0
    batch: int = 0

    def advance(self, batches: int) -> Position:
        """The position after one more batch, in an epoch that has this many of them."""
        if self.batch + 1 < batches:
            return Position(self.epoch, self.batch + 1)
        return Position(self.epoch + 1, 0)

    def to_dict(self) -> dict[str, int]:
        """Plain JSON data; ``Position.from_dict`` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Position:
        """The other direction of ``to_dict``. Raises InputError for anything else."""
        epoch, batch = (data.get("epoch"), data.get("batch")) if isinstance(data, Mapping) else (None, None)
        # type() and not isinstance(): true is no number here
        if type(epoch) is not int or type(batch) is not int or min(epoch, batch) < 0:
            raise InputError(f"a position needs 'epoch' and 'batch', whole numbers from 0; got {str(data)[:80]}")
        return cls(epoch, batch)


class TokenBatches:
    """Batches of pairs of similar length, so that little of a batch is padding on either side.

    ``lengths`` (pairs, 2) holds the tokens of each source and target. A batch has at most ``budget`` padded tokens,
    rows * (longest source + longest target); a pair that alone has more gets a batch of its own, so set such pairs
    aside before if memory cannot hold them. ``multiple`` rounds the rows of a batch down to its multiples (except
    batches smaller than it, and the last of a pool). Pairs are shuffled into pools of ``pool`` pairs; each pool is
    sorted by bands of target lengths, the sources within a band by turns up and down, and cut. ``noise`` blurs the
    target lengths (standard deviation in tokens), so that epochs differ. Raises InputError for unusable numbers.
    """

    def __init__(
        self,
        lengths: np.ndarray | Sequence[tuple[int, int]],
        budget: int,
        seed: int = 0,
        pool: int = 100_000,
        noise: float = 0.2,
        multiple: int = 1,
    ):
        self.lengths = np.asarray(lengths, dtype=np.int64).reshape(-1, 2)
        if len(self.lengths) == 0:
            raise InputError("no pairs to make batches of")
        limits = (
            ("budget", budget, 1),
            ("seed", seed, 0),
            ("pool", pool, 1),
            ("multiple", multiple, 1),
            ("noise", noise, 0),
        )
        for name, value, least in limits:
            if value < least:
                raise InputError(f"the {name} of token batches must be at least {least}, got {value}")
        if self.lengths.min() < 0:
            raise InputError("a pair has a negative number of tokens")
        self.budget, self.seed, self.pool, self.noise, self.multiple = budget, seed, pool, noise, multiple
        self.band = self._best_band()

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch (from 0), as pair indices: every pair once, in a random order of batches."""
        rng = np.random.default_rng([self.seed, number])
        shuffled = np.argsort(rng.random(len(self.lengths)), kind="stable")
        batches: list[list[int]] = []
        for start in range(0, len(shuffled), self.pool):
            batches += self._cut(self._sorted(shuffled[start : start + self.pool], rng, self.band))
        return [batches[i] for i in np.argsort(rng.random(len(batches)), kind="stable")]

    def padding(self, batches: Sequence[Sequence[int]]) -> float:
        """The share of the positions of these batches that is padding, both sides together."""
        held = [self.lengths[np.asarray(batch)] for batch in batches if len(batch)]
        padded = sum(len(rows) * int(rows.max(0).sum()) for rows in held)
        return 1 - sum(int(rows.sum()) for rows in held) / max(padded, 1)

    def _sorted(self, indices: np.ndarray, rng: np.random.Generator, band: int) -> np.ndarray:
        source, target = self.lengths[indices].T
        blurred = np.round(target + self.noise * rng.standard_normal(len(indices))).astype(np.int64)
        bands = (blurred + int(rng.random() * band)) // band
        # Up and down by turns: where one band ends, the next begins with sources of the same length.
        turn = np.where(bands % 2 == 0, source, -source)
        return indices[np.lexsort((turn, bands))]

    def _best_band(self) -> int:
        """The larger the batches, the wider the bands that waste least: tried out on one pool."""
        trials = []
        for band in range(1, WIDEST_BAND + 1):
            rng = np.random.default_rng(self.seed)
            first = np.argsort(rng.random(len(self.lengths)), kind="stable")[: self.pool]
            trials.append((self.padding(self._cut(self._sorted(first, rng, band))), band))
        return min(trials)[1]

    def _cut(self, order: np.ndarray) -> list[list[int]]:
        source, target = self.lengths[order].T
        batches: list[list[int]] = []
        start = 0
        while start < len(order):
            # Rows never outnumber what the first pair's length allows, so only a window has to be looked at.
            window = slice(start, start + max(1, self.budget // max(1, int(source[start] + target[start]))))
            longest = np.maximum.accumulate(source[window]) + np.maximum.accumulate(target[window])
            size = np.arange(1, len(longest) + 1) * longest
            rows = max(1, int(np.searchsorted(size, self.budget, side="right")))
            if rows > self.multiple and start + rows < len(order):
                rows -= rows % self.multiple
            batches.append(order[start : start + rows].tolist())
            start += rows
        return batches


def shard(batches: Sequence[Sequence[int]], rank: int, world: int) -> list[list[int]]:
    """The part of each batch that process ``rank`` of ``world`` works on.

    The parts of all ranks together are the batch; a part is empty only where a batch has fewer rows than ``world``.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} does not exist among {world} processes; ranks run from 0")
    return [list(batch[rank::world]) for batch in batches]
