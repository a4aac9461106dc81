"""Fuse evaluate: fusions and rows of mixed data in, scores out, also without each stream and by what a row lacks."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tessella import files
from tessella.data.columns import Schema
from tessella.data.layouts import SPLIT_OF, best_split, find_files
from tessella.data.quarantine import Quarantine
from tessella.data.records import Records, read_records
from tessella.data.sheets import SUFFIXES
from tessella.errors import InputError
from tessella.fuse_answers import Answers, answered, told_reasons
from tessella.fuse_scores import Measures, Paired, Scores, level, paired
from tessella.fuse_sums import Sums

MASKED_ROWS = 5000
"""Of so many rows, spread evenly, is asked what they are without a stream."""


@dataclass(frozen=True)
class Masked:
    """The same rows without some of their streams."""

    streams: tuple[str, ...]
    """Those that were left."""
    without: tuple[str, ...]
    measured: dict[str, Measures]
    change: Paired
    """Against all streams: less accuracy, or more error."""


@dataclass(frozen=True)
class Group:
    """The rows that lack the same streams."""

    lacking: tuple[str, ...]
    rows: int
    outcome: float
    """The share of them that is right, or their mean error."""
    interval: tuple[float, float] | None
    """95 %; of shares Wilson's, of errors by their normal limit, which one row has not."""


@dataclass
class Fused:
    """One run on one set of rows."""

    run: str
    schema: Schema
    records: Records
    """Those that were answered."""
    sums: Sums
    scores: Scores
    masked: list[Masked]
    whole: dict[str, Measures]
    """Scores with all streams of the rows that were masked; {} where none were."""
    groups: list[Group]
    quarantine: Quarantine
    """What of the data was set aside: unreadable, or of a class that the run does not know."""
    seconds: float
    """Decoding included, masking not."""

    @property
    def rate(self) -> float:
        """Rows a second."""
        return len(self.records) / max(self.seconds, 1e-9)

    @property
    def level(self) -> tuple[float, tuple[float, float] | None]:
        """The share of right rows, or their mean error, and its interval."""
        return level(self.sums.outcomes)

    @property
    def unseen(self) -> dict[str, int]:
        """Column -> rows whose category was never seen in training; those with some only."""
        return {name: count for name, count in self.records.unseen.items() if count}

    @property
    def keys(self) -> np.ndarray:
        """n: which row of the data each is."""
        at = self.records.index
        return self.records.file[at].astype(np.int64) << 40 | self.records.rows[at]


@dataclass(frozen=True)
class Compared:
    """A run against the first one, on the rows that both have answered."""

    run: str
    difference: Paired


def chosen_tables(path: Path, split: str | None) -> tuple[str | None, list[Path]]:
    """The split to evaluate on and its tables: the one asked for, else test, validation or train, whichever is there.

    Raises InputError for a split that is not there.
    """
    there = find_files(path, SUFFIXES)
    wanted = SPLIT_OF.get(split.lower(), split) if split else best_split(there) or ""
    if wanted not in there:
        raise InputError(f"{path} has no split '{split}'; it has {', '.join(filter(None, there)) or 'none'}")
    return wanted or None, there[wanted]


def judge(
    run: str,
    fuser: Answers,
    tables: Sequence[Path],
    batch: int = 32,
    masked_rows: int = MASKED_ROWS,
    done: Callable[[int], None] = lambda count: None,
) -> Fused:
    """Answers and scores every usable row, then some of them again without each stream, and with it alone.

    `done` is told how many more are answered. Raises InputError where nothing usable is left.
    """
    quarantine = Quarantine()
    try:
        records = read_records(tables, fuser.schema, quarantine)
    except InputError:
        if not len(quarantine):
            raise
        raise InputError(f"{tables[0]}: no row can be used ({told_reasons(quarantine)})") from None
    began = time.perf_counter()
    kept, sums = answered(fuser, records, (), batch, quarantine, done)
    seconds = time.perf_counter() - began
    records = records.take(kept)
    scores = sums.scores()
    spread = np.linspace(0, len(kept) - 1, min(masked_rows, len(kept))).astype(int)
    whole, masked = _masked(fuser, records.take(spread), sums.outcomes[spread], batch, done)
    groups = _groups(records, sums.outcomes)
    return Fused(run, fuser.schema, records, sums, scores, masked, whole, groups, quarantine, seconds)


