"""Dates: English dates in many styles and the same dates in Korean, from Babel's copy of Unicode's CLDR.

The order turns round (*Monday, November 23, 2026 at 3:05 PM* is *2026년 11월 23일 월요일 오후 3시 5분*), so a
picture of the attention shows the reordering, and lengths run from ten letters to a hundred. Every source has one
reading: a date in figures such as 1/2/2003 is only written where the day is above twelve, and whatever the target says,
the source does.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from babel import Locale
from babel.dates import format_date, format_interval, format_skeleton, format_time

from tessella.errors import InputError

FIRST, LAST = dt.date(1950, 1, 1), dt.date(2049, 12, 31)
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
ORDINALS = {"one": "st", "two": "nd", "few": "rd", "other": "th"}
ENGLISH = Locale("en")


class DatePair(NamedTuple):
    """One example: English ``source``, Korean ``target``, and the ``domain``: day, moment, days, hours or moments."""

    source: str
    target: str
    domain: str


class DayStyle(NamedTuple):
    """A way to write a day: CLDR's name of a format, ``~`` and a skeleton, or a pattern (``{th}`` is the ordinal)."""

    locale: str
    format: str
    weekday: bool = False
    figures: bool = False


class TimeStyle(NamedTuple):
    """A way to write a clock time, and whether it tells the seconds."""

    locale: str
    format: str
    seconds: bool = False


DAYS = (
    DayStyle("en", "full", weekday=True),  # Monday, November 23, 2026
    DayStyle("en", "long"),  # November 23, 2026
    DayStyle("en", "medium"),  # Nov 23, 2026
    DayStyle("en", "~yMMMEd", weekday=True),  # Mon, Nov 23, 2026
    DayStyle("en", "~yMEd", weekday=True, figures=True),  # Mon, 11/23/2026
    DayStyle("en", "~yMd", figures=True),  # 11/23/2026
    DayStyle("en_GB", "full", weekday=True),  # Monday, 23 November 2026
    DayStyle("en_GB", "long"),  # 23 November 2026
    DayStyle("en_GB", "~yMMMEd", weekday=True),  # Mon, 23 Nov 2026
    DayStyle("en_GB", "short", figures=True),  # 23/11/2026
    DayStyle("en_IE", "full", weekday=True),  # Monday 23 November 2026
    DayStyle("en_BZ", "medium"),  # 23-Nov-2026
    DayStyle("en_CA", "short"),  # 2026-11-23
    DayStyle("en_ZA", "short"),  # 2026/11/23
    DayStyle("en_CH", "short", figures=True),  # 23.11.2026
    DayStyle("en", "EEEE, 'the' d'{th} of' MMMM y", weekday=True),  # Monday, the 23rd of November 2026
    DayStyle("en", "d'{th}' MMMM y"),  # 23rd November 2026
    DayStyle("en", "EEEE, MMMM d'{th}', y", weekday=True),  # Monday, November 23rd, 2026
)
TIMES = (
    TimeStyle("en", "short"),  # 3:05 PM
    TimeStyle("en", "medium", seconds=True),  # 3:05:09 PM
    TimeStyle("en", "~Bhm"),  # 3:05 in the afternoon
    TimeStyle("en_AU", "short"),  # 3:05 pm
    TimeStyle("en_CA", "short"),  # 3:05 p.m.
    TimeStyle("en_GB", "short"),  # 15:05
    TimeStyle("en_GB", "medium", seconds=True),  # 15:05:09
)
FAMILIES = {"day": 50, "moment": 20, "days": 15, "hours": 10, "moments": 5}
MOMENTS = ("{day}, {time}", "{day} at {time}", "{time}, {day}", "{time} on {day}")
SPANS = ("from {a} to {b}", "between {a} and {b}", "{a} to {b}", "{a} until {b}")


def split_days(seed: int = 0) -> dict[str, list[dt.date]]:
    """Every day of the calendar to one of train, validation and test, in order within each; a function of the seed."""
    days = [FIRST + dt.timedelta(n) for n in range((LAST - FIRST).days + 1)]
    random.Random(seed).shuffle(days)
    parts: dict[str, list[dt.date]] = {}
    start = 0.0
    for name, share in SHARES.items():
        stop = start + share
        parts[name] = sorted(days[round(start * len(days)) : round(stop * len(days))])
        start = stop
    return parts


def date_pairs(n: int, seed: int = 0, days: Sequence[dt.date] | None = None) -> list[DatePair]:
    """n pairs with different sources, about the given days only (in order; default: all). A function of its arguments.

    Raises InputError where so many different sources cannot be hoped for.
    """
    days = sorted(day for part in split_days(seed).values() for day in part) if days is None else days
    if not 0 <= n <= 4 * len(days):
        raise InputError(f"{n} date pairs from {len(days)} days: ask for 0 to {4 * len(days)}")
    rng = random.Random(f"{seed} {len(days)}")
    pairs: dict[str, DatePair] = {}
    while len(pairs) < n:
        family = rng.choices(list(FAMILIES), weights=list(FAMILIES.values()))[0]
        pair = _pair(family, days, rng)
        known = pairs.setdefault(pair.source, pair)
        assert known.target == pair.target, f"two readings of {pair.source!r}"
    return list(pairs.values())


