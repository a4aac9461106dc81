"""Preflight: everything that is wrong with a data set of pictures, and what is there, before anything is trained."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tessella.data.albums import Picture, PictureColumns
from tessella.data.layouts import find_albums, numbering
from tessella.data.pictures import Pictures, each
from tessella.data.pixels import Unreadable, header
from tessella.data.problems import Problem, plain, rendered, too_many, unusable
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

HUGE = 24_000_000  # pixels; decoding such photos again and again is what training would wait for
UNEVEN = 10
CLASSES_SHOWN = 20


class Seen(NamedTuple):
    """What one decoded picture is: how it is stored, its size, and the SHA-256 of its bytes."""

    mode: str
    rows: int
    cols: int
    digest: bytes


@dataclass(frozen=True)
class Part:
    """One split: its usable pictures with what was seen of each, and what was set aside."""

    name: str
    pictures: Pictures
    seen: list[Seen]
    quarantine: Quarantine

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or "all"

    @property
    def usable(self) -> int:
        """How many pictures are."""
        return len(self.pictures)


@dataclass(frozen=True)
class Findings:
    """What a data set holds (``parts``, ``classes``), what is in order (``fine``), and what is not (``problems``)."""

    path: Path
    classes: list[str]
    parts: list[Part]
    fine: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def fatal(self) -> bool:
        """Whether training would refuse this data."""
        return any(problem.severity == "fatal" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with every name."""
        splits = {
            part.title: {
                "classes": dict(zip(self.classes, part.pictures.counts.tolist(), strict=True)),
                "pictures": part.usable,
                "set aside": len(part.quarantine),
            }
            for part in self.parts
        }
        return {"data": str(self.path), **plain(self, splits)}

    def render(self, examples: int = 5) -> str:
        """All of it as plain text: what is there, what is fine, then problems, worst first, with some names each."""
        lines = [f"{self.path}: {len(self.classes)} class{'' if len(self.classes) == 1 else 'es'}"]
        lines += [f"  {line}" for line in [*_table(self.parts), *_classes(self), *shapes(self.parts)]]
        lines += ["", "fine", *(f"  {line}" for line in self.fine)] if self.fine else []
        return "\n".join([*lines, *rendered(self.problems, self.path, examples)])


def preflight(
    path: str | os.PathLike[str],
    columns: PictureColumns | None = None,
    classes: Sequence[str] | None = None,
    minimum: tuple[int, int] | None = None,
    bad_share: float = 0.1,
    workers: int | None = None,
) -> Findings:
    """Decode every picture of every split once and tell what is wrong; see ``read_pictures`` for what data may be.

    Pictures of fewer than ``minimum`` (rows, columns) cannot be used. With more than ``bad_share`` unusable ones, or
    fewer than two classes, training would refuse. Never raises for what is wrong with the data: that is a finding.
    """
    path, columns = Path(path), columns or PictureColumns()
    try:
        albums = find_albums(path)
        number_of = numbering(path, columns, classes)
    except InputError as error:
        return Findings(path, [], [], problems=[Problem("fatal", str(error), [])])
    findings = Findings(path, number_of.classes, [])
    for name, album in albums.items():
        quarantine = Quarantine()
        try:
            listing = album.read(columns, quarantine.add)
        except InputError as error:
            findings.problems.append(Problem("fatal", str(error), []))
            continue
        labels = np.fromiter(map(number_of, listing.labels), np.int64, len(listing.labels))
        everything = Pictures(listing, np.arange(len(labels)), labels, number_of.classes)
        findings.parts.append(examined(name, everything, quarantine, minimum, workers))
    checks = [
        unusable(findings.parts),
        too_many(findings.parts, bad_share),
        _balance(findings),
        twice(findings.parts),
        _odd(findings),
    ]
    for outcome in (outcome for check in checks for outcome in check):
        findings.problems.append(outcome) if isinstance(outcome, Problem) else findings.fine.append(outcome)
    return findings


def examined(
    name: str, pictures: Pictures, quarantine: Quarantine, minimum: tuple[int, int] | None, workers: int | None
) -> Part:
    """A split whose every picture was decoded once; what cannot be used is added to what was set aside."""

    def look(number: int) -> Seen:
        pictures.check(number)
        image, picture = pictures.decode(number), pictures.read(number)
        if minimum and (image.height < minimum[0] or image.width < minimum[1]):
            raise Unreadable(pictures.name(number), f"smaller than {minimum[0]}x{minimum[1]} pixels")
        mode = "L" if isinstance(picture, np.ndarray) else header(picture).mode
        return Seen(mode, image.height, image.width, _digest(picture))

    kept, seen = [], []
    for number, outcome in enumerate(each(pictures, look, workers)):
        if isinstance(outcome, Unreadable):
            quarantine.add(*pictures.place(number), outcome.reason, pictures.name(number))
        else:
            kept.append(number)
            seen.append(outcome)
    return Part(name, pictures.take(kept), seen, quarantine)


def _digest(picture: Picture) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = repr(picture.shape).encode() + picture.tobytes()
    return hashlib.sha256(picture.read_bytes() if isinstance(picture, Path) else picture).digest()


