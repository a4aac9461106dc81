"""Columns: what each column of a table holds and how its cells are read, known from the rows that train."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pyarrow.parquet
from pydantic import ValidationError, model_validator

from tessella.data.albums import natural
from tessella.data.cells import Cells, holds_bytes, names_of, read_cells
from tessella.data.media import files_in, files_named
from tessella.data.profiles import GOOD, MOST_VALUES, SAMPLE, Guess, Profile, guess
from tessella.data.targets import Target, Task, label_names, target_of
from tessella.errors import InputError, did_you_mean
from tessella.spec import Spec, explain, spec

Kind = Literal["image", "sound", "video", "text", "category", "number", "ignore"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEDIA: tuple[Kind, ...] = ("image", "sound", "video")
TABLE: tuple[Kind, ...] = ("category", "number")


@spec("column")
class Column(Spec):
    """A column by its name: what it ``holds``, and why that is thought.

    Of numbers there are mean and deviation over the training rows, and whether they are ``numbers`` or ``dates`` (then
    they are days since 1970); of a category its ``values``, in order: number 1 is the first, 0 one never seen.
    """

    name: str
    holds: Kind
    why: str = ""
    written: Literal["numbers", "dates"] = "numbers"
    mean: float = 0.0
    deviation: float = 1.0
    values: tuple[str, ...] = ()
    missing: float = 0.0
    """Share of the training rows that have no value."""


@spec("schema")
class Schema(Spec):
    """What the columns of a table hold, and what is to be predicted from them.

    ``names`` are the classes (task "classes"), the labels of which a row may have several ("labels"), or the numbers
    ("numbers", one a target), in the order of the model's outputs.
    """

    columns: tuple[Column, ...]
    label: tuple[str, ...]
    task: Task
    names: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    separator: str = "|"
    """What stands between the labels of a row where they are written as one text."""
    rows: int = 0
    """How many rows the training tables have."""
    why: str = ""

    @model_validator(mode="after")
    def _sound(self) -> Schema:
        if not self.used:
            why = "; ".join(f"'{column.name}': {column.why}" for column in self.columns[:5])
            raise InputError(f"no column is left to predict from ({why}); name what some hold (--column NAME=KIND)")
        called = [stream_name(column.name) for column in self.columns if column.holds in MEDIA]
        called += [name for name, there in (("text", self.texts), ("table", self.table)) if there]
        twice = next((name for name in called if called.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"two streams would be called '{twice}'; rename a column of images, sounds or videos")
        return self

    @property
    def used(self) -> tuple[Column, ...]:
        """The columns that are read."""
        return tuple(column for column in self.columns if column.holds != "ignore")

    @property
    def media(self) -> tuple[Column, ...]:
        """Columns of images, sounds and videos: each a stream of its own."""
        return tuple(column for column in self.columns if column.holds in MEDIA)

    @property
    def texts(self) -> tuple[Column, ...]:
        """Columns of text: together the stream "text"."""
        return tuple(column for column in self.columns if column.holds == "text")

    @property
    def table(self) -> tuple[Column, ...]:
        """Columns of numbers and categories: together the stream "table"."""
        return tuple(column for column in self.columns if column.holds in TABLE)

    @property
    def streams(self) -> dict[str, str]:
        """What streams there are, by name: "image", "sound", "video", "text" or "table". Media first."""
        found: dict[str, str] = {stream_name(column.name): column.holds for column in self.media}
        return found | {name: name for name, there in (("text", self.texts), ("table", self.table)) if there}

    @property
    def sizes(self) -> tuple[int, ...]:
        """One a column of the stream "table": 0 for numbers, else how many values the category has."""
        return tuple(len(column.values) if column.holds == "category" else 0 for column in self.table)


def stream_name(column: str) -> str:
    """What the stream of a column of media is called: as the column, in letters that a module's name may have."""
    return re.sub(r"\W", "_", column) or "_"


def told(schema: Schema) -> list[str]:
    """A line for each column, and one for what is predicted."""
    wide = max([len(column.name) for column in schema.columns] + [len(", ".join(schema.label))])
    lines = [f"{column.name:<{wide}}  {_holding(column):<9} {column.why}".rstrip() for column in schema.columns]
    named = ", ".join(schema.names[:6]) + (f" … ({len(schema.names)})" if len(schema.names) > 6 else "")
    lines.append(
        f"{', '.join(schema.label):<{wide}}  {'to predict':<9} {schema.task}: {named}{schema.why and '; '}{schema.why}"
    )
    return lines


def _holding(column: Column) -> str:
    return "date" if column.written == "dates" and column.holds == "number" else column.holds


