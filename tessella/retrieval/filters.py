"""Filters: conditions on the columns of an index, as SQL for its table and as masks for everything else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Value = str | int | float | bool | dt.datetime
PARTS: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {"year": pc.year, "month": pc.month}
"""What may be asked of a point in time, beside the point itself."""
COMPARISONS: dict[str, Callable[[pa.ChunkedArray, pa.Scalar], pa.ChunkedArray]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


class Filter(Protocol):
    """A condition. Of a row it says yes, no, or nothing (a value it needs is missing); only yes lets a row through.

    ``sql()`` is what LanceDB is given, made of checked parts only: nothing a person typed gets there as it stands.
    ``mask(table)`` is the same of an Arrow table: a boolean for each row, null for nothing. The two agree on every
    table: tests/test_retrieval_filters.py.
    """

    def sql(self) -> str:
        """The condition in LanceDB's SQL, in parentheses where it has parts."""
        ...

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Yes, no or null for each row of a table with the columns it asks for."""
        ...

    def columns(self) -> Iterator[str]:
        """The columns it asks for."""
        ...


def chosen(table: pa.Table, where: Filter | None) -> np.ndarray:
    """Which rows of a table a condition lets through, as booleans; all without one."""
    if where is None:
        return np.ones(table.num_rows, bool)
    return pc.fill_null(where.mask(table), False).to_numpy().astype(bool)


@dataclass(frozen=True, slots=True)
class Term:
    """What is compared: a column, or the year or month of one that holds points in time."""

    column: str
    part: str | None = None

    def sql(self) -> str:
        """Such as ``date_part('year', `date`)``."""
        assert not set(self.column) & set("`."), "LanceDB has no way to write such a name"
        return f"date_part('{self.part}', `{self.column}`)" if self.part else f"`{self.column}`"

    def values(self, table: pa.Table) -> pa.ChunkedArray:
        """Its values in a table."""
        column = table.column(self.column)
        return PARTS[self.part](column) if self.part else column


@dataclass(frozen=True, slots=True)
class Compare:
    """A term beside a value of its own type: ``=  !=  <  <=  >  >=``. Text is ordered by its code points."""

    term: Term
    sign: str
    value: Value

    def sql(self) -> str:
        """Such as ``(`size` > 3)``."""
        return f"({self.term.sql()} {self.sign} {literal(self.value)})"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """By value; missing stays missing."""
        values = self.term.values(table)
        return COMPARISONS[self.sign](values, pa.scalar(self.value, values.type))

    def columns(self) -> Iterator[str]:
        """One."""
        yield self.term.column


@dataclass(frozen=True, slots=True)
class Among:
    """Whether a term is one of some values."""

    term: Term
    values: tuple[Value, ...]

    def sql(self) -> str:
        """``(`year` IN (2023, 2024))``."""
        return f"({self.term.sql()} IN ({', '.join(map(literal, self.values))}))"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Missing is neither among them nor not."""
        values = self.term.values(table)
        found = pc.is_in(values, pa.array(self.values, values.type))
        return pc.if_else(values.is_valid(), found, pa.scalar(None, pa.bool_()))

    def columns(self) -> Iterator[str]:
        """One."""
        yield self.term.column


@dataclass(frozen=True, slots=True)
class Contains:
    """Whether a text has another in it, letter for letter."""

    term: Term
    text: str

    def sql(self) -> str:
        """By a function, so that no letter means anything else."""
        return f"contains({self.term.sql()}, {literal(self.text)})"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Missing stays missing."""
        return pc.match_substring(self.term.values(table), self.text)

    def columns(self) -> Iterator[str]:
        """One."""
        yield self.term.column


@dataclass(frozen=True, slots=True)
class Like:
    """Whether a whole text follows a pattern: ``%`` stands for any letters, ``_`` for one, the rest for itself."""

    term: Term
    pattern: str

    def sql(self) -> str:
        """With backslashes doubled: alone they would take away the meaning of what follows."""
        return f"({self.term.sql()} LIKE {literal(self._escaped())})"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Missing stays missing."""
        return pc.match_like(self.term.values(table), self._escaped())

    def columns(self) -> Iterator[str]:
        """One."""
        yield self.term.column

    def _escaped(self) -> str:
        return self.pattern.replace("\\", "\\\\")


@dataclass(frozen=True, slots=True)
class Missing:
    """Whether there is no value: the one condition that always says yes or no."""

    term: Term

    def sql(self) -> str:
        """``(`caption` IS NULL)``."""
        return f"({self.term.sql()} IS NULL)"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Never null."""
        return self.term.values(table).is_null()

    def columns(self) -> Iterator[str]:
        """One."""
        yield self.term.column


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; of nothing, nothing."""

    part: Filter

    def sql(self) -> str:
        """``(NOT ...)``."""
        return f"(NOT {self.part.sql()})"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Yes and no swapped."""
        return pc.invert(self.part.mask(table))

    def columns(self) -> Iterator[str]:
        """Those of its part."""
        yield from self.part.columns()


@dataclass(frozen=True, slots=True)
class All:
    """Every part says yes; a no decides, whatever is missing elsewhere (Kleene's logic, which is SQL's)."""

    parts: tuple[Filter, ...]

    def sql(self) -> str:
        """``(... AND ...)``."""
        return f"({' AND '.join(part.sql() for part in self.parts)})"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Kleene's and."""
        found = self.parts[0].mask(table)
        for part in self.parts[1:]:
            found = pc.and_kleene(found, part.mask(table))
        return found

    def columns(self) -> Iterator[str]:
        """Those of all parts."""
        for part in self.parts:
            yield from part.columns()


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part says yes; a yes decides, whatever is missing elsewhere."""

    parts: tuple[Filter, ...]

    def sql(self) -> str:
        """``(... OR ...)``."""
        return f"({' OR '.join(part.sql() for part in self.parts)})"

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Kleene's or."""
        found = self.parts[0].mask(table)
        for part in self.parts[1:]:
            found = pc.or_kleene(found, part.mask(table))
        return found

    def columns(self) -> Iterator[str]:
        """Those of all parts."""
        for part in self.parts:
            yield from part.columns()


def literal(value: Value) -> str:
    """A value as SQL writes it: quotes in a text are doubled, and nothing else in it means anything."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        assert np.isfinite(value)
        return f"CAST('{value!r}' AS DOUBLE)"
    if isinstance(value, dt.datetime):
        return f"timestamp '{value.isoformat(sep=' ', timespec='microseconds')}'"
    return "'" + value.replace("'", "''") + "'"
