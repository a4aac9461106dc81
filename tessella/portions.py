"""Portions: pictures or texts to embed, in pieces that one process can do after the other, or many at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tessella.data.quarantine import shown
from tessella.data.rows import plain_rows, sentence, table_rows
from tessella.data.sheets import SUFFIXES, as_text, holds_files, part, written_paths
from tessella.errors import InputError
from tessella.picture_lines import printable, walked
from tessella.spec import Spec, spec

SIZE = 4096
"""Pictures or texts of a portion, and the most that are written at once."""
BYTES_AT_ONCE = 64
"""Pictures read at once from a table that holds their files."""
Refuse = Callable[[str, int, str, str | bytes], None]
"""Says of one thing that it has no vector: file, row (0 for the file itself), reason, how it begins."""


@dataclass(slots=True)
class Item:
    """One thing to embed: where it stands (row 0: the file itself), and a picture's file or its bytes, or a text.

    width, height: of a picture once it was decoded.
    """

    path: str
    row: int
    source: Path | bytes | str
    width: int = 0
    height: int = 0


class Portion(Spec):
    """Role: names some of what is to be embedded, as plain data."""

    def items(self, refuse: Refuse) -> Iterator[Item]:
        """One after the other, nothing decoded. Raises InputError where a table cannot be read any more."""
        raise NotImplementedError


@spec("picture-files")
class Files(Portion):
    """Pictures that are files of their own, and the row of a table (from 1) that named each; 0 for none."""

    paths: tuple[str, ...]
    rows: tuple[int, ...]

    def items(self, refuse: Refuse) -> Iterator[Item]:
        for path, row in zip(self.paths, self.rows, strict=True):
            yield Item(path, row, Path(path))


@spec("row-group")
class Group(Portion):
    """Pictures inside a Parquet table: those of one row group, its first row being so many (from 1)."""

    table: str
    column: str
    group: int
    first: int

    def items(self, refuse: Refuse) -> Iterator[Item]:
        row, folder = self.first, os.path.dirname(self.table)
        try:
            with pyarrow.parquet.ParquetFile(self.table) as file:
                for batch in file.iter_batches(BYTES_AT_ONCE, row_groups=[self.group], columns=[self.column]):
                    for data, name in _contents(batch.column(0)):
                        if data is None and name:
                            path = os.path.join(folder, name)
                            yield Item(path, row, Path(path))
                        else:
                            yield Item(self.table, row, data or b"")
                        row += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.table} cannot be read: {str(error).splitlines()[0][:200]}") from None


def _contents(cells: pyarrow.Array) -> Iterator[tuple[bytes | None, str]]:
    """(bytes, path) of each cell of a column of files; a struct may have a path in place of bytes."""
    cells = cells.dictionary_decode() if pyarrow.types.is_dictionary(cells.type) else cells
    whole = pyarrow.types.is_struct(cells.type) and cells.type.get_field_index("path") >= 0
    names = map(as_text, part(cells, "path").to_pylist()) if whole else repeat("")
    return zip((cell.as_py() for cell in part(cells, "bytes")), names, strict=False)


@spec("texts")
class Texts(Portion):
    """Texts of a file, and the line or row (from 1) of each."""

    file: str
    rows: tuple[int, ...]
    texts: tuple[str, ...]

    def items(self, refuse: Refuse) -> Iterator[Item]:
        for row, text in zip(self.rows, self.texts, strict=True):
            yield Item(self.file, row, text)


def picture_portions(given: Sequence[str | Path], column: str, refuse: Refuse, size: int = SIZE) -> Iterator[Portion]:
    """All that is given, in order: picture files, folders of them, and tables with a column of files or their paths.

    Raises InputError for folders without pictures, and for tables that cannot be read or lack the column.
    """
    files: list[tuple[str, int]] = []

    def told(least: int) -> Iterator[Files]:
        while len(files) >= least:
            some, files[:] = files[:size], files[size:]
            yield Files(paths=tuple(path for path, _ in some), rows=tuple(row for _, row in some))

    for path in map(Path, given):
        if path.suffix == ".parquet" and path.is_file() and holds_files(path, column):
            yield from told(1)
            yield from _groups(path, column)
            continue
        for found in _named(path, column, refuse):
            files.append(found)
            yield from told(size)
    yield from told(1)


def text_portions(file: Path, column: str, refuse: Refuse, size: int = SIZE) -> Iterator[Portion]:
    """The texts of a file, one a line, or of a table's column, which may hold several texts a row.

    What is missing, empty or not UTF-8 is refused. Raises InputError for tables that cannot be read or lack the column.
    """
    texts = _told(file, column, refuse)
    while some := list(islice(texts, size)):
        yield Texts(file=str(file), rows=tuple(row for row, _ in some), texts=tuple(text for _, text in some))


def counted(given: Sequence[str | Path]) -> int | None:
    """How many pictures there are, without looking at any; None where only reading a table would tell."""
    total = 0
    for path in map(Path, given):
        if path.is_dir():
            total += sum(1 for _ in walked(path))
        elif path.suffix == ".parquet" and path.is_file():
            total += pyarrow.parquet.read_metadata(path).num_rows
        elif path.suffix in SUFFIXES:
            return None
        else:
            total += 1
    return total


def _groups(path: Path, column: str) -> Iterator[Group]:
    metadata = pyarrow.parquet.read_metadata(path)
    first = 1
    for group in range(metadata.num_row_groups):
        yield Group(table=str(path), column=column, group=group, first=first)
        first += metadata.row_group(group).num_rows


def _named(path: Path, column: str, refuse: Refuse) -> Iterator[tuple[str, int]]:
    """(path, row that named it or 0) of pictures that are files of their own."""
    if path.is_dir() or path.suffix not in SUFFIXES:
        for found in walked(path) if path.is_dir() else [path]:  # also one that is not there: reading it will say so
            try:
                str(found).encode()
                yield str(found), 0
            except UnicodeEncodeError:
                refuse(printable(str(found)), 0, "its name is not UTF-8", "")
    elif path.suffix == ".parquet":
        yield from _beside(path, enumerate(written_paths(path, column), 1), refuse)
    else:
        cells = ((row.line, row.fault or as_text(row.cells[0]), row.fault) for row in table_rows(path, [column]))
        for row, name, fault in cells:
            if fault:
                refuse(str(path), row, fault, "")
            else:
                yield from _beside(path, [(row, name)], refuse)


def _beside(table: Path, names: Iterable[tuple[int, str]], refuse: Refuse) -> Iterator[tuple[str, int]]:
    """Paths as a table has them, from its folder."""
    for row, name in names:
        if not name or "\0" in name:
            refuse(str(table), row, "no path", "")
        else:
            yield os.path.join(table.parent, name), row


def _told(file: Path, column: str, refuse: Refuse) -> Iterator[tuple[int, str]]:
    rows = table_rows(file, [], lists=[column]) if file.suffix in SUFFIXES else plain_rows([file])
    for row in rows:
        if row.fault:
            refuse(str(file), row.line, row.fault, row.sample)
            continue
        for cell in row.lists[0] if row.lists else row.cells:
            text, fault = sentence(cell)
            if fault:
                refuse(str(file), row.line, fault, shown(cell or ""))
            else:
                yield row.line, text
