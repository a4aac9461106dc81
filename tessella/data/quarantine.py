"""Quarantine: input that cannot be used is set aside by name, counted, and never lost in silence."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tessella.errors import InputError

SAMPLE = 80


@dataclass(frozen=True, slots=True)
class Item:
    """One thing set aside: the file, the line or row in it (from 1), why, and how it begins."""

    where: str
    line: int
    reason: str
    sample: str


def shown(sample: str | bytes) -> str:
    """The first 80 characters of something that may be anything, in a printable form."""
    text = sample[: 4 * SAMPLE].decode("utf-8", "backslashreplace") if isinstance(sample, bytes) else sample
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:SAMPLE])[:SAMPLE]


class Quarantine:
    """What was set aside so far, in the order it was met. ``len()`` counts it, iteration gives the items."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def add(self, where: str | os.PathLike[str], line: int, reason: str, sample: str | bytes = "") -> None:
        """Set one thing aside. ``sample`` may be raw bytes; its first 80 characters are kept in a printable form."""
        self._items.append(Item(os.fspath(where), line, reason, shown(sample)))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def reasons(self) -> dict[str, int]:
        """How many items have each reason, the most frequent first."""
        return dict(Counter(item.reason for item in self._items).most_common())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write quarantine.jsonl: one JSON object a line (where, line, reason, sample); empty if all is well."""
        path = Path(path)
        draft = path.with_name(path.name + ".part")
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in self._items)
        os.replace(draft, path)

    def refuse_if_too_many(self, total: int, share: float = 0.1, of: str = "") -> None:
        """Raise InputError where more than this share of ``total`` items (good and bad together) was set aside.

        of: what the items are called, if they are all of one kind.
        """
        if len(self) <= share * total:
            return
        reasons = "; ".join(f"{reason}: {count}" for reason, count in list(self.reasons().items())[:3])
        first = self._items[0]
        place = f"{first.where} line {first.line}" if first.line else first.where
        raise InputError(
            f"{len(self)} of {total}{f' {of}' if of else ''} are not usable, the limit is {share:.0%} ({reasons}); "
            f"the first is {place}: clean the data or raise the limit (--set data.bad_share=…)"
        )
