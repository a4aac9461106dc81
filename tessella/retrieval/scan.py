"""Scan: the pictures in a folder, and what has changed there since an index was last brought up to date."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tessella.errors import InputError
from tessella.files import explained, write_text
from tessella.picture_lines import SUFFIXES

QUARANTINE = "quarantine.jsonl"


class Mark(NamedTuple):
    """What tells cheaply that a file is as it was: bytes, and when it was modified (microseconds since 1970, UTC)."""

    size: int
    modified: int


@dataclass(frozen=True)
class Scan:
    """Path from the folder, with slashes -> mark of every picture; folders that could not be read; names no text."""

    files: dict[str, Mark] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    unnameable: list[str] = field(default_factory=list)


def scan(folder: Path, but: Path) -> Scan:
    """Every picture in a folder and those below it, by the endings of names; nothing hidden, and not the folder `but`.

    Links to files count as files, links to folders are not followed. Raises InputError where the folder itself is
    missing or cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give one that holds pictures")
    found = Scan()
    with explained(folder):
        os.scandir(folder).close()
    left = [str(folder)]
    while left:
        here = left.pop()
        try:
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(".") and os.path.abspath(entry.path) != str(but):
                            left.append(entry.path)
                    elif _is_picture(entry.name):
                        _note(found, entry, folder)
        except OSError:
            found.closed.append(os.path.relpath(here, folder).replace(os.sep, "/"))
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """Paths that are new, that changed, and that are gone; and how many are as they were, read or set aside."""

    new: list[str]
    changed: list[str]
    gone: list[str]
    same: int
    still_aside: int


def difference(found: Scan, known: Mapping[str, Mark], aside: Mapping[str, Mark]) -> Difference:
    """What an index has to do. known: its rows; aside: what could not be read, and is not tried again unchanged.

    What lies in a folder that could not be read is not taken for gone.
    """
    new, changed, same, still = [], [], 0, 0
    for path, mark in found.files.items():
        if aside.get(path) == mark:
            still += 1
        elif path not in known:
            new.append(path)
        elif known[path] != mark:
            changed.append(path)
        else:
            same += 1
    closed = tuple(f"{name}/" for name in found.closed)
    gone = [path for path in known if path not in found.files and not path.startswith(closed)]
    return Difference(new, changed, gone, same, still)


class Aside:
    """Pictures that could not be read: path -> mark and reason, kept in quarantine.jsonl beside the table."""

    def __init__(self, folder: Path):
        self.path = folder / QUARANTINE
        self.marks: dict[str, Mark] = {}
        self.reasons: dict[str, str] = {}
        self.saved = True
        for line in self._lines():
            try:
                told = json.loads(line)
                self.marks[told["path"]] = Mark(int(told["size"]), int(told["modified"]))
                self.reasons[told["path"]] = str(told["reason"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{self.path} holds a line that is none of ours: {line[:60]}; remove it") from None

    def add(self, path: str, mark: Mark, reason: str) -> None:
        """Sets one aside."""
        self.marks[path], self.reasons[path], self.saved = mark, reason, False

    def drop(self, path: str) -> None:
        """Forgets one that can be read now, or is gone."""
        if self.marks.pop(path, None) is not None:
            self.reasons.pop(path)
            self.saved = False

    def clear(self) -> None:
        """Forgets all: the next run tries them again."""
        self.marks, self.reasons, self.saved = {}, {}, False

    def save(self) -> None:
        """Writes the file, whole or not at all, if anything changed."""
        if self.saved:
            return
        lines = (
            json.dumps({"path": path, "reason": self.reasons[path], **mark._asdict()}, ensure_ascii=False) + "\n"
            for path, mark in sorted(self.marks.items())
        )
        write_text(self.path, "".join(lines))
        self.saved = True

    def _lines(self) -> Iterator[str]:
        if self.path.exists():
            with explained(self.path):
                yield from self.path.read_text(encoding="utf-8").splitlines()


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _note(found: Scan, entry: os.DirEntry[str], folder: Path) -> None:
    path = os.path.relpath(entry.path, folder).replace(os.sep, "/")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        found.unnameable.append(path.encode("utf-8", "backslashreplace").decode())
        return
    try:
        told = entry.stat()
        found.files[path] = Mark(told.st_size, told.st_mtime_ns // 1000)
    except OSError:  # a link to nothing: reading it will say so
        found.files[path] = Mark(-1, 0)
