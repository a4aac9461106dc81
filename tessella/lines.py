"""Lines: texts from arguments, a file or standard input, and their answers, one line each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.files import explained
from tessella.translator import Answer, Translator

READ_AT_ONCE = 65536
LINES_AT_ONCE = 512


@dataclass
class Lines:
    """Groups of raw lines, and how many there are in all, where that is known."""

    groups: Iterator[list[bytes]]
    total: int | None = None

    @classmethod
    def of_texts(cls, texts: list[str]) -> Lines:
        """Command-line arguments."""
        return cls(iter([[t.encode("utf-8", "surrogateescape").replace(b"\n", b" ") for t in texts]]), len(texts))

    @classmethod
    def of_file(cls, path: Path) -> Lines:
        """A text file."""
        if not path.is_file():
            raise InputError(f"no file {path} to translate")
        with explained(path):
            lines = path.read_bytes().split(b"\n")
        if lines and lines[-1] == b"":
            lines.pop()
        groups = (lines[i : i + LINES_AT_ONCE] for i in range(0, len(lines), LINES_AT_ONCE))
        return cls(groups, len(lines))

    @classmethod
    def of_stdin(cls) -> Lines:
        """Standard input: what has arrived is answered at once, so that a program at the other end can converse."""
        return cls(_arriving(sys.stdin.fileno()))


def translate_lines(
    translator: Translator,
    lines: Lines,
    how: Decoding,
    out: Path | None,
    as_json: bool,
    warn: Callable[[str], None],
) -> int:
    """Writes a line for every line read (an empty one where there is no answer). Returns how many had none."""
    failed, number = 0, 0
    with ExitStack() as stack:
        if out:
            with explained(out):
                sink = stack.enter_context(out.open("w", encoding="utf-8", newline="\n"))
        else:
            sink = sys.stdout
            if hasattr(sink, "reconfigure"):
                sink.reconfigure(encoding="utf-8", newline="\n")
        for group in lines.groups:
            for answer in _answered(translator, group, how):
                number += 1
                if answer.error:
                    failed += 1
                    warn(f"line {number} is not translated: {answer.error}")
                _write(sink, number, answer, how.nbest, as_json)
            sink.flush()
    if failed:
        warn(f"{failed} of {number} lines are not translated")
    return failed


def _answered(translator: Translator, group: list[bytes], how: Decoding) -> list[Answer]:
    texts: dict[int, str] = {}
    answers: dict[int, Answer] = {}
    for i, raw in enumerate(group):
        try:
            texts[i] = raw.decode("utf-8").strip("\r\ufeff")
        except UnicodeDecodeError:
            answers[i] = Answer(raw.decode("utf-8", "backslashreplace"), "", error="not UTF-8")
    for i, answer in zip(texts, translator.translate(list(texts.values()), how), strict=True):
        answers[i] = answer
    return [answers[i] for i in range(len(group))]


def _write(sink: TextIO, number: int, answer: Answer, nbest: int, as_json: bool) -> None:
    if as_json:
        data = {"line": number, "source": answer.source, "translation": answer.text, "score": round(answer.score, 5)}
        if nbest > 1:
            data["others"] = [{"translation": text, "score": round(score, 5)} for text, score in answer.others]
        if answer.error:
            data["error"] = answer.error
        sink.write(json.dumps(data, ensure_ascii=False) + "\n")
    elif nbest > 1:
        for text, score in [(answer.text, answer.score), *answer.others]:
            sink.write(f"{number}\t{score:.4f}\t{text}\n")
    else:
        sink.write(answer.text + "\n")


def _arriving(descriptor: int) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := os.read(descriptor, READ_AT_ONCE):
        *whole, rest = (rest + chunk).split(b"\n")
        for i in range(0, len(whole), LINES_AT_ONCE):
            yield whole[i : i + LINES_AT_ONCE]
    if rest:
        yield [rest]
