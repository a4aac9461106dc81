"""Conditions: what a person types after --where, read into filters over the columns that are there."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyarrow as pa

from tessella.errors import InputError, did_you_mean
from tessella.retrieval.filters import (
    COMPARISONS,
    PARTS,
    All,
    Among,
    Compare,
    Contains,
    Filter,
    Like,
    Missing,
    Not,
    Some,
    Term,
    Value,
)

LONGEST = 20_000
"""Letters of a condition."""
DEEPEST = 50
"""Parentheses inside parentheses, and the same of `not`."""
TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<quoted>`[^`]+`)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign><=|>=|!=|<>|==|=|<|>)
    |(?P<mark>[(),]))""",
    re.VERBOSE,
)
TIME = re.compile(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?)(?:[T ](\d\d?):(\d\d)(?::(\d\d))?)?)?)?")
KINDS: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
    ("text", pa.types.is_string),
    ("a whole number", pa.types.is_integer),
    ("a number", pa.types.is_floating),
    ("true or false", pa.types.is_boolean),
    ("a date", pa.types.is_timestamp),
)
WHOLE = "a whole number"
EXAMPLE = "such as: year = 2024 and caption contains 'dog'"


class Token(NamedTuple):
    """A word, number, text or mark of a condition, and where it begins."""

    kind: str
    text: str
    place: int


def parse(text: str, columns: Mapping[str, pa.DataType]) -> Filter:
    """A condition over columns of these types. Raises InputError with the place of what cannot be understood.

    ``=  !=  <  <=  >  >=  in (...)  contains  like  is null``, ``and``, ``or``, ``not``, parentheses. Text stands in
    quotes (doubled inside), a column with blanks in its name in backticks. A date is a text like '2024', '2024-05',
    '2024-05-17' or '2024-05-17 13:30', and means all of that year, month, day or minute; `year` and `month` are those
    of the column `date`.
    """
    if len(text) > LONGEST:
        raise InputError(f"--where is {len(text)} letters long; conditions of up to {LONGEST} are read")
    reader = Reader(text, columns)
    found = reader.any_of(0)
    reader.end()
    return found


def kind_of(column: pa.DataType) -> str | None:
    """What a person calls the values of a column; None where conditions cannot ask for it."""
    return next((name for name, fits in KINDS if fits(column)), None)


class Reader:
    """Reads one condition from left to right."""

    def __init__(self, text: str, columns: Mapping[str, pa.DataType]):
        self.text, self.columns = text, {name: kind for name, kind in columns.items() if kind_of(kind)}
        self.tokens = list(_tokens(text))
        self.at = 0

    def any_of(self, deep: int) -> Filter:
        """``... or ... or ...``"""
        parts = [self.all_of(deep)]
        while self.word("or"):
            parts.append(self.all_of(deep))
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def all_of(self, deep: int) -> Filter:
        """``... and ... and ...``"""
        parts = [self.one(deep)]
        while self.word("and"):
            parts.append(self.one(deep))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def one(self, deep: int) -> Filter:
        """A comparison, something in parentheses, or `not` before either."""
        if deep > DEEPEST:
            raise InputError(f"--where has more than {DEEPEST} conditions inside each other; write it flatter")
        if self.word("not"):
            return Not(self.one(deep + 1))
        if self.mark("("):
            found = self.any_of(deep + 1)
            self.must(")")
            return found
        return self.comparison()

    def comparison(self) -> Filter:
        """A column, how it is compared, and with what."""
        name, term, kind = self.term()
        if self.word("is"):
            negated = self.word("not")
            if not self.word("null"):
                raise self.wrong("'null'")
            return Not(Missing(term)) if negated else Missing(term)
        if self.word("not"):
            if not (self.next("word") and self.tokens[self.at].text.lower() in ("in", "like", "contains")):
                raise self.wrong("in, like or contains after 'not'")
            return Not(self.relation(name, term, kind))
        return self.relation(name, term, kind)

    def relation(self, name: str, term: Term, kind: str) -> Filter:
        """What stands after a column."""
        if self.word("in"):
            return self.among(name, term, kind)
        for word, make in (("contains", Contains), ("like", Like)):
            if self.word(word):
                if kind != "text":
                    raise InputError(f"--where: '{word}' looks into text, but {name} is {kind}; {EXAMPLE}")
                return make(term, str(self.value(name, kind)))
        if self.next("sign"):
            sign = {"<>": "!=", "==": "="}.get(self.tokens[self.at].text, self.tokens[self.at].text)
            self.at += 1
            return _compared(term, sign, self.value(name, kind))
        raise self.wrong(f"how {name} is compared ({', '.join(COMPARISONS)}, in, contains, like, is null)")

    def among(self, name: str, term: Term, kind: str) -> Filter:
        """``in (value, value)``."""
        self.must("(")
        values = [self.value(name, kind)]
        while self.mark(","):
            values.append(self.value(name, kind))
        self.must(")")
        if isinstance(values[0], tuple):
            return Some(tuple(_compared(term, "=", value) for value in values))
        return Among(term, tuple(value for value in values if not isinstance(value, tuple)))

    def term(self) -> tuple[str, Term, str]:
        """The name as typed, what it stands for, and the kind of its values."""
        if not (self.next("word") or self.next("quoted")):
            raise self.wrong("a column")
        token = self.tokens[self.at]
        self.at += 1
        name = token.text.strip("`")
        if name in self.columns:
            return name, Term(name), kind_of(self.columns[name]) or ""
        if name in PARTS and "date" in self.columns:
            return name, Term("date", name), WHOLE
        raise InputError(f"--where: no column '{name}'{did_you_mean(name, [*self.columns, *PARTS])}")

    def value(self, name: str, kind: str) -> Value | tuple[dt.datetime, dt.datetime]:
        """A value fit for a column of this kind; of dates the first moment and the first moment after."""
        if self.at >= len(self.tokens):
            raise self.wrong(f"a value for {name}")
        token = self.tokens[self.at]
        if token.kind not in ("number", "text", "word") or (token.kind == "word" and kind != "true or false"):
            quote = f"; text stands in quotes: '{token.text}'" if token.kind == "word" else ""
            raise self.wrong(f"a value for {name}", quote)
        self.at += 1
        text = token.text[1:-1].replace(token.text[0] * 2, token.text[0]) if token.kind == "text" else token.text
        found = _value(kind, token.kind, text)
        if found is None:
            raise InputError(f"--where: {name} is {kind}, and {token.text} is not{HINTS.get(kind, '')}")
        return found

    def word(self, text: str) -> bool:
        """Steps over a word of the language, where it stands here."""
        found = self.next("word") and self.tokens[self.at].text.lower() == text
        self.at += found
        return found

    def mark(self, text: str) -> bool:
        """Steps over a mark, where it stands here."""
        found = self.next("mark") and self.tokens[self.at].text == text
        self.at += found
        return found

    def next(self, kind: str) -> bool:
        """Whether a token of this kind stands here."""
        return self.at < len(self.tokens) and self.tokens[self.at].kind == kind

    def must(self, mark: str) -> None:
        """Steps over a mark that has to be there."""
        if not self.mark(mark):
            raise self.wrong(f"'{mark}'")

    def end(self) -> None:
        """Nothing may be left."""
        if self.at < len(self.tokens):
            raise self.wrong("'and', 'or' or the end")

    def wrong(self, expected: str, hint: str = "") -> InputError:
        """What was expected here, and what is there."""
        if self.at >= len(self.tokens):
            return InputError(f"--where ends too early: expected {expected}; {EXAMPLE}")
        token = self.tokens[self.at]
        return InputError(f"--where: expected {expected} at '{token.text[:40]}' (letter {token.place + 1}){hint}")


