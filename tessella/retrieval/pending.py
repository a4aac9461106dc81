"""Pending: rows on their way into an index, written many at once, and never half."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessella.data.pixels import Unreadable
from tessella.errors import InputError
from tessella.retrieval.photo import Photo
from tessella.retrieval.scan import Aside, Mark
from tessella.retrieval.store import State, Store, schema

ROWS = 1024
"""Pictures written at once; LanceDB suffers from many small writes."""
SECONDS = 10.0
"""After so long, fewer are written: no more is lost with a killed run, and whoever watches sees it advance."""
WRITES = 64
"""After so many, small pieces are put together even during a run."""


@dataclass
class Done:
    """What a run did: pictures by what became of them, and how long the embedding took in seconds.

    again: touched, moved or copied, so that their content was known, and its vector. described: unchanged, but with
    other metadata than before. before, after: the table around its tidying.
    """

    new: int = 0
    changed: int = 0
    again: int = 0
    described: int = 0
    gone: int = 0
    same: int = 0
    unreadable: int = 0
    still_unreadable: int = 0
    embedded: int = 0
    seconds: float = 0.0
    before: State | None = None
    after: State | None = None


class Pending:
    """Collects rows and writes them to the table when there are enough.

    known: path -> mark of the rows that were there; told: path -> further columns, from metadata. Where metadata says
    nothing of a picture, it keeps what the index knew about it.
    """

    def __init__(
        self,
        store: Store,
        known: Mapping[str, Mark],
        told: Mapping[str, Mapping[str, Any]],
        done: Done,
        advance: Callable[[int], None],
    ):
        self.store, self.known, self.told, self.done, self.advance = store, known, told, done, advance
        self.aside = Aside(store.path)
        self.late: list[str] = []
        """Pictures whose content was in the index, but not any more when they were to be written."""
        self._fresh: list[dict[str, Any]] = []
        self._copied: list[dict[str, Any]] = []
        self._writes = 0
        self._written = time.monotonic()
        own = schema(store.facts.dim).names
        self._further = ["caption", *(name for name in store.columns if name not in own)]

    def embedded(self, photo: Photo, vector: np.ndarray) -> None:
        """One with its vector."""
        self.done.embedded += 1
        self._fresh.append({**_row(photo), "vector": vector})
        self._write_if_many()

    def copied(self, photo: Photo) -> None:
        """One whose content the index has already."""
        self._copied.append(_row(photo))
        self._write_if_many()

    def refused(self, path: str, mark: Mark, why: InputError) -> None:
        """One that cannot be read."""
        detail = f" ({why.detail})" if isinstance(why, Unreadable) and why.detail else ""
        self.aside.add(path, mark, f"{why.reason}{detail}" if isinstance(why, Unreadable) else str(why))
        self.done.unreadable += 1
        self.advance(1)

    def write(self) -> None:
        """Everything collected so far: new paths in one write, known ones in another, then the list of those aside."""
        fresh, copied = self._fresh, self._copied
        self._fresh, self._copied = [], []  # should a write fail, nothing is written twice
        ready = [*fresh, *self._with_vectors(copied)]
        new = [row for row in ready if row["path"] not in self.known]
        old = [row for row in ready if row["path"] in self.known]
        self.store.add([{**row, **self.told.get(row["path"], {})} for row in new])
        self.store.replace(self._inheriting(old))
        for row in ready:
            self.aside.drop(row["path"])
        self.aside.save()
        again = len(ready) - len(fresh)
        self.done.again += again
        self.done.changed += sum(row["path"] in self.known for row in fresh)
        self.done.new += sum(row["path"] not in self.known for row in fresh)
        self.advance(len(ready))
        self._writes += bool(new) + bool(old)
        if self._writes >= WRITES:
            self.store.tidy()
            self._writes = 0
        self._written = time.monotonic()

    def describe(self) -> None:
        """Metadata that differs from what rows say is written to them; their vectors stay."""
        names = list(next(iter(self.told.values()), {}))
        differing: list[str] = []
        for batch in self.store.scan(["path", *names]) if names else ():
            for row in batch.to_pylist():
                path = row.pop("path")
                if path in self.told and self.told[path] != row:
                    differing.append(path)
        for start in range(0, len(differing), ROWS):
            paths = differing[start : start + ROWS]
            found = self.store.rows_of("path", paths, list(self.store.columns))
            self.store.replace([{**found[path], **self.told[path]} for path in paths])
        self.done.described += len(differing)

    def _with_vectors(self, copied: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with the vector, and what else is known, of a row with the same content."""
        columns = ["vector", *self._further]
        found = self.store.rows_of("content", [row["content"] for row in copied], columns)
        self.late += [row["path"] for row in copied if row["content"] not in found]
        return [{**found[row["content"]], **row} for row in copied if row["content"] in found]

    def _inheriting(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = self.store.rows_of("path", [row["path"] for row in rows], self._further)
        return [{**row, **found.get(row["path"], {}), **self.told.get(row["path"], {})} for row in rows]

    def _write_if_many(self) -> None:
        if len(self._fresh) + len(self._copied) >= ROWS or time.monotonic() - self._written >= SECONDS:
            self.write()


def _row(photo: Photo) -> dict[str, Any]:
    return {
        "path": photo.path,
        "size": photo.mark.size,
        "modified": photo.mark.modified,
        "date": photo.date,
        "width": photo.width,
        "height": photo.height,
        "content": photo.content,
    }
