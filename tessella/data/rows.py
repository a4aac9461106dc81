"""Rows: the raw cells of text files and tables, one by one, with what is wrong with a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
CHARACTERS_A_WORD = 16  # a text without blanks (Chinese, or junk) is one "word"; this bounds it as well
TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary")

Cell = str | bytes | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line or row (from 1) and its cells, bytes where UTF-8 is still unchecked; or the fault of a broken row.

    ``lists`` are the cells of columns that hold several texts a row.
    """

    line: int
    cells: tuple[Cell, ...]
    fault: str = ""
    sample: str | bytes = ""
    lists: tuple[list[Cell], ...] = ()


def plain_rows(paths: list[Path]) -> Iterator[Row]:
    """Line i of every file, for files of one line a sentence. Raises InputError at the end where the counts differ."""
    for path in paths:
        must_exist(path)
    counts = [0] * len(paths)
    for number, lines in enumerate(zip_longest(*map(lines_of, paths)), start=1):
        counts = [count + (line is not None) for count, line in zip(counts, lines, strict=True)]
        if None not in lines:
            yield Row(number, lines)
    if len(set(counts)) > 1:
        told = ", ".join(f"{path} has {count}" for path, count in zip(paths, counts, strict=True))
        raise InputError(f"parallel files need the same number of lines: {told}")