HINTS = {
    "a date": "; dates are written '2024', '2024-05', '2024-05-17' or '2024-05-17 13:30'",
    "text": "; text stands in quotes",
}


def _tokens(text: str):
    place = 0
    while place < len(text.rstrip()):
        found = TOKEN.match(text, place)
        if found is None:
            rest = text[place:].lstrip()
            told = "a quote that is never closed" if rest[0] in "'\"`" else f"'{rest[:20]}'"
            raise InputError(f"--where cannot be read at {told} (letter {len(text) - len(rest) + 1}); {EXAMPLE}")
        kind = found.lastgroup or ""
        yield Token(kind, found[kind], found.start(kind))
        place = found.end()


def _value(kind: str, written: str, text: str) -> Value | tuple[dt.datetime, dt.datetime] | None:
    """What was written as a number, text or word, as a value; None where it is not of this kind."""
    if kind == "text":
        if "\0" in text:
            return None
        return text if written == "text" else None
    if kind == "true or false":
        return {"true": True, "false": False}.get(text.lower()) if written == "word" else None
    if kind == "a date":
        return moments(text)
    if written != "number":
        return None
    number = float(text)
    if kind == WHOLE:
        whole = int(text) if re.fullmatch(r"[+-]?\d+", text) else int(number) if number.is_integer() else None
        return whole if whole is not None and abs(whole) < 2**63 else None
    return number + 0.0 if abs(number) < float("inf") else None  # -0.0 becomes 0.0


def moments(text: str) -> tuple[dt.datetime, dt.datetime] | None:
    """The first moment of a year, month, day, minute or second, and the first after it; None for anything else."""
    found = TIME.fullmatch(text.strip())
    if not found:
        return None
    given = [int(part) for part in found.groups() if part is not None]
    try:
        start = dt.datetime(*(given + [1, 1][len(given) - 1 :] if len(given) < 3 else given))  # type: ignore[arg-type]
        if len(given) < 3:
            step = 12 if len(given) == 1 else 1
            months = start.year * 12 + start.month - 1 + step
            return start, start.replace(year=months // 12, month=months % 12 + 1)
        length = {3: dt.timedelta(days=1), 5: dt.timedelta(minutes=1), 6: dt.timedelta(seconds=1)}[len(given)]
        return start, start + length
    except (ValueError, OverflowError):
        return None


def _compared(term: Term, sign: str, value: Value | tuple[dt.datetime, dt.datetime]) -> Filter:
    """A comparison; with a stretch of time, that with its ends: `= '2024-05'` is any moment of May."""
    if not isinstance(value, tuple):
        return Compare(term, sign, value)
    start, after = value
    if sign == "=":
        return All((Compare(term, ">=", start), Compare(term, "<", after)))
    if sign == "!=":
        return Some((Compare(term, "<", start), Compare(term, ">=", after)))
    edge = {"<": ("<", start), "<=": ("<", after), ">": (">=", after), ">=": (">=", start)}[sign]
    return Compare(term, *edge)