def _balance(findings: Findings) -> Iterator[str | Problem]:
    classes, missing = findings.classes, 0
    for number, part in enumerate(findings.parts):
        counts = part.pictures.counts
        lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
        missing += len(lacking)
        if number == 0 and len(part.pictures) and np.count_nonzero(counts) < 2:
            yield Problem("fatal", f"{part.title}: one class only; telling apart takes two or more", [])
        elif lacking and len(part.pictures):
            verb = "has" if len(lacking) == 1 else "have"
            what = f"{part.title}: {len(lacking)} of {len(classes)} classes {verb} no picture"
            yield Problem("serious", what, lacking)
        if number == 0 and counts.any() and counts.max() >= UNEVEN * counts[counts > 0].min():
            few = np.flatnonzero((counts > 0) & (counts * UNEVEN <= counts.max()))
            rare = [f"{classes[which]}: {counts[which]:,}" for which in few]
            yield Problem("note", f"{part.title}: uneven; these have a tenth of the largest class or less", rare)
    if findings.parts and not missing and len(classes) > 1:
        yield "every class has pictures in every split"
    folded = Counter(name.casefold() for name in classes)
    alike = [name for name in classes if folded[name.casefold()] > 1]
    if alike:
        yield Problem("serious", "classes whose names differ in upper and lower case only", alike)


def twice(parts: Sequence[Part], remark: str = "") -> Iterator[str | Problem]:
    """Pictures of the same content, within a split (where a remark is made) and across."""
    met: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for place, part in enumerate(parts):
        for number, seen in enumerate(part.seen):
            met[seen.digest].append((place, number))
    groups = [group for group in met.values() if len(group) > 1]

    def told(group: list[tuple[int, int]]) -> str:
        return " = ".join(parts[place].pictures.name(number) for place, number in group[:4]) + " …" * (len(group) > 4)

    def label(place: int, number: int) -> int:
        return int(parts[place].pictures.labels[number])

    across = [told(g) for g in groups if len({place for place, _ in g}) > 1]
    torn = [told(g) for g in groups if len({label(*at) for at in g}) > 1]
    within = [told(g) for g in groups if len({place for place, _ in g}) == 1]
    if across:
        titles = ", ".join(part.title for part in parts)
        yield Problem(
            "serious", f"the same pictures in several of {titles}: {len(across):,}; scores would flatter", across
        )
    if torn:
        yield Problem("serious", f"the same picture with different labels: {len(torn):,}", torn)
    if within:
        yield Problem("note", f"pictures that occur more than once in a split{remark}: {len(within):,}", within)
    if any(len(part.pictures) for part in parts) and not groups:
        yield "no picture occurs twice"


def _odd(findings: Findings) -> Iterator[str | Problem]:
    """Nothing that stops a training, and still worth a look."""
    for number, part in enumerate(findings.parts):
        huge = [place for place, seen in enumerate(part.seen) if seen.rows * seen.cols > HUGE]
        if huge:
            what = f"{part.title}: over {HUGE // 10**6} megapixels, slow to decode: {len(huge):,}"
            yield Problem("note", what, [part.pictures.name(place) for place in huge])
        modes = Counter(seen.mode for seen in part.seen)
        usual = modes.most_common(1)[0][0] if modes else ""
        if len(modes) > 1:
            odd = [f"{part.pictures.name(place)}: {s.mode}" for place, s in enumerate(part.seen) if s.mode != usual]
            yield Problem("note", f"{part.title}: most are stored as {usual}, {len(odd):,} otherwise", odd)
        alone = [name for name, c in zip(findings.classes, part.pictures.counts, strict=True) if c == 1]
        if number == 0 and alone:
            yield Problem("note", f"{part.title}: classes of one picture, of which none can be held out", alone)


def _table(parts: list[Part]) -> Iterator[str]:
    rows = [("", "pictures", "set aside", "fewest in a class", "most")]
    for part in parts:
        counts = part.pictures.counts
        told = (len(part.pictures), len(part.quarantine), min(counts, default=0), max(counts, default=0))
        rows.append((part.title, *(f"{number:,}" for number in told)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows if parts else []:
        yield first.ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))


def _classes(findings: Findings) -> Iterator[str]:
    """The classes in their order, which decides their numbers; each with its pictures by split."""
    shown = findings.classes[:CLASSES_SHOWN]
    if shown:
        told = [f"{name} {'/'.join(str(p.pictures.counts[i]) for p in findings.parts)}" for i, name in enumerate(shown)]
        yield "classes " + ", ".join(told) + (" …" if len(findings.classes) > len(shown) else "")


def shapes(parts: Sequence[Part]) -> Iterator[str]:
    """Sizes, and how pictures are stored."""
    seen = [seen for part in parts for seen in part.seen]
    if seen:
        rows, cols = np.asarray([(s.rows, s.cols) for s in seen]).T
        small, large = np.argmin(rows * cols), np.argmax(rows * cols)
        sizes = f"{rows[small]}x{cols[small]} to {rows[large]}x{cols[large]}"
        sizes += f", median {int(np.median(rows))}x{int(np.median(cols))}"
        modes = ", ".join(f"{mode} {count:,}" for mode, count in Counter(s.mode for s in seen).most_common())
        yield f"rows x columns {sizes}; {modes}"
