"""Search: the pictures of an index that are nearest to a vector, exactly or by its approximate index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tessella.errors import InputError
from tessella.retrieval.approximate import Plan, ask
from tessella.retrieval.conditions import parse
from tessella.retrieval.exact import nearest
from tessella.retrieval.filters import Filter
from tessella.retrieval.store import Store

FEW = 1_000
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
        passed = self.store.rows if where is None else self.store.count(where)
        if where is not None and passed <= FEW:
            return _hits(*_looked_at(self.store, vector, top, where, columns))
        found = ask(self.store, vector, top, self._plan(top, passed), where, columns)
        scores = 1 - found["_distance"].to_numpy() / 2
        return _hits(found.drop_columns("_distance"), scores)

    def _plan(self, top: int, passed: int) -> Plan:
        """Exact where many answers are wanted; the fewer rows pass, the more partitions are looked into."""
        plan = self.plan
        if plan.exact or top > MOST:
            return Plan()
        wider = plan.probes * max(1.0, plan.rows / max(passed, 1)) ** 0.5
        return Plan(False, plan.partitions, min(plan.partitions, round(wider)), plan.refine)


def _looked_at(
    store: Store, vector: np.ndarray, top: int, where: Filter, columns: list[str]
) -> tuple[pa.Table, np.ndarray]:
    """The nearest of the few rows that pass, by looking at each; LanceDB would look at those that do not pass, too."""
    batches = list(store.scan([*columns, "vector"], where))
    (rows,), (scores,) = nearest(batches, vector[None], top)
    plain = [batch.drop_columns(["vector"]) for batch in batches]
    return pa.Table.from_batches(plain, plain[0].schema).take(pa.array(rows)) if plain else pa.table({}), scores


def _hits(rows: pa.Table, scores: np.ndarray) -> list[Hit]:
    found = zip(rows.to_pylist(), scores.tolist(), strict=True)
    return [Hit(rank, score, row.pop("path"), row) for rank, (row, score) in enumerate(found, 1)]


def fits(search: Search, fingerprint: str, run: str) -> None:
    """Refuses questions embedded by another model than the pictures."""
    if search.store.facts.fingerprint != fingerprint:
        raise InputError(
            f"{search.store.path} was made with {search.store.facts.model}, and {run} is another model, or that one "
            "changed since; embeddings of two models cannot be compared: give the right --model, or --rebuild the index"
        )
