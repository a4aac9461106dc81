"""Fuse sums: answers to rows of mixed data as they come; of millions of rows what scores need is kept, not logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tessella import class_scores
from tessella.class_scores import Calibration, ClassReport, interval
from tessella.errors import InputError
from tessella.fuse_scores import ClassScores, LabelScore, LabelScores, Measures, NumberScores, Scores
from tessella.rank_scores import Ranks, odds_of_classes

PARTS = 20


class Sums(Protocol):
    """Takes answers and labels of some rows after another, and then tells their scores."""

    def add(self, answers: np.ndarray, labels: np.ndarray) -> None:
        """What the model says of some rows, n k, and their labels. Raises InputError for what is not finite."""
        ...

    def scores(self) -> Scores:
        """Of all that was added. Raises InputError where nothing was."""
        ...

    @property
    def outcomes(self) -> np.ndarray:
        """n: how each row came out, which is what runs are compared by: right or not (bool), or its error (float)."""
        ...

    def told(self, row: int) -> list[str]:
        """What people ask of one row: a cell for each of `columns`."""
        ...

    @property
    def columns(self) -> list[str]:
        """What `told` tells."""
        ...

    def worst(self, most: int) -> list[int]:
        """The rows whose answers are most wrong, the worst first; none that is right."""
        ...


class Gathered:
    """Arrays that come piece by piece and are wanted as one."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, part: np.ndarray) -> None:
        """Some rows more."""
        self.parts.append(part)

    @property
    def all(self) -> np.ndarray:
        """All rows. Raises InputError where there are none."""
        if not sum(map(len, self.parts)):
            raise InputError("there is nothing to score: no row was left")
        self.parts = [np.concatenate(self.parts)] if len(self.parts) > 1 else self.parts
        return self.parts[0]


class ClassSums:
    """Logits n k and labels n (numbers of `names`)."""

    def __init__(self, names: Sequence[str]):
        self.names, k = list(names), len(names)
        self.columns = ["label", "prediction", "probability", "correct"]
        self.table, self.ranks = np.zeros((k, k), np.int64), Ranks(k)
        self.labels, self.answers, self.chances = Gathered(), Gathered(), Gathered()
        self.nll = self.brier = 0.0
        self.fives = 0

    def add(self, answers: np.ndarray, labels: np.ndarray) -> None:
        logits, labels, n = _finite(answers), np.asarray(labels, np.int64), np.arange(len(labels))
        shares, best = class_scores.softmax(logits), logits.argmax(axis=1)
        self.table += class_scores.confusion(labels, best, len(self.names))
        self.ranks.add(odds_of_classes(logits), labels[:, None] == np.arange(len(self.names)))
        self.nll -= float(np.log(np.maximum(shares[n, labels], np.finfo(float).tiny)).sum())
        self.fives += int(class_scores.among(logits, labels, 5).sum())
        self.labels.add(labels.astype(np.int32))
        self.answers.add(best.astype(np.int32))
        self.chances.add(shares[n, best].astype(np.float32))
        shares[n, labels] -= 1
        self.brier += float((shares**2).sum())

    @property
    def outcomes(self) -> np.ndarray:
        return self.labels.all == self.answers.all

    def told(self, row: int) -> list[str]:
        label, answer, chance = (one.all[row] for one in (self.labels, self.answers, self.chances))
        return [self.names[label], self.names[answer], f"{chance:.6f}", str(int(label == answer))]

    def worst(self, most: int) -> list[int]:
        wrong = np.flatnonzero(~self.outcomes)
        return wrong[np.argsort(-self.chances.all[wrong], kind="stable")][:most].tolist()

    def scores(self) -> ClassScores:
        classes, share = self._report(), self.table.sum(axis=1) / len(self.labels.all)
        asked = slice(1, 2) if len(self.names) == 2 else slice(None)
        there, top = share > 0, float(share.max())
        auc = _mean(self.ranks.auc()[asked])
        measured: Measures = {
            "accuracy": classes.top1,
            "balanced": classes.recall,
            "F1": classes.f1,
            "AUC": auc,
            "AP": _mean(self.ranks.average_precision()[asked]),
            "log loss": classes.calibration.nll,
            "ECE": classes.calibration.ece,
        }
        plain: Measures = {
            "accuracy": top,
            "balanced": 1 / int(there.sum()),
            "F1": 2 * top / (1 + top) / int(there.sum()),
            "AUC": None if auc is None else 0.5,
            "AP": _mean(np.where(there, share, np.nan)[asked]),
            "log loss": -float((share[there] * np.log(share[there])).sum()),
            "ECE": None,
        }
        return ClassScores({"": measured}, {"": plain}, classes)

    def _report(self) -> ClassReport:
        right, n = self.outcomes, len(self.labels.all)
        there = self.table.sum(axis=1) > 0
        each = [class_scores.class_score(self.table, i, self.names) for i in np.flatnonzero(there).tolist()]
        bins = class_scores.binned(self.chances.all.astype(float), right)
        return ClassReport(
            images=n,
            top1=float(right.mean()),
            interval=interval(right),
            top5=self.fives / n if len(self.names) > 5 else None,
            precision=float(np.mean([one.precision for one in each])),
            recall=float(np.mean([one.recall for one in each])),
            f1=float(np.mean([one.f1 for one in each])),
            calibration=Calibration(class_scores.calibration_error(bins), self.nll / n, self.brier / n, bins),
            temperature=None,
            classes=each,
            absent=[name for name, here in zip(self.names, there, strict=True) if not here],
            confusion=self.table.tolist(),
        )


