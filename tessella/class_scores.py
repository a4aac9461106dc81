"""Class scores: how good a classifier's answers are, how well it knows how good, and whether two really differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tessella.errors import InputError

BINS = 15
SAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class ClassScore:
    """One class: how many of its images there are, and how they and its name went together."""

    name: str
    images: int
    answered: int
    """How often the class was the answer."""
    precision: float
    """Share of these answers that are right; 0 where it never was the answer."""
    recall: float
    """Share of its images that were found."""
    f1: float
    mistaken_for: str | None
    """The most frequent wrong answer for its images."""


@dataclass(frozen=True)
class Bin:
    """Answers whose probability lies in (low, high], of a reliability diagram."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities mean what they say. Smaller is better."""

    ece: float
    """Expected calibration error: |accuracy - confidence|, mean over images, of bins of equal width (Guo et al. 2017,
    eq. 3)."""
    nll: float
    """Mean of -log p(label), in nats."""
    brier: float
    """Mean of |p - one-hot(label)|^2, summed over classes: 0 to 2 (Brier 1950)."""
    bins: list[Bin]


@dataclass(frozen=True)
class ClassReport:
    """Everything about one classifier on one set of images."""

    images: int
    top1: float
    interval: tuple[float, float]
    """95 % bootstrap interval of top1."""
    top5: float | None
    """None where there are five classes or fewer."""
    precision: float
    """This and the next two: mean over the classes that have images, each class alike."""
    recall: float
    f1: float
    calibration: Calibration
    temperature: float | None
    """What logits should be divided by to be calibrated here; None unless asked for."""
    classes: list[ClassScore]
    absent: list[str]
    """Classes without an image: they have no scores and count in no mean."""
    confusion: list[list[int]]
    """[class of the image][answer], over all classes in their order."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def report(logits: np.ndarray, labels: np.ndarray, names: Sequence[str], temperature: bool = False) -> ClassReport:
    """All scores of logits n k against labels n (numbers of `names`).

    temperature: fit that, too; on images that are not the test's, or it flatters. Raises InputError where there is
    nothing to score, or shapes, labels and names do not belong together.
    """
    logits, labels = _checked(logits, labels, names)
    probabilities, answers = softmax(logits), logits.argmax(axis=1)
    table = confusion(labels, answers, len(names))
    present = table.sum(axis=1) > 0
    scores = [class_score(table, i, names) for i in np.flatnonzero(present).tolist()]
    return ClassReport(
        images=len(labels),
        top1=float((answers == labels).mean()),
        interval=interval(answers == labels),
        top5=float(among(logits, labels, 5).mean()) if len(names) > 5 else None,
        precision=float(np.mean([score.precision for score in scores])),
        recall=float(np.mean([score.recall for score in scores])),
        f1=float(np.mean([score.f1 for score in scores])),
        calibration=calibration(probabilities, labels),
        temperature=fitted_temperature(logits, labels) if temperature else None,
        classes=scores,
        absent=[name for name, there in zip(names, present, strict=True) if not there],
        confusion=table.tolist(),
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """n k -> probabilities n k, float64."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def among(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """n: whether the label is one of the k likeliest; of equal ones the first class is likelier, as with argmax."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(axis=1) < k


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """k k counts: [label, answer]."""
    return np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Calibration:
    """Of probabilities n k and labels n. A bin without images is left out."""
    n = np.arange(len(labels))
    made = binned(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)
    apart = probabilities.copy()
    apart[n, labels] -= 1
    return Calibration(
        ece=calibration_error(made),
        nll=float(-np.log(np.maximum(probabilities[n, labels], np.finfo(float).tiny)).mean()),
        brier=float((apart**2).sum(axis=1).mean()),
        bins=made,
    )


def binned(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Answers by their probability n, with whether they are right n. A bin without answers is left out."""
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    made = []
    for one in np.unique(number).tolist():
        inside = number == one
        mean = float(confidence[inside].mean()), float(right[inside].mean())
        made.append(Bin(one / bins, (one + 1) / bins, int(inside.sum()), *mean))
    return made


def calibration_error(bins: list[Bin]) -> float:
    """|accuracy - confidence|, mean over answers."""
    return sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / sum(b.images for b in bins)


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in 0.01 to 100 for which softmax(logits / T) has the least negative log-likelihood (Guo et al. 2017, 4.2).

    In 1 / T this likelihood is convex; its slope is the mean logit minus the label's, so a bisection finds the T.
    """
    own = logits[np.arange(len(labels)), labels]
    low, high = math.log(0.01), math.log(100)  # of 1 / T
    for _ in range(50):
        middle = (low + high) / 2
        slope = ((softmax(logits * math.exp(middle)) * logits).sum(axis=1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def interval(right: np.ndarray, samples: int = SAMPLES, seed: int = SEED) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a share (Efron 1979): n: True or False -> (low, high).

    A sample with replacement of n right and wrong answers is a binomial number, which is drawn at once.
    """
    drawn = np.random.default_rng(seed).binomial(len(right), right.mean(), samples) / len(right)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """One run against another on the same images."""

    top1: float
    """Its accuracy minus the other's."""
    interval: tuple[float, float]
    """95 % paired bootstrap interval of that."""
    gained: int
    """Images that only it has right."""
    lost: int
    """Images that only the other has right."""
    p: float
    """McNemar's exact test: how likely so uneven a split is if both are as good."""


def compare(first: np.ndarray, second: np.ndarray, samples: int = SAMPLES, seed: int = SEED) -> Difference:
    """What the second run has over the first: n and n, whether each has an image right, image by image."""
    if first.shape != second.shape or not len(first):
        raise InputError(f"runs of {len(first)} and {len(second)} images cannot be compared; they need the same ones")
    n, gained, lost = len(first), int((second & ~first).sum()), int((first & ~second).sum())
    shares = np.array([gained, lost, n - gained - lost]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, samples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Difference((gained - lost) / n, (float(low), float(high)), gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of a fair coin's falling as unevenly as gained : lost (McNemar 1947, exact)."""
    n, few = gained + lost, min(gained, lost)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(few + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def class_score(table: np.ndarray, i: int, names: Sequence[str]) -> ClassScore:
    """Of one class: its row and column of the confusions."""
    images, answered, right = int(table[i].sum()), int(table[:, i].sum()), int(table[i, i])
    wrong = table[i].copy()
    wrong[i] = 0
    return ClassScore(
        name=names[i],
        images=images,
        answered=answered,
        precision=right / max(answered, 1),
        recall=right / images,
        f1=2 * right / (images + answered),
        mistaken_for=names[int(wrong.argmax())] if wrong.any() else None,
    )


def _checked(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if not len(labels):
        raise InputError("there is nothing to score: no image was left")
    if logits.shape != (len(labels), len(names)):
        got = " x ".join(map(str, logits.shape))
        raise InputError(f"{len(labels)} images of {len(names)} classes need as many logits, got {got}")
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(f"labels lie in 0 to {len(names) - 1}, got {labels.min()} to {labels.max()}")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise InputError(f"the model answers {bad} of {len(labels)} images with numbers that are not finite")
    return logits, labels
