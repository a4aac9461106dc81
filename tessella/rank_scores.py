"""Rank scores: areas under ROC and precision-recall curves, from counts alone, however many rows there are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SPAN = 20.0
"""Log odds beyond this, a chance of 2 in a billion, count as alike."""
BINS = 2**18
CELLS = 2**21
"""Bins of all questions together: 32 MiB of counts."""


class Ranks:
    """How well log odds tell yes from no, for `k` questions at once, each row answering all of them.

    Rows are not kept, only how many of yes and of no fall into each of many narrow bins of log odds: 262,144 of width
    0.00015 for up to eight questions, 2,097 of width 0.02 for a thousand. Odds of one bin count as equal, so that each
    number is exactly that of the rounded odds.
    """

    def __init__(self, k: int):
        self.bins = min(BINS, CELLS // k)
        self.counts = np.zeros((k, 2, self.bins), np.int64)

    def add(self, odds: np.ndarray, truth: np.ndarray) -> None:
        """Log odds n k, and whether each is a yes, n k."""
        k = np.broadcast_to(np.arange(odds.shape[1]), odds.shape)
        np.add.at(self.counts, (k, truth.astype(np.int64), self.rounded(odds)), 1)

    def rounded(self, odds: np.ndarray) -> np.ndarray:
        """The number of each one's bin."""
        place = (np.clip(odds, -SPAN, SPAN) + SPAN) * (self.bins / (2 * SPAN))
        return np.minimum(place.astype(np.int64), self.bins - 1)

    @property
    def yes(self) -> np.ndarray:
        """k: how many rows are a yes."""
        return self.counts[:, 1].sum(axis=1)

    @property
    def rows(self) -> int:
        """How many were added."""
        return int(self.counts[0].sum())

    def auc(self) -> np.ndarray:
        """k: how often a yes has greater odds than a no, ties half (the area under the ROC curve); NaN without both."""
        areas = []
        for no, yes in self._filled():
            below = np.cumsum(no) - no / 2
            both = no.sum() * yes.sum()
            areas.append((below * yes).sum() / both if both else np.nan)
        return np.array(areas)

    def average_precision(self) -> np.ndarray:
        """k: the mean over the yeses of the precision among all with at least their odds; NaN without a yes."""
        means = []
        for no, yes in self._filled():
            found, met = np.cumsum(yes[::-1]), np.cumsum((no + yes)[::-1])
            means.append((found / met * yes[::-1]).sum() / yes.sum() if yes.any() else np.nan)
        return np.array(means)

    def _filled(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each question, from low odds to high: how many of no and of yes are in the bins that are not empty."""
        for no, yes in self.counts:
            filled = np.flatnonzero(no + yes)
            yield no[filled].astype(float), yes[filled].astype(float)


def odds_of_classes(logits: np.ndarray) -> np.ndarray:
    """n k logits -> n k log odds of each class against all others: log p / (1 - p), exact where p is almost 1, too."""
    raised = logits - logits.max(axis=1, keepdims=True)
    mass, best = np.exp(raised), raised.argmax(axis=1)[:, None]
    rest = mass.sum(axis=1, keepdims=True, where=np.arange(mass.shape[1]) != best)  # without the greatest, which is 1
    others = rest + 1 - mass
    np.put_along_axis(others, best, rest, axis=1)
    with np.errstate(divide="ignore"):
        return raised - np.log(others)
