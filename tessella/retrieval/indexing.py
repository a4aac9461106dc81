"""Indexing: a folder of pictures in, an index of their embeddings out; only what is new, changed or gone is touched."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from tessella.data.pixels import Unreadable
from tessella.errors import InputError
from tessella.retrieval.approximate import PAYS, planned
from tessella.retrieval.metadata import Metadata, agreed
from tessella.retrieval.pending import Done, Pending
from tessella.retrieval.photo import Photo, read_photo
from tessella.retrieval.scan import QUARANTINE, Aside, Mark, Scan, difference, scan
from tessella.retrieval.store import FACTS, Facts, Store, lancedb
from tessella.retrieval.writer import LOCK, NAME, Writer

AHEAD = 32
"""Files read before they are embedded."""
READERS = 2
"""Threads that read them."""
SAMPLE = 64
"""Captions whose embeddings, beside those of pictures, an approximate index is tested with."""
WORDS = (
    "a dog", "a cat", "two children playing", "a birthday party", "the sea at sunset", "mountains in snow", "a red car",
    "a plate of food", "people at a table", "a city at night", "a bird on a branch", "a football match", "a flower",
    "a wedding", "a document", "a screenshot", "a train station", "someone riding a bicycle", "a smiling woman",
    "an old man", "a beach with umbrellas", "a forest path", "a building with many windows", "a baby sleeping",
    "a horse in a field", "a boat on a lake", "a street with shops", "a concert", "rain on a window", "a map",
    "a drawing", "a black and white portrait",
)  # fmt: skip
"""What to test it with where there are no captions."""


class Embedder(Protocol):
    """What makes vectors: a Matcher, or anything that does the same. All vectors are normalised float32."""

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """What two models have in common only if their vectors can be compared."""
        ...

    def images(self, sources: Iterable[Path | bytes], batch: int = 32) -> Iterator[np.ndarray | InputError]:
        """Each picture's vector (dim), or why there is none, in order."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """n dim."""
        ...


@dataclass(frozen=True)
class Task:
    """What to index: a folder of pictures into an index, by a model (as it was given), with their metadata."""

    folder: Path
    db: Path
    model: str
    embedder: Embedder
    metadata: Metadata | None = None
    rebuild: bool = False
    batch: int = 32


class Watcher(Protocol):
    """Who is told how a run goes."""

    def say(self, line: str) -> None:
        """Something worth knowing."""
        ...

    def begin(self, pictures: int) -> None:
        """So many pictures are to be done."""
        ...

    def advance(self, pictures: int) -> None:
        """So many more are done."""
        ...


def index(task: Task, watcher: Watcher) -> Done:
    """Brings an index up to date with its folder, and makes it if there is none.

    Whatever moment this is killed at, each picture has one row or none, and the next run does what is left; Ctrl-C
    keeps what is embedded. Raises InputError where another process writes, where the index is of another folder or
    model, and where the disk is full or cannot be written to; the index is then as it was after the last write.
    """
    lancedb()  # before anything is made
    if not task.folder.is_dir():
        raise InputError(f"no folder {task.folder}; give one that holds pictures")
    if task.db.exists() and not (task.db / FACTS).exists() and not _is_ours(task.db):
        raise InputError(f"{task.db} is there already, and no index; choose another --db")
    with Writer(task.db) as writer:
        if writer.took_over:
            watcher.say(f"{writer.took_over} ended before it was done; going on from there")
        store = _opened(task, watcher.say)
        done = _updated(task, store, watcher)
        done.before, done.after = store.tidy()
        texts = task.embedder.texts(_captions(store)) if done.after.rows >= PAYS else np.empty((0, store.facts.dim))
        store.note(planned(store, texts, watcher.say).kept())
        return done


def _is_ours(db: Path) -> bool:
    """Whether it holds nothing, or only what a run leaves that was killed at its very beginning."""
    return db.is_dir() and {entry.name for entry in db.iterdir()} <= {LOCK, NAME, QUARANTINE}


def _opened(task: Task, say: Callable[[str], None]) -> Store:
    """The index of a task, made if it is not there. Refuses one of another folder or, not to be rebuilt, model."""
    folder, embedder = os.path.abspath(task.folder), task.embedder
    if task.rebuild or not (task.db / FACTS).exists():
        tables = [re.fullmatch(r"pictures-(\d+)\..*", entry.name) for entry in task.db.iterdir()]
        number = 1 + max((int(found[1]) for found in tables if found), default=0)
        table = f"pictures-{number}"  # the table in use changes with one write of index.json
        aside = Aside(task.db)
        aside.clear()
        aside.save()
        facts = Facts(task.model, embedder.fingerprint, embedder.dim, folder, table, {})
        facts.write(task.db)
        return Store(task.db, facts)
    facts = Facts.read(task.db)
    if facts.fingerprint != embedder.fingerprint:
        raise InputError(
            f"{task.db} was made with {facts.model}, and {task.model} is another model, or that one changed since; "
            "embeddings of two models cannot be compared: give --rebuild to start over, or another --db"
        )
    if facts.folder != folder:
        if os.path.isdir(facts.folder):
            raise InputError(f"{task.db} is the index of {facts.folder}, not of {folder}; give another --db")
        say(f"{facts.folder} is no longer there; taking {folder} for it")
    if (facts.folder, facts.model) != (folder, task.model):
        facts = replace(facts, folder=folder, model=task.model)
        facts.write(task.db)
    return Store(task.db, facts)


