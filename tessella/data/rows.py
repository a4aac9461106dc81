"""Rows: the raw cells of text files and tables, one by one, with what is wrong with a row."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from tessella.errors import InputError, did_you_mean

LONGEST_LINE = 2**20
LARGEST_CSV_ROW = 2**26
TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary")

Cell = str | bytes | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line or row (from 1) and its cells, bytes where UTF-8 is still unchecked; or the fault of a broken row."""

    line: int
    cells: tuple[Cell, ...]
    fault: str = ""
    sample: str | bytes = ""


def plain_rows(paths: list[Path]) -> Iterator[Row]:
    """Line i of every file, for files of one line a sentence. Raises InputError at the end where the counts differ."""
    for path in paths:
        _must_exist(path)
    counts = [0] * len(paths)
    for number, lines in enumerate(zip_longest(*map(_lines, paths)), start=1):
        counts = [count + (line is not None) for count, line in zip(counts, lines, strict=True)]
        if None not in lines:
            yield Row(number, lines)
    if len(set(counts)) > 1:
        told = ", ".join(f"{path} has {count}" for path, count in zip(paths, counts, strict=True))
        raise InputError(f"parallel files need the same number of lines: {told}")


def table_rows(path: Path, names: list[str], numbers: Collection[str] = ()) -> Iterator[Row]:
    """The named columns of a .tsv, .csv, .jsonl or .parquet file; line numbers count rows of data (lines in .jsonl).

    In the columns ``numbers`` of a .jsonl file whole numbers may stand too; they come as their digits.
    Raises InputError for other or unreadable files and for names that are no columns of text.
    """
    json_rows = partial(_json_rows, numbers=numbers)
    readers = {".tsv": _csv_rows, ".csv": _csv_rows, ".jsonl": json_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise InputError(f"{path} is no table ({', '.join(readers)}); for plain text give a source and a target file")
    _must_exist(path)
    try:
        yield from readers[path.suffix](path, names)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable {path.suffix} file: {str(error).splitlines()[0][:200]}") from None


def _must_exist(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file of text or a table")
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, there)
        raise InputError(f"no file {path}{near if 'mean' in near else '; check the path'}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected at least one line of text")


def _lines(path: Path) -> Iterator[bytes]:
    """Lines that end at \\n or \\r\\n only; of an endless one just enough to be refused as too long."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE + 3)
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{path} looks like UTF-16; save it as UTF-8")
        line = line.removeprefix(b"\xef\xbb\xbf") or b"\n"
        while line:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE)
            yield line.removesuffix(b"\n").removesuffix(b"\r")
            line = file.readline(LONGEST_LINE + 3)


def _require(path: Path, names: list[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if known.count(name) == 1:
            continue
        if name in known:
            raise InputError(f"{path} has {known.count(name)} columns called '{name}'; rename all but one")
        near = did_you_mean(name, known)
        listed = ", ".join(repr(k) for k in known[:20])
        raise InputError(f"{path} has no column '{name}', only {listed}{near if 'mean' in near else ''}")


def _parquet_rows(path: Path, names: list[str]) -> Iterator[Row]:
    with pyarrow.parquet.ParquetFile(path) as file:
        _require(path, names, file.schema_arrow.names)
        for name in names:
            kind = file.schema_arrow.field(name).type
            kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
            if str(kind) not in TEXT_TYPES:
                raise InputError(f"{path}: column '{name}' holds {kind}, not text")
        number = 0
        for batch in file.iter_batches(columns=names):
            columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
            columns = [c.dictionary_decode() if pyarrow.types.is_dictionary(c.type) else c for c in columns]
            # As bytes: a cell that is no UTF-8 is then one bad row, not a bad file.
            for cells in zip(*(c.cast(pyarrow.large_binary()).to_pylist() for c in columns), strict=True):
                number += 1
                yield Row(number, cells)


def _csv_rows(path: Path, names: list[str]) -> Iterator[Row]:
    broken: dict[int, Row] = {}

    def set_aside(row: pyarrow.csv.InvalidRow) -> str:
        line = row.number - 1  # it counts the header
        broken[line] = Row(line, (), f"{row.actual_columns} cells instead of {row.expected_columns}", row.text)
        return "skip"

    tabs = path.suffix == ".tsv"
    parsing = pyarrow.csv.ParseOptions(
        delimiter="\t" if tabs else ",",
        quote_char=False if tabs else '"',
        newlines_in_values=not tabs,
        ignore_empty_lines=False,
        invalid_row_handler=set_aside,
    )
    reading = pyarrow.csv.ReadOptions(use_threads=False, block_size=LARGEST_CSV_ROW)  # numbers broken rows
    with path.open("rb") as file:
        start = file.read(2**16)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} looks like UTF-16; save it as UTF-8")
    probe = pyarrow.csv.ConvertOptions(column_types={name: pyarrow.binary() for name in names})
    with pyarrow.csv.open_csv(path, read_options=reading, parse_options=parsing, convert_options=probe) as table:
        _require(path, names, table.schema.names)
    broken.clear()
    chosen = pyarrow.csv.ConvertOptions(
        column_types={name: pyarrow.binary() for name in names}, include_columns=names, strings_can_be_null=False
    )
    number = 0
    with pyarrow.csv.open_csv(path, read_options=reading, parse_options=parsing, convert_options=chosen) as table:
        for batch in table:
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                while number in broken:
                    yield broken[number]
                    number += 1
                yield Row(number, cells)
    yield from (row for line, row in sorted(broken.items()) if line > number)


def _json_rows(path: Path, names: list[str], numbers: Collection[str] = ()) -> Iterator[Row]:
    checked = False
    for number, line in enumerate(_lines(path), start=1):
        found: Any = None
        fault = "not a JSON object"
        if len(line) > LONGEST_LINE:
            fault = f"over {LONGEST_LINE} bytes"
        else:
            try:
                found = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                fault = "not UTF-8"
            except (ValueError, RecursionError):
                fault = "not JSON"
        if not isinstance(found, dict):
            yield Row(number, (), fault, line)
            continue
        if not checked:
            _require(path, names, found)
            checked = True
        cells = [found.get(name) for name in names]
        cells = [str(c) if n in numbers and type(c) is int else c for n, c in zip(names, cells, strict=True)]
        odd = [n for n, c in zip(names, cells, strict=True) if not isinstance(c, str | None)]
        if odd:
            yield Row(number, (), f"'{odd[0]}' is no text", line)
        else:
            yield Row(number, tuple(cells))
