"""Media: pictures, sounds and videos in the cells of a table, as the bytes of a file or its path."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.types as types

from tessella.data import pixels, sounds
from tessella.data.blobs import Blobs, Filling
from tessella.data.cell_values import Faults, is_text, texts
from tessella.data.pixels import Unreadable
from tessella.data.profiles import GOOD, Guess
from tessella.errors import InputError

SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    "sound": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"),
    "video": (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".3gp"),
}
HOLDS = {suffix: holds for holds, suffixes in SUFFIXES.items() for suffix in suffixes}
MAGIC = [
    ("image", rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|BM.{4}\0\0\0\0|II\*\0|MM\0\*|P[1-6]\s|RIFF.{4}WEBP"),
    ("sound", rb"RIFF.{4}WAVE|fLaC|OggS|ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|FORM.{4}AIF|\.snd|caff|.{4}ftypM4A"),
    ("video", rb"RIFF.{4}AVI |\x1a\x45\xdf\xa3|.{4}ftyp|.{4}(moov|mdat|wide)|\0\0\x01[\xb3\xba]"),
]
"""How files begin (https://www.garykessler.net/library/file_sigs.html)."""

HEADERS = {"image": pixels.header, "sound": sounds.header}
"""What looks at the beginning of a file, and raises Unreadable where it cannot be what it should be."""


def sniffed(start: bytes) -> str | None:
    """What a file is by its first bytes: "image", "sound", "video"; None for anything else."""
    return next((holds for holds, magic in MAGIC if re.match(magic, start, re.DOTALL)), None)


def suffix_holds(name: str) -> str | None:
    """What a file is by the end of its name."""
    return HOLDS.get(os.path.splitext(name)[1].lower())


@dataclass(frozen=True, eq=False)
class Media:
    """One cell a row: the bytes of a file, its path, or nothing. ``inside`` says which are bytes (bool n)."""

    blobs: Blobs
    inside: np.ndarray

    def __len__(self) -> int:
        return len(self.inside)

    @property
    def there(self) -> np.ndarray:
        """Which rows have one, bool n."""
        return self.blobs.lengths > 0

    def __getitem__(self, row: int) -> bytes | Path | None:
        cell = self.blobs[row]
        if not cell:
            return None
        return cell if self.inside[row] else Path(os.fsdecode(cell))


class Gathering:
    """Media that come part by part."""

    def __init__(self) -> None:
        self.filling = Filling()
        self.inside: list[np.ndarray] = [np.zeros(0, bool)]

    def add(self, cells: pyarrow.Array, inside: np.ndarray) -> None:
        """Bytes or paths of some rows."""
        self.filling.add(cells)
        self.inside.append(inside)

    def done(self) -> Media:
        """All that came."""
        return Media(self.filling.done(), np.concatenate(self.inside))


def file_cells(cells: pyarrow.Array, folder: Path) -> tuple[pyarrow.Array, np.ndarray, Faults]:
    """(bytes or paths as large_binary n, null where there is nothing; which are bytes, bool n; what is wrong).

    A cell is the bytes of a file, a path from ``folder``, or a struct of both, of which bytes come first.
    """
    count = len(cells)
    if types.is_struct(cells.type):
        fields = {cells.type.field(at).name: cells.field(at) for at in range(cells.type.num_fields)}
        there = cells.is_valid()
        content = fields.get("bytes", pyarrow.nulls(count)).cast(pyarrow.large_binary())
        paths, faults = _paths(fields.get("path", pyarrow.nulls(count)), folder)
    elif "binary" in str(cells.type):
        there, content = cells.is_valid(), cells.cast(pyarrow.large_binary())
        whole = pyarrow.array([_is_file(start) for start in _starts(content)])
        content, written = (
            pyarrow.compute.if_else(chosen, content, None) for chosen in (whole, pyarrow.compute.invert(whole))
        )
        paths, faults = _paths(written, folder)
    elif is_text(cells.type) or types.is_null(cells.type):
        there, content = cells.is_valid(), pyarrow.nulls(count, pyarrow.large_binary())
        paths, faults = _paths(cells, folder)
    else:
        wrong = cells.is_valid().to_numpy(zero_copy_only=False)
        return (
            pyarrow.nulls(count, pyarrow.large_binary()),
            np.zeros(count, bool),
            [(f"no file but {cells.type}", wrong)],
        )
    filled = pyarrow.compute.greater(pyarrow.compute.binary_length(content), 0).fill_null(False)
    inside = pyarrow.compute.and_(filled, there)
    either = pyarrow.compute.if_else(inside, content, pyarrow.compute.if_else(there, paths, None))
    return either, inside.to_numpy(zero_copy_only=False), faults


def _starts(cells: pyarrow.Array) -> list[bytes | None]:
    return pyarrow.compute.binary_slice(cells, 0, 64).to_pylist()


def _is_file(start: bytes | None) -> bool:
    """Whether a cell of bytes begins as a file does, and not as the path of one: with something that is no text."""
    try:
        return b"\0" in codecs.getincrementaldecoder("utf-8")().decode(start or b"").encode()
    except UnicodeDecodeError:
        return True


def _paths(cells: pyarrow.Array, folder: Path) -> tuple[pyarrow.Array, Faults]:
    """Paths as written, joined to a folder unless they are absolute."""
    if types.is_null(cells.type):
        return pyarrow.nulls(len(cells), pyarrow.large_binary()), []
    written, faults = texts(cells)
    front = f"{folder}{os.sep}" if str(folder) != "." else ""
    absolute = pyarrow.compute.starts_with(written, os.sep)
    joined = pyarrow.compute.binary_join_element_wise(
        pyarrow.scalar(front, written.type), written, pyarrow.scalar("", written.type)
    )
    return pyarrow.compute.if_else(absolute, written, joined).cast(pyarrow.large_binary()), faults


def files_in(name: str, columns: Iterable[pyarrow.Array], folder: Path, enough: int) -> Guess | None:
    """What the files in a column of bytes or structs are, by the first that are there; None for texts kept as bytes."""
    found: Counter[str] = Counter()
    named: list[str] = []
    texts_only = True
    for cells in columns:
        if types.is_struct(cells.type) and not {f.name for f in cells.type} & {"bytes", "path"}:
            return Guess("ignore", f"cells of {cells.type} are not used")
        texts_only = texts_only and not types.is_struct(cells.type)
        content, inside, _ = file_cells(cells, Path())
        for cell, is_file in zip(content.to_pylist(), inside.tolist(), strict=True):
            if cell and is_file:
                found[sniffed(cell[:16]) or ""] += 1
            elif cell:
                named.append(os.fsdecode(cell))
        if found.total() + len(named) >= enough:
            break
    if not found and named:
        return None if texts_only else files_named(name, named[:enough], folder) or Guess("ignore", "no files")
    if not found:
        return Guess("ignore", "every row lacks it")
    holds, count = found.most_common(1)[0]
    if count < GOOD * found.total():
        told = ", ".join(f"{kind or 'unknown'}: {n}" for kind, n in found.most_common())
        return Guess("ignore", f"files of several kinds ({told}); name what it holds to use those")
    return Guess(holds, f"{holds} files inside") if holds else Guess("ignore", "files of no known kind")


def files_named(name: str, written: Sequence[str], folder: Path) -> Guess | None:
    """What the files are that texts name from a folder; None where they name none.

    Raises InputError where most texts end like names of files, and none of those is there.
    """
    if not written:
        return None
    ends = Counter(filter(None, map(suffix_holds, written)))
    if ends.total() >= GOOD * len(written):
        holds = ends.most_common(1)[0][0]
        if any(os.path.isfile(folder / text) for text in written):
            return Guess(holds, f"paths of {holds} files")
        raise InputError(
            f"column '{name}' names files such as '{written[0]}', but none of the first {len(written)} is in {folder}; "
            f"move the table or the files, or leave them out: --column '{name}=ignore'"
        )
    folders = sum(os.path.sep in text or "." not in text for text in written)
    if folders >= GOOD * len(written) and all(os.path.isdir(folder / text) for text in written[:10]):
        return Guess("video", "paths of folders of frames")
    return None


def broken_files(holds: str, content: pyarrow.Array, inside: np.ndarray) -> Faults:
    """Files that are not there, and pictures that are none by their headers; each kind of fault with its rows."""
    found: dict[str, list[int]] = {}
    for at in np.flatnonzero(content.is_valid().to_numpy(zero_copy_only=False)).tolist():
        cell = content[at].as_buffer().to_pybytes() if holds in HEADERS or not inside[at] else b""
        try:
            if not inside[at]:
                _must_be_there(os.fsdecode(cell), holds == "video")
            if holds in HEADERS:
                HEADERS[holds](cell if inside[at] else os.fsdecode(cell))
        except Unreadable as error:
            found.setdefault(error.reason, []).append(at)
    return [(reason, np.isin(np.arange(len(content)), rows)) for reason, rows in found.items()]


def _must_be_there(path: str, or_folder: bool) -> None:
    try:
        there = os.path.isfile(path) or (or_folder and os.path.isdir(path))
    except ValueError:  # a NUL character
        there = False
    if not there:
        raise Unreadable(path, "no such file")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise Unreadable(path, "empty file")
