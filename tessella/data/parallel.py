"""Parallel text: sentence pairs from two files, one table, or a folder of splits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tessella.data.quarantine import Quarantine
from tessella.data.rows import Cell, Row, plain_rows, sentence, table_rows
from tessella.errors import InputError, did_you_mean
from tessella.spec import Spec, spec


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation, the line or row it stands in (from 1), and its domain where one is given."""

    source: str
    target: str
    line: int
    domain: str | None = None


@spec("parallel-columns")
class Columns(Spec):
    """The columns of a table that hold the source, the target and, if there is one, the domain of a pair."""

    source: str = "source"
    target: str = "target"
    domain: str | None = None


def read_parallel(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    quarantine: Quarantine | None = None,
    domain: str | os.PathLike[str] | None = None,
    max_words: int = 250,
) -> list[Pair]:
    """Sentence pairs from two plain files, line by line, or from one .tsv, .csv, .jsonl or .parquet table.

    ``domain`` is a third plain file; a table names its domain column in ``columns``. A pair with a side that is empty,
    no UTF-8, holds a NUL, or has over ``max_words`` words (or 16 times as many characters) goes to ``quarantine``, one
    item for each pair: ``len(pairs) + len(quarantine)`` grows by the number of lines. Without a quarantine such a pair
    is an error. Raises InputError for missing, empty or unequal files, wrong columns, and files with no usable pair.
    """
    where = [Path(source)] if target is None else [Path(source), Path(target)]
    if target is None:
        if domain is not None:
            raise InputError(f"{source} is a table; name its domain column in the columns, not a domain file")
        chosen = columns or Columns()
        names = [chosen.source, chosen.target, *([chosen.domain] if chosen.domain else [])]
        rows = table_rows(Path(source), names)
    else:
        if columns is not None:
            raise InputError(f"columns belong to one table, but two files were given: {source} and {target}")
        rows = plain_rows([*where, *([Path(domain)] if domain is not None else [])])
    pairs: list[Pair] = []
    total = 0
    for row in rows:
        total += 1
        pair = _check(row, where, quarantine, max_words)
        if pair is not None:
            pairs.append(pair)
    if not pairs:
        names = " and ".join(map(str, where))
        raise InputError(f"{names}: none of {total} lines is usable" if total else f"{names}: no pairs in it")
    return pairs


def read_split(
    folder: str | os.PathLike[str],
    split: str,
    languages: tuple[str, str],
    quarantine: Quarantine | None = None,
    max_words: int = 250,
) -> list[Pair]:
    """The pairs of ``folder/split.source`` and ``folder/split.target``, with ``folder/split.domain`` where it exists.

    ``read_split("data", "train", ("de", "en"))`` reads data/train.de and data/train.en. Raises InputError as
    ``read_parallel`` does, and names the files that are there where one is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; expected one with {split}.{languages[0]} and {split}.{languages[1]}")
    for language in languages:
        if not (folder / f"{split}.{language}").is_file():
            there = [p.name for p in folder.iterdir() if p.is_file()]
            tail = did_you_mean(f"{split}.{language}", there) or "; the folder is empty"
            raise InputError(f"no file {split}.{language} in {folder}{tail}")
    source, target = (folder / f"{split}.{language}" for language in languages)
    domain = folder / f"{split}.domain"
    return read_parallel(
        source, target, quarantine=quarantine, domain=domain if domain.is_file() else None, max_words=max_words
    )


def _check(row: Row, where: list[Path], quarantine: Quarantine | None, max_words: int) -> Pair | None:
    texts: list[str | None] = []
    faults: list[tuple[str, Path, Cell]] = [(row.fault, where[0], row.sample)] if row.fault else []
    sides = (("source", where[0]), ("target", where[-1]), ("domain", where[0]))
    for (side, path), cell in zip(sides, row.cells, strict=False):
        text, fault = sentence(cell, max_words)
        if side == "domain" and fault in ("empty", "missing"):
            text, fault = None, ""
        texts.append(text)
        if fault:
            faults.append((f"{side}: {fault}", path, cell))
    if not faults:
        source, target, domain = [*texts, None][:3]
        return Pair(source, target, row.line, domain)
    reason = "; ".join(fault for fault, _, _ in faults)
    _, path, cell = faults[0]
    if quarantine is None:
        raise InputError(f"{path} line {row.line} is not usable ({reason}); correct or remove it")
    quarantine.add(path, row.line, reason, cell or "")
    return None
