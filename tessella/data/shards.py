"""Shards: pictures and their captions in tar archives as webdataset writes them, listed once and read in place."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tessella.data.albums import JUNK, Listing
from tessella.data.captions import CaptionColumns, Refuse, Told, said, wrong
from tessella.data.pixels import FILE_BYTES, Unreadable
from tessella.data.rows import LONGEST_LINE, Cell
from tessella.errors import InputError, did_you_mean

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
CAPTIONS = ("txt", "caption", "captions")
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LARGEST_NOTE = 2**20
"""Bytes of a long name or other note about a member; a damaged archive may claim any number."""
BROKEN = (tarfile.TarError, ValueError, OverflowError)
"""What tarfile raises where an archive is none."""


class Members(Sequence[bytes]):
    """The bytes of members of tar archives by number, read where they lie when they are asked for.

    It holds arrays and the archives' paths only, and opens an archive for each reading, so that any process may read.
    """

    def __init__(self, paths: list[Path], places: Sequence[tuple[int, int, int]]):
        self.paths = paths
        self.archive, self.start, self.size = np.asarray(places, np.int64).reshape(-1, 3).T.copy()

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: int) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]  # no slices
        """Raises Unreadable where the archive is gone or shorter than it was."""
        path, size = self.paths[self.archive[index]], int(self.size[index])
        try:
            with path.open("rb") as file:
                file.seek(int(self.start[index]))
                found = file.read(size)
        except OSError as error:
            raise Unreadable(str(path), "archive cannot be opened", error.strerror or "") from None
        if len(found) < size:
            raise Unreadable(str(path), "archive is cut short")
        return found


@dataclass(slots=True)
class _Sample:
    """The members of one key in an archive: the picture (its name and place), and texts by field, with their member."""

    name: str = ""
    place: tuple[int, int, int] = (0, 0, 0)
    texts: dict[str, tuple[str, list[Cell]]] = field(default_factory=dict)


def told_by_shards(paths: list[Path], columns: CaptionColumns, refuse: Refuse) -> Told:
    """Everything in the archives of one split. Members are of one picture where their names are alike up to a dot.

    What is broken, too large, no plain file, or has no picture or no caption is refused by the name of the member.
    Raises InputError for packed archives, and where no picture has a field that was named.
    """
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    captions: list[list[str]] = []
    negatives: list[list[str]] = []
    fields: set[str] = set()
    for number, path in enumerate(paths):
        for key, sample in _samples(number, path, columns, refuse).items():
            fields |= sample.texts.keys()
            if not sample.name:
                refuse(key, 0, "no picture", ", ".join(sample.texts))
                continue
            names.append(sample.name)
            places.append(sample.place)
            chosen = next((sample.texts[name] for name in _fields(columns) if name in sample.texts), (sample.name, []))
            captions.append(said(chosen[1], (chosen[0], 0), refuse))
            member, cells = sample.texts.get(columns.negative or "", (sample.name, []))
            negatives.append(wrong([cells], (member, 0), refuse))
    for wanted in ({*_fields(columns)}, {columns.negative} - {None}):
        if fields and wanted and not wanted & fields:
            asked = ", ".join(f"'{name}'" for name in sorted(map(str, wanted)))
            near = did_you_mean(min(map(str, wanted)), fields)
            raise InputError(f"{paths[0]}{' …' if len(paths) > 1 else ''}: no picture has a {asked}{near}")
    nowhere = np.zeros(len(names), np.int64)
    listing = Listing(Members(paths, places), [""] * len(names), list(map(str, paths)), nowhere, nowhere, names)
    return Told(listing, captions, negatives)


def _fields(columns: CaptionColumns) -> Sequence[str]:
    """Where captions may be, the first that is there counts."""
    return CAPTIONS if columns.caption == CaptionColumns().caption else (columns.caption,)


def _samples(number: int, path: Path, columns: CaptionColumns, refuse: Refuse) -> dict[str, _Sample]:
    """The members of an archive by key, as webdataset takes them together; ``number`` is the archive's."""
    images = IMAGES if columns.image == CaptionColumns().image else (columns.image,)
    wanted = {"json", *_fields(columns), columns.negative}
    samples: dict[str, _Sample] = {}
    for info, file in _members(path, refuse):
        name = f"{path}/{info.name if info.name.isprintable() else repr(info.name)[1:-1]}"
        folder, _, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        ending = ending.lower()
        if not stem or base.lower() in JUNK or (stem.startswith("__") and stem.endswith("__")):
            continue
        sample = samples.setdefault(f"{folder}/{stem}", _Sample())
        if ending not in wanted and ending not in images:
            continue
        if ending in sample.texts or (ending in images and sample.name):
            refuse(name, 0, "a second one of its kind", sample.name)
        elif info.size > (FILE_BYTES if ending in images else LONGEST_LINE):
            refuse(name, 0, f"over {FILE_BYTES if ending in images else LONGEST_LINE} bytes", "")
        elif ending in images:
            sample.name, sample.place = name, (number, info.offset_data, info.size)
        else:
            file.seek(info.offset_data)
            _note(sample, name, ending, file.read(info.size), refuse)
    return samples


