"""Record preflight: everything that is wrong with rows of mixed columns, and what is there, before a training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tessella.data.cells import names_of
from tessella.data.clips import Watching, watched
from tessella.data.columns import Schema, read_schema, told
from tessella.data.decoded import Decode, Opened, decoded
from tessella.data.layouts import find_files
from tessella.data.pixels import decode
from tessella.data.preflight import CLASSES_SHOWN, UNEVEN
from tessella.data.problems import Problem, plain, rendered, too_many, unusable
from tessella.data.quarantine import Quarantine
from tessella.data.record_clues import repeated, telling
from tessella.data.records import Records, read_records
from tessella.data.sheets import SUFFIXES
from tessella.data.sounds import Hearing, heard
from tessella.data.targets import label_names
from tessella.errors import InputError

SPARSE = 0.5
"""Share of the rows that lack a column from which on that is told."""
DECODERS: dict[str, Decode] = {
    "image": lambda cell: np.asarray(decode(cell, 3))[None],
    "sound": lambda cell: heard(cell, Hearing()),
    "video": lambda cell: watched(cell, Watching()),
}


@dataclass(frozen=True)
class RecordPart:
    """One split: its usable rows, and what was set aside."""

    name: str
    records: Records | None
    quarantine: Quarantine

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or "all"

    @property
    def usable(self) -> int:
        """How many rows are."""
        return len(self.records) if self.records else 0

    @property
    def lacking(self) -> dict[str, int]:
        """Stream -> how many rows have none."""
        if self.records is None:
            return {}
        return {name: int((~self.records.there(name)).sum()) for name in self.records.schema.streams}

    @property
    def classes(self) -> dict[str, int]:
        """Class or label -> rows; {} of numbers."""
        if self.records is None or self.records.schema.task == "numbers":
            return {}
        names, marks = self.records.schema.names, self.records.labels
        assert marks is not None
        counts = marks.sum(axis=0) if marks.ndim == 2 else np.bincount(marks, minlength=len(names))
        return dict(zip(names, counts.tolist(), strict=True))


@dataclass(frozen=True)
class RecordFindings:
    """What tables hold (``schema``, ``parts``), what is in order (``fine``), and what is not (``problems``)."""

    path: Path
    schema: Schema | None = None
    parts: list[RecordPart] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def fatal(self) -> bool:
        """Whether training would refuse this data."""
        return any(problem.severity == "fatal" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with every name."""
        splits = {
            part.title: {
                "rows": part.usable,
                "set aside": len(part.quarantine),
                "lacking": part.lacking,
                "classes": part.classes,
            }
            for part in self.parts
        }
        columns = [] if self.schema is None else [column.model_dump() for column in self.schema.columns]
        return {"data": str(self.path), "columns": columns, **plain(self, splits)}

    def render(self, examples: int = 5) -> str:
        """All of it as plain text: what is there, what is fine, then problems, worst first, with some names each."""
        lines = [f"{self.path}: rows of mixed columns"]
        if self.schema is not None:
            streams = ", ".join(self.schema.streams)
            lines += [f"  {line}" for line in _table(self.parts)]
            lines += ["", f"columns, as streams: {streams}", *(f"  {line}" for line in told(self.schema))]
            lines += [f"  {line}" for line in _classes(self.parts)]
        lines += ["", "fine", *(f"  {line}" for line in self.fine)] if self.fine else []
        return "\n".join([*lines, *rendered(self.problems, self.path, examples)])


def has_rows(path: Path, label: str | None, image: str = "image") -> bool:
    """Whether data is a table for `record_preflight`: one that has a label and no column of images, or, where the label
    was named, more to tell it by than one such column."""
    try:
        first = next(iter(find_files(path, SUFFIXES).values()))[0]
        names = names_of(first)
        labels = label_names(label or "label", names, first)
        if image not in names or label is None:
            return image not in names
        return len(set(names) - {image, *labels}) > 0 and len(read_schema([first], label).used) > 1
    except InputError:
        return False