def _masked(
    fuser: Answers, records: Records, outcomes: np.ndarray, batch: int, done: Callable[[int], None]
) -> tuple[dict[str, Measures], list[Masked]]:
    """Scores with all streams, and with each masked; of three and more also with each alone."""
    streams = tuple(fuser.schema.streams)
    if len(streams) < 2 or not len(records):
        return {}, []
    alone = [tuple(other for other in streams if other != name) for name in streams if len(streams) > 2]
    whole, made = {}, []
    for without in [(), *((name,) for name in streams), *alone]:
        kept, sums = answered(fuser, records, without, batch, Quarantine(), done)
        measured = dict(sums.scores().measured)
        if without:
            left = tuple(name for name in streams if name not in without)
            made.append(Masked(left, without, measured, paired(outcomes[kept], sums.outcomes)))
        else:
            whole = measured
    return whole, made


def _groups(records: Records, outcomes: np.ndarray) -> list[Group]:
    """Rows by the streams they lack, the most frequent first; none where all lack the same."""
    streams = list(records.schema.streams)
    there = np.stack([records.there(name) for name in streams], axis=1)
    patterns, which, counts = np.unique(there, axis=0, return_inverse=True, return_counts=True)
    order = sorted(range(len(patterns)), key=lambda number: (-counts[number], -patterns[number].sum()))
    made = []
    for number in order if len(patterns) > 1 else []:
        inside = outcomes[which.ravel() == number]
        lacking = tuple(name for name, here in zip(streams, patterns[number], strict=True) if not here)
        made.append(Group(lacking, len(inside), *level(inside)))
    return made


def refuse_different(schemas: Mapping[str, Schema]) -> None:
    """Raises InputError where runs predict different things. schemas: of each run."""
    told = {run: f"{', '.join(schema.label)} ({schema.task})" for run, schema in schemas.items()}
    if len(set(told.values())) > 1:
        each = ", ".join(f"{run} predicts {what}" for run, what in told.items())
        raise InputError(f"only runs of one label can be compared: {each}")


def compared(found: Sequence[Fused]) -> list[Compared]:
    """Every run but the first against the first, paired. Raises InputError where they have no row in common."""
    made, first = [], found[0]
    for other in found[1:]:
        _, left, right = np.intersect1d(first.keys, other.keys, return_indices=True)
        if not len(left):
            raise InputError(f"{first.run} and {other.run} have no row in common; each sets aside what the other reads")
        made.append(Compared(other.run, paired(first.sums.outcomes[left], other.sums.outcomes[right])))
    return made


def save(found: Sequence[Fused], differences: Sequence[Compared], data: Path, split: str | None, out: Path) -> None:
    """Writes every number as JSON."""
    told = {
        "data": str(data),
        "split": split,
        "runs": [
            {
                "run": one.run,
                "label": list(one.schema.label),
                "task": one.schema.task,
                "rows": len(one.records),
                "rows a second": round(one.rate, 2),
                "scores": one.scores.to_dict(),
                "with all streams, of the rows below": one.whole,
                "without streams": [asdict(masked) for masked in one.masked],
                "by what rows lack": [asdict(group) for group in one.groups],
                "rows of unseen categories": one.unseen,
                "quarantined": [asdict(item) for item in one.quarantine],
            }
            for one in found
        ],
        "paired comparison": [asdict(one) for one in differences],
    }
    with files.explained(out):
        files.write_text(out, json.dumps(told, ensure_ascii=False, indent=1))


def save_predictions(found: Sequence[Fused], out: Path) -> None:
    """Writes a row a row and run as CSV: what was set aside has an error instead of an answer."""
    columns = found[0].sums.columns
    with files.replacing(out) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["run", "table", "row", *columns, "lacking", "error"])
        for one in found:
            streams = list(one.schema.streams)
            lacking = ~np.stack([one.records.there(name) for name in streams], axis=1)
            for number in range(len(one.records)):
                names = " ".join(name for name, lacks in zip(streams, lacking[number], strict=True) if lacks)
                table.writerow([one.run, *one.records.place(number), *one.sums.told(number), names, ""])
            for item in one.quarantine:
                table.writerow([one.run, item.where, item.line, *[""] * len(columns), "", item.reason])
