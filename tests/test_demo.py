"""The demo tells its chapter from data to page; how well it learns is for `make demo` to show."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tessella.demo import chapters, dates_chapter
from tessella.demo.dates import date_splits
from tessella.errors import InputError
from tessella.report import Report


@pytest.fixture
def quick(monkeypatch):
    systems = tuple(dataclasses.replace(s, steps=4) for s in dates_chapter.SYSTEMS)
    monkeypatch.setattr(dates_chapter, "SYSTEMS", systems)
    monkeypatch.setattr(dates_chapter, "date_splits", lambda: date_splits(400, 20, 60))


def test_the_dates_chapter_from_data_to_page(quick, tmp_path):
    said: list[str] = []
    path = chapters.tell("dates", tmp_path / "demo", said.append)
    page = path.read_text()
    assert path == tmp_path / "demo" / "report.html"
    for system in dates_chapter.SYSTEMS:
        assert any(line.startswith(f"{system.name}: ") and "exactly right" in line for line in said)
        assert system.name in page
    assert page.count("<svg") >= 5, "curves, bars and attention maps are drawn"
    assert not re.search(r'(src|href)="http', page), "the page needs nothing from elsewhere"


def test_other_chapters_stay_on_the_page(quick, tmp_path):
    Report("x", folder=tmp_path / "demo").chapter("digits", "Digits", "told before").text("still here")
    before = Report("x", folder=tmp_path / "demo")
    before.chapter("digits", "Digits").text("still here")
    before.save(tmp_path / "demo" / "report.html")
    chapters.tell("dates", tmp_path / "demo", lambda line: None)
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "still here" in page
    assert "one vector" in page


def test_unknown_chapters_are_refused(tmp_path):
    with pytest.raises(InputError, match="no chapter 'date'; did you mean 'dates'"):
        chapters.tell("date", tmp_path, print)
