"""Cell values: what the cells of a column are worth as numbers, as words of a category, or as texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.types as types

from tessella.data.rows import LONGEST_LINE

DAY = 86_400_000
"""Milliseconds."""
MISSING = pyarrow.array(["", "na", "n/a", "nan", "null", "none"], pyarrow.large_string())
"""What stands for a missing number in tables of text, in any case."""
NUMBER = r"(?i)^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf)$"
WHOLE = re.compile(r"([+-]?[0-9]+)\.0+")
Faults = list[tuple[str, np.ndarray]]
"""What is wrong, and with which cells (bool n)."""


class Numbers(NamedTuple):
    """Cells as float64 n, NaN where they are missing or wrong, and what is wrong."""

    values: np.ndarray
    faults: Faults


class Words(NamedTuple):
    """Cells as places in ``words`` (int64 n, -1 where they are missing), and what is wrong."""

    places: np.ndarray
    words: list[str]
    faults: Faults


class Texts(NamedTuple):
    """Cells as texts without outer white space, null where there is none, and what is wrong."""

    values: pyarrow.Array
    faults: Faults


def is_text(kind: pyarrow.DataType) -> bool:
    """Whether an Arrow type is of strings or bytes."""
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def is_number(kind: pyarrow.DataType) -> bool:
    """Whether an Arrow type is of numbers; truths, dates and times are none."""
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def is_list(kind: pyarrow.DataType) -> bool:
    """Whether a cell of an Arrow type is a list."""
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def numbers(cells: pyarrow.Array) -> Numbers:
    """Numbers, truths as 0 and 1, and texts that say a number; anything else, infinity too, is a fault."""
    if is_text(cells.type):
        texts, faults = _utf8(cells)
        small = pyarrow.compute.utf8_lower(texts)
        texts = pyarrow.compute.if_else(pyarrow.compute.is_in(small, MISSING), None, texts)
        try:
            return _finite(texts.cast(pyarrow.float64()), faults)
        except pyarrow.ArrowInvalid:
            fits = pyarrow.compute.match_substring_regex(texts, NUMBER)
            wrong = _mask(pyarrow.compute.invert(fits))
            values = pyarrow.compute.if_else(fits, texts, None).cast(pyarrow.float64())
            return _finite(values, [*faults, ("no number", wrong)])
    if types.is_null(cells.type) or types.is_boolean(cells.type) or is_number(cells.type):
        plain = cells.cast(pyarrow.uint8()) if types.is_boolean(cells.type) else cells
        return _finite(plain.cast(pyarrow.float64(), safe=False), [])
    return Numbers(np.full(len(cells), np.nan), [(f"no number but {cells.type}", _mask(cells.is_valid()))])


def days(cells: pyarrow.Array) -> Numbers:
    """Dates and times, also as texts in ISO 8601, as days since 1970 (with fractions, in UTC where a zone is given)."""
    kind = cells.type
    if types.is_date(kind) or types.is_timestamp(kind):
        zone = kind.tz if types.is_timestamp(kind) else None
        stamps = cells.cast(pyarrow.timestamp("ms", zone), safe=False)
    elif is_text(kind):
        texts, faults = _utf8(cells)
        try:
            stamps = texts.cast(pyarrow.timestamp("ms"))
        except pyarrow.ArrowInvalid:
            moments = [_moment(text) for text in texts.to_pylist()]
            values = np.array([np.nan if moment is None else moment for moment in moments], np.float64)
            return Numbers(values, [*faults, ("no date", np.isnan(values) & _mask(texts.is_valid()))])
        return Numbers(_as_days(stamps), faults)
    elif types.is_null(kind):
        return Numbers(np.full(len(cells), np.nan), [])
    else:
        return Numbers(np.full(len(cells), np.nan), [("no date", _mask(cells.is_valid()))])
    return Numbers(_as_days(stamps), [])


def words(cells: pyarrow.Array) -> Words:
    """Cells as the words of a category, so that every kind of table says the same word for the same thing.

    3.0 is "3", a truth is "true" or "false", white space around a word is gone, and an empty word is missing.
    """
    if not types.is_dictionary(cells.type):
        cells = cells.dictionary_encode()
    places = cells.indices.cast(pyarrow.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    found: list[str] = []
    target, wrong = np.full(len(cells.dictionary) + 1, -1), np.zeros(len(cells.dictionary) + 1, bool)
    for place, value in enumerate(_values(cells.dictionary)):
        word = _word(value)
        wrong[place] = word is None
        if word:
            target[place] = len(found)
            found.append(word)
    return Words(target[places], found, [("not UTF-8", wrong[places])] if wrong.any() else [])


def texts(cells: pyarrow.Array) -> Texts:
    """Cells as texts; numbers, truths and dates as they are written."""
    if not is_text(cells.type):
        return Texts(cells.cast(pyarrow.large_string()), [])
    values, faults = _utf8(cells)
    long = pyarrow.compute.greater(pyarrow.compute.binary_length(values), LONGEST_LINE)
    nul = pyarrow.compute.match_substring(values, "\0")
    return Texts(values, [*faults, (f"over {LONGEST_LINE} bytes", _mask(long)), ("NUL character", _mask(nul))])


def lists(cells: pyarrow.Array, separator: str = "|") -> Iterator[list[str]]:
    """The words of each row: those of a list, or of a text with separators; none where it is missing or empty."""
    if not is_list(cells.type):
        kept = texts(cells).values.to_pylist()
        yield from ([word for part in (text or "").split(separator) if (word := part.strip())] for text in kept)
        return
    for row in cells.to_pylist():
        yield [word for value in row or [] if (word := _word(value))]


def _finite(values: pyarrow.Array, faults: Faults) -> Numbers:
    known = values.to_numpy(zero_copy_only=False)
    endless = np.isinf(known)
    if endless.any():
        return Numbers(np.where(endless, np.nan, known), [*faults, ("no finite number", endless)])
    return Numbers(known, faults)


def _as_days(stamps: pyarrow.Array) -> np.ndarray:
    return stamps.cast(pyarrow.int64()).cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False) / DAY


def _moment(text: str | None) -> float | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000 / DAY


def _utf8(cells: pyarrow.Array) -> tuple[pyarrow.Array, Faults]:
    """Strings or bytes as checked strings without outer white space; null where nothing is left."""
    faults: Faults = []
    cells = cells.cast(pyarrow.large_binary())
    try:
        texts = cells.cast(pyarrow.large_string())
    except pyarrow.ArrowInvalid:
        decoded = [_decoded(cell) for cell in cells.to_pylist()]
        texts = pyarrow.array(decoded, pyarrow.large_string())
        faults = [("not UTF-8", _mask(pyarrow.compute.and_(cells.is_valid(), texts.is_null())))]
    texts = pyarrow.compute.utf8_trim_whitespace(texts)
    return pyarrow.compute.if_else(pyarrow.compute.equal(texts, ""), None, texts), faults


def _values(dictionary: pyarrow.Array) -> list[Any]:
    if is_text(dictionary.type):
        return dictionary.cast(pyarrow.large_binary()).to_pylist()
    return dictionary.to_pylist()


def _word(value: Any) -> str | None:
    """A cell as a word, "" where it is missing, None where it is no UTF-8."""
    if isinstance(value, bytes):
        value = _decoded(value)
        if value is None:
            return None
    if value is None:
        return ""
    text = str(value).strip()
    if text in ("True", "False", "TRUE", "FALSE"):
        return text.lower()
    if isinstance(value, float) and value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    found = WHOLE.fullmatch(text)
    return found[1] if found else text


def _decoded(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _mask(flags: pyarrow.Array) -> np.ndarray:
    """Arrow's truths as NumPy's, False where they are missing."""
    return flags.fill_null(False).to_numpy(zero_copy_only=False)
