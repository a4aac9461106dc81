"""Report: one page of chapters that shows what was trained, and needs nothing but a browser."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from tessella.errors import InputError

STYLE = Path(__file__).with_name("report.css")
Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Example:
    """A source, what was hoped for, and what each system answered."""

    source: str
    target: str
    answers: Mapping[str, str]


@dataclass
class Chapter:
    """A part of the page with its own heading. Its methods append a block each and give the chapter back.

    Every string is shown as it is, letter for letter; only ``figure`` takes markup, drawn by tessella.charts.
    """

    name: str
    """Names the file and the anchor: lower-case letters, digits and hyphens."""
    title: str
    intro: str = ""
    blocks: list[str] = field(default_factory=list)

    def heading(self, text: str) -> Chapter:
        """A smaller heading inside the chapter."""
        return self._add(f"<h3>{escape(text)}</h3>")

    def text(self, text: str) -> Chapter:
        """Paragraphs, parted by empty lines; ``**bold**`` and `` `code` `` are understood."""
        return self._add(_paragraphs(text))

    def numbers(self, numbers: Mapping[str, str | float]) -> Chapter:
        """The few numbers that matter, in large figures: {what it is: the number}."""
        tiles = (f"<div><b>{_shown(value)}</b><span>{escape(name)}</span></div>" for name, value in numbers.items())
        return self._add(f'<div class="numbers">{"".join(tiles)}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> Chapter:
        """Rows of cells; numbers stand to the right, True and False become a right and a wrong mark."""
        for row in rows:
            if len(row) != len(columns):
                raise InputError(f"a table of {len(columns)} columns got a row of {len(row)}: {list(row)}")
        ranged = [
            bool(rows) and all(isinstance(row[n], int | float | None) and not isinstance(row[n], bool) for row in rows)
            for n in range(len(columns))
        ]
        kinds = [' class="number"' if number else "" for number in ranged]
        head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
        body = "".join(
            f"<tr>{''.join(f'<td{kind}>{_shown(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
            for row in rows
        )
        return self._framed(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", caption)

    def figure(self, picture: str | bytes | Mapping[str, str | bytes], caption: str = "") -> Chapter:
        """A picture: SVG text from tessella.charts, the bytes of a PNG, or {tab: picture} to choose from."""
        if isinstance(picture, Mapping):
            return self._framed(self._tabs({name: _picture(one) for name, one in picture.items()}), caption)
        return self._framed(_picture(picture), caption)

    def examples(self, examples: Sequence[Example]) -> Chapter:
        """Answers beside what was hoped for; what differs is marked."""
        return self._add(f'<ul class="examples">{"".join(map(_example, examples))}</ul>')

    def html(self) -> str:
        """The chapter as a section of the page."""
        intro = _paragraphs(self.intro).replace("<p>", '<p class="intro">')
        return f'<section id="{self.name}"><h2>{escape(self.title)}</h2>{intro}{"".join(self.blocks)}</section>'

    def _add(self, block: str) -> Chapter:
        self.blocks.append(block)
        return self

    def _framed(self, block: str, caption: str) -> Chapter:
        told = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        return self._add(f'<figure><div class="scroll">{block}</div>{told}</figure>')

    def _tabs(self, panes: Mapping[str, str]) -> str:
        """Choosing between panes without a script: a hidden radio button before each label."""
        group = f"{self.name}-{len(self.blocks)}"
        parts = []
        for n, (name, pane) in enumerate(panes.items()):
            checked = " checked" if n == 0 else ""
            parts.append(f'<input type="radio" name="{group}" id="{group}-{n}"{checked}>')
            parts.append(f'<label for="{group}-{n}">{escape(name)}</label><div class="pane">{pane}</div>')
        return f'<div class="tabs">{"".join(parts)}</div>'


class Report:
    """A page made of chapters, in the order they were first begun.

    With a folder, chapters are kept in ``folder/chapters/NN-name.json``; a later run adds or replaces its own ones and
    the page is made of all of them again.
    """

    def __init__(self, title: str, subtitle: str = "", folder: Path | str | None = None):
        self.title = title
        self.subtitle = subtitle
        self.folder = Path(folder) / "chapters" if folder is not None else None
        self.chapters: dict[str, Chapter] = {}
        for path in sorted(self.folder.glob("*-*.json")) if self.folder else []:
            chapter = _read(path)
            self.chapters[chapter.name] = chapter

    def chapter(self, name: str, title: str, intro: str = "") -> Chapter:
        """Begin a chapter; one of the same name is replaced where it stands."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise InputError(f"a chapter is named by lower-case letters, digits and hyphens, not {name!r}")
        self.chapters[name] = Chapter(name, title, intro)
        return self.chapters[name]

    def html(self) -> str:
        """The whole page: style and pictures inside, nothing fetched."""
        links = "".join(f'<a href="#{one.name}">{escape(one.title)}</a>' for one in self.chapters.values())
        subtitle = f"<p>{_inline(self.subtitle)}</p>" if self.subtitle else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
            f"<body><header><h1>{escape(self.title)}</h1>{subtitle}<nav>{links}</nav></header>\n"
            f"<main>{''.join(one.html() for one in self.chapters.values())}</main>\n"
            "<footer>Made by tessella: any modality into tokens; attention does the rest.</footer></body></html>\n"
        )

    def save(self, path: Path | str) -> Path:
        """Write the page, and the chapters where the report has a folder; gives the page's path."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            written = set()
            for n, one in enumerate(self.chapters.values(), 1):
                kept = {"name": one.name, "title": one.title, "intro": one.intro, "blocks": one.blocks}
                file = self.folder / f"{n:02}-{one.name}.json"
                file.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
                written.add(file)
            for old in set(self.folder.glob("*-*.json")) - written:
                old.unlink()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")
        return path


def _read(path: Path) -> Chapter:
    try:
        return Chapter(**json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError):
        raise InputError(f"{path} is not a chapter of a report; remove it and run again") from None


def _picture(picture: str | bytes) -> str:
    if isinstance(picture, bytes):
        if not picture.startswith(b"\x89PNG"):
            raise InputError(f"a figure is SVG or PNG, got bytes that begin with {picture[:4]!r}")
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode("ascii")}">'
    assert picture.startswith("<svg"), "markup of a figure is drawn by tessella.charts"
    return picture


def _example(example: Example) -> str:
    lines = [f"<dt>reference</dt><dd>{escape(example.target)}</dd>"]
    for name, answer in example.answers.items():
        right = answer == example.target
        mark = '<span class="right">✓</span>' if right else '<span class="wrong">✗</span>'
        told = escape(answer) if right else _difference(example.target, answer)
        lines.append(f"<dt>{escape(name)}</dt><dd>{mark} {told}</dd>")
    return f'<li><p class="source">{escape(example.source)}</p><dl>{"".join(lines)}</dl></li>'


def _difference(target: str, answer: str) -> str:
    """The answer with its wrong words marked, and a red line where words are missing."""
    wanted, given = re.findall(r"\S+\s*", target), re.findall(r"\S+\s*", answer)
    bare = ([word.strip() for word in wanted], [word.strip() for word in given])
    parts = []
    for kind, _, _, start, stop in difflib.SequenceMatcher(None, *bare, autojunk=False).get_opcodes():
        text = escape("".join(given[start:stop]))
        if kind == "equal":
            parts.append(text)
        else:
            parts.append(
                f"<mark>{text.rstrip()}</mark> " if text else '<span class="gone" title="missing">&nbsp;</span> '
            )
    return "".join(parts).strip()


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def _inline(text: str) -> str:
    """Escaped text with **bold** and `code`."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return '<span class="right">✓</span>' if cell else '<span class="wrong">✗</span>'
    if isinstance(cell, float):
        return f"{cell:,.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else escape(cell)
