"""Record clues: rows that occur again, and columns that tell the label by themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tessella.data.problems import Problem
from tessella.data.records import Records

SURE = 0.999
"""Share of the rows (or the correlation) from which on a column tells the label by itself."""
OFTEN = 10
"""Rows a value must have on average for its telling to be no accident."""


def telling(records: Records | None) -> Iterator[str | Problem]:
    """Categories and numbers each of whose values goes with one class, and numbers that a number to be predicted is a
    line of: often they are known only when the label is."""
    if records is None or not records.schema.table or records.schema.task == "labels":
        return
    found = [
        f"{column.name}: {told}"
        for place, column in enumerate(records.schema.table)
        if (told := _told(records.table[records.index, place], np.asarray(records.labels)))
    ]
    if found:
        yield Problem("serious", "columns that tell the label by themselves; are they known before it?", found)
    else:
        yield "no column of numbers or categories tells the label by itself"


def _told(values: np.ndarray, labels: np.ndarray) -> str:
    """How surely values n (NaN: missing) tell labels n, or n t; "" if not surely."""
    there = ~np.isnan(values)
    if there.sum() < 2 * OFTEN:
        return ""
    if labels.ndim == 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            close = [abs(np.corrcoef(values[there], labels[there, i])[0, 1]) for i in range(labels.shape[1])]
        return f"correlation {max(close):.4f}" if max(close) >= SURE else ""
    different, which = np.unique(values, return_inverse=True)  # all missing cells are one value
    if len(different) * OFTEN > len(values) or np.bincount(labels).max() >= SURE * len(values):
        return ""
    _, firsts, counts = np.unique(which.ravel() * (labels.max() + 1) + labels, return_index=True, return_counts=True)
    best = np.zeros(len(different), np.int64)
    np.maximum.at(best, which.ravel()[firsts], counts)
    share = best.sum() / len(values)
    return f"right for {share:.2%} of the rows" if share >= SURE else ""


def repeated(parts: Mapping[str, Records]) -> Iterator[str | Problem]:
    """Rows of the same content, by split: across splits, with different labels, and within one.

    Rows of nothing but numbers and categories may well be alike by chance; of those it is only a note.
    """
    if not parts:
        return
    digests = np.concatenate([_digests(records) for records in parts.values()])
    split = np.repeat(np.arange(len(parts)), [len(records) for records in parts.values()])
    order = np.argsort(digests, kind="stable")
    _, starts, counts = np.unique(digests[order], return_index=True, return_counts=True)
    offsets, records = np.searchsorted(split, range(len(parts))), list(parts.values())
    across, torn, within = [], [], []

    def name(number: int) -> str:
        return records[split[number]].name(int(number - offsets[split[number]]))

    def label(number: int) -> bytes:
        labels = records[split[number]].labels
        assert labels is not None
        return labels[number - offsets[split[number]]].tobytes()

    for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        group = order[start : start + count].tolist()
        told = " = ".join(map(name, group[:4])) + " …" * (count > 4)
        (across if len(set(split[group].tolist())) > 1 else within).append(told)
        if len({label(number) for number in group}) > 1:
            torn.append(told)
    rich = bool(records[0].schema.media or records[0].schema.texts)
    if across:
        flatter = "; scores would flatter" if rich else ""
        what = f"the same rows in several of {', '.join(parts)}: {len(across):,}{flatter}"
        yield Problem("serious" if rich else "note", what, across)
    if torn:
        yield Problem("serious" if rich else "note", f"the same row with different labels: {len(torn):,}", torn)
    if within:
        yield Problem("note", f"rows that occur more than once in a split: {len(within):,}", within)
    if not (across or within):
        yield "no row occurs twice"


def _digests(records: Records) -> np.ndarray:
    """uint64 n: a hash of all that is read of each row; of a file that is named, of its path."""
    made = np.zeros(len(records), np.uint64)
    table = np.ascontiguousarray(records.table[records.index])
    for number, at in enumerate(records.index.tolist()):
        digest = hashlib.blake2b(table[number].tobytes(), digest_size=8)
        if records.schema.texts:
            digest.update(records.texts[at])
        for stream in records.media:
            cell = records.read(stream, number) or b""
            digest.update(b"\0" + (os.fsencode(cell) if isinstance(cell, Path) else hashlib.sha256(cell).digest()))
        made[number] = int.from_bytes(digest.digest(), "little")
    return made
