"""Embedding: pictures or texts in, a Parquet file or Lance folder of their vectors out, batch by batch."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow
import pyarrow.parquet

from tessella import __version__
from tessella.data.pixels import Unreadable, decode
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.features import Embedder
from tessella.files import explained, replacing
from tessella.matcher import Matcher
from tessella.picture_lines import printable
from tessella.portions import SIZE, Item, Portion, Refuse

Of = Literal["pictures", "texts"]
Columns = dict[str, Any]
"""Lists of the cells of columns by name; vectors are an array n e."""
FACTS = b"tessella"
"""Key of the metadata of a file of vectors: JSON, see `Space`."""


@dataclass(frozen=True)
class Space:
    """What vectors were made by: `tessella` (its version), run, fingerprint of the model, numbers a vector, of what."""

    run: str
    fingerprint: str
    dim: int
    of: Of

    @classmethod
    def by(cls, embedder: Embedder, run: str, of: Of) -> Space:
        """That of what was loaded as `run`."""
        return cls(run, embedder.fingerprint, embedder.dim, of)

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns: path, row, width, height and vector of pictures; row, text and vector of texts."""
        vector = pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), self.dim), nullable=False)
        columns = {
            "pictures": [("path", pyarrow.string()), ("row", pyarrow.int64()), ("width", pyarrow.int32()),
                         ("height", pyarrow.int32())],
            "texts": [("row", pyarrow.int64()), ("text", pyarrow.string())],
        }[self.of]  # fmt: skip
        told = {"tessella": __version__, **asdict(self)}
        return pyarrow.schema([*(pyarrow.field(*one) for one in columns), vector], {FACTS: json.dumps(told)})


def space_of(path: Path) -> dict[str, str | int]:
    """What a Parquet file of vectors says it was made by. Raises InputError for any other file."""
    with explained(path):
        try:
            return json.loads((pyarrow.parquet.read_schema(path).metadata or {})[FACTS])
        except (pyarrow.ArrowException, KeyError, ValueError):
            raise InputError(f"{path} holds no vectors written by `tessella embed`") from None


@dataclass
class Embedded:
    """What became of it all: how many vectors, texts that were cut, and what has no vector and why."""

    rows: int = 0
    cut: int = 0
    quarantine: Quarantine = field(default_factory=Quarantine)


class Rows(Protocol):
    """What makes rows of the schema of some items: at most `SIZE` at once, each done item counted."""

    def __call__(
        self, embedder: Any, items: Iterable[Item], batch: int, refuse: Refuse, done: Callable[[int], None]
    ) -> Iterator[Columns]: ...


def picture_rows(
    embedder: Embedder, items: Iterable[Item], batch: int, refuse: Refuse, done: Callable[[int], None]
) -> Iterator[Columns]:
    """Columns of those pictures that can be read; the next batch is decoded while the model computes."""
    waiting: deque[Item] = deque()

    def taken() -> Iterator[Item]:
        for item in items:
            waiting.append(item)
            yield item

    def picture(item: Item):
        image = decode(item.source, embedder.image.channels)
        item.width, item.height = image.size
        return image

    good: list[tuple[Item, np.ndarray]] = []
    for answer in embedder.pictures(taken(), picture, batch):
        item = waiting.popleft()
        if isinstance(answer, InputError):
            detail = answer.detail if isinstance(answer, Unreadable) else ""
            refuse(item.path, item.row, answer.reason if isinstance(answer, Unreadable) else str(answer), detail)
        else:
            good.append((item, answer))
        done(1)
        if len(good) == SIZE:
            yield _of_pictures(good)
            good = []
    if good:
        yield _of_pictures(good)


def text_rows(
    embedder: Matcher, items: Iterable[Item], batch: int, refuse: Refuse, done: Callable[[int], None]
) -> Iterator[Columns]:
    """Columns of texts; what a model does not read of a long one is cut."""
    left = iter(items)
    while some := list(islice(left, SIZE)):
        texts = [str(item.source) for item in some]
        yield {"row": [item.row for item in some], "text": texts, "vector": embedder.texts(texts, batch)}
        done(len(some))


ROWS: dict[Of, Rows] = {"pictures": picture_rows, "texts": text_rows}
"""Of what -> what makes their rows."""


