"""Class evaluate: classifiers and labelled pictures in, scores, comparisons and every answer out."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tessella import files
from tessella.ahead import answered
from tessella.class_scores import ClassReport, Difference, compare, report, softmax
from tessella.classifier import Classifier
from tessella.data.albums import PictureColumns
from tessella.data.layouts import best_split
from tessella.data.pictures import Pictures, read_pictures, splits
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

TOP = 5
MISTAKES = 12


@dataclass
class Judged:
    """One run on one set of pictures."""

    run: str
    classifier: Classifier
    pictures: Pictures
    """Those that were answered."""
    logits: np.ndarray
    """n k, float32."""
    quarantine: Quarantine
    """What of the data was set aside: unreadable, or of a class that the run does not know."""
    seconds: float
    """Decoding included."""
    report: ClassReport

    @property
    def answers(self) -> np.ndarray:
        """n: the number of each picture's likeliest class."""
        return self.logits.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """n: whether it is the label."""
        return self.answers == self.pictures.labels

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.pictures) / max(self.seconds, 1e-9)

    def mistakes(self, most: int = MISTAKES) -> list[int]:
        """The wrong answers given with the greatest probability, the surest first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-softmax(self.logits[wrong].astype(float)).max(axis=1), kind="stable")][:most].tolist()


@dataclass(frozen=True)
class Compared:
    """A run against the first one, on the pictures that both have answered."""

    run: str
    images: int
    difference: Difference


def chosen_split(path: Path, split: str | None) -> str | None:
    """The split to evaluate on: the one asked for, else test, validation or train, whichever is there first."""
    return split or best_split(splits(path))


def judge(
    run: str,
    classifier: Classifier,
    data: Path,
    split: str | None = None,
    columns: PictureColumns | None = None,
    batch: int = 32,
    temperature: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Judged:
    """Answers and scores every picture of a split (see `read_pictures`) whose class the run knows.

    The labels are numbered by the run's own list of classes. temperature: fit one, too. `done` is told how many more
    are answered. Raises InputError where nothing usable is left.
    """
    quarantine = Quarantine()
    pictures = read_pictures(data, split, columns, classifier.classes, quarantine)
    began = time.perf_counter()
    channels = classifier.image.channels
    answers = classifier.answers(range(len(pictures)), lambda number: pictures.decode(number, channels), batch)
    kept, rows = answered(pictures, answers, quarantine, data, done)
    seconds = time.perf_counter() - began
    pictures, logits = pictures.take(kept), torch.stack(rows).numpy()
    found = report(logits, pictures.labels, classifier.classes, temperature)
    return Judged(run, classifier, pictures, logits, quarantine, seconds, found)


def compared(found: Sequence[Judged]) -> list[Compared]:
    """Every run but the first against the first, paired."""
    made = []
    for other in found[1:]:
        _, first, second = np.intersect1d(found[0].pictures.index, other.pictures.index, return_indices=True)
        if not len(first):
            raise InputError(f"{found[0].run} and {other.run} have no picture in common; their classes are others")
        made.append(Compared(other.run, len(first), compare(found[0].right[first], other.right[second])))
    return made


def save(found: Sequence[Judged], differences: Sequence[Compared], data: Path, split: str | None, out: Path) -> None:
    """Writes every number as JSON."""
    told = {
        "data": str(data),
        "split": split,
        "runs": [
            {
                "run": one.run,
                "images a second": round(one.rate, 2),
                **one.report.to_dict(),
                "quarantined": [asdict(item) for item in one.quarantine],
            }
            for one in found
        ],
        "paired comparison": [asdict(one) for one in differences],
    }
    with files.explained(out):
        files.write_text(out, json.dumps(told, ensure_ascii=False, indent=1))


def save_predictions(found: Sequence[Judged], out: Path) -> None:
    """Writes a row a picture and run as CSV: what was set aside has an error instead of a prediction."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "image", "label", "prediction", "probability", "correct", "top5", "error"])
    for one in found:
        names, labels = one.classifier.classes, one.pictures.labels
        best = np.argsort(-one.logits, axis=1, kind="stable")[:, :TOP]
        chances = np.take_along_axis(softmax(one.logits.astype(float)), best, axis=1)
        for i, (places, shares) in enumerate(zip(best.tolist(), chances.tolist(), strict=True)):
            top = "; ".join(f"{names[place]} {share:.4f}" for place, share in zip(places, shares, strict=True))
            right = int(places[0] == labels[i])
            picture, label = one.pictures.name(i), names[labels[i]]
            table.writerow([one.run, picture, label, names[places[0]], f"{shares[0]:.6f}", right, top, ""])
        for item in one.quarantine:
            where = f"{item.where} row {item.line}" if item.line else item.where
            table.writerow([one.run, where, "", "", "", "", "", item.reason])
    with files.explained(out):
        files.write_text(out, text.getvalue())
