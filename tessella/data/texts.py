"""Texts: what language is learned from: a text a line of a file, or a row of a table's columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessella.data.layouts import SPLIT_OF, find_files
from tessella.data.quarantine import Quarantine
from tessella.data.rows import Row, plain_rows, sentence, table_rows
from tessella.data.sheets import SUFFIXES
from tessella.errors import InputError

BETWEEN = "\n"
"""Between the cells of a row that has several texts."""
MOST_HELD_OUT = 2000
"""Texts that are kept for validation at most where the data has none of its own."""


@dataclass(frozen=True)
class Texts:
    """Texts that can be used, and how many lines of plain files were blank."""

    texts: list[str]
    blank: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    def held_out(self, share: float, seed: int) -> tuple[Texts, Texts]:
        """The rest, and this share of them, drawn by the seed, for validation; both in their order.

        A text that stands there several times is on one side only. Raises InputError for fewer than two texts.
        """
        different = list(dict.fromkeys(self.texts))
        if len(different) < 2:
            raise InputError(f"there is {len(different)} usable text; training and validation need at least 2")
        order = np.random.default_rng(seed).permutation(len(different))
        count = min(MOST_HELD_OUT, max(1, round(share * len(different))))
        kept = {different[i] for i in order[:count]}
        inside, outside = [t for t in self.texts if t in kept], [t for t in self.texts if t not in kept]
        return Texts(outside, self.blank), Texts(inside)


def text_splits(data: Path) -> dict[str, list[Path]]:
    """The files of each split (train, validation, test), or of one, named "", where nothing is split.

    data: a file of texts or a table, or a folder with files named after the splits. Raises InputError for neither.
    """
    if data.is_file():
        return {"": [data]}
    try:
        return find_files(data, (".txt", *SUFFIXES))
    except InputError:
        if not data.is_dir():
            raise InputError(f"no file or folder {data}; give a text file, a table, or a folder of them") from None
        told = "expected train.txt and val.txt (or .csv, .tsv, .jsonl, .parquet), or one file alone"
        raise InputError(f"{data} holds no texts in files named after splits; {told}") from None


def read_split(data: Path, split: str | None, columns: Sequence[str], quarantine: Quarantine) -> Texts:
    """The texts of a split of the data, by any of its names; where nothing is split, all of them.

    Raises InputError where there is no such split, and as `read_texts` does.
    """
    there = text_splits(data)
    wanted = SPLIT_OF.get((split or "").lower(), split or "")
    if "" in there:
        return read_texts(there[""], columns, quarantine)
    if wanted not in there:
        raise InputError(f"{data} has no split '{split}', only {', '.join(there)}")
    return read_texts(there[wanted], columns, quarantine)


def read_texts(paths: Sequence[Path], columns: Sequence[str], quarantine: Quarantine) -> Texts:
    """The texts of plain files, one a line, and of tables, one a row: the cells of `columns`, a line each.

    Blank lines of plain files are skipped, and counted. A row none of whose cells has a text, or one of whose cells is
    no UTF-8, holds a NUL or is longer than a line may be, goes to `quarantine`. Raises InputError for a missing or
    unreadable file, columns that are not there, and where no text can be used.
    """
    texts: list[str] = []
    blank = total = 0
    for path in paths:
        plain = path.suffix not in SUFFIXES
        for row in plain_rows([path]) if plain else table_rows(path, list(columns)):
            if plain and not row.cells[0].strip():  # pyright: ignore[reportOptionalMemberAccess]  # a line is there
                blank += 1
                continue
            total += 1
            text = _checked(row, path, quarantine)
            if text:
                texts.append(text)
    if not texts:
        names = " and ".join(map(str, paths))
        raise InputError(f"{names}: none of {total} texts is usable" if total else f"{names}: no text in it")
    return Texts(texts, blank)


def _checked(row: Row, path: Path, quarantine: Quarantine) -> str:
    """The text of a row, or "", set aside with the reason."""
    found = [sentence(cell) for cell in row.cells]
    texts = [text for text, fault in found if not fault]
    faults = [fault for _, fault in found if fault not in ("", "empty", "missing")]
    reason = row.fault or next(iter(faults), "") or ("" if texts else found[0][1])
    if reason:
        quarantine.add(path, row.line, reason, row.sample or next((cell for cell in row.cells if cell), ""))
        return ""
    return BETWEEN.join(texts)


def has_split(there: Collection[str], name: str) -> bool:
    """Whether the splits found have one that is called so, in any of its names."""
    return SPLIT_OF.get(name.lower(), name) in there


def characters(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Bytes (of UTF-8) and characters of each text."""
    return ((len(text.encode("utf-8")), len(text)) for text in texts)
