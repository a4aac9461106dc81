"""Cells: the columns of tables of any kind as Arrow arrays, some thousand rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from tessella.data.albums import Report
from tessella.data.rows import column_names, json_object, lines_of, must_exist, opened_csv, require
from tessella.data.sheets import SUFFIXES
from tessella.errors import InputError

AT_ONCE = 2**14
ROOM = 2**26
"""Bytes of rows at once, where they are large."""
LOOKED_AT = 1000
"""Objects of a .jsonl file that are asked for the names of its columns."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Some rows of a table, one after another: their numbers (from 1, int64) and the arrays of its columns."""

    rows: np.ndarray
    columns: dict[str, pyarrow.Array]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, kept: np.ndarray) -> Cells:
        """Some of the rows, by their places here."""
        if len(kept) == len(self):
            return self
        places = pyarrow.array(kept)
        return Cells(self.rows[kept], {name: column.take(places) for name, column in self.columns.items()})


def names_of(path: Path) -> list[str]:
    """What the columns of a table are called. Raises InputError for what is no table and for two of one name."""
    _must_be_a_table(path)
    if path.suffix == ".jsonl":
        objects = (json_object(line) for _, line in zip(range(LOOKED_AT), lines_of(path), strict=False))
        names = list(dict.fromkeys(name for found in objects if isinstance(found, dict) for name in found))
    else:
        names = column_names(path)
    require(path, names, names)
    return names


def read_cells(path: Path, names: Sequence[str], report: Report) -> Iterator[Cells]:
    """The named columns of a .parquet, .csv, .tsv or .jsonl file; rows that are no rows are reported and left out.

    Cells of .csv and .tsv are bytes as they stand there; those of .jsonl are numbers, truths, texts or lists of texts
    where all of some thousand rows are (or missing), else texts. Raises InputError for other and unreadable files, and
    for names that are no columns.
    """
    _must_be_a_table(path)
    require(path, list(names), names_of(path))
    readers = {".parquet": _from_parquet, ".jsonl": _from_jsonl, ".csv": _from_csv, ".tsv": _from_csv}
    try:
        yield from readers[path.suffix](path, list(names), report)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is not a readable {path.suffix} file: {str(error).splitlines()[0][:200]}") from None


def holds_bytes(kind: pyarrow.DataType) -> bool:
    """Whether cells of this type may be whole files."""
    return pyarrow.types.is_struct(kind) or str(kind) in ("binary", "large_binary", "binary_view")


def _must_be_a_table(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is no table ({', '.join(SUFFIXES)})")
    must_exist(path)


def _from_parquet(path: Path, names: list[str], report: Report) -> Iterator[Cells]:
    with pyarrow.parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        at_once = max(1, min(AT_ONCE, ROOM // max(1, largest)))
        start = 1
        for batch in file.iter_batches(at_once, columns=names, use_threads=False):
            columns = {name: _plain(batch.column(batch.schema.get_field_index(name))) for name in names}
            yield Cells(np.arange(start, start + len(batch)), columns)
            start += len(batch)


def _plain(column: pyarrow.Array) -> pyarrow.Array:
    return column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column


def _from_csv(path: Path, names: list[str], report: Report) -> Iterator[Cells]:
    broken: list[int] = []

    def set_aside(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(row.number - 1)  # it counts the header
        report(str(path), broken[-1], f"{row.actual_columns} cells instead of {row.expected_columns}", row.text)
        return "skip"

    last = 0
    with opened_csv(path, names, set_aside) as table:
        for batch in table:
            for at in range(0, len(batch), AT_ONCE):
                part = batch.slice(at, AT_ONCE)
                rows = np.arange(last + 1, last + 1 + len(part) + len(broken))
                rows = rows[~np.isin(rows, broken)][: len(part)] if broken else rows
                yield Cells(rows, {name: part.column(part.schema.get_field_index(name)) for name in names})
                last = int(rows[-1])


def _from_jsonl(path: Path, names: list[str], report: Report) -> Iterator[Cells]:
    rows: list[int] = []
    found: list[dict[str, Any]] = []
    held = 0
    for number, line in enumerate(lines_of(path), start=1):
        read = json_object(line)
        if not isinstance(read, dict):
            report(str(path), number, read, line)
            continue
        rows.append(number)
        found.append(read)
        held += len(line)
        if len(rows) == AT_ONCE or held > ROOM:
            yield _of_objects(rows, found, names)
            rows, found, held = [], [], 0
    if rows:
        yield _of_objects(rows, found, names)


def _of_objects(rows: list[int], found: list[dict[str, Any]], names: list[str]) -> Cells:
    columns = {name: _array([one.get(name) for one in found]) for name in names}
    return Cells(np.asarray(rows, np.int64), columns)


def _array(values: list[Any]) -> pyarrow.Array:
    """Values of JSON in the narrowest type that has them all."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds or kinds == {bool}:
        return pyarrow.array(values, pyarrow.bool_() if kinds else pyarrow.null())
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pyarrow.array(values, pyarrow.int64())
    if kinds <= {int, float}:
        return pyarrow.array(list(map(_float, values)), pyarrow.float64())
    if kinds == {list} and all(isinstance(text, str) for value in values for text in value or []):
        cells = [None if value is None else list(map(_bytes, value)) for value in values]
        return pyarrow.array(cells, pyarrow.list_(pyarrow.binary()))
    texts = [value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False) for value in values]
    return pyarrow.array([None if text is None else _bytes(text) for text in texts], pyarrow.large_binary())


def _float(value: int | float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:
        return float("inf")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # half a surrogate pair is no UTF-8, and told of as such