def _updated(task: Task, store: Store, watcher: Watcher) -> Done:
    """Rows added, replaced and removed, as the folder asks for."""
    if task.metadata:
        store.widen(agreed(task.metadata.fields, store.columns, task.metadata.where))
    found = _scanned(task, store, watcher.say)
    known, contents = store.known()
    if len(known) != store.rows:
        raise InputError(f"{task.db} holds pictures twice; something else wrote to it: start over with --rebuild")
    if known and not found.files and not found.closed:
        raise InputError(
            f"{task.folder} holds no pictures, and its index {len(known):,}: is a disk not mounted? "
            f"If they are really gone, remove {task.db}"
        )
    told = task.metadata.of(task.folder, found.files.keys()) if task.metadata else {}
    done = Done()
    pending = Pending(store, known, told, done, watcher.advance)
    what = difference(found, known, pending.aside.marks)
    done.same, done.still_unreadable = what.same, what.still_aside
    todo = [*what.new, *what.changed]
    watcher.begin(len(todo))
    try:
        while todo:
            _embed(task, {path: found.files[path] for path in todo}, contents, pending)
            pending.write()
            todo, pending.late, contents = pending.late, [], set()
    except KeyboardInterrupt:
        pending.write()
        kept = done.new + done.changed + done.again
        watcher.say(f"interrupted; {kept:,} of {len(what.new) + len(what.changed):,} pictures are in the index")
        raise
    finally:
        pending.write()  # what is done is kept, whatever ended it
    pending.describe()
    broken = [path for path in what.changed if path in pending.aside.marks]
    store.remove(what.gone + broken)
    done.gone = len(what.gone)
    for path in set(pending.aside.marks) - set(found.files) if not found.closed else ():
        pending.aside.drop(path)
    pending.aside.save()
    return done


def _scanned(task: Task, store: Store, say: Callable[[str], None]) -> Scan:
    found = scan(task.folder, Path(os.path.abspath(task.db)))
    for folder in found.closed:
        say(f"{task.folder / folder} cannot be read; what the index has of it stays")
    for name in found.unnameable:
        say(f"{name} is passed over: its name is no UTF-8")
    if not found.files and not store.rows:
        say(f"{task.folder} holds no pictures")
    return found


def _embed(task: Task, todo: dict[str, Mark], contents: set[str], pending: Pending) -> None:
    """Every picture to do: read, and embedded unless its content has a vector already."""
    began = time.monotonic()
    waiting: deque[Photo] = deque()

    def unknown() -> Iterator[bytes]:
        for path, answer in _read_ahead(task.folder, todo):
            if isinstance(answer, Unreadable):
                pending.refused(path, todo[path], answer)
            elif answer[0].content in contents:
                pending.copied(answer[0])
            else:
                waiting.append(answer[0])
                yield answer[1]

    try:
        for vector in task.embedder.images(unknown(), task.batch):
            photo = waiting.popleft()
            if isinstance(vector, InputError):
                pending.refused(photo.path, photo.mark, vector)
            else:
                pending.embedded(photo, vector)
    finally:
        pending.done.seconds += time.monotonic() - began


def _read_ahead(folder: Path, todo: dict[str, Mark]) -> Iterator[tuple[str, tuple[Photo, bytes] | Unreadable]]:
    """Each file in order; some are read while the model computes."""

    def read(path: str) -> tuple[Photo, bytes] | Unreadable:
        try:
            return read_photo(folder, path, todo[path])
        except Unreadable as error:
            return error

    left = iter(todo)
    reading: deque[tuple[str, Future[tuple[Photo, bytes] | Unreadable]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        reading.extend((path, pool.submit(read, path)) for path in islice(left, AHEAD))
        while reading:
            path, future = reading.popleft()
            reading.extend((more, pool.submit(read, more)) for more in islice(left, 1))
            yield path, future.result()


def _captions(store: Store) -> list[str]:
    """Some captions from all over the table, or a few everyday ones."""
    every = max(1, store.rows // SAMPLE)
    found, number = [], 0
    for batch in store.scan(["caption"]):
        for caption in batch.column("caption").to_pylist():
            number += 1
            if caption and number % every == 0:
                found.append(caption)
    return found[:SAMPLE] or list(WORDS)
