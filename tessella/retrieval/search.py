"""Search: the pictures of an index that are nearest to a vector, exactly or by its approximate index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessella.errors import InputError
from tessella.retrieval.approximate import Plan, ask
from tessella.retrieval.conditions import parse
from tessella.retrieval.filters import Filter
from tessella.retrieval.store import Store

FEW = 20_000
"""So many rows that a condition lets through are looked at one by one."""
MOST = 100
"""For more answers than this, every row is looked at."""
HIDDEN = ("vector", "content")


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that was found: its rank from 1, its cosine with the query, its path, and its other columns."""

    rank: int
    score: float
    path: str
    columns: dict[str, Any]


class Search:
    """An index opened for questions; another process may go on writing to it."""

    def __init__(self, path: Path | str):
        self.store = Store.open(Path(path))
        self.plan = Plan.of(self.store.facts.search)

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return Path(self.store.facts.folder)

    def condition(self, where: str | None) -> Filter | None:
        """A condition as typed. Raises InputError where it cannot be understood for this index."""
        if where is None:
            return None
        return parse(where, {name: kind for name, kind in self.store.columns.items() if name not in HIDDEN})

    def nearest(self, vector: np.ndarray, top: int = 20, where: Filter | None = None) -> list[Hit]:
        """The `top` pictures nearest to a vector (d, normalised) among those that `where` lets through."""
        try:
            return self._nearest(vector, top, where)
        except (RuntimeError, ValueError, OSError):
            self.store.table.checkout_latest()  # a writer has tidied away the version that was open
            return self._nearest(vector, top, where)

    def _nearest(self, vector: np.ndarray, top: int, where: Filter | None) -> list[Hit]:
        columns = [name for name in self.store.columns if name not in HIDDEN]
        found = ask(self.store, vector, top, self._plan(top, where), where, columns)
        hits = []
        for rank, row in enumerate(found.to_pylist(), 1):
            score = 1 - row.pop("_distance") / 2
            hits.append(Hit(rank, score, row.pop("path"), row))
        return hits

    def _plan(self, top: int, where: Filter | None) -> Plan:
        """Exact where few rows are asked or many wanted; the fewer rows pass, the more partitions are looked into."""
        if self.plan.exact or top > MOST:
            return Plan()
        if where is None:
            return self.plan
        passed = self.store.count(where)
        if passed <= FEW:
            return Plan()
        wider = min(self.plan.partitions, round(self.plan.probes * self.plan.rows / passed))
        return Plan(False, self.plan.partitions, wider, self.plan.refine)


def fits(search: Search, fingerprint: str, run: str) -> None:
    """Refuses questions embedded by another model than the pictures."""
    if search.store.facts.fingerprint != fingerprint:
        raise InputError(
            f"{search.store.path} was made with {search.store.facts.model}, and {run} is another model, or that one "
            "changed since; embeddings of two models cannot be compared: give the right --model, or --rebuild the index"
        )