def date_splits(
    train: int = 12_000, validation: int = 500, test: int = 500, seed: int = 0
) -> dict[str, list[DatePair]]:
    """Pairs by split; no day of one split appears in another, as a beginning or an end."""
    sizes = {"train": train, "validation": validation, "test": test}
    return {name: date_pairs(sizes[name], seed, days) for name, days in split_days(seed).items()}


def write_dates(folder: Path, splits: dict[str, list[DatePair]]) -> dict[str, tuple[Path, Path]]:
    """Each split as two text files, one sentence a line: ``train.en`` and ``train.ko``. Gives the paths by split."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, pairs in splits.items():
        english, korean = folder / f"{name}.en", folder / f"{name}.ko"
        english.write_text("".join(f"{pair.source}\n" for pair in pairs), encoding="utf-8")
        korean.write_text("".join(f"{pair.target}\n" for pair in pairs), encoding="utf-8")
        paths[name] = (english, korean)
    return paths


def _pair(family: str, days: Sequence[dt.date], rng: random.Random) -> DatePair:
    """One example of a family."""
    if family in ("days", "moments"):
        first, last = _two_days(days, rng)
    else:
        first = last = rng.choice(days)
    style = rng.choice([s for s in DAYS if not s.figures or min(first.day, last.day) > 12])
    clock = rng.choice(TIMES)
    start, end = _two_times(rng, clock.seconds)
    d1, d2 = _english_day(first, style), _english_day(last, style)
    k1, k2 = _korean_day(first, style.weekday), _korean_day(last, style.weekday)
    t1, t2 = _english_time(start, clock), _english_time(end, clock)
    c1, c2 = _korean_time(start, clock.seconds), _korean_time(end, clock.seconds)
    if family == "day":
        return DatePair(d1, k1, family)
    if family == "moment":
        return DatePair(rng.choice(MOMENTS).format(day=d1, time=t1), f"{k1} {c1}", family)
    if family == "days":
        if style.format in ("medium", "~yMMMEd", "~yMd") and style.locale != "en_BZ" and rng.random() < 0.8:
            skeleton = "yMMMd" if style.format == "medium" else style.format[1:]
            source = _plain(format_interval(first, last, skeleton, locale=style.locale))  # Nov 23 – 25, 2026
        else:
            source = rng.choice(SPANS).format(a=d1, b=d2)
        return DatePair(source, f"{k1}부터 {k2}까지", family)
    if family == "hours":
        frame = rng.choice(["{day}, {span}", "{day} {span}", "{span} on {day}"])
        source = frame.format(day=d1, span=rng.choice(SPANS[:2]).format(a=t1, b=t2))
        return DatePair(source, f"{k1} {c1}부터 {c2}까지", family)
    moments = (MOMENTS[1].format(day=d1, time=t1), MOMENTS[1].format(day=d2, time=t2))
    source = rng.choice(SPANS[:2]).format(a=moments[0], b=moments[1])
    return DatePair(source, f"{k1} {c1}부터 {k2} {c2}까지", family)


def _two_days(days: Sequence[dt.date], rng: random.Random) -> tuple[dt.date, dt.date]:
    """A day and one of the next few that are at hand, so that a range stays within its split."""
    at = rng.randrange(len(days) - 1)
    return days[at], days[rng.randint(at + 1, min(at + 12, len(days) - 1))]


def _two_times(rng: random.Random, seconds: bool) -> tuple[dt.time, dt.time]:
    """Two clock times of a day, the earlier one first."""
    step = 1 if seconds else 60
    first, second = sorted(rng.sample(range(0, 24 * 3600, step), 2))
    return tuple(dt.time(s // 3600, s // 60 % 60, s % 60) for s in (first, second))  # type: ignore[return-value]


def _english_day(day: dt.date, style: DayStyle) -> str:
    if style.format.startswith("~"):
        return _plain(format_skeleton(style.format[1:], dt.datetime.combine(day, dt.time()), locale=style.locale))
    pattern = style.format.replace("{th}", ORDINALS[ENGLISH.ordinal_form(day.day)])
    return _plain(format_date(day, pattern, locale=style.locale))


def _korean_day(day: dt.date, weekday: bool) -> str:
    return format_date(day, "full" if weekday else "long", locale="ko")


def _english_time(time: dt.time, style: TimeStyle) -> str:
    if style.format.startswith("~"):
        return _plain(format_skeleton(style.format[1:], dt.datetime.combine(FIRST, time), locale=style.locale))
    return _plain(format_time(time, style.format, locale=style.locale))


def _korean_time(time: dt.time, seconds: bool) -> str:
    """CLDR's pattern of the long Korean time, with the day period spelt out; a full hour has no minutes."""
    whole = not seconds and time.minute == 0
    return format_time(time, "aaaa h시" if whole else "aaaa h시 m분 s초" if seconds else "aaaa h시 m분", locale="ko")


def _plain(text: str) -> str:
    """CLDR's narrow and thin spaces as plain ones: what a keyboard types."""
    return text.replace("\u202f", " ").replace("\u2009", " ")
