"""Approximate: an index of vectors that answers before every row was looked at, and how often it is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tessella.errors import InputError
from tessella.retrieval.exact import nearest, vectors
from tessella.retrieval.filters import Filter
from tessella.retrieval.store import Store, lancedb, told

INDEX = "vector_idx"
PAYS = 50_000
"""Rows from which on an index is built: below, looking at every row is quick enough (benchmarks/search.py)."""
TOP = 10
AIMED, PROMISED = 0.98, 0.97
"""Share of the true `TOP` that an index shall find among a sample of queries, and below which it is not used."""
ASKED = 64
"""Pictures in that sample, beside texts."""
STEPS = ((20, 5), (40, 5), (80, 5), (160, 5), (160, 10), (320, 10), (640, 10), (640, 20))
"""(partitions looked into, times `top` rows whose distances are computed anew), ever more careful."""
BITS = 4
"""A number of a vector in the index; the rows found by these are then ordered by their real vectors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a table is searched: exactly, or by an index (IVF with RaBitQ codes, Gao and Long 2024) of `partitions`.

    recall: share of the true ten nearest that it found for `asked` queries, at `rows` rows; None where it was not
    measured. built: rows when the partitions were last made. index: LanceDB's name of the very index that was tested.
    """

    exact: bool = True
    partitions: int = 0
    probes: int = 0
    refine: int = 0
    recall: float | None = None
    asked: int = 0
    rows: int = 0
    built: int = 0
    index: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Plan:
        """From index.json."""
        try:
            return cls(**told)
        except TypeError:
            raise InputError(
                "the plan of the search in index.json was changed by hand; start over with --rebuild"
            ) from None

    def kept(self) -> dict[str, Any]:
        """For index.json."""
        return asdict(self)

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        return f"IVF-RQ, {self.partitions:,} partitions, {self.probes} looked into, {self.refine}-fold refined"


def ask(store: Store, query: np.ndarray, top: int, plan: Plan, where: Filter | None, columns: list[str]) -> pa.Table:
    """Rows nearest to a vector, nearest first, with ``_distance`` (2 - 2 cosines) and, if asked for, ``_rowid``."""
    asked = store.table.search(query).distance_type("l2").limit(top)
    asked = asked.select([name for name in columns if name != "_rowid"] + ["_distance"])
    asked = asked.with_row_id(True) if "_rowid" in columns else asked
    asked = asked.where(where.sql(), prefilter=True) if where else asked
    if plan.exact:
        asked = asked.bypass_vector_index()
    else:
        asked = asked.nprobes(plan.probes).refine_factor(plan.refine)
    with told(store.path):
        return asked.to_arrow()


def planned(store: Store, texts: np.ndarray, say: Callable[[str], None]) -> Plan:
    """Builds, keeps or drops the index of a table as its rows ask for, and says how the table is to be searched.

    texts: t d, embedded sentences that people might search for: they lie apart from pictures, so recall is measured
    for both. An index that finds too little is asked more carefully, and not used if that does not help.
    """
    rows, old = store.rows, Plan.of(store.facts.search)
    there = _index(store)
    if rows < PAYS:
        if there:
            with told(store.path):
                store.table.drop_index(INDEX)
        return Plan(rows=rows)
    if there and there == old.index and abs(rows - old.rows) <= 0.1 * old.rows:
        return old
    if there and not old.exact and old.built / 2 <= rows <= 2 * old.built:
        return tuned(store, texts, old.partitions, old.built, say)
    partitions = round(rows**0.5)
    began = time.monotonic()
    say(f"indexing {rows:,} vectors in {partitions:,} partitions")
    build(store, partitions)
    store.tidy()  # LanceDB may split and join partitions here: what is tested is what will be used
    say(f"indexed in {time.monotonic() - began:,.0f} s")
    return tuned(store, texts, partitions, rows, say)


def build(store: Store, partitions: int) -> None:
    """Makes the index anew. By distances, not products: for vectors of one length they order alike, and only by
    distances do the partitions hold what lies together."""
    lancedb()
    from lancedb.index import IvfRq

    # by the size of partitions, not their number: else they are joined to LanceDB's usual size when it is optimized
    size = max(1, store.rows // partitions)
    how = IvfRq(distance_type="l2", target_partition_size=size, num_bits=BITS, sample_rate=64, max_iterations=15)
    with told(store.path):
        store.table.create_index("vector", config=how, name=INDEX, replace=True)


def tuned(store: Store, texts: np.ndarray, partitions: int, built: int, say: Callable[[str], None]) -> Plan:
    """The least careful plan that finds enough; the exact one where none does, or none is quicker."""
    queries, own = _sample(store, texts)
    true = _truth(store, queries, own)
    rows = store.rows
    plan, recall = Plan(), 0.0
    for probes, refine in STEPS:
        plan = Plan(False, partitions, min(probes, partitions), refine, None, len(queries), rows, built, _index(store))
        recall = round(_recall(store, queries, own, true, plan), 4)
        if recall >= AIMED or probes >= partitions:
            break
    plan = Plan(**{**asdict(plan), "recall": recall})
    say(f"recall@{TOP} of the index {recall:.3f}, against exact search, {len(queries)} queries")
    if recall < PROMISED:
        say(f"that is below {PROMISED}: searches of this table will be exact")
        return Plan(True, partitions, 0, 0, recall, len(queries), rows, built, _index(store))
    return plan


def _index(store: Store) -> str:
    """The name that LanceDB gave to the index of vectors; it has another one whenever it changed. "" without one."""
    with told(store.path):
        return next((str(one.index_uuid) for one in store.table.list_indices() if one.name == INDEX), "")


def _sample(store: Store, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(queries q d, the row each of them is, -1 for texts): pictures from all over the table, and texts."""
    every = max(1, store.rows // ASKED)
    rows, found = [], []
    with told(store.path):
        for start in range(every // 2, store.rows, every):
            one = store.table.search().select(["vector"]).with_row_id(True).offset(start).limit(1).to_arrow()
            rows.append(one["_rowid"][0].as_py())
            found.append(vectors(one["vector"].combine_chunks()))
    queries = np.concatenate([*found, texts.reshape(-1, store.facts.dim)]).astype(np.float32)
    return queries, np.array(rows + [-1] * len(texts), np.int64)


def _truth(store: Store, queries: np.ndarray, own: np.ndarray) -> list[set[int]]:
    ids: list[np.ndarray] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in store.scan(["vector"], ids=True):
            ids.append(batch.column("_rowid").to_numpy())
            yield batch

    rows, _ = nearest(batches(), queries, TOP + 1)
    names = np.concatenate(ids)[rows]
    return [set(_others(found, mine)) for found, mine in zip(names.tolist(), own.tolist(), strict=True)]


def _recall(store: Store, queries: np.ndarray, own: np.ndarray, true: list[set[int]], plan: Plan) -> float:
    hits = 0
    for query, mine, wanted in zip(queries, own.tolist(), true, strict=True):
        found = ask(store, query, TOP + (mine >= 0), plan, None, ["_rowid"])["_rowid"].to_pylist()
        hits += len(wanted & set(_others(found, mine)))
    return hits / sum(map(len, true))


def _others(found: list[int], own: int) -> list[int]:
    """The first ten that are not the query itself."""
    return [row for row in found if row != own][:TOP]
