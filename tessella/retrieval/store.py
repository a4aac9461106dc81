"""Store: an index on disk: a LanceDB table, what it was made with, and what was set aside, in one folder."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tessella.errors import InputError
from tessella.files import explained, read_json, replacing, write_json
from tessella.retrieval.exact import vectors
from tessella.retrieval.filters import Among, Filter, Term
from tessella.retrieval.scan import Mark

FACTS = "index.json"
LAYOUT = 1
SCAN_ROWS = 8192
"""Rows read at once where the whole table is."""
AT_ONCE = 1024


def lancedb() -> Any:
    """The library, or one line about what to install."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of empty clusters
    try:
        import lancedb as found
    except ImportError:
        raise InputError("image search needs LanceDB; install it with: pip install 'tessella[search]'") from None
    return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What an index was made with, in index.json.

    model: the run as it was given; fingerprint: of its weights and preparation; dim: numbers a vector; folder: where
    the pictures are; table: the name of the table in use; search: how it is searched (see approximate.Plan), {} for
    exactly.
    """

    model: str
    fingerprint: str
    dim: int
    folder: str
    table: str
    search: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Facts:
        """Raises InputError where there is no index, or one of another version."""
        if not (path / FACTS).is_file():
            there = "is no index" if path.exists() else "does not exist"
            raise InputError(f"{path} {there}; make one with: tessella index PHOTOS --model RUN --db {path}")
        told = read_json(path / FACTS)
        if told.pop("layout", None) != LAYOUT:
            raise InputError(f"{path} was made by another version of tessella; start over with --rebuild")
        try:
            return cls(**told)
        except TypeError:
            raise InputError(f"{path / FACTS} was changed by hand; start over with --rebuild") from None

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        told = {name: getattr(self, name) for name in self.__slots__}
        write_json(path / FACTS, {"layout": LAYOUT, **told})


def schema(dim: int) -> pa.Schema:
    """The columns every index has; further ones come behind."""
    moment = pa.timestamp("us")
    return pa.schema(
        [
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("size", pa.int64()),
            pa.field("modified", moment),
            pa.field("date", moment),
            pa.field("width", pa.int64()),
            pa.field("height", pa.int64()),
            pa.field("caption", pa.string()),
            pa.field("content", pa.string()),
        ]
    )


class Store:
    """The table of an index, for reading and, inside a `Writer`, for writing. A row is a picture.

    What LanceDB says about disks and permissions comes out as InputError; nothing it says is swallowed.
    """

    def __init__(self, path: Path, facts: Facts):
        self.path, self.facts = path, facts
        with told(path):
            self._database = lancedb().connect(str(path))
            names = self._database.list_tables(limit=1000).tables
            if facts.table in names:
                self.table = self._database.open_table(facts.table)
            else:
                self.table = self._database.create_table(facts.table, schema=schema(facts.dim))

    @classmethod
    def open(cls, path: Path) -> Store:
        """An index that is there. Raises InputError where there is none."""
        facts = Facts.read(path)
        if not (path / f"{facts.table}.lance").is_dir():
            raise InputError(f"{path} has lost its table; run `tessella index` again")
        return cls(path, facts)

    @property
    def rows(self) -> int:
        """Pictures in it."""
        with told(self.path):
            return self.table.count_rows()

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Column -> type."""
        return {field.name: field.type for field in self.table.schema}

    def count(self, where: Filter) -> int:
        """Pictures that a condition lets through."""
        with told(self.path):
            return self.table.count_rows(where.sql())

    def scan(self, columns: Sequence[str], where: Filter | None = None, ids: bool = False) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows (or those let through), some rows at a time; with ids also ``_rowid``."""
        asked = self.table.search().select(list(columns))
        asked = asked.where(where.sql()) if where else asked
        with told(self.path):
            yield from (asked.with_row_id(True) if ids else asked).to_batches(SCAN_ROWS)

    def known(self) -> tuple[dict[str, Mark], set[str]]:
        """Path -> mark of all rows, and all their contents."""
        marks: dict[str, Mark] = {}
        contents: set[str] = set()
        for batch in self.scan(["path", "size", "modified", "content"]):
            paths = batch.column("path").to_pylist()
            modified = batch.column("modified").cast(pa.int64()).to_pylist()
            marks.update(zip(paths, map(Mark, batch.column("size").to_pylist(), modified), strict=True))
            contents.update(batch.column("content").to_pylist())
        return marks, contents

    def rows_of(self, column: str, keys: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Value of a column of text -> some columns of a row that has it, for those of `keys` that are there."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(keys), AT_ONCE):
            where = Among(Term(column), tuple(keys[start : start + AT_ONCE]))
            for batch in self.scan([column, *(name for name in columns if name != column)], where):
                plain = batch.drop_columns(["vector"]) if "vector" in columns else batch
                rows = plain.to_pylist()
                if "vector" in columns:
                    rows = [{**row, "vector": v} for row, v in zip(rows, vectors(batch.column("vector")), strict=True)]
                found.update((row[column], row) for row in rows)
        return found

    def table_of(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows as an Arrow table of this index; columns a row does not have are missing in it."""
        made = []
        for field in self.table.schema:
            if field.name == "vector":
                flat = np.concatenate([row["vector"] for row in rows]).astype(np.float32)
                made.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), self.facts.dim))
            else:
                made.append(pa.array([row.get(field.name) for row in rows], field.type))
        return pa.table(made, self.table.schema)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of new paths, all or none of them."""
        if rows:
            made = self.table_of(rows)
            with told(self.path, made.nbytes):
                self.table.add(made)

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows in place of those with the same paths, all or none of them."""
        if rows:
            made = self.table_of(rows)
            with told(self.path, made.nbytes):
                self.table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(made)

    def remove(self, paths: Sequence[str]) -> None:
        """The rows of these paths."""
        for start in range(0, len(paths), AT_ONCE):
            with told(self.path):
                self.table.delete(Among(Term("path"), tuple(paths[start : start + AT_ONCE])).sql())

    def widen(self, fields: Mapping[str, pa.DataType]) -> None:
        """Further columns, missing in every row."""
        if fields:
            with told(self.path):
                self.table.add_columns(pa.schema(list(fields.items())))

    def note(self, search: Mapping[str, Any]) -> None:
        """Writes down how the table is searched from now on."""
        self.facts = replace(self.facts, search=dict(search))
        self.facts.write(self.path)

    def tidy(self) -> tuple[State, State]:
        """Small pieces put together, old versions and what killed runs left removed; the state before and after.

        New rows join the index of vectors, if there is one. Only inside a `Writer`: nobody else may be writing.
        """
        before = self.state()
        with told(self.path, before.size), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of readers that have an old version open: `Search` opens anew
            self.table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
            for name in self._database.list_tables(limit=1000).tables:
                if name != self.facts.table:  # of an index that was started over
                    self._database.drop_table(name)
        return before, self.state()

    def state(self) -> State:
        """Counts of the table."""
        with told(self.path):
            pieces = self.table.stats()["fragment_stats"]["num_fragments"]
            versions = len(self.table.list_versions())
        sizes = (os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(self.path) for name in names)
        return State(self.rows, pieces, versions, sum(sizes))

    def export(self, out: Path) -> int:
        """All rows with their vectors, as one Parquet file, written whole or not at all; how many."""
        count = 0
        with replacing(out) as temporary, pyarrow.parquet.ParquetWriter(temporary, self.table.schema) as file:
            for batch in self.scan(list(self.columns)):
                file.write_batch(batch.cast(self.table.schema) if batch.schema != self.table.schema else batch)
                count += batch.num_rows
        return count


@dataclass(frozen=True, slots=True)
class State:
    """Rows of a table, the pieces (fragments) and versions it lies in, and the bytes of the whole folder."""

    rows: int
    pieces: int
    versions: int
    size: int


@contextlib.contextmanager
def told(path: Path, needed: int = 0) -> Iterator[None]:
    """What LanceDB says about the disk, as the one line that other files' errors have; needed: bytes to be written."""
    with explained(path, needed):
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            number = re.search(r"os error (\d+)", str(error))
            if isinstance(error, InputError) or not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