def batches(
    embedder: Any,
    space: Space,
    portions: Iterable[Portion],
    found: Embedded,
    batch: int,
    done: Callable[[int], None],
) -> Iterator[pyarrow.RecordBatch]:
    """The vectors of all portions, in order; what has none goes to `found`. Memory holds one batch of rows."""
    refuse, schema = found.quarantine.add, space.schema
    for portion in portions:
        for columns in ROWS[space.of](embedder, portion.items(refuse), batch, refuse, done):
            rows = record_batch(columns, schema)
            found.rows += rows.num_rows
            if space.of == "texts":
                found.cut += embedder.text(columns["text"]).cut
            yield rows


def record_batch(columns: Columns, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    """Columns, the vectors as rows of numbers, by a schema."""
    vectors = np.ascontiguousarray(columns["vector"], np.float32)
    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
    arrays = [flat if f.name == "vector" else pyarrow.array(columns[f.name], f.type) for f in schema]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def embed(
    embedder: Embedder,
    space: Space,
    portions: Iterable[Portion],
    found: Embedded,
    out: Path,
    batch: int = 32,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes the vectors of all portions to `out`, a .parquet file or a .lance folder, whole or not at all.

    `found` may know already what the portions refuse. What has no vector is listed beside the vectors (`aside`).
    Raises InputError where nothing has one, where a table cannot be read, and where the disk is full.
    """
    write = write_lance if out.suffix == ".lance" else write_parquet
    write(_some(batches(embedder, space, portions, found, batch, done), found, space.of), space.schema, out)
    save_aside(found.quarantine, out)


def aside(out: Path) -> Path:
    """Where what has no vector is listed."""
    return out.with_name(f"{out.name}.quarantine.jsonl")


def save_aside(quarantine: Quarantine, out: Path) -> None:
    """Lists what has no vector; where everything has one, there is no such file."""
    with explained(aside(out)):
        if len(quarantine):
            quarantine.save(aside(out))
        else:
            aside(out).unlink(missing_ok=True)


def nothing(found: Embedded, of: Of) -> InputError:
    """What is said where nothing has a vector."""
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in list(found.quarantine.reasons().items())[:3])
    return InputError(f"there are no {of} to embed ({reasons or 'nothing is there'})")


def _some(rows: Iterator[pyarrow.RecordBatch], found: Embedded, of: Of) -> Iterator[pyarrow.RecordBatch]:
    yield from rows
    if not found.rows:
        raise nothing(found, of)


def write_parquet(rows: Iterator[pyarrow.RecordBatch], schema: pyarrow.Schema, out: Path) -> None:
    """One file, a row group a batch."""
    with replacing(out) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, use_dictionary=["path"]) as file:
        for one in rows:
            file.write_batch(one)


def write_lance(rows: Iterator[pyarrow.RecordBatch], schema: pyarrow.Schema, out: Path) -> None:
    """A folder that LanceDB reads as the table of its name; one that is there already is refused."""
    from tessella.retrieval.store import lancedb

    failed: list[BaseException] = []

    def watched() -> Iterator[pyarrow.RecordBatch]:
        try:
            yield from rows
        except BaseException as error:  # LanceDB would tell it as one of its own
            failed.append(error)
            raise

    library = lancedb()
    with scratch(out) as folder:
        try:
            reader = pyarrow.RecordBatchReader.from_batches(schema, watched())
            library.connect(str(folder)).create_table(out.stem, reader, schema=schema)
        except Exception as error:
            raise failed[0] if failed else OSError(str(error)) from None
        os.rename(folder / f"{out.stem}.lance", out)


@contextmanager
def scratch(out: Path, ending: str = "tmp") -> Iterator[Path]:
    """A folder beside `out`, gone afterwards. Raises InputError where `out` is there already, or nothing can be."""
    if out.exists():
        raise InputError(f"{out} is there already; remove it, or choose another --out")
    folder = out.with_name(f".{out.name}.{ending}")
    with explained(out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _of_pictures(good: list[tuple[Item, np.ndarray]]) -> Columns:
    items = [item for item, _ in good]
    return {
        "path": [printable(item.path) for item in items],
        "row": [item.row or None for item in items],
        "width": [item.width for item in items],
        "height": [item.height for item in items],
        "vector": np.stack([vector for _, vector in good]),
    }
