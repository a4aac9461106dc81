"""Match evaluate: matchers and captioned pictures in, recall both ways out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tessella import files
from tessella.ahead import answered
from tessella.data.captioned import Captioned, captioned_splits, read_captioned
from tessella.data.captions import CaptionColumns
from tessella.data.layouts import best_split
from tessella.data.quarantine import Quarantine
from tessella.match_scores import Recall, owners, retrieval
from tessella.matcher import Matcher


@dataclass
class Matched:
    """One run on one set of captioned pictures."""

    run: str
    data: Captioned
    """Those that could be read."""
    images: np.ndarray
    """n e, float32, of length 1."""
    texts: np.ndarray
    """m e, the captions of all pictures in order."""
    by_text: Recall
    by_image: Recall
    quarantine: Quarantine
    cut: int
    """Captions longer than the model reads."""
    seconds: float
    """Decoding included."""

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.images) / max(self.seconds, 1e-9)


def chosen_split(path: Path, split: str | None) -> str | None:
    """The split to evaluate on: the one asked for, else test, validation or train, whichever is there first."""
    return split or best_split(captioned_splits(path))


def match_scores(
    run: str,
    matcher: Matcher,
    data: Path,
    split: str | None = None,
    columns: CaptionColumns | None = None,
    batch: int = 32,
    done: Callable[[int], None] = lambda count: None,
) -> Matched:
    """Embeds and ranks every usable picture and caption of a split. Raises InputError where nothing usable is left."""
    quarantine = Quarantine()
    captioned = read_captioned(data, split, columns, quarantine)
    pictures, channels = captioned.pictures, matcher.image.channels
    began = time.perf_counter()
    answers = matcher.pictures(range(len(captioned)), lambda number: pictures.decode(number, channels), batch)
    kept, rows = answered(pictures, answers, quarantine, data, done)
    seconds = time.perf_counter() - began
    captioned = captioned.take(kept)
    texts = [text for several in captioned.captions for text in several]
    images, vectors = np.stack(rows), matcher.texts(texts)
    by_text, by_image = retrieval(images, vectors, owners(captioned.captions))
    cut = matcher.text(texts).cut
    return Matched(run, captioned, images, vectors, by_text, by_image, quarantine, cut, seconds)


def save(found: Sequence[Matched], data: Path, split: str | None, out: Path) -> None:
    """Writes every number as JSON."""
    told = {
        "data": str(data),
        "split": split,
        "runs": [
            {
                "run": one.run,
                "images": len(one.images),
                "captions": len(one.texts),
                "captions cut": one.cut,
                "images a second": round(one.rate, 2),
                "text to image": one.by_text.to_dict(),
                "image to text": one.by_image.to_dict(),
                "quarantined": [asdict(item) for item in one.quarantine],
            }
            for one in found
        ],
    }
    with files.explained(out):
        files.write_text(out, json.dumps(told, ensure_ascii=False, indent=1))
