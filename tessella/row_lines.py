"""Row lines: rows of tables in, a row of answers for each out, as CSV, JSON lines or a table on the terminal."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tessella.data.quarantine import Quarantine
from tessella.data.records import Records, read_records
from tessella.errors import InputError
from tessella.fuser import Fuser, Guess

Said = tuple[int, Guess]
"""The number of a row (from 1), and what is said of it."""


def predict_rows(
    fuser: Fuser, table: Path, out: Path | None, as_json: bool, warn: Callable[[str], None], batch: int = 64
) -> int:
    """Writes an answer a row, in the order of the table, to `out` (.csv or .jsonl) or standard output.

    A row that cannot be used has an error in the place of its answer. Out: how many those are. Categories that
    training never saw are told of. Raises InputError for a table that lacks columns.
    """
    if out is not None and out.suffix not in (".csv", ".jsonl"):
        raise InputError(f"{out} would be neither .csv nor .jsonl; answers are written as one of these")
    failed = 0
    with _opened(out) as file:
        write = _json_lines(file) if as_json or (out and out.suffix == ".jsonl") else _csv_lines(file, fuser)
        for number, guess in said(fuser, table, warn, batch):
            failed += guess.error is not None
            write(number, guess)
    if failed:
        warn(f"{failed:,} rows have no answer; each says why")
    return failed


def said(fuser: Fuser, table: Path, warn: Callable[[str], None], batch: int = 64) -> Iterator[Said]:
    """What is said of each row of a table, in order, also of those that cannot be used."""
    quarantine = Quarantine()
    try:
        records: Records | None = read_records([table], fuser.schema, quarantine, labelled=False)
    except InputError:
        if not len(quarantine):
            raise
        records = None
    unusable = sorted((item.line, f"{item.reason}{f': {item.sample}' if item.sample else ''}") for item in quarantine)
    for name, count in (records.unseen if records else {}).items():
        if count:
            warn(f"'{name}': {count:,} cells have a value that training never saw")
    waiting = iter(unusable)
    next_bad = next(waiting, None)
    for number, guess in enumerate(fuser.guesses(records, batch)) if records else ():
        assert records is not None
        row = records.place(number)[1]
        while next_bad is not None and next_bad[0] < row:
            yield next_bad[0], Guess("", error=next_bad[1])
            next_bad = next(waiting, None)
        yield row, guess
    while next_bad is not None:
        yield next_bad[0], Guess("", error=next_bad[1])
        next_bad = next(waiting, None)


def as_data(number: int, guess: Guess) -> dict[str, Any]:
    """An answer as plain data."""
    if guess.error is not None:
        return {"row": number, "error": guess.error}
    chances = {} if guess.chances is None else {"chances": {k: round(v, 6) for k, v in guess.chances.items()}}
    return {"row": number, "answer": guess.value, **chances}


def _json_lines(file: IO[str]) -> Callable[[int, Guess], None]:
    def write(number: int, guess: Guess) -> None:
        file.write(json.dumps(as_data(number, guess), ensure_ascii=False) + "\n")

    return write


def _csv_lines(file: IO[str], fuser: Fuser) -> Callable[[int, Guess], None]:
    """Columns: row, the label's name (or names), probability where there is one, error."""
    schema, rows = fuser.schema, csv.writer(file, lineterminator="\n")
    names = list(schema.names) if schema.task == "numbers" else [", ".join(schema.label)]
    chance = {"classes": ["probability"], "words": ["probability"]}.get(schema.task, [])
    rows.writerow(["row", *names, *chance, "error"])

    def write(number: int, guess: Guess) -> None:
        if guess.error is not None:
            cells = [""] * (len(names) + len(chance))
        elif schema.task == "numbers":
            cells = [f"{guess.value[name]:.6g}" for name in names]
        elif schema.task == "labels":
            cells = [schema.separator.join(guess.value)]
        else:
            cells = [guess.value, f"{(guess.chances or {})[guess.value]:.4f}"]
        rows.writerow([number, *cells, guess.error or ""])

    return write


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is there only when it is whole."""
    if out is None:
        yield sys.stdout
        return
    draft = out.with_name(out.name + ".part")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    os.replace(draft, out)