def _note(sample: _Sample, name: str, ending: str, content: bytes, refuse: Refuse) -> None:
    """Keeps what a text of a sample says: each line of a plain one, each field of texts of a .json."""
    if ending != "json":
        lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
        sample.texts[ending] = name, [line for line in lines if line.strip()] or [b""]
        return
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        refuse(name, 0, "not a JSON object", content)
        return
    for field_name, value in found.items():
        cells = value if isinstance(value, list) else [value]
        if all(isinstance(cell, str | None) for cell in cells):
            sample.texts.setdefault(field_name, (name, cells))


class _Headers(io.BufferedReader):
    """An archive as tarfile reads it: never more at once than a header and its notes may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LARGEST_NOTE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _members(path: Path, refuse: Refuse) -> Iterator[tuple[tarfile.TarInfo, io.BufferedReader]]:
    """The plain files of an archive, with the open archive. Links, devices and what is broken are refused."""
    try:
        raw = io.FileIO(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from None
    with _Headers(raw) as file:
        size = os.fstat(file.fileno()).st_size
        packed = [name for magic, name in PACKED.items() if file.peek(8).startswith(magic)]
        if packed:
            raise InputError(f"{path} is packed with {packed[0]}; unpack it, so that pictures can be read in place")
        tar, info = None, ""
        try:
            tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="backslashreplace")
        except BROKEN as error:
            info = str(error)
        while tar is not None and isinstance(info := _next(tar), tarfile.TarInfo):
            if info.size < 0 or info.offset_data + info.size > size:
                refuse(f"{path}/{info.name}", 0, "archive is cut short", f"{size} bytes")
                return
            if info.isreg() and not info.issparse():
                yield info, file
            elif not info.isdir():
                refuse(f"{path}/{info.name}", 0, "no plain file", "")
        if isinstance(info, str):
            refuse(str(path), 0, "broken archive", info)
        elif tar is not None:
            _ended(path, file, tar.offset, refuse)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | str | None:
    """The next member, None at the end, or what is wrong."""
    tar.members.clear()  # else it remembers them all
    try:
        return tar.next()
    except BROKEN as error:
        return str(error)


def _ended(path: Path, file: io.BufferedReader, at: int, refuse: Refuse) -> None:
    """Refuses an archive that does not end, at byte ``at``, with zeros and nothing else: tarfile tells nobody."""
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        refuse(str(path), 0, "archive has no end mark: is it cut short?", f"{at} bytes")
    elif block.strip(b"\0"):
        refuse(str(path), 0, "broken archive", f"no header at byte {at}, what follows is not read")
    elif any(part.strip(b"\0") for part in iter(lambda: file.read(LARGEST_NOTE), b"")):
        refuse(str(path), 0, "more after the end of the archive", f"byte {at}")
