"""Fuse scores: what answers to rows of mixed data come to, beside what needs no model, and whether two differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from tessella import class_scores
from tessella.class_scores import ClassReport
from tessella.errors import InputError

Measures = dict[str, float | None]
"""Such as {"accuracy": 0.81}; None where it is not defined for these rows."""


class Scores(Protocol):
    """All scores of one run: `measured` and `plain` have a "" for all that is asked, or a key for each number."""

    @property
    def measured(self) -> Mapping[str, Measures]:
        """Of the model."""
        ...

    @property
    def plain(self) -> Mapping[str, Measures]:
        """Of what needs no model: always the most frequent class, always the mean of the training rows, no label."""
        ...

    @property
    def classes(self) -> ClassReport | None:
        """Of classes: class by class, confusions, calibration."""
        ...

    @property
    def labels(self) -> list[LabelScore]:
        """Of several labels: label by label."""
        ...

    @property
    def absent(self) -> list[str]:
        """Classes or labels that no row has."""
        ...

    @property
    def trends(self) -> dict[str, list[tuple[float, float]]]:
        """Of each number: mean label and mean answer of rows of like labels, from small to large."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ...


@dataclass(frozen=True)
class ClassScores:
    """Of classes. Areas under curves are of two classes that of the second; of more, the mean of one against the
    rest."""

    measured: dict[str, Measures]
    plain: dict[str, Measures]
    classes: ClassReport

    @property
    def labels(self) -> list[LabelScore]:
        return []

    @property
    def absent(self) -> list[str]:
        return self.classes.absent

    @property
    def trends(self) -> dict[str, list[tuple[float, float]]]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        return {"measured": self.measured[""], "plain": self.plain[""], **_of_rows(asdict(self.classes))}


@dataclass(frozen=True)
class NumberScores:
    """Of numbers, each in its own unit; R² is against the mean of these rows."""

    measured: dict[str, Measures]
    plain: dict[str, Measures]
    trends: dict[str, list[tuple[float, float]]]

    @property
    def classes(self) -> None:
        return None

    @property
    def labels(self) -> list[LabelScore]:
        return []

    @property
    def absent(self) -> list[str]:
        return []

    def to_dict(self) -> dict[str, Any]:
        return {
            name: {**of, "of the training mean": self.plain[name], "trend": self.trends[name]}
            for name, of in self.measured.items()
        }


@dataclass(frozen=True)
class LabelScore:
    """One label: how many rows have it, how many were given it, and how these went together."""

    name: str
    rows: int
    answered: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None
    auc: float | None
    """None where every row has it."""


@dataclass(frozen=True)
class LabelScores:
    """Of several labels at once, each a yes from a probability of one half on."""

    measured: dict[str, Measures]
    plain: dict[str, Measures]
    labels: list[LabelScore]
    """Those that some row has; only they count in means."""
    absent: list[str]

    @property
    def classes(self) -> None:
        return None

    @property
    def trends(self) -> dict[str, list[tuple[float, float]]]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "measured": self.measured[""], "plain": self.plain[""]}


@dataclass(frozen=True)
class Paired:
    """What one set of answers has over another to the same rows."""

    rows: int
    difference: float
    """In shares of right rows, or in units of the error."""
    interval: tuple[float, float] | None
    """95 %; of shares by the paired bootstrap, of errors by their normal limit, which one row has not."""
    p: float
    """How likely so large a difference is if both are as good; of shares McNemar's exact test, of errors a z test."""


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """The second minus the first, row by row: n and n, whether rows are right, or how large their errors are."""
    if len(first) != len(second) or not len(first):
        raise InputError(f"runs of {len(first)} and {len(second)} rows cannot be compared; they need the same ones")
    if first.dtype == bool:
        found = class_scores.compare(first, second)
        return Paired(len(first), found.top1, found.interval, found.p)
    apart = second - first
    mean, error = float(apart.mean()), standard_error(apart) if len(apart) > 1 else math.inf
    p = math.erfc(abs(mean) / error / math.sqrt(2)) if error > 0 else float(mean == 0)
    return Paired(len(apart), mean, around(apart), p)


def level(outcomes: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """Of rows n, right or not, or of their errors: the mean, and its 95 % interval: Wilson's, or the normal limit."""
    return float(outcomes.mean()), wilson(outcomes) if outcomes.dtype == bool else around(outcomes)


def wilson(right: np.ndarray) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927), which few rows that are all right do not make a certainty."""
    n, share, z = len(right), float(right.mean()), 1.96
    middle, far = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (middle - far) / (1 + z**2 / n)), min(1.0, (middle + far) / (1 + z**2 / n))


def around(values: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of n numbers, by its normal limit; None of one number."""
    if len(values) < 2:
        return None
    mean, far = float(values.mean()), 1.96 * standard_error(values)
    return mean - far, mean + far


def standard_error(values: np.ndarray) -> float:
    """Of the mean of n numbers."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _of_rows(told: Any) -> Any:
    """The report of a classifier of images as one of rows."""
    if isinstance(told, dict):
        return {"rows" if name == "images" else name: _of_rows(value) for name, value in told.items()}
    return [_of_rows(value) for value in told] if isinstance(told, list) else told
