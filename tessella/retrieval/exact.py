"""Exact: the nearest rows of a table by looking at every one; what the approximate index is held to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from einops import einsum

from tessella.retrieval.filters import Filter, chosen


def nearest(
    batches: Iterable[pa.RecordBatch], queries: np.ndarray, top: int, where: Filter | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(row numbers, cosines) of the `top` nearest rows to each of the queries, q k each, the nearest first.

    batches: with a column ``vector`` of normalised vectors, and those that `where` asks for; one is held at a time.
    queries: q d, normalised. Rows are numbered in the order of the batches; of equally near ones the earlier is first.
    k is less than `top` where fewer rows pass.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    begun = 0
    for batch in batches:
        passed = np.flatnonzero(chosen(pa.Table.from_batches([batch]), where))
        if len(passed):
            found = einsum(queries, vectors(batch.column("vector"))[passed], "q d, n d -> q n")
            scores = np.concatenate([scores, found], 1)
            rows = np.concatenate([rows, np.broadcast_to(begun + passed, found.shape)], 1)
            order = _best(scores, top)
            scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        begun += batch.num_rows
    return rows, scores


def vectors(column: pa.Array) -> np.ndarray:
    """A column of vectors as one matrix n d of float32."""
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32, copy=False)


def _best(scores: np.ndarray, top: int) -> np.ndarray:
    """Places of the best in each row, best first; equal ones in their order."""
    if scores.shape[1] > 4 * top:  # rough first, where it saves a sort; whatever equals the last is kept
        edge = -np.partition(-scores, top - 1, axis=1)[:, top - 1 : top]
        widest = int((scores >= edge).sum(1).max())
        kept = np.sort(np.argsort(scores < edge, axis=1, kind="stable")[:, :widest], axis=1)
        order = np.argsort(-np.take_along_axis(scores, kept, 1), axis=1, kind="stable")[:, :top]
        return np.take_along_axis(kept, order, 1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]
