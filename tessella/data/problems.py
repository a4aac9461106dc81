"""Problems: what is wrong with data, how bad that is, and how people are told of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from tessella.data.quarantine import Quarantine

TITLES = {
    "fatal": "training would refuse",
    "serious": "to be mended",
    "note": "to know",
}

Severity = Literal["fatal", "serious", "note"]


class Problem(NamedTuple):
    """Something found: how bad, what, and the names of all that it concerns."""

    severity: Severity
    what: str
    names: list[str]


class Counted(Protocol):
    """A split of anything: what it is called, how much of it is usable, and what was set aside."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def usable(self) -> int: ...

    @property
    def quarantine(self) -> Quarantine: ...


class Found(Protocol):
    """What was found: what is in order, and what is not."""

    @property
    def fine(self) -> list[str]: ...

    @property
    def problems(self) -> list[Problem]: ...

    @property
    def fatal(self) -> bool: ...


def plain(found: Found, splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What was found as data for JSON, with every name; splits: title -> its counts."""
    problems = [problem._asdict() for problem in found.problems]
    return {"fatal": found.fatal, "splits": dict(splits), "fine": found.fine, "problems": problems}


def rendered(problems: Sequence[Problem], path: Path, examples: int) -> Iterator[str]:
    """The lines about problems, worst first, with some names each, and whether the data can be used."""
    for severity, title in TITLES.items():
        found = [problem for problem in problems if problem.severity == severity]
        yield from ["", title] if found else []
        for problem in found:
            yield f"  {problem.what}"
            yield from (f"    {name.replace(f'{path}{os.sep}', '')}" for name in problem.names[:examples])
            if len(problem.names) > examples:
                yield f"    and {len(problem.names) - examples:,} more"
    counts = Counter(problem.severity for problem in problems)
    told = ", ".join(f"{counts[severity]} {TITLES[severity]}" for severity in TITLES if counts[severity])
    yield from ["", f"{told}; {'not usable as it is' if counts['fatal'] else 'usable'}" if told else "no problems"]


def unusable(
    parts: Sequence[Counted], fine: str = "every file is a whole picture with a label", thing: str = "picture"
) -> Iterator[str | Problem]:
    """What was set aside, by reason; ``fine`` is said where nothing was, ``thing`` is what people call one."""
    for part in parts:
        if not part.usable:
            yield Problem("fatal", f"{part.title}: no usable {thing}", [])
        for reason, count in part.quarantine.reasons().items():
            items = [item for item in part.quarantine if item.reason == reason]
            names = [f"{item.where} row {item.line}" if item.line else item.where for item in items]
            yield Problem("serious", f"{part.title}: {reason}: {count:,}", names)
    if parts and not any(len(part.quarantine) for part in parts):
        yield fine


def too_many(parts: Sequence[Counted], bad_share: float) -> Iterator[Problem]:
    """What is learned from and what is validated on are judged together, as training does."""
    judged = [part for part in parts if part.name != "test"]
    bad, good = sum(len(part.quarantine) for part in judged), sum(part.usable for part in judged)
    if good and bad > bad_share * (bad + good):
        told = " and ".join(part.title for part in judged)
        yield Problem("fatal", f"{told}: {bad:,} of {bad + good:,} cannot be used, more than {bad_share:.0%}", [])