class NumberSums:
    """Answers n t and labels n t, both in the labels' own units.

    means: of the training rows, which is what could be answered without a model. scales: their deviations; of several
    numbers a row's error is the mean of its absolute errors in deviations.
    """

    def __init__(self, names: Sequence[str], means: Sequence[float], scales: Sequence[float]):
        self.names, self.means = list(names), np.asarray(means, float)
        self.scales = np.asarray(scales, float) if len(names) > 1 else np.ones(1)
        self.columns = [f"{name}{what}" for name in names for what in ("", " predicted", " error")]
        self.answers, self.labels = Gathered(), Gathered()

    def add(self, answers: np.ndarray, labels: np.ndarray) -> None:
        self.answers.add(_finite(answers))
        self.labels.add(np.asarray(labels, np.float64))

    @property
    def outcomes(self) -> np.ndarray:
        return (np.abs(self.answers.all - self.labels.all) / self.scales).mean(axis=1)

    def told(self, row: int) -> list[str]:
        answers, labels = self.answers.all[row], self.labels.all[row]
        each = zip(answers, labels, strict=True)
        return [cell for x, y in each for cell in (f"{y:.9g}", f"{x:.9g}", f"{x - y:.6g}")]

    def worst(self, most: int) -> list[int]:
        return np.argsort(-self.outcomes, kind="stable")[:most].tolist()

    def scores(self) -> NumberScores:
        answers, labels = self.answers.all, self.labels.all
        plain = np.broadcast_to(self.means, labels.shape)
        made = [
            {name: errors(given[:, i], labels[:, i]) for i, name in enumerate(self.names)} for given in (answers, plain)
        ]
        trends = {name: trend(answers[:, i], labels[:, i]) for i, name in enumerate(self.names)}
        return NumberScores(*made, trends)


def errors(answers: np.ndarray, labels: np.ndarray) -> Measures:
    """Of answers n to labels n. R² is the share of the labels' variance that is explained; None where there is none."""
    apart, spread = answers - labels, float(((labels - labels.mean()) ** 2).sum())
    return {
        "MAE": float(np.abs(apart).mean()),
        "RMSE": float(np.sqrt((apart**2).mean())),
        "R²": 1 - float((apart**2).sum()) / spread if spread > 0 else None,
        "median error": float(np.median(np.abs(apart))),
    }


