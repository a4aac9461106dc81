"""Answers: what is said of rows of tables in words, one text a row."""

from __future__ import annotations

from pathlib import Path

import pyarrow

from tessella.data.cell_values import texts
from tessella.data.cells import read_cells
from tessella.data.records import Records


def answers_of(records: Records) -> list[str]:
    """The label of each record as it is written, white space within it collapsed; "" where it is missing.

    For records whose labels are words: those of classes and numbers are in ``records.labels``.
    """
    (column,) = records.schema.label
    wanted: dict[tuple[str, int], str] = {records.place(number): "" for number in range(len(records))}
    for file in records.files:
        for cells in read_cells(Path(file), [column], lambda *told: None):
            values: pyarrow.Array = texts(cells.columns[column]).values
            for row, text in zip(cells.rows.tolist(), values.to_pylist(), strict=True):
                if text and (file, row) in wanted:
                    wanted[file, row] = " ".join((text if isinstance(text, str) else text.decode()).split())
    return list(wanted.values())
