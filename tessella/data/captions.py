"""Captions: what is said of each picture of a data set, checked text by text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tessella.data.albums import Listing, Paths
from tessella.data.rows import Cell, Row, column_names, sentence, table_rows
from tessella.data.sheets import as_text, files_inside, written_paths
from tessella.spec import Spec, spec

Refuse = Callable[[str, int, str, str | bytes], None]
"""Says of one thing that it is set aside: file, row (0 for the file itself), reason, how it begins."""


@spec("caption-columns")
class CaptionColumns(Spec):
    """Where a picture, its captions and, where there are such, wrong captions stand: columns of a text or of lists.

    Where there is no "caption", "captions" will do. In tar shards they are fields of a picture's .json or the endings
    of its files; there the defaults find every common kind of image, and a .txt, one caption a line.
    """

    image: str = "image"
    caption: str = "caption"
    negative: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Pictures of a split as listed, and the usable captions and wrong captions of each (perhaps none)."""

    listing: Listing
    captions: list[list[str]]
    negatives: list[list[str]]


def told_by_tables(paths: list[Path], columns: CaptionColumns, refuse: Refuse) -> Told:
    """Everything in tables of one split. Rows that name the same file are one picture.

    Broken rows, rows without a path and unusable captions are refused. Raises InputError for unreadable tables and for
    columns that they do not have.
    """
    lists = [_lists(path, columns) for path in paths]
    inside = files_inside(paths, columns.image) if all(path.suffix == ".parquet" for path in paths) else None
    names: dict[str, int] = {}
    file, lines = [], []
    captions: list[list[str]] = []
    negatives: list[list[str]] = []
    for number, path in enumerate(paths):
        for row, name in _rows(path, None if inside else columns.image, lists[number]):
            if row.fault or (inside is None and (not name or "\0" in name)):
                refuse(str(path), row.line, row.fault or "no path", row.sample)
                continue
            key = os.path.normpath(os.path.join(path.parent, name)) if inside is None else str(len(captions))
            place = names.setdefault(key, len(names))
            if place == len(captions):
                file.append(number)
                lines.append(row.line)
                captions.append([])
                negatives.append([])
            captions[place] += said(row.lists[0], (str(path), row.line), refuse)
            negatives[place] += wrong(row.lists[1:], (str(path), row.line), refuse)
    labels = [""] * len(captions)
    if inside is not None:
        return Told(replace(inside, labels=labels), captions, negatives)
    places = np.asarray(file, np.int64), np.asarray(lines, np.int64)
    return Told(Listing(Paths(Path(), list(names)), labels, list(map(str, paths)), *places), captions, negatives)


def said(cells: Sequence[Cell], place: tuple[str, int], refuse: Refuse, what: str = "caption") -> list[str]:
    """The usable texts of a picture, each on one line, however long; the others are refused by (file, row)."""
    texts = []
    for cell in cells:
        text, fault = sentence(cell)
        if fault:
            refuse(*place, f"{what}: {fault}", cell or "")
        else:
            texts.append(" ".join(text.split()))
    if not cells and what == "caption":
        refuse(*place, "no caption", "")
    return texts


def wrong(lists: Sequence[Sequence[Cell]], place: tuple[str, int], refuse: Refuse) -> list[str]:
    """The usable wrong captions of a picture, which may well have none."""
    return said([cell for cells in lists for cell in cells if cell], place, refuse, "wrong caption")


def _lists(path: Path, columns: CaptionColumns) -> list[str]:
    """The columns of texts in a table: captions and, where wanted, wrong ones."""
    caption = columns.caption
    if caption == CaptionColumns().caption:
        there = column_names(path)
        caption = "captions" if "captions" in there and caption not in there else caption
    return [caption] + ([columns.negative] if columns.negative is not None else [])


def _rows(path: Path, image: str | None, lists: list[str]) -> Iterator[tuple[Row, str]]:
    """The texts of each row of a table, with the path in it as written, unless there is no column of paths."""
    if image is None:
        yield from ((row, "") for row in table_rows(path, [], lists=lists))
    elif path.suffix == ".parquet":
        yield from zip(table_rows(path, [], lists=lists), written_paths(path, image), strict=True)
    else:
        for row in table_rows(path, [image], lists=lists):
            yield row, as_text(row.cells[0]) if row.cells else ""
