import json
import re
from html.parser import HTMLParser

import pytest

from tessella.charts import bar_chart, heat_map, line_chart, readable
from tessella.errors import InputError
from tessella.report import Example, Report

PNG = b"\x89PNG\r\n\x1a\n0000"
EVIL = "<script>alert('x')</script>"


class Checked(HTMLParser):
    """Every tag is closed, and nothing outside the page is asked for."""

    void = frozenset({"meta", "input", "img", "br", "hr", "rect", "line", "polyline", "circle"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.void or (tag in ("rect", "circle") and not self.get_starttag_text().endswith("/>")):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                assert value.startswith(("data:", "#")), value

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def full(report: Report) -> Report:
    chapter = report.chapter("dates", "Dates & orders", "An intro.")
    chapter.heading("Learning").text("One `code` and **bold**.\n\nTwo.").numbers({"exact": "98%", "pairs": 1234})
    chapter.table(["system", "exact", "good"], [["a", 0.5, True], ["b", None, False]], "A caption.")
    chapter.figure({"one": heat_map(["가", "나"], ["a", "b", "c"], [[0.1, 0.9, 0], [1, 0, 0]]), "two": PNG}, "Maps")
    chapter.figure(line_chart({"a": [(1, 0.5), (2, 0.25)], "b": [(1, float("nan"))]}, "steps", "loss", log=True))
    chapter.figure(bar_chart(["1-9", "10+"], {"a": [0.5, None], "b": [1, 0]}, "length", "exact", [3, 4], percent=True))
    chapter.examples([Example("x y", "가 나 다", {"good": "가 나 다", "bad": "가 라", "none": ""})])
    return report


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
    page = full(Report("Title", "Subtitle")).save(tmp_path / "deep" / "index.html").read_text(encoding="utf-8")
    tags = Checked(page).tags
    assert tags.count("table") == 1 and tags.count("svg") == 3 and tags.count("img") == 1
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    assert "prefers-color-scheme: dark" in page


def test_what_people_write_is_shown_and_never_run():
    report = Report(EVIL, EVIL)
    chapter = report.chapter("evil", EVIL, EVIL).heading(EVIL).text(f"`{EVIL}` **{EVIL}**").numbers({EVIL: EVIL})
    chapter.table([EVIL], [[EVIL]], EVIL).examples([Example(EVIL, EVIL, {EVIL: f"{EVIL} more"})])
    chapter.figure({EVIL: heat_map([EVIL], [EVIL], [[1.0]], EVIL)}, EVIL)
    chapter.figure(line_chart({EVIL: [(0, 1), (1, 2)]}, EVIL, EVIL))
    chapter.figure(bar_chart([EVIL], {EVIL: [1.0]}, EVIL, EVIL))
    assert "script" not in Checked(report.html()).tags
    assert "&lt;script&gt;" in report.html()


def test_chapters_are_kept_added_and_replaced(tmp_path):
    full(Report("T", folder=tmp_path)).save(tmp_path / "index.html")
    later = Report("T", folder=tmp_path)
    later.chapter("positions", "Positions").text("new")
    later.save(tmp_path / "index.html")
    assert [p.name for p in sorted((tmp_path / "chapters").iterdir())] == ["01-dates.json", "02-positions.json"]
    again = Report("T", folder=tmp_path)
    again.chapter("dates", "Dates once more").text("changed")
    page = again.save(tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.index("Dates once more") < page.index("Positions")
    assert "An intro." not in page and "new" in page


def test_a_spoilt_chapter_is_named(tmp_path):
    (tmp_path / "chapters").mkdir()
    for spoilt in ("{", json.dumps({"name": "a", "colour": 1}), "3"):
        (tmp_path / "chapters" / "01-a.json").write_text(spoilt)
        with pytest.raises(InputError, match=r"01-a\.json is not a chapter"):
            Report("T", folder=tmp_path)


def test_wrong_shapes_are_refused():
    chapter = Report("T").chapter("a", "A")
    with pytest.raises(InputError, match="2 columns got a row of 1"):
        chapter.table(["a", "b"], [["x"]])
    with pytest.raises(InputError, match="SVG or PNG"):
        chapter.figure(b"GIF89a")
    with pytest.raises(InputError, match="lower-case"):
        Report("T").chapter("../up", "A")
    with pytest.raises(InputError, match="2 rows and 1 columns got weights of 1 x 1"):
        heat_map(["a", "b"], ["c"], [[1.0]])
    with pytest.raises(InputError, match="'s' has 1 values for 2 groups"):
        bar_chart(["a", "b"], {"s": [1.0]}, "x", "y")


def test_what_differs_is_marked():
    html = (
        Report("T")
        .chapter("a", "A")
        .examples([Example("s", "1년 2월 3일", {"x": "1년 9월 3일", "y": "1년 3일"})])
        .html()
    )
    assert "1년 <mark>9월</mark> 3일" in html
    assert html.count('class="wrong"') == 2 and 'title="missing"' in html


def test_a_heat_map_tells_its_weights():
    svg = heat_map(["▁월", "분"], ["▁Mon", "day"], [[0.75, 0.25], [0.001, 1.0]])
    assert "<title>월 ← Mon: 0.75</title>" in svg
    assert svg.count('class="cell"') == 3, "what cannot be seen is left out"
    assert readable("▁") == "␣"


@pytest.mark.parametrize(
    "line", [[], [(1, 2.0)], [(1, 0.0), (2, 0.0)], [(0, -3.0), (5, 12_345.0)], [(1, float("inf"))]]
)
@pytest.mark.parametrize("log", [False, True])
def test_lines_of_any_numbers_can_be_drawn(line, log):
    svg = line_chart({"a": line}, "x", "y", log=log)
    Checked(svg)
    assert "nan" not in svg and "inf" not in svg


def test_no_bars_at_all():
    assert "nothing to draw" in bar_chart(["a"], {"s": [None]}, "x", "y")
