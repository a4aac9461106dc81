"""Caption evaluate: captioners and captioned pictures in, scores, examples and every caption out."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessella import files
from tessella.ahead import answered
from tessella.caption_scores import CaptionScores, caption_scores, sentence_bleu
from tessella.captioner import Caption, Captioner
from tessella.cider import Cider
from tessella.data.captioned import Captioned, read_captioned
from tessella.data.captions import CaptionColumns
from tessella.data.quarantine import Quarantine
from tessella.decode import Decoding
from tessella.repeats import degenerate

NBEST = 5
"""Captions of a picture that are written where all are."""
EXAMPLES = 5
"""Of the best captions and of the worst, that are shown."""


@dataclass(frozen=True)
class Example:
    """A picture's caption, what people say of it that is most like it, and the scores of this one caption."""

    name: str
    caption: str
    reference: str
    cider: float
    bleu: float


@dataclass
class Told:
    """One run on one set of captioned pictures."""

    run: str
    data: Captioned
    """Those that could be read."""
    captions: list[Caption]
    decoding: Decoding
    scores: CaptionScores
    each: np.ndarray
    """CIDEr of every caption."""
    quarantine: Quarantine
    seconds: float
    """Decoding included."""

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.captions) / max(self.seconds, 1e-9)

    @property
    def cut(self) -> int:
        """Captions that the longest answer allowed has cut off."""
        return sum(not one.ended for one in self.captions)

    def example(self, number: int) -> Example:
        """One picture of the set."""
        text, references = self.captions[number].text, self.data.captions[number]
        nearest = max(references, key=lambda reference: sentence_bleu(text, [reference]))
        name, bleu = self.data.pictures.name(number), sentence_bleu(text, references)
        return Example(name, text, nearest, float(self.each[number]), bleu)

    def examples(self, count: int = EXAMPLES) -> tuple[list[Example], list[Example]]:
        """The captions with the highest CIDEr, and those with the lowest, each but once."""
        order = np.argsort(-self.each, kind="stable")
        once = {self.captions[n].text: n for n in order[::-1]}  # of equal captions the best
        kept = [int(n) for n in order if once[self.captions[n].text] == n]
        lowest = {self.captions[n].text: n for n in order}  # of equal captions the worst
        worst = [int(n) for n in order[::-1] if lowest[self.captions[n].text] == n]
        return [self.example(n) for n in kept[:count]], [self.example(n) for n in worst[:count]]


def caption_run(
    run: str,
    captioner: Captioner,
    data: Path,
    split: str | None = None,
    columns: CaptionColumns | None = None,
    how: Decoding | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Told:
    """Describes every usable picture of a split and scores it. Raises InputError where nothing usable is left."""
    quarantine = Quarantine()
    captioned = read_captioned(data, split, columns, quarantine)
    pictures, channels = captioned.pictures, captioner.image.channels
    began = time.perf_counter()
    answers = captioner.answers(range(len(captioned)), lambda number: pictures.decode(number, channels), how)
    kept, captions = answered(pictures, answers, quarantine, data, done)
    seconds = time.perf_counter() - began
    captioned = captioned.take(kept)
    texts = [one.text for one in captions]
    scores = caption_scores(texts, captioned.captions)
    each = Cider(captioned.captions).scores(texts)
    return Told(run, captioned, captions, how or captioner.decoding, scores, each, quarantine, seconds)


def save(found: Sequence[Told], data: Path, split: str | None, out: Path) -> None:
    """Writes every number as JSON, with examples."""
    told = {"data": str(data), "split": split, "runs": [_run(one) for one in found]}
    with files.explained(out):
        files.write_text(out, json.dumps(told, ensure_ascii=False, indent=1))


def save_captions(found: Sequence[Told], out: Path) -> None:
    """Writes every caption: .json (a list, with the next best ones and all references), or else CSV (a row each)."""
    rows = [row for one in found for row in _rows(one)]
    if out.suffix.lower() == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    else:
        most = max(len(row["others"]) for row in rows)
        names = ["run", "image", "caption", "score", "ended", "cider", "degenerate"]
        sheet = io.StringIO()
        writer = csv.writer(sheet, lineterminator="\n")
        writer.writerow([*names, *(f"caption {n + 2}" for n in range(most))])
        for row in rows:
            others = [other["caption"] for other in row["others"]]
            writer.writerow([*(row[name] for name in names), *others, *[""] * (most - len(others))])
        text = sheet.getvalue()
    with files.explained(out):
        files.write_text(out, text)


def _rows(one: Told) -> list[dict[str, Any]]:
    return [
        {
            "run": one.run,
            "image": one.data.pictures.name(number),
            "caption": caption.text,
            "score": round(caption.score, 5),
            "ended": caption.ended,
            "cider": round(float(one.each[number]), 4),
            "degenerate": degenerate(caption.text),
            "others": [{"caption": text, "score": round(score, 5)} for text, score in caption.others],
            "references": list(one.data.captions[number]),
        }
        for number, caption in enumerate(one.captions)
    ]


def _run(one: Told) -> dict[str, Any]:
    best, worst = one.examples()
    return {
        "run": one.run,
        "decoding": one.decoding.model_dump(mode="json"),
        **one.scores.to_dict(),
        "cut": one.cut,
        "images a second": round(one.rate, 2),
        "best": [asdict(example) for example in best],
        "worst": [asdict(example) for example in worst],
        "quarantined": [asdict(item) for item in one.quarantine],
    }
