import datetime as dt
import re

import pytest

from tessella.demo.dates import DAYS, FAMILIES, date_pairs, date_splits, split_days, write_dates
from tessella.errors import InputError

WEEKDAYS = ["월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"]


@pytest.fixture(scope="module")
def pairs():
    return date_pairs(3000, seed=3)


def korean_days(text: str) -> list[dt.date]:
    return [dt.date(*map(int, found)) for found in re.findall(r"(\d{4})년 (\d+)월 (\d+)일", text)]


def test_it_is_a_function_of_the_seed(pairs):
    assert date_pairs(300, seed=3) == pairs[:300]
    assert date_pairs(300, seed=4) != pairs[:300]


def test_every_source_has_one_reading(pairs):
    assert len({pair.source for pair in pairs}) == len(pairs)
    readings = {}
    for pair in pairs + date_pairs(3000, seed=5):
        assert readings.setdefault(pair.source, pair.target) == pair.target


def test_days_in_figures_cannot_be_months(pairs):
    for pair in pairs:
        for first, second in re.findall(r"(\d+)[/.](\d+)[/.]\d{4}", pair.source):
            assert max(int(first), int(second)) > 12, pair.source


def test_the_target_says_what_the_source_says(pairs):
    for source, target, domain in pairs:
        days = korean_days(target)
        assert len(days) == (2 if domain in ("days", "moments") else 1)
        assert days == sorted(days)
        for day in days:
            assert str(day.year) in source
            assert re.search(rf"(?<!\d)0?{day.day}(?!\d)", source), source
        told = bool(re.search(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", source))
        assert told == ("요일" in target), (source, target)
        for day, name in zip(days, re.findall(r".요일", target), strict=False):
            assert name == WEEKDAYS[day.weekday()]


def test_all_styles_and_families_appear_and_lengths_vary(pairs):
    assert {pair.domain for pair in pairs} == set(FAMILIES)
    lengths = sorted(len(pair.source) for pair in pairs)
    assert lengths[0] <= 11 and lengths[-1] >= 90
    assert len(DAYS) == len(set(DAYS))
    assert not any("\u202f" in pair.source or "\u2009" in pair.source for pair in pairs)


def test_no_day_of_one_split_is_in_another():
    splits = date_splits(600, 200, 200, seed=1)
    seen = {name: {day for pair in pairs for day in korean_days(pair.target)} for name, pairs in splits.items()}
    assert [len(pairs) for pairs in splits.values()] == [600, 200, 200]
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert sum(map(len, split_days(1).values())) == len(set().union(*split_days(1).values()))


def test_files_are_line_for_line(tmp_path):
    splits = date_splits(50, 10, 10)
    paths = write_dates(tmp_path / "data", splits)
    english, korean = paths["train"]
    assert english.read_text(encoding="utf-8").splitlines() == [pair.source for pair in splits["train"]]
    assert korean.read_text(encoding="utf-8").splitlines() == [pair.target for pair in splits["train"]]


def test_too_many_are_refused():
    with pytest.raises(InputError, match="ask for 0 to"):
        date_pairs(1_000_000)