def read_schema(
    paths: Sequence[Path],
    label: str,
    kinds: Mapping[str, str] | None = None,
    task: Task | None = None,
    rows: Sequence[np.ndarray] | None = None,
) -> Schema:
    """What the columns of some tables hold, from all of their rows, or from ``rows`` (a bool n a table).

    ``label`` is the column to predict, or several of numbers with commas between; ``kinds`` says what columns hold that
    are not to be guessed. Raises InputError for names that are no columns, for what a column cannot be, and for labels
    that nothing can be learned from.
    """
    names = names_of(paths[0])
    labels = label_names(label, names, paths[0])
    kinds = _checked(kinds or {}, names, labels, paths[0])
    guesses = {name: Guess(holds, "as you say") for name, holds in kinds.items()}
    for name in names:
        if name not in (*guesses, *labels) and (found := _files_inside(paths, name)):
            guesses[name] = found
    wanted = [n for n in names if n not in guesses or guesses[n].holds in ("text", "category", "number")]
    profiles = {name: Profile(name) for name in wanted}
    for path, chosen in zip(paths, rows or [None] * len(paths), strict=True):
        for cells in chosen_cells(read_cells(path, wanted, _nothing), chosen):
            for name, column in cells.columns.items():
                profiles[name].add(column)
    target = target_of([profiles[name] for name in labels], task)
    columns = [
        _column(name, guesses.get(name), profiles.get(name), paths[0].parent) for name in names if name not in labels
    ]
    try:
        return Schema(
            columns=tuple(columns),
            label=tuple(labels),
            rows=profiles[labels[0]].rows,
            task=target.task,
            names=target.names,
            targets=target.targets,
            why=target.why,
        )
    except ValidationError as error:
        raise InputError(explain(error)) from None


def chosen_cells(cells: Iterator[Cells], chosen: np.ndarray | None) -> Iterator[Cells]:
    """Only the rows of a table that are chosen (bool n, by their number from 1); all where that is None."""
    for part in cells:
        if chosen is None:
            yield part
            continue
        kept = np.flatnonzero((part.rows <= len(chosen)) & chosen[np.minimum(part.rows, len(chosen)) - 1])
        yield part.take(kept)


def _nothing(file: str, row: int, reason: str, sample: str | bytes = "") -> None:
    """Broken rows are told of when records are read."""


def _checked(kinds: Mapping[str, str], names: list[str], labels: list[str], path: Path) -> dict[str, str]:
    for name, holds in kinds.items():
        if name not in names:
            raise InputError(f"{path} has no column '{name}'{did_you_mean(name, names)}")
        if holds not in KINDS:
            raise InputError(f"column '{name}' cannot hold '{holds}'{did_you_mean(holds, KINDS)}")
        if name in labels:
            raise InputError(
                f"column '{name}' is what is to be predicted; how, --set data.task=… says (classes, numbers, labels)"
            )
    return dict(kinds)


def _files_inside(paths: Sequence[Path], name: str) -> Guess | None:
    """What the files are that a column of a Parquet table holds; None where it holds none."""
    if paths[0].suffix != ".parquet":
        return None
    if not holds_bytes(pyarrow.parquet.read_schema(paths[0]).field(name).type):
        return None
    cells = (part.columns[name] for path in paths for part in read_cells(path, [name], _nothing))
    return files_in(name, cells, paths[0].parent, SAMPLE)


def _column(name: str, said: Guess | None, profile: Profile | None, folder: Path) -> Column:
    """A column of what is said or else guessed. Raises InputError where it cannot hold what is said."""
    if profile is None or (said is not None and said.holds == "ignore"):
        assert said is not None
        return Column(name=name, holds=cast(Kind, said.holds), why=said.why)
    if profile.garbled > (1 - GOOD) * profile.rows:
        raise InputError(
            f"{profile.garbled:,} of {profile.rows:,} cells of column '{name}' are no UTF-8; save it as UTF-8"
        )
    found = said or guess(profile)
    if said is None and found.holds in ("text", "category"):
        found = files_named(name, profile.sample, folder) or found
    if said is not None:
        _must_be(name, said.holds, profile)
    holds, written = found.holds, "numbers"
    if holds == "date" or (holds == "number" and not profile.numeric.count):
        holds, written = "number", "dates"
    moments = profile.dated if written == "dates" else profile.numeric
    return Column(
        name=name,
        holds=cast(Kind, holds),
        why=found.why + (f"; missing in {profile.missing / profile.rows:.2%}" if profile.missing else ""),
        written=written,
        mean=moments.mean if holds == "number" else 0.0,
        deviation=moments.deviation if holds == "number" else 1.0,
        values=tuple(sorted(profile.values, key=natural)) if holds == "category" else (),
        missing=profile.missing / max(1, profile.rows),
    )


def _must_be(name: str, holds: str, profile: Profile) -> None:
    """Refuses what a column is said to hold, where its cells are something else."""
    if profile.odd or profile.listed:
        raise InputError(f"column '{name}' has cells of {profile.odd or 'lists'}; it cannot be {holds}, only ignored")
    if not profile.there:
        raise InputError(f"column '{name}' is said to be {holds}, but every row lacks it")
    if holds == "number" and max(profile.numeric.count, profile.dated.count) < GOOD * profile.there:
        example = next((word for word in profile.sample if not _is_number(word)), "")
        raise InputError(
            f"column '{name}' cannot be number: fewer than {GOOD:.0%} of its cells are, {example!r} is not"
        )
    if holds == "category" and profile.many:
        raise InputError(f"column '{name}' cannot be category: it has over {MOST_VALUES:,} different values")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
