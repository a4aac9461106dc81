"""Chapters: what the demo tells, one after the other, on one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tessella.demo.dates_chapter import dates
from tessella.demo.digits_chapter import digits
from tessella.demo.names_chapter import names
from tessella.demo.numbers_chapter import numbers
from tessella.errors import InputError, did_you_mean
from tessella.report import Report

CHAPTERS: dict[str, Callable[[Report, Path, Callable[[str], None]], None]] = {
    "dates": dates,
    "digits": digits,
    "numbers": numbers,
    "names": names,
}
"""Name -> (report, folder for data and runs, say): trains, and writes its chapter into the report."""


def tell(name: str | None, out: Path, say: Callable[[str], None]) -> Path:
    """Runs one chapter, or all, and writes OUT/report.html. Returns its path."""
    if name is not None and name not in CHAPTERS:
        raise InputError(f"the demo has no chapter '{name}'{did_you_mean(name, CHAPTERS)}")
    report = Report(
        "tessella",
        "Turn any modality into tokens; attention does the rest. Everything on this page was trained and measured on "
        "this machine, by the command tessella demo.",
        folder=out,
    )
    for chapter in [name] if name else CHAPTERS:
        CHAPTERS[chapter](report, out / chapter, say)
    path = report.save(out / "report.html")
    say(f"the report: {path}")
    return path