def trend(answers: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """(mean label, mean answer) of rows in order of their labels, in up to 20 parts of about the same size."""
    order = np.argsort(labels, kind="stable")
    parts = np.array_split(order, min(PARTS, len(order)))
    return [(float(labels[part].mean()), float(answers[part].mean())) for part in parts]


class LabelSums:
    """Logits n k and labels n k of 0 and 1."""

    def __init__(self, names: Sequence[str]):
        self.names, k = list(names), len(names)
        self.columns = ["labels", "predictions", "correct"]
        self.ranks, self.table = Ranks(k), np.zeros((k, 2, 2), np.int64)  # [label, answer]
        self.answers, self.labels = Gathered(), Gathered()

    def add(self, answers: np.ndarray, labels: np.ndarray) -> None:
        logits, truth = _finite(answers), np.asarray(labels) > 0.5
        yes = logits >= 0
        self.ranks.add(logits, truth)
        for label in (False, True):
            for answer in (False, True):
                self.table[:, int(label), int(answer)] += ((truth == label) & (yes == answer)).sum(axis=0)
        self.answers.add(yes)
        self.labels.add(truth)

    @property
    def outcomes(self) -> np.ndarray:
        return (self.answers.all == self.labels.all).all(axis=1)

    def told(self, row: int) -> list[str]:
        answers, labels = self.answers.all[row], self.labels.all[row]
        chosen = ["; ".join(name for name, yes in zip(self.names, of, strict=True) if yes) for of in (labels, answers)]
        return [*chosen, str(int((answers == labels).all()))]

    def worst(self, most: int) -> list[int]:
        wrong = (self.answers.all != self.labels.all).sum(axis=1)
        order = np.argsort(-wrong, kind="stable")[:most]
        return order[wrong[order] > 0].tolist()

    def scores(self) -> LabelScores:
        right, hits = self.outcomes, self.table[:, 1, 1]
        given, there = self.table[:, :, 1].sum(axis=1), self.table[:, 1].sum(axis=1)
        auc, precise = self.ranks.auc(), self.ranks.average_precision()
        f1, known = 2 * hits / np.maximum(given + there, 1), there > 0
        each = [
            LabelScore(
                name=self.names[i],
                rows=int(there[i]),
                answered=int(given[i]),
                precision=float(hits[i] / max(given[i], 1)),
                recall=float(hits[i] / there[i]),
                f1=float(f1[i]),
                average_precision=_mean(precise[i : i + 1]),
                auc=_mean(auc[i : i + 1]),
            )
            for i in np.flatnonzero(known).tolist()
        ]
        measured: Measures = {
            "micro F1": float(2 * hits.sum() / max(given.sum() + there.sum(), 1)),
            "macro F1": _mean(f1[known]),
            "mAP": _mean(precise),
            "AUC": _mean(auc),
            "all right": float(right.mean()),
        }
        plain: Measures = {
            "micro F1": 0.0,
            "macro F1": 0.0,
            "mAP": _mean(there[known] / len(right)),
            "AUC": None if measured["AUC"] is None else 0.5,
            "all right": float((~self.labels.all.any(axis=1)).mean()),
        }
        absent = [name for name, here in zip(self.names, known, strict=True) if not here]
        return LabelScores({"": measured}, {"": plain}, each, absent)


def _finite(answers: np.ndarray) -> np.ndarray:
    answers = np.asarray(answers, np.float64)
    if not np.isfinite(answers).all():
        bad = int((~np.isfinite(answers)).any(axis=1).sum())
        raise InputError(f"the model answers {bad} of {len(answers)} rows with numbers that are not finite")
    return answers


def _mean(values: np.ndarray) -> float | None:
    """Over those that are known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
