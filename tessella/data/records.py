"""Records: the rows of tables of mixed columns, checked and packed, with what is to be predicted from each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute

from tessella.data.blobs import Blobs, Filling
from tessella.data.cell_values import Faults, days, numbers, texts, words
from tessella.data.cells import Cells, names_of, read_cells
from tessella.data.columns import Column, Schema, chosen_cells, stream_name
from tessella.data.media import Gathering, Media, broken_files, file_cells
from tessella.data.pictures import reporter
from tessella.data.quarantine import Quarantine
from tessella.data.targets import encoded
from tessella.errors import InputError, did_you_mean

FARTHEST = 1000.0
"""Deviations from the mean beyond which a number is taken for as far as this: its effect on a model must be finite."""
BETWEEN = "\n"
"""What stands between the texts of several columns."""
Fault = tuple[str, str, np.ndarray]
"""A column, what is wrong, and in which rows (bool n)."""


@dataclass(frozen=True, eq=False)
class Records:
    """Rows by number. Choosing some of them copies no media and no text.

    ``table`` is float32 n k, as the stem Columns reads it; ``texts`` has the text of each row, b"" where there is none;
    ``media`` the files of each stream. ``labels`` are as ``targets.encoded`` has them, None where they were not asked
    for. ``unseen`` counts the cells of each category whose value is not among those of training.
    """

    schema: Schema
    files: list[str]
    file: np.ndarray
    rows: np.ndarray
    table: np.ndarray
    texts: Blobs
    media: dict[str, Media]
    marks: np.ndarray | None
    index: np.ndarray
    unseen: dict[str, int]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> np.ndarray | None:
        """What is to be predicted of each: int64 n, float32 n t, or uint8 n k; see ``targets.encoded``."""
        return None if self.marks is None else self.marks[self.index]

    def place(self, number: int) -> tuple[str, int]:
        """(table, row in it from 1)."""
        at = int(self.index[number])
        return self.files[self.file[at]], int(self.rows[at])

    def name(self, number: int) -> str:
        """How people find a row: "train.parquet row 17"."""
        file, row = self.place(number)
        return f"{file} row {row}"

    def text(self, number: int) -> str:
        """Its texts, one below the other, "" where it has none."""
        return self.texts[int(self.index[number])].decode("utf-8")

    def read(self, stream: str, number: int) -> bytes | Path | None:
        """The file of a stream of media: its bytes or its path, None where the row has none."""
        return self.media[stream][int(self.index[number])]

    def there(self, stream: str) -> np.ndarray:
        """Which rows have a stream, bool n."""
        if stream in self.media:
            return self.media[stream].there[self.index]
        if stream == "text":
            return self.texts.lengths[self.index] > 0
        return np.asarray(~np.isnan(self.table[self.index]).all(axis=1))

    def take(self, numbers: Sequence[int] | np.ndarray) -> Records:
        """Some of them, in that order."""
        return replace(self, index=self.index[np.asarray(numbers, dtype=np.int64)])

    def fingerprint(self) -> str:
        """SHA-256 of the schema and of all that the rows hold; of a file by its path, name and size count."""
        digest = hashlib.sha256(self.schema.model_dump_json().encode())
        digest.update(np.ascontiguousarray(self.table[self.index]).tobytes())
        if self.marks is not None:
            digest.update(np.ascontiguousarray(self.marks[self.index]).tobytes())
        for number in range(len(self)) if self.schema.texts else ():
            digest.update(hashlib.sha256(self.texts[int(self.index[number])]).digest())
        for stream in self.media:
            for number in range(len(self)):
                cell = self.read(stream, number) or b""
                if isinstance(cell, Path):
                    size = cell.stat().st_size if cell.is_file() else -1
                    cell = f"{os.path.relpath(cell, Path(self.files[0]))} {size}".encode()
                digest.update(hashlib.sha256(cell).digest())
        return digest.hexdigest()


def read_records(
    paths: Sequence[Path],
    schema: Schema,
    quarantine: Quarantine | None = None,
    rows: Sequence[np.ndarray] | None = None,
    labelled: bool = True,
    absent: Collection[str] = (),
) -> Records:
    """The rows of some tables, or those of ``rows`` (a bool n a table), read as a schema says, in any order of columns.

    A row goes to ``quarantine`` (without one it is an error) by its number and the first thing wrong with it: a cell
    that is not what its column holds, a file that is not there or no picture, no label or an unknown one, or nothing in
    any column. Missing cells are fine. Without ``labelled`` the labels are not looked at. Raises InputError for columns
    that a table lacks, unless they are among ``absent``, and where nothing usable is left.
    """
    paths = [Path(path) for path in paths]
    packing = _Packing(schema, [str(path) for path in paths], quarantine, labelled)
    for number, (path, chosen) in enumerate(zip(paths, rows or [None] * len(paths), strict=True)):
        names = _wanted(path, schema, labelled, absent)
        for cells in chosen_cells(read_cells(path, names, _among(chosen, packing.report)), chosen):
            packing.add(number, cells)
    return packing.done()


def _among(chosen: np.ndarray | None, report: Callable[..., None]) -> Callable[..., None]:
    """Reports only the broken rows that are chosen, so that each is told of once however a table is divided."""

    def told(file: str, row: int, reason: str, sample: str | bytes = "") -> None:
        if chosen is None or (row <= len(chosen) and chosen[row - 1]):
            report(file, row, reason, sample)

    return told


def _wanted(path: Path, schema: Schema, labelled: bool, absent: Collection[str]) -> list[str]:
    """The columns to read of a table. Raises InputError naming those that it lacks."""
    there = names_of(path)
    needed = [column.name for column in schema.used] + list(schema.label if labelled else ())
    lacking = [name for name in needed if name not in there and name not in absent]
    if lacking:
        told = ", ".join(f"'{name}'" for name in lacking)
        near = did_you_mean(lacking[0], there) if len(lacking) == 1 else f"; it has {', '.join(there[:20])}"
        raise InputError(f"{path} lacks the column{'s' * (len(lacking) > 1)} {told} that training had{near}")
    return [name for name in needed if name in there]


class _Packing:
    """Rows that come part by part, checked and put together."""

    def __init__(self, schema: Schema, files: list[str], quarantine: Quarantine | None, labelled: bool):
        self.schema, self.files, self.labelled = schema, files, labelled
        self.report = reporter(quarantine)
        self.numbers = {
            column.name: {value: at for at, value in enumerate(column.values, 1)}
            for column in schema.table
            if column.holds == "category"
        }
        self.unseen = dict.fromkeys(self.numbers, 0)
        self.files_of, self.rows, self.tables, self.marks = [], [], [], []
        self.texts = Filling()
        self.media = {stream_name(column.name): Gathering() for column in schema.media}

    def add(self, number: int, cells: Cells) -> None:
        """Some rows of table ``number``."""
        if not len(cells):
            return
        columns = {c.name: cells.columns.get(c.name, pyarrow.nulls(len(cells))) for c in self.schema.used}
        faults: list[Fault] = []
        table = self._table(columns, faults)
        text = self._joined(columns, faults)
        files = self._files(columns, Path(self.files[number]).parent, faults)
        marks = None
        if self.labelled:
            marks, found = encoded(self.schema, cells.columns)
            faults += [(self.schema.label[0], reason, wrong) for reason, wrong in found]
        empty = np.isnan(table).all(axis=1) & (text.to_numpy(zero_copy_only=False) == "")
        for content, _ in files.values():
            empty &= _mask(content.is_null())
        kept = self._sifted(number, cells, [*faults, ("", "every column is missing", empty)])
        self.files_of.append(np.full(len(kept), number, np.int32))
        self.rows.append(cells.rows[kept])
        self.tables.append(table[kept])
        for place, column in enumerate(self.schema.table):
            if column.holds == "category":
                self.unseen[column.name] += int((table[kept, place] == 0).sum())
        if marks is not None:
            self.marks.append(marks[kept])
        places = pyarrow.array(kept)
        self.texts.add(text.take(places))
        for stream, (content, inside) in files.items():
            self.media[stream].add(content.take(places), inside[kept])

    def done(self) -> Records:
        """All rows that are of use. Raises InputError where none is."""
        count = sum(map(len, self.rows))
        if not count:
            raise InputError(f"{', '.join(self.files)}: no row can be used; see what was set aside")
        return Records(
            schema=self.schema,
            files=self.files,
            file=np.concatenate(self.files_of),
            rows=np.concatenate(self.rows),
            table=np.concatenate(self.tables),
            texts=self.texts.done(),
            media={stream: gathering.done() for stream, gathering in self.media.items()},
            marks=np.concatenate(self.marks) if self.labelled else None,
            index=np.arange(count),
            unseen=self.unseen,
        )

    def _table(self, columns: Mapping[str, pyarrow.Array], faults: list[Fault]) -> np.ndarray:
        """Float32 n k: a number standardised, a category as its number; NaN where it is missing."""
        made = [np.zeros((len(next(iter(columns.values()))), 0))]
        for column in self.schema.table:
            cells = columns[column.name]
            if column.holds == "category":
                places, found, wrong = words(cells)
                known = self.numbers[column.name]
                values = np.array([*(known.get(word, 0) for word in found), np.nan])[places]
            else:
                values, wrong = days(cells) if column.written == "dates" else numbers(cells)
                values = np.clip((values - column.mean) / column.deviation, -FARTHEST, FARTHEST)
            made.append(values[:, None])
            faults += _named(column, wrong)
        return np.concatenate(made, axis=1).astype(np.float32)

    def _joined(self, columns: Mapping[str, pyarrow.Array], faults: list[Fault]) -> pyarrow.Array:
        """The texts of each row as one, "" where it has none."""
        kind = pyarrow.large_string()
        # an empty text in front, for Arrow leaves out a row of which every text is missing
        made = [pyarrow.repeat(pyarrow.scalar("", kind), len(next(iter(columns.values()))))]
        for column in self.schema.texts:
            values, wrong = texts(columns[column.name])
            made.append(values)
            faults += _named(column, wrong)
        joined = pyarrow.compute.binary_join_element_wise(*made, pyarrow.scalar(BETWEEN, kind), null_handling="skip")
        return pyarrow.compute.utf8_ltrim_whitespace(joined)

    def _files(
        self, columns: Mapping[str, pyarrow.Array], folder: Path, faults: list[Fault]
    ) -> dict[str, tuple[pyarrow.Array, np.ndarray]]:
        """Bytes or paths of each stream, and which are bytes."""
        made = {}
        for column in self.schema.media:
            content, inside, wrong = file_cells(columns[column.name], folder)
            faults += _named(column, [*wrong, *broken_files(column.holds, content, inside)])
            made[stream_name(column.name)] = content, inside
        return made

    def _sifted(self, number: int, cells: Cells, faults: list[Fault]) -> np.ndarray:
        """The places of rows without a fault; of the others the first fault is reported."""
        bad = np.zeros(len(cells), bool)
        for _, _, wrong in faults:
            bad |= wrong
        for at in np.flatnonzero(bad).tolist():
            name, reason = next((name, reason) for name, reason, wrong in faults if wrong[at])
            value = cells.columns[name][at].as_py() if name in cells.columns else ""
            if isinstance(value, dict):
                value = value.get("path") or ""
            sample = value if isinstance(value, str | bytes) else "" if value is None else str(value)
            self.report(self.files[number], int(cells.rows[at]), reason, sample)
        return np.flatnonzero(~bad)


def _named(column: Column, faults: Faults) -> list[Fault]:
    return [(column.name, f"{reason} in '{column.name}'", wrong) for reason, wrong in faults]


def _mask(flags: pyarrow.Array) -> np.ndarray:
    return flags.to_numpy(zero_copy_only=False)
