"""Results: measured numbers as records, and the page of tables that they make."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessella.errors import InputError

HEAD = """# Results

Every number here was printed by the command beside it. This page is rendered from the records in this folder by
`make results`; edit the records, not the page.
"""
EMPTY = "\nNo results are recorded yet.\n"


class Record(BaseModel):
    """One measured number and all that one needs to measure it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str = Field(min_length=1)
    """The table it belongs to: translation, speed, …"""
    name: str = Field(min_length=1)
    """What was measured, of which system."""
    value: float | str
    unit: str
    target: float | str | None = None
    """What was hoped for, such as ``>= 38``."""
    met: bool | None = None
    command: str = Field(min_length=1)
    """The command that prints the number again."""
    data: str
    split: str
    signature: str | None = None
    """The metric's own signature (sacreBLEU), where it has one."""
    seeds: tuple[int, ...] = ()
    hardware: str
    date: dt.date


def read_records(folder: Path) -> list[Record]:
    """Every record in the folder's JSON files, in the order of the files' names; a file holds one record or a list.

    Raises InputError with the file, the field and what is wrong with it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder of results at {folder}")
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON: {error}") from None
        for item in held if isinstance(held, list) else [held]:
            try:
                records.append(Record.model_validate(item))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"])) or "the record"
                raise InputError(f"{path}: {field}: {first['msg']}") from None
    return records


def render(records: Sequence[Record]) -> str:
    """The records as one Markdown page: a table for each topic, how each number is got again below it."""
    topics: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        topics[record.topic].append(record)
    return HEAD + ("".join(_topic(name, topics[name]) for name in sorted(topics)) if records else EMPTY)


def write_page(folder: Path) -> Path:
    """Render the folder's records to its README.md; gives the path."""
    path = folder / "README.md"
    path.write_text(render(read_records(folder)), encoding="utf-8")
    return path


def _topic(name: str, records: Sequence[Record]) -> str:
    columns = ("what", "value", "target", "met", "data", "split", "seeds", "hardware", "date")
    lines = [f"\n## {name}\n", f"| {' | '.join(columns)} |", f"| --- | ---: | ---: |{' --- |' * (len(columns) - 3)}"]
    for record in records:
        cells = (
            record.name,
            f"{_number(record.value)} {record.unit}".strip(),
            "" if record.target is None else _number(record.target),
            {True: "yes", False: "**no**", None: ""}[record.met],
            record.data,
            record.split,
            ", ".join(map(str, record.seeds)),
            record.hardware,
            record.date.isoformat(),
        )
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines.append("\nAgain:\n")
    for record in records:
        signature = f" ({record.signature})" if record.signature else ""
        lines.append(f"- {record.name}: `{record.command}`{signature}")
    return "\n".join(lines) + "\n"


def _number(value: float | str) -> str:
    """Four digits that matter, without an exponent for the sizes people read."""
    return value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: Sequence[str]) -> int:
    """``python -m tessella.results FOLDER``: 0, or 2 with one line about the record that is wrong."""
    try:
        path = write_page(Path(arguments[0] if arguments else "docs/results"))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
