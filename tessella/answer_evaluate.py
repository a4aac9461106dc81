"""Answer evaluate: models that answer in words, and rows with answers: how many are exact, and without each stream."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tessella import files
from tessella.answerer import Answerer
from tessella.answering import same
from tessella.data.answers import answers_of
from tessella.data.quarantine import Quarantine
from tessella.data.records import Records, read_records
from tessella.errors import InputError
from tessella.fuse_evaluate import chosen_tables

MASKED = 1000
"""Rows that are answered again without each stream, spread evenly over all."""
WRONG = 5
"""Wrong answers that are shown."""


@dataclass
class Answered:
    """One run on one set of rows with answers."""

    run: str
    records: Records
    """Those that were answered."""
    answers: list[str]
    written: list[str]
    without: dict[str, float]
    """Stream -> percent of exact answers, of up to `MASKED` rows, where nobody has it."""
    quarantine: Quarantine
    seconds: float

    @property
    def right(self) -> np.ndarray:
        """Bool n: which answers are right but for upper case and white space."""
        return np.array([same(mine, theirs) for mine, theirs in zip(self.written, self.answers, strict=True)])

    @property
    def exact(self) -> float:
        """Percent of right answers."""
        return 100 * float(self.right.mean())

    @property
    def commonest(self) -> float:
        """Percent that would be right if always the commonest answer of these rows were given."""
        return 100 * Counter(one.casefold() for one in self.answers).most_common(1)[0][1] / len(self.answers)


def judge(
    run: str, answerer: Answerer, data: Path, split: str | None, done: Callable[[int], None] = lambda count: None
) -> Answered:
    """Answers every usable row of a split, and some of them again without each stream.

    Raises InputError where nothing usable is left.
    """
    quarantine = Quarantine()
    records = read_records(chosen_tables(data, split)[1], answerer.schema, quarantine)
    began, kept, written = time.perf_counter(), [], []
    for number, answer in enumerate(answerer.answers(records)):
        if isinstance(answer, InputError):
            quarantine.add(*records.place(number), str(answer))
        else:
            kept.append(number)
            written.append(answer.text)
        done(1)
    if not kept:
        raise InputError(f"{data}: none of {len(records)} rows can be answered")
    seconds = time.perf_counter() - began
    records = records.take(kept)
    answers = answers_of(records)
    some = np.linspace(0, len(kept) - 1, min(MASKED, len(kept))).astype(int)
    streams = list(answerer.schema.streams) if len(answerer.schema.streams) > 1 else []
    without = {name: _exact(answerer, records.take(some), [answers[n] for n in some], name) for name in streams}
    return Answered(run, records, answers, written, without, quarantine, seconds)


def _exact(answerer: Answerer, records: Records, answers: Sequence[str], stream: str) -> float:
    found = answerer.answers(records, without=[stream])
    return 100 * float(np.mean([same(one.text, answer) for one, answer in zip(found, answers, strict=True)]))


def told(found: Sequence[Answered]) -> list[str]:
    """Lines for people."""
    lines = []
    for one in found:
        lines.append(
            f"{one.run}: {one.exact:.1f} % of {len(one.answers):,} answers exact; always the commonest answer: "
            f"{one.commonest:.1f} %; {len(one.answers) / max(one.seconds, 1e-9):,.0f} rows/s"
        )
        lines += [f"  without '{name}': {value:.1f} %" for name, value in one.without.items()]
        for number in np.flatnonzero(~one.right)[:WRONG].tolist():
            lines.append(f"  {one.records.name(number)}: '{one.written[number]}', not '{one.answers[number]}'")
        lines += [f"  {count:,} set aside: {reason}" for reason, count in one.quarantine.reasons().items()]
    return lines


def save(found: Sequence[Answered], out: Path) -> None:
    """Writes every number as JSON."""
    rows = [
        {
            "run": one.run,
            "rows": len(one.answers),
            "exact": one.exact,
            "commonest": one.commonest,
            "without": one.without,
            "different answers": len(set(one.written)),
            "quarantined": [asdict(item) for item in one.quarantine],
        }
        for one in found
    ]
    with files.explained(out):
        files.write_text(out, json.dumps({"runs": rows}, ensure_ascii=False, indent=1))


def save_answers(found: Sequence[Answered], out: Path) -> None:
    """Writes every answer as CSV."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(["run", "row", "answer", "written", "exact"])
    for one in found:
        for number, (answer, written, right) in enumerate(zip(one.answers, one.written, one.right, strict=True)):
            writer.writerow([one.run, one.records.name(number), answer, written, bool(right)])
    with files.explained(out):
        files.write_text(out, sheet.getvalue())
