"""Profiles: what a whole column is like, gathered part by part in bounded memory, and what it seems to hold."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.types as types

from tessella.data.cell_values import days, is_list, is_number, is_text, lists, numbers, texts, words

MOST_VALUES = 20_000
"""Different values of a column that are counted; with more it is no category."""
SAMPLE = 200
TRIED = 1000
"""Rows after which a column is no longer asked for numbers or dates where few are some."""
GOOD = 0.9
"""Share of the cells that must be numbers (dates, files) for a column to hold such."""
IDENTITY = re.compile(
    r"(?i:(^|.*[\W_])(id|ids|uuid|guid|code|zip|zipcode|postcode|plz|index|no|nr|key))|.*[a-z](Id|ID|Code)"
)
UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}|[0-9a-f]{32,64}")


class Guess(NamedTuple):
    """What a column seems to hold ("date" for numbers written as dates), and why."""

    holds: str
    why: str


@dataclass
class Moments:
    """Count, mean and spread of numbers that come part by part (Chan, Golub & LeVeque 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def add(self, values: np.ndarray) -> None:
        """Float64 n, NaN where there is none."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        total, mean = self.count + len(values), float(values.mean())
        shift = mean - self.mean
        self.squares += float(np.square(values - mean).sum()) + shift**2 * self.count * len(values) / total
        self.mean += shift * len(values) / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.whole = self.whole and bool((values == np.rint(values)).all())

    @property
    def deviation(self) -> float:
        """Standard deviation, 1 where all are alike."""
        found = math.sqrt(self.squares / self.count) if self.count else 0.0
        return found if found > 1e-12 * max(1.0, abs(self.mean)) else 1.0


@dataclass
class Profile:
    """A column: rows, missing cells, numbers and dates among them, and its different values as far as they are few."""

    name: str
    rows: int = 0
    missing: int = 0
    numeric: Moments = field(default_factory=Moments)
    dated: Moments = field(default_factory=Moments)
    values: Counter[str] = field(default_factory=Counter)
    many: bool = False
    text: int = 0
    blanks: int = 0
    """Cells of text, and the blanks in all of them."""
    garbled: int = 0
    """Cells that are no UTF-8."""
    odd: str = ""
    """The type of cells that nothing can be made of."""
    listed: bool = False
    truths: bool = True
    counts: bool = True
    """Whether each cell is one more than the one before."""
    sample: list[str] = field(default_factory=list)
    last: float | None = None

    @property
    def there(self) -> int:
        """Cells that are not missing."""
        return self.rows - self.missing

    def add(self, cells: pyarrow.Array) -> None:
        """Some more cells."""
        kind = cells.type
        self.truths = self.truths and (types.is_boolean(kind) or types.is_null(kind))
        if is_list(kind):
            self._add_lists(cells)
        elif types.is_date(kind) or types.is_timestamp(kind):
            self.dated.add(days(cells).values)
            self.missing += cells.null_count
            self.many = True
        elif is_text(kind) or is_number(kind) or types.is_boolean(kind) or types.is_null(kind):
            self._add_words(cells)
        else:
            self.odd = str(kind)
        self.rows += len(cells)

    def _add_lists(self, cells: pyarrow.Array) -> None:
        self.listed, self.counts = True, False
        inner = cells.type.value_type
        if not (is_text(inner) or types.is_integer(inner) or types.is_null(inner)):
            self.odd = str(cells.type)
            return
        rows = list(lists(cells))
        self.missing += sum(not row for row in rows)
        self._count(Counter(word for row in rows for word in set(row)))

    def _add_words(self, cells: pyarrow.Array) -> None:
        textual = is_text(cells.type)
        if self._worth_asking(self.numeric):
            self._add_numbers(cells)
        if textual and self._worth_asking(self.dated):
            self.dated.add(days(cells).values)
        if types.is_floating(cells.type) and not self.numeric.whole:
            self.missing += int(np.isnan(numbers(cells).values).sum())
            self.many = True
            return
        if textual and self.many and self.rows > TRIED:
            self.missing += texts(cells).values.null_count
            return
        places, found, faults = words(cells)
        self.garbled += sum(int(wrong.sum()) for _, wrong in faults)
        counted = np.bincount(places[places >= 0], minlength=len(found)).tolist()
        self.missing += int((places < 0).sum())
        if textual:
            self.text += sum(counted)
            self.blanks += sum(count * word.count(" ") for word, count in zip(found, counted, strict=True))
            self.sample += found[: SAMPLE - len(self.sample)]
        if not self.many:
            self._count(Counter(dict(zip(found, counted, strict=True))))

    def _add_numbers(self, cells: pyarrow.Array) -> None:
        values = numbers(cells).values
        self.numeric.add(values)
        if self.counts and len(values):
            steps = np.diff(values, prepend=values[0] - 1 if self.last is None else self.last)
            restarts = values <= 1  # a file of several counts anew
            self.counts = bool(((steps == 1) | restarts & (np.arange(len(values)) == 0)).all())
            self.last = float(values[-1])

    def _worth_asking(self, moments: Moments) -> bool:
        return self.there < TRIED or moments.count >= self.there / 2

    def _count(self, counted: Counter[str]) -> None:
        self.values.update(counted)
        if len(self.values) > MOST_VALUES:
            self.many = True
            self.values.clear()


def guess(profile: Profile) -> Guess:
    """What a column that holds no files seems to hold."""
    there, different = profile.there, len(profile.values)
    if profile.odd or profile.listed:
        return Guess("ignore", f"cells of {profile.odd or 'lists'} are not used")
    if not there:
        return Guess("ignore", "every row lacks it")
    if different == 1 and not profile.many and not profile.missing and there > 1:
        return Guess("ignore", f"the same in every row: {_short(next(iter(profile.values)))}")
    if profile.truths:
        return Guess("category", "true or false")
    codes = any(re.match(r"0[0-9]", word) for word in profile.sample)
    if profile.numeric.count >= GOOD * there and not codes:
        return _of_numbers(profile)
    if profile.dated.count >= GOOD * there:
        alike = profile.dated.low == profile.dated.high and not profile.missing
        return Guess("ignore", "the same date in every row") if alike else Guess("date", "as days since 1970")
    return _of_words(profile)


def _of_numbers(profile: Profile) -> Guess:
    there, different = profile.there, len(profile.values)
    low, high = profile.numeric.low, profile.numeric.high
    if profile.counts and profile.numeric.whole and there > 2:
        return Guess("ignore", "counts the rows")
    if profile.numeric.whole and IDENTITY.fullmatch(profile.name.strip()):
        if not profile.many and there >= 10 * different:
            return Guess("category", f"{different:,} values of an id, {there // different} rows each")
        return Guess("ignore", "an id, hardly ever the same twice; name what it holds if it tells something")
    if profile.numeric.whole and different <= 2 and not profile.many:
        return Guess("category", f"two values, {low:g} and {high:g}")
    if profile.numeric.whole and not profile.many and different <= 20:
        return Guess(
            "number", f"whole numbers {low:g} to {high:g}; if they are codes: --column '{profile.name}=category'"
        )
    return Guess("number", f"{'whole ' * profile.numeric.whole}numbers {low:.6g} to {high:.6g}")


def _of_words(profile: Profile) -> Guess:
    there, different = profile.there, len(profile.values)
    long = 1 + profile.blanks / max(1, profile.text)
    few = (different <= 20 and different <= there / 2) or different <= there / 10
    if not profile.many and long <= 4 and few:
        return Guess("category", f"{different:,} different words in {there:,} rows")
    if all(map(UUID.fullmatch, profile.sample)):
        return Guess("ignore", "ids")
    if not profile.many and different == there > 20 and IDENTITY.fullmatch(profile.name.strip()):
        return Guess("ignore", "an id, another in every row")
    told = f"over {MOST_VALUES:,}" if profile.many else f"{different:,}"
    return Guess("text", f"{told} different texts in {there:,} rows, {long:.3g} words each")


def _short(word: str) -> str:
    return repr(word if len(word) <= 30 else word[:29] + "…")
