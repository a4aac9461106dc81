"""Sheets: labelled pictures in tables: Parquet with the files inside, or CSV, JSONL and Parquet with their paths."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from tessella.data.albums import Listing, Paths, PictureColumns, Report
from tessella.data.blobs import Blobs
from tessella.data.rows import Cell, table_rows
from tessella.errors import InputError, did_you_mean

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Tables:
    """One table, or several of the same columns: Parquet with the files' bytes inside, or any table with paths."""

    paths: list[Path]

    def found(self, columns: PictureColumns) -> list[str]:
        """The distinct cells of the label column."""
        return sorted({label for path in self.paths for label in _labels(path, columns) if label})

    def named(self, columns: PictureColumns) -> list[str] | None:
        """What the `datasets` library writes into a Parquet file's schema."""
        if self.paths[0].suffix != ".parquet":
            return None
        try:
            told = json.loads((_schema(self.paths[0], []).metadata or {})[b"huggingface"])
            names = told["info"]["features"][columns.label]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        return list(map(str, names)) if isinstance(names, list) else None

    def read(self, columns: PictureColumns, report: Report) -> Listing:
        """Row by row; bytes are gathered batch by batch and never become objects."""
        inside = files_inside(self.paths, columns.image, [columns.label])
        if inside is not None:
            return replace(inside, labels=[label for path in self.paths for label in _labels(path, columns)])
        names, labels, file, rows = [], [], [], []
        for number, path in enumerate(self.paths):
            for row, name, label in _paths(path, columns, report):
                names.append(os.path.join(path.parent, name))
                labels.append(label)
                file.append(number)
                rows.append(row)
        here = Paths(Path(), names)
        return Listing(here, labels, list(map(str, self.paths)), np.asarray(file, np.int64), np.asarray(rows, np.int64))


def files_inside(paths: list[Path], image: str, others: Sequence[str] = ()) -> Listing | None:
    """The pictures that Parquet tables hold in a column, one a row, without labels; None where they hold paths.

    Raises InputError for a table without that column or one of the ``others``.
    """
    inside = [holds_files(path, image, others) for path in paths]  # looks at each, so that each is refused by name
    if not all(inside):
        return None
    source = Blobs.gather(part(cells, "bytes") for path in paths for cells in _cells(path, image))
    if len(source) and not len(source.flat):
        return None
    counts = [pyarrow.parquet.read_metadata(path).num_rows for path in paths]
    rows = np.concatenate([np.arange(1, count + 1) for count in counts])
    return Listing(source, [], list(map(str, paths)), np.repeat(range(len(counts)), counts), rows)


def written_paths(path: Path, image: str) -> Iterator[str]:
    """The paths in a column of a Parquet table, one a row, "" where there is none."""
    return (as_text(cell) for cells in _cells(path, image) for cell in part(cells, "path").to_pylist())


def _schema(path: Path, names: list[str]) -> pyarrow.Schema:
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable .parquet file: {str(error).splitlines()[0][:200]}") from None
    for name in names:
        if schema.names.count(name) != 1:
            near = did_you_mean(name, schema.names)
            listed = ", ".join(map(repr, schema.names[:20]))
            raise InputError(f"{path} has no column '{name}' of its own, only {listed}{near if 'mean' in near else ''}")
    return schema


def _cells(path: Path, name: str) -> Iterator[pyarrow.Array]:
    """A column of a Parquet file, some rows at a time."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[name]):
                column = batch.column(0)
                yield column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable .parquet file: {str(error).splitlines()[0][:200]}") from None


def holds_files(path: Path, image: str, others: Sequence[str] = ()) -> bool:
    """Whether a table holds the files themselves in a column; else it holds their paths.

    Raises InputError for a table that cannot be read, or lacks that column or one of the ``others``.
    """
    if path.suffix != ".parquet":
        return False
    kind = _schema(path, [image, *others]).field(image).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if pyarrow.types.is_struct(kind):
        fields = {kind.field(i).name for i in range(kind.num_fields)}
        if not fields & {"bytes", "path"}:
            raise InputError(f"{path}: column '{image}' is a struct of {sorted(fields)}; needed: bytes or path")
        return "bytes" in fields
    if str(kind) not in ("string", "large_string", "string_view", "binary", "large_binary"):
        raise InputError(f"{path}: column '{image}' holds {kind}, neither files nor their paths")
    return str(kind) in ("binary", "large_binary")


def part(cells: pyarrow.Array, name: str) -> pyarrow.Array:
    """A field of a struct column (missing where the struct is), or the column itself where it is no struct."""
    if not pyarrow.types.is_struct(cells.type):
        return cells
    return cells.flatten()[cells.type.get_field_index(name)]


def _labels(path: Path, columns: PictureColumns) -> Iterator[str]:
    """The label column as text, "" where a row has none."""
    if path.suffix != ".parquet":
        for row in table_rows(path, [columns.label], numbers=[columns.label]):
            yield "" if row.fault else as_text(row.cells[0])
        return
    kind = _schema(path, [columns.label]).field(columns.label).type
    for cells in _cells(path, columns.label):
        try:
            whole = cells.cast(pyarrow.int64()) if pyarrow.types.is_floating(cells.type) else cells
            yield from map(as_text, whole.cast(pyarrow.string()).to_pylist())
        except pyarrow.ArrowException:
            raise InputError(
                f"{path}: column '{columns.label}' holds {kind}; a label is a whole number or text"
            ) from None


def _paths(path: Path, columns: PictureColumns, report: Report) -> Iterator[tuple[int, str, str]]:
    """(row, path as written, label) of a table of paths; broken rows and those without a path are reported."""
    if path.suffix == ".parquet":
        both = zip(written_paths(path, columns.image), _labels(path, columns), strict=True)
        rows = ((row, "", cells) for row, cells in enumerate(both, 1))
    else:
        read = table_rows(path, [columns.image, columns.label], numbers=[columns.label])
        rows = ((row.line, row.fault, tuple(map(as_text, row.cells))) for row in read)
    for row, fault, cells in rows:
        if fault or not cells[0] or "\0" in cells[0]:
            report(str(path), row, fault or "no path")
        else:
            yield row, cells[0], cells[1]


def as_text(cell: Cell) -> str:
    """A cell as text; one that is no UTF-8 keeps its bytes visible, and so names no file and no class."""
    return (cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell or "").strip()
