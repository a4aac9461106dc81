"""Picture lines: pictures from arguments, folders or standard input, and what they show, a line each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from tessella.classifier import Classifier, Prediction
from tessella.data.albums import natural
from tessella.errors import InputError
from tessella.files import explained
from tessella.lines import Lines

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".mpo"}
)
"""Endings of pictures: in a folder, other files are passed over."""
STDIN = "-"


def picture_paths(given: Sequence[str]) -> Iterator[list[Path]]:
    """Paths in groups: all that is given, folders as the pictures in them; or of standard input what has arrived.

    Raises InputError for a folder without pictures, and where "-" is not alone.
    """
    if STDIN in given:
        if len(given) > 1:
            raise InputError("'-' reads the paths from standard input; give it alone")
        for group in Lines.of_stdin().groups:
            yield [Path(os.fsdecode(line.strip(b"\r"))) for line in group if line.strip()]
        return
    yield [path for one in given for path in _expanded(Path(one))]


def classify_lines(
    classifier: Classifier,
    groups: Iterable[list[Path]],
    out: Path | None,
    as_json: bool,
    warn: Callable[[str], None],
    top: int = 5,
    batch: int = 32,
) -> int:
    """Writes a line for every picture, to a file or standard output. Returns how many had no answer."""
    failed, number = 0, 0
    with ExitStack() as stack:
        if out:
            with explained(out):
                sink = stack.enter_context(out.open("w", encoding="utf-8", newline="\n"))
        else:
            sink = sys.stdout
            if hasattr(sink, "reconfigure"):
                sink.reconfigure(encoding="utf-8", newline="\n", errors="backslashreplace")
        for group in groups:
            for prediction in classifier.classify(group, top, batch):
                number += 1
                if prediction.error:
                    failed += 1
                    warn(prediction.error)
                _write(sink, prediction, as_json)
            sink.flush()
    if failed:
        warn(f"{failed} of {number} pictures have no answer")
    return failed


def _write(sink: TextIO, prediction: Prediction, as_json: bool) -> None:
    """JSON for machines; for people the picture and its classes, likeliest first."""
    if as_json:
        told = {"image": printable(prediction.name)}
        if prediction.error:
            told["error"] = printable(prediction.error)
        else:
            told["classes"] = [{"class": name, "probability": round(share, 6)} for name, share in prediction.classes]
        sink.write(json.dumps(told, ensure_ascii=False) + "\n")
    elif not prediction.error:
        told = ", ".join(f"{name} {share:.1%}" for name, share in prediction.classes)
        sink.write(f"{printable(prediction.name)}: {told}\n")
    else:
        sink.write(f"{printable(prediction.name)}: no answer\n")


def printable(name: str) -> str:
    """A path may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]  # also one that is not there: its line says so
    return list(walked(path))


def walked(folder: Path) -> Iterator[Path]:
    """Pictures of a folder and of those in it, in natural order; nothing hidden, and no symbolic link to a folder.

    Raises InputError where there is none, and for a folder that cannot be read.
    """
    none = True
    with explained(folder):
        for path in _below(folder):
            none = False
            yield path
    if none:
        raise InputError(f"{folder} holds no picture; those end in {', '.join(sorted(SUFFIXES))}")


def _below(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir(), key=lambda one: natural(one.name)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _below(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