def table_rows(path: Path, names: list[str], numbers: Collection[str] = (), lists: Sequence[str] = ()) -> Iterator[Row]:
    """The named columns of a .tsv, .csv, .jsonl or .parquet file; line numbers count rows of data (lines in .jsonl).

    In the columns ``numbers`` of a .jsonl file whole numbers may stand too; they come as their digits. The columns
    ``lists`` come as ``Row.lists``: they hold lists of texts in .jsonl and .parquet, or one text a row in any table.
    Raises InputError for other or unreadable files and for names that are no columns of text.
    """
    json_rows = partial(_json_rows, numbers=numbers)
    readers = {".tsv": _csv_rows, ".csv": _csv_rows, ".jsonl": json_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise InputError(f"{path} is no table ({', '.join(readers)}); for plain text give a source and a target file")
    must_exist(path)
    try:
        yield from readers[path.suffix](path, names, lists)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable {path.suffix} file: {str(error).splitlines()[0][:200]}") from None


def column_names(path: Path) -> list[str]:
    """What the columns of a table are called; of a .jsonl file, the fields of its first object."""
    must_exist(path)
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        if path.suffix == ".jsonl":
            return next((list(found) for found in map(json_object, lines_of(path)) if isinstance(found, dict)), [])
        quoting = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = next(csv.reader(file, delimiter=_delimiter(path), quoting=quoting), [])
        return [name.encode("utf-8", "surrogateescape").decode("utf-8") for name in names]
    except (pyarrow.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable {path.suffix} file: {str(error).splitlines()[0][:200]}") from None


def sentence(cell: Cell, max_words: int | None = None) -> tuple[str, str]:
    """The text of a cell without outer white space, and what is wrong with it ("" if nothing)."""
    if cell is None:
        return "", "missing"
    if len(cell) > LONGEST_LINE:
        return "", f"over {LONGEST_LINE} bytes"
    try:
        text = (cell.decode("utf-8") if isinstance(cell, bytes) else cell).strip()
        text.encode("utf-8")
    except UnicodeDecodeError:
        return "", "not UTF-8"
    except UnicodeEncodeError:
        return "", "half a surrogate pair"
    if not text:
        return text, "empty"
    if "\0" in text:
        return text, "NUL character"
    if max_words is not None and len(text) > CHARACTERS_A_WORD * max_words:
        return text, f"over {CHARACTERS_A_WORD * max_words} characters"
    if max_words is not None and len(text.split()) > max_words:
        return text, f"over {max_words} words"
    return text, ""


def must_exist(path: Path) -> None:
    """Raises InputError for what is no file, or an empty one."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file of text or a table")
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, there)
        raise InputError(f"no file {path}{near if 'mean' in near else '; check the path'}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected at least one line of text")


def lines_of(path: Path) -> Iterator[bytes]:
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


def require(path: Path, names: list[str], known: Iterable[str]) -> None:
    """Raises InputError for a name that is not one column of those known."""
    known = list(known)
    for name in names:
        if known.count(name) == 1:
            continue
        if name in known:
            raise InputError(f"{path} has {known.count(name)} columns called '{name}'; rename all but one")
        near = did_you_mean(name, known)
        listed = ", ".join(repr(k) for k in known[:20])
        raise InputError(f"{path} has no column '{name}', only {listed}{near if 'mean' in near else ''}")


def _parquet_rows(path: Path, names: list[str], lists: Sequence[str]) -> Iterator[Row]:
    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = [*names, *lists]
        require(path, wanted, file.schema_arrow.names)
        for name in wanted:
            kind = file.schema_arrow.field(name).type
            if name in lists and _is_list(kind):
                kind = kind.value_type
            kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
            if str(kind) not in TEXT_TYPES:
                raise InputError(f"{path}: column '{name}' holds {kind}, not text")
        number = 0
        for batch in file.iter_batches(columns=wanted):
            columns = [_as_bytes(batch.column(batch.schema.get_field_index(name))) for name in wanted]
            for cells in zip(*columns, strict=True):
                number += 1
                yield Row(number, cells[: len(names)], lists=tuple(map(_several, cells[len(names) :])))


def _as_bytes(column: pyarrow.Array) -> list[Any]:
    """As bytes: a cell that is no UTF-8 is then one bad row, not a bad file."""
    if _is_list(column.type):
        offsets, values = column.offsets.to_pylist(), _as_bytes(column.values)
        there = column.is_valid().to_pylist()
        return [values[a:b] if ok else [] for a, b, ok in zip(offsets, offsets[1:], there, strict=False)]
    column = column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
    return column.cast(pyarrow.large_binary()).to_pylist()


def _is_list(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)


def _several(cell: Any) -> list[Cell]:
    """What a row of a column of several texts holds; a missing cell is one missing text, so that it is told of."""
    return cell if isinstance(cell, list) else [cell]


def _csv_rows(path: Path, names: list[str], lists: Sequence[str]) -> Iterator[Row]:
    wanted = [*names, *lists]
    broken: dict[int, Row] = {}

    def set_aside(row: pyarrow.csv.InvalidRow) -> str:
        line = row.number - 1  # it counts the header
        broken[line] = Row(line, (), f"{row.actual_columns} cells instead of {row.expected_columns}", row.text)
        return "skip"

    require(path, wanted, column_names(path))
    number = 0
    with opened_csv(path, wanted, set_aside) as table:
        for batch in table:
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                while number in broken:
                    yield broken[number]
                    number += 1
                yield Row(number, cells[: len(names)], lists=tuple(map(_several, cells[len(names) :])))
    yield from (row for line, row in sorted(broken.items()) if line > number)


def _delimiter(path: Path) -> str:
    """A tab or a comma. Raises InputError for a file in UTF-16."""
    with path.open("rb") as file:
        start = file.read(2**16)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} looks like UTF-16; save it as UTF-8")
    header = start.partition(b"\n")[0]
    return "\t" if path.suffix == ".tsv" or (b"\t" in header and b"," not in header) else ","  # open_clip's .csv


def opened_csv(
    path: Path, names: list[str] | None = None, set_aside: Callable[[pyarrow.csv.InvalidRow], str] = lambda row: "skip"
) -> pyarrow.csv.CSVStreamingReader:
    """The named columns as bytes, or all as they come; ``set_aside`` is told of each broken row."""
    tabs = path.suffix == ".tsv"
    parsing = pyarrow.csv.ParseOptions(
        delimiter=_delimiter(path),
        quote_char=False if tabs else '"',
        newlines_in_values=not tabs,
        ignore_empty_lines=False,
        invalid_row_handler=set_aside,
    )
    reading = pyarrow.csv.ReadOptions(use_threads=False, block_size=LARGEST_CSV_ROW)  # numbers broken rows
    kinds = {name: pyarrow.binary() for name in names or []}
    chosen = pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=names, strings_can_be_null=False)
    return pyarrow.csv.open_csv(path, read_options=reading, parse_options=parsing, convert_options=chosen)


def _json_rows(path: Path, names: list[str], lists: Sequence[str], numbers: Collection[str] = ()) -> Iterator[Row]:
    checked = False
    for number, line in enumerate(lines_of(path), start=1):
        found = json_object(line)
        if not isinstance(found, dict):
            yield Row(number, (), found, line)
            continue
        if not checked:
            require(path, [*names, *lists], found)
            checked = True
        cells = [found.get(name) for name in names]
        cells = [str(c) if n in numbers and type(c) is int else c for n, c in zip(names, cells, strict=True)]
        several = [_several(found.get(name)) for name in lists]
        odd = [n for n, c in zip(names, cells, strict=True) if not isinstance(c, str | None)]
        odd += [n for n, row in zip(lists, several, strict=True) if not all(isinstance(c, str | None) for c in row)]
        if odd:
            yield Row(number, (), f"'{odd[0]}' is no text", line)
        else:
            yield Row(number, tuple(cells), lists=tuple(several))


def json_object(line: bytes) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    if len(line) > LONGEST_LINE:
        return f"over {LONGEST_LINE} bytes"
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not JSON"
    return found if isinstance(found, dict) else "not a JSON object"
