"""Caption preflight: everything that is wrong with captioned pictures, and what is there, before a training."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tessella.data.captioned import Texts, listed
from tessella.data.captions import CaptionColumns
from tessella.data.layouts import find_files
from tessella.data.preflight import Part, examined, shapes, twice
from tessella.data.problems import Problem, plain, rendered, too_many, unusable
from tessella.data.quarantine import Quarantine, shown
from tessella.data.rows import column_names
from tessella.errors import InputError

WORDS = 25
"""Of a caption whose end a model of 32 ids may well not read."""


@dataclass(frozen=True)
class CaptionPart(Part):
    """One split: its usable pictures, what was seen of each and is said of it, and what was set aside."""

    captions: Texts

    @property
    def texts(self) -> list[str]:
        """All captions."""
        return [text for texts in self.captions for text in texts]


@dataclass(frozen=True)
class CaptionFindings:
    """What captioned pictures hold (``parts``), what is in order (``fine``), and what is not (``problems``)."""

    path: Path
    parts: list[CaptionPart] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def fatal(self) -> bool:
        """Whether training would refuse this data."""
        return any(problem.severity == "fatal" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with every name."""
        splits = {
            part.title: {"captions": len(part.texts), "pictures": part.usable, "set aside": len(part.quarantine)}
            for part in self.parts
        }
        return {"data": str(self.path), **plain(self, splits)}

    def render(self, examples: int = 5) -> str:
        """All of it as plain text: what is there, what is fine, then problems, worst first, with some names each."""
        lines = [f"{self.path}: captioned pictures", *(f"  {line}" for line in [*_told(self), *shapes(self.parts)])]
        lines += ["", "fine", *(f"  {line}" for line in self.fine)] if self.fine else []
        return "\n".join([*lines, *rendered(self.problems, self.path, examples)])


def has_captions(path: Path, columns: CaptionColumns, label: str) -> bool:
    """Whether data is of pictures with captions: tar shards, and tables with a column of them and none of labels."""
    try:
        first = next(iter(find_files(path).values()))[0]
        there = [] if first.suffix == ".tar" else column_names(first)
    except InputError:
        return False
    return first.suffix == ".tar" or (label not in there and bool({columns.caption, "captions"} & set(there)))


def caption_preflight(
    path: str | os.PathLike[str],
    columns: CaptionColumns | None = None,
    minimum: tuple[int, int] | None = None,
    words: int = WORDS,
    bad_share: float = 0.1,
    workers: int | None = None,
) -> CaptionFindings:
    """Decode every picture of every split once and tell what is wrong; see ``read_captioned`` for what data may be.

    Pictures of fewer than ``minimum`` (rows, columns) cannot be used; captions of more than ``words`` words are told
    of. With more than ``bad_share`` unusable ones training would refuse. Never raises for what is wrong with the data.
    """
    findings = CaptionFindings(Path(path))
    try:
        splits = list(find_files(findings.path))
    except InputError as error:
        findings.problems.append(Problem("fatal", str(error), []))
        return findings
    for split in splits:
        quarantine = Quarantine()
        try:
            found = listed(path, split or None, columns, quarantine)
        except InputError as error:
            findings.problems.append(Problem("fatal", str(error), []))
            continue
        part = examined(split, found.pictures, quarantine, minimum, workers)
        findings.parts.append(
            CaptionPart(split, part.pictures, part.seen, quarantine, found.among(part.pictures).captions)
        )
    parts = findings.parts
    checks = [
        unusable(parts, "every file is a whole picture with a caption"),
        too_many(parts, bad_share),
        twice(parts, ", and count as one with all that is said of them"),
        _long(parts, words),
        _shared(parts),
    ]
    for outcome in (outcome for check in checks for outcome in check):
        findings.problems.append(outcome) if isinstance(outcome, Problem) else findings.fine.append(outcome)
    return findings


def _long(parts: list[CaptionPart], words: int) -> Iterator[str | Problem]:
    found = 0
    for part in parts:
        long = [
            f"{part.pictures.name(number)}: {len(text.split()):,} words: {shown(text)}"
            for number, texts in enumerate(part.captions)
            for text in texts
            if len(text.split()) > words
        ]
        found += len(long)
        if long:
            share = len(long) / len(part.texts)
            yield Problem("note", f"{part.title}: captions of over {words} words: {len(long):,} ({share:.1%})", long)
    if parts and not found:
        yield f"no caption has more than {words} words"


def _shared(parts: list[CaptionPart]) -> Iterator[str | Problem]:
    """What is said of several pictures cannot tell them apart."""
    for part in parts:
        said: dict[str, set[int]] = defaultdict(set)
        for number, texts in enumerate(part.captions):
            for text in texts:
                said[text].add(number)
        several = Counter({text: len(of) for text, of in said.items() if len(of) > 1})
        if several:
            names = [f"{count:,} pictures: {shown(text)}" for text, count in several.most_common()]
            yield Problem("note", f"{part.title}: captions of more than one picture: {len(several):,}", names)


def _told(findings: CaptionFindings) -> Iterator[str]:
    """A row a split, and how long captions are."""
    rows = [("", "pictures", "captions", "a picture", "words", "set aside")]
    for part in findings.parts:
        each, long = [len(texts) for texts in part.captions], [len(text.split()) for text in part.texts]
        told = (
            f"{len(part.pictures):,}",
            f"{len(part.texts):,}",
            _range(each),
            _range(long),
            f"{len(part.quarantine):,}",
        )
        rows.append((part.title, *told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows if findings.parts else []:
        yield first.ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))


def _range(counts: list[int]) -> str:
    """Such as "1 to 5, median 5"."""
    if not counts:
        return "–"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {np.median(counts):g}"