def record_preflight(
    path: str | os.PathLike[str],
    label: str,
    kinds: Mapping[str, str] | None = None,
    bad_share: float = 0.1,
) -> RecordFindings:
    """Read every row and decode every file of every split once and tell what is wrong; see ``read_records``.

    With more than ``bad_share`` unusable rows training would refuse. Never raises for what is wrong with the data.
    """
    findings = RecordFindings(Path(path))
    try:
        splits = find_files(findings.path, SUFFIXES)
        schema = read_schema(splits.get("train") or next(iter(splits.values())), label, kinds)
    except InputError as error:
        findings.problems.append(Problem("fatal", str(error), []))
        return findings
    findings = RecordFindings(findings.path, schema)
    for split, paths in splits.items():
        quarantine, records = Quarantine(), None
        try:
            records = _examined(read_records(paths, schema, quarantine), quarantine)
        except InputError as error:
            if not len(quarantine):
                findings.problems.append(Problem("fatal", str(error), []))
                continue
        findings.parts.append(RecordPart(split, records, quarantine))
    parts = findings.parts
    media = "" if not schema.media else ", and its files can be decoded"
    checks = [
        unusable(parts, f"every row has a label{media}", "row"),
        too_many(parts, bad_share),
        _columns(schema),
        _splits(list(splits)),
        _unseen(parts),
        _balance(parts),
        telling(parts[0].records if parts else None),
        repeated({part.title: part.records for part in parts if part.records}),
    ]
    for outcome in (outcome for check in checks for outcome in check):
        findings.problems.append(outcome) if isinstance(outcome, Problem) else findings.fine.append(outcome)
    return findings


def _examined(records: Records, quarantine: Quarantine) -> Records | None:
    """The rows whose files can all be decoded, None if none can; the others are set aside."""
    good = np.ones(len(records), bool)
    for stream, holds in records.schema.streams.items():
        if holds not in DECODERS:
            continue
        there = np.flatnonzero(records.there(stream) & good)
        _, failed = decoded(Opened(records, stream, DECODERS[holds]), there, room=0)
        for number, error in sorted(failed.items()):
            good[number] = False
            quarantine.add(*records.place(number), f"{error.reason} in '{stream}'")
    return records.take(np.flatnonzero(good)) if good.any() else None


def _columns(schema: Schema) -> Iterator[str | Problem]:
    sparse = [f"{c.name}: {c.missing:.1%} of the rows lack it" for c in schema.used if c.missing > SPARSE]
    if sparse:
        yield Problem("note", f"columns that most rows lack: {len(sparse)}", sparse)
    ignored = [f"{c.name}: {c.why}" for c in schema.columns if c.holds == "ignore"]
    if ignored:
        yield Problem("note", f"columns that are not used: {len(ignored)}; --column NAME=KIND uses one", ignored)


def _splits(names: list[str]) -> Iterator[str | Problem]:
    if "validation" not in names:
        yield Problem("note", "there is no table to validate on; training keeps a tenth of its rows for that", [])


def _unseen(parts: list[RecordPart]) -> Iterator[str | Problem]:
    """Categories that training does not have; the first split is what is learned from."""
    unseen = {part.title: part.records.unseen for part in parts[1:] if part.records}
    for title, counts in unseen.items():
        names = [f"{name}: {count:,}" for name, count in counts.items() if count]
        if names:
            yield Problem("note", f"{title}: categories that {parts[0].title} does not have", names)
    if any(unseen.values()) and not any(sum(counts.values()) for counts in unseen.values()):
        yield "no category is new in another split"


def _balance(parts: list[RecordPart]) -> Iterator[str | Problem]:
    for number, part in enumerate(parts):
        lacking = [name for name, count in part.classes.items() if not count]
        if lacking:
            yield Problem("serious", f"{part.title}: {len(lacking)} of {len(part.classes)} labels have no row", lacking)
        most = max(part.classes.values(), default=0)
        rare = [f"{name}: {count:,}" for name, count in part.classes.items() if 0 < count * UNEVEN <= most]
        if number == 0 and rare:
            yield Problem("note", f"{part.title}: uneven; these have a tenth of the largest class or less", rare)


def _table(parts: list[RecordPart]) -> Iterator[str]:
    streams = list(parts[0].lacking) if parts else []
    rows = [("", "rows", "set aside", *(f"no {name}" for name in streams))]
    for part in parts:
        counts = part.usable, len(part.quarantine), *(part.lacking.get(name, 0) for name in streams)
        rows.append((part.title, *(f"{count:,}" for count in counts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows if parts else []:
        yield first.ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))


def _classes(parts: list[RecordPart]) -> Iterator[str]:
    """The classes in their order, which decides their numbers; each with its rows by split."""
    names = list(parts[0].classes) if parts else []
    shown = [f"{name} {'/'.join(f'{part.classes.get(name, 0):,}' for part in parts)}" for name in names[:CLASSES_SHOWN]]
    if shown:
        yield "rows of each: " + ", ".join(shown) + " …" * (len(names) > len(shown))
