"""Caption lines: pictures in groups, and what they show in words, a line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from tessella.captioner import Caption, Captioner
from tessella.decode import Decoding
from tessella.files import explained
from tessella.picture_lines import printable


def caption_lines(
    captioner: Captioner,
    groups: Iterable[list[Path]],
    how: Decoding,
    out: Path | None,
    as_json: bool,
    warn: Callable[[str], None],
    batch: int = 32,
) -> int:
    """Writes a line for every picture, to a file or standard output. Returns how many had no answer."""
    failed, number = 0, 0
    with ExitStack() as stack:
        if out:
            with explained(out):
                sink: TextIO = stack.enter_context(out.open("w", encoding="utf-8", newline="\n"))
        else:
            sink = sys.stdout
            if hasattr(sink, "reconfigure"):
                sink.reconfigure(encoding="utf-8", newline="\n", errors="backslashreplace")  # pyright: ignore
        for group in groups:
            for caption in captioner.caption(group, how, batch):
                number += 1
                if caption.error:
                    failed += 1
                    warn(caption.error)
                sink.write(line_of(caption, as_json) + "\n")
            sink.flush()
    if failed:
        warn(f"{failed} of {number} pictures have no answer")
    return failed


def line_of(caption: Caption, as_json: bool) -> str:
    """JSON for machines; for people the picture and its captions, the best first."""
    name = printable(caption.name)
    if not as_json:
        if caption.error:
            return f"{name}: no answer"
        return f"{name}: {' | '.join([caption.text, *(text for text, _ in caption.others)])}"
    told: dict[str, object] = {"image": name}
    if caption.error:
        told["error"] = printable(caption.error)
    else:
        told |= {"caption": caption.text, "score": round(caption.score, 5), "ended": caption.ended}
        if caption.others:
            told["others"] = [{"caption": text, "score": round(score, 5)} for text, score in caption.others]
    return json.dumps(told, ensure_ascii=False)
