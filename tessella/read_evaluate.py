"""Read evaluate: language models and texts in, how well each foresaw their words out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tessella import files
from tessella.data.layouts import best_split
from tessella.data.quarantine import Quarantine
from tessella.data.texts import Texts, read_split, text_splits
from tessella.errors import InputError
from tessella.reader import Foreseen, Reader


@dataclass(frozen=True)
class ReadThrough:
    """One run on one set of texts."""

    run: str
    foreseen: Foreseen
    seconds: float


@dataclass(frozen=True)
class ReadTexts:
    """The texts, and what of the data was set aside."""

    texts: Texts
    split: str | None
    quarantine: Quarantine


def texts_of(data: Path, split: str | None, columns: Sequence[str]) -> ReadTexts:
    """The texts of a split: the one asked for, else test, validation or train, whichever is there first.

    Raises InputError where there is no such split and where no text can be used.
    """
    quarantine, chosen = Quarantine(), split or best_split(text_splits(data))
    return ReadTexts(read_split(data, chosen, columns, quarantine), chosen, quarantine)


def read_through(
    run: str, reader: Reader, texts: Texts, done: Callable[[int], None] = lambda count: None
) -> ReadThrough:
    """What a run foresaw of texts. Of hidden words, the same ones are hidden from all runs with the same tokenizer."""
    began = time.perf_counter()
    foreseen = reader(texts.texts, done)
    return ReadThrough(run, foreseen, time.perf_counter() - began)


def save(found: Sequence[ReadThrough], read: ReadTexts, data: Path, out: Path) -> None:
    """Writes every number as JSON."""
    told = {
        "data": str(data),
        "split": read.split,
        "runs": [{"run": one.run, **one.foreseen.to_dict(), **asdict(one.foreseen)} for one in found],
        "quarantined": [asdict(item) for item in read.quarantine],
    }
    with files.explained(out):
        files.write_text(out, json.dumps(told, ensure_ascii=False, indent=1))


def one_exercise(found: Sequence[ReadThrough]) -> None:
    """Refuses to put numbers of hidden words beside those of next ones."""
    odd = next((one for one in found if one.foreseen.every != found[0].foreseen.every), None)
    if odd is not None:
        raise InputError(f"{found[0].run} and {odd.run} are asked for different words; evaluate them apart")
