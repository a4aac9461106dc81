"""Metadata: further columns of pictures, from a table that names their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from tessella.errors import InputError, did_you_mean
from tessella.retrieval.conditions import kind_of
from tessella.retrieval.filters import PARTS

PATH = "path"
OWN = ("vector", "path", "size", "modified", "date", "width", "height", "caption", "content")
"""The columns every index has."""
TAKEN = {*OWN, *PARTS, "score", "rank"} - {"path", "caption"}
PASSED_OVER = "the first row counts"
READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": lambda path: pyarrow.csv.read_csv(path, convert_options=_BLANK),
    ".tsv": lambda path: pyarrow.csv.read_csv(
        path, parse_options=pyarrow.csv.ParseOptions(delimiter="\t"), convert_options=_BLANK
    ),
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
_BLANK = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NA", "NaN", "nan", "null", "NULL"])


@dataclass(frozen=True)
class Metadata:
    """Column -> type, and path as written -> values in the order of the columns (None where there is none)."""

    where: Path
    fields: dict[str, pa.DataType] = field(default_factory=dict)
    rows: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    twice: int = 0

    def of(self, folder: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """Picture -> column -> value, for those of `names` (paths from `folder`) that the table knows.

        Paths in a table are from the folder of pictures, from the table's own folder, or absolute. Raises InputError
        where not one of them names a picture.
        """
        found: dict[str, dict[str, Any]] = {}
        for written, values in self.rows.items():
            plain = os.path.normpath(written).replace(os.sep, "/")
            if plain not in names:
                absolute = os.path.abspath(self.where.parent / written)
                plain = os.path.relpath(absolute, os.path.abspath(folder)).replace(os.sep, "/")
            if plain in names:
                found.setdefault(plain, dict(zip(self.fields, values, strict=True)))
        if self.rows and names and not found:
            first = next(iter(self.rows))
            raise InputError(
                f"{self.where} names no picture of {folder}: its first path is '{first}', a picture's is "
                f"'{next(iter(names))}'; paths are from the folder of pictures, or from the table's"
            )
        return found


def read_metadata(where: Path, caption: str | None = None) -> Metadata:
    """A .csv, .tsv, .jsonl or .parquet table with a column `path`; `caption` names the one that is the caption.

    Types are those of the table (of a CSV, what all values of a column can be read as): text, numbers, true and
    false, dates. Rows without a path are passed over; of two with the same path the first counts. Raises InputError
    for tables that cannot be read, columns of other types, and names that an index has itself.
    """
    table = _read(where)
    if PATH not in table.column_names:
        raise InputError(f"{where} has no column 'path', only {', '.join(map(repr, table.column_names[:20]))}")
    if caption is not None:
        if caption not in table.column_names:
            raise InputError(f"{where} has no column '{caption}'{did_you_mean(caption, table.column_names)}")
        if caption != "caption":
            table = table.drop_columns("caption") if "caption" in table.column_names else table
            table = table.rename_columns(["caption" if n == caption else n for n in table.column_names])
    for name in table.column_names:
        _check_name(name, table.column_names.count(name), where)
    columns = {name: _typed(name, table.column(name), where) for name in table.column_names}
    for name in (PATH, "caption"):
        if name in columns and columns[name].type != pa.string():
            columns[name] = columns[name].cast(pa.string())
    paths = columns.pop(PATH).to_pylist()
    values = [column.to_pylist() for column in columns.values()]
    rows: dict[str, tuple[Any, ...]] = {}
    for number, path in enumerate(paths):
        if path:
            rows.setdefault(path, tuple(column[number] for column in values))
    fields = {name: column.type for name, column in columns.items()}
    return Metadata(where, fields, rows, sum(map(bool, paths)) - len(rows))


def agreed(fields: Mapping[str, pa.DataType], known: Mapping[str, pa.DataType], where: Path) -> dict[str, pa.DataType]:
    """The columns that an index does not have yet. Raises InputError where one is of another type there."""
    for name, kind in fields.items():
        if name in known and known[name] != kind and not (known[name] == pa.float64() and kind == pa.int64()):
            raise InputError(
                f"{where}: column '{name}' holds {kind_of(kind)}, in the index it holds {kind_of(known[name])}; "
                "correct the table, rename the column, or start over with --rebuild"
            )
    return {name: kind for name, kind in fields.items() if name not in known}


def _read(where: Path) -> pa.Table:
    if where.suffix.lower() not in READERS:
        raise InputError(f"{where} is no table of metadata; it ends in {', '.join(READERS)}")
    if not where.is_file():
        raise InputError(f"no file {where}; check the path")
    if where.stat().st_size == 0:
        raise InputError(f"{where} is empty; expected a table with a column 'path'")
    try:
        return READERS[where.suffix.lower()](where)
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"{where} is not a readable {where.suffix} table: {said}") from None


def _check_name(name: str, times: int, where: Path) -> None:
    if times > 1:
        raise InputError(f"{where} has {times} columns called '{name}'; rename all but one")
    if name in TAKEN or not name.strip() or set(name) & set("`.\0\n"):
        raise InputError(f"{where} has a column '{name}', which an index cannot have beside its own; rename it")


def _typed(name: str, column: pa.ChunkedArray, where: Path) -> pa.ChunkedArray:
    """A column as one of five types; numbers that are none (NaN) are missing, and zero has no sign."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    wanted = next((target for fits, target in WIDENED if fits(kind)), None)
    if wanted is None:
        raise InputError(f"{where}: column '{name}' holds {kind}; text, numbers, true and false, and dates can be kept")
    try:
        column = column.cast(wanted)
    except pa.ArrowException as error:
        raise InputError(f"{where}: column '{name}': {str(error).splitlines()[0][:150]}") from None
    if wanted == pa.float64():
        usable = pc.is_finite(column)
        column = pc.add(pc.if_else(usable, column, pa.scalar(None, pa.float64())), 0.0)
    if wanted == pa.string():
        column = pc.if_else(pc.match_substring(column, "\0"), pc.replace_substring(column, "\0", "�"), column)
    return column


WIDENED: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...] = (
    (lambda kind: pa.types.is_null(kind) or str(kind) in ("string", "large_string", "string_view"), pa.string()),
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_integer, pa.int64()),
    (lambda kind: pa.types.is_floating(kind) or pa.types.is_decimal(kind), pa.float64()),
    (lambda kind: pa.types.is_date(kind) or pa.types.is_timestamp(kind), pa.timestamp("us")),
)
"""Type of a table -> type in an index."""
