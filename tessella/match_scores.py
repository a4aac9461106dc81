"""Match scores: how well images find their texts among all, and texts their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

AT_ONCE = 2**24
"""Similarities held at once."""
TOPS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """One way: how high the first right answer of each query stands.

    ranks: n, from 1. candidates: among how many. relevant: how many of them are right for a query, on average; chance
    is judged by it.
    """

    ranks: np.ndarray
    candidates: int
    relevant: float

    def at(self, k: int) -> float:
        """The share of queries with a right answer among the first k."""
        return float((self.ranks <= k).mean())

    def chance(self, k: int) -> float:
        """The same of answers in random order: 1 - C(candidates - relevant, k) / C(candidates, k)."""
        n, r = self.candidates, self.relevant
        wrong = np.prod([max(n - r - i, 0) / (n - i) for i in range(min(k, n))])
        return float(1 - wrong)

    @property
    def median(self) -> float:
        """Median rank; 1 is best."""
        return float(np.median(self.ranks))

    @property
    def mean_reciprocal(self) -> float:
        """Mean of 1 / rank."""
        return float((1 / self.ranks).mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        recalls = {f"R@{k}": self.at(k) for k in TOPS}
        chances = {f"chance R@{k}": self.chance(k) for k in TOPS}
        rest = {"median rank": self.median, "MRR": self.mean_reciprocal}
        return {"queries": len(self.ranks), "candidates": self.candidates, **recalls, **rest, **chances}


def owners(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Which picture each caption belongs to, captions of all pictures in order: long m."""
    return np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])


def retrieval(images: np.ndarray, texts: np.ndarray, owner: Sequence[int] | np.ndarray) -> tuple[Recall, Recall]:
    """(text to image, image to text) of n images and m texts: float32 n e and m e, of length 1.

    owner: long m, which image a text belongs to; every image has at least one. A query whose right answer ties with
    wrong ones stands behind half of them, so that a model which tells nothing apart scores like chance.
    """
    owner = np.asarray(owner)
    assert len(owner) == len(texts) and set(owner.tolist()) == set(range(len(images)))
    by_text = _ranks(texts, images, lambda rows: owner[rows, None] == np.arange(len(images))[None])
    by_image = _ranks(images, texts, lambda rows: rows[:, None] == owner[None])
    return Recall(by_text, len(images), 1.0), Recall(by_image, len(texts), len(texts) / len(images))


def _ranks(queries: np.ndarray, candidates: np.ndarray, right) -> np.ndarray:
    """The rank of the best right candidate of each query, in blocks of queries."""
    ranks = np.empty(len(queries))
    size = max(1, AT_ONCE // max(len(candidates), 1))
    for start in range(0, len(queries), size):
        rows = np.arange(start, min(start + size, len(queries)))
        scores, good = queries[rows] @ candidates.T, right(rows)
        best = np.where(good, scores, -np.inf).max(axis=1, keepdims=True)
        above, level = ((scores > best) & ~good).sum(axis=1), ((scores == best) & ~good).sum(axis=1)
        ranks[rows] = 1 + above + level / 2
    return ranks
