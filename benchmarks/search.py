"""Search: a million vectors indexed and searched, and what indexing photos costs beside embedding them.

    python benchmarks/search.py [--rows 1000000] [--keep FOLDER] [--out docs/results/clip-search.json]
    python benchmarks/search.py --sizes 10000 20000 50000 100000 [--out docs/results/clip-search.json]
    python benchmarks/search.py --photos DATA [--rounds 5] [--threads 1] [--out docs/results/clip-search.json]

The vectors: a centre for every thousand rows, of length 1 and any direction; a row is a centre drawn at random plus normal
noise of length 0.8, of 512 dimensions, normalised; queries are drawn alike. Each search is one of `tessella.retrieval`, as
the command line does it, with all columns of ten answers; recall is against exact search with NumPy, over the same
queries. With `--keep` the index stays in a folder, and a second run with it only searches. `--sizes` tells from how many rows an index is quicker than looking at every row. `--photos` embeds the photos of
DATA (flickr8k and imagenet-samples) by a CLIP ViT-B/32 of random weights in bf16, alone and as `tessella index` does,
in turns, with an index made from nothing each time. DATA/flickr8k/test.parquet is at ../shared/data in the house.
"""  # noqa: E501  commands on one line each

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tessella.retrieval.approximate import TOP, Plan, build, planned
from tessella.retrieval.exact import nearest
from tessella.retrieval.search import Search
from tessella.retrieval.store import Facts, Store

DIM, ROWS_A_CENTRE, NOISE = 512, 1000, 0.8
AT_ONCE = 50_000
QUERIES, WARM = 500, 20
FASTEST, FOUND, OVERHEAD = 20.0, 0.97, 10.0
"""The targets: milliseconds at the 95th percentile, recall@10, and percent that indexing may add to embedding."""
WHERE = {"half of the rows": "year < 2012", "4 %": "year = 2024", "1 in 1,000": "width = 7", "none": "width < 0"}
"""Conditions, and what they let through: years are even from 2000 to 2024 and widths from 0 to 999."""
Row = tuple[str, float, str, str | None, bool | None]
"""name, value, unit, target, met."""


class Clusters:
    """Rows and queries; the same for the same number of rows."""

    def __init__(self, rows: int):
        self.rows = rows
        centres = np.random.default_rng(0).standard_normal((max(rows // ROWS_A_CENTRE, 1), DIM), dtype=np.float32)
        self.centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)

    def drawn(self, count: int, seed: int) -> np.ndarray:
        """count d."""
        rng = np.random.default_rng([1, seed])
        made = self.centres[rng.integers(0, len(self.centres), count)]
        made = made + rng.standard_normal((count, DIM), dtype=np.float32) * np.float32(NOISE / DIM**0.5)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def tables(self) -> Iterator[pa.Table]:
        """All rows with the columns of an index, some at a time."""
        for start in range(0, self.rows, AT_ONCE):
            count = min(AT_ONCE, self.rows - start)
            numbers = np.arange(start, start + count)
            days = (numbers * 7919 % 25) * 365.25 + 180
            moments = pa.array((days * 86400e6 + 946684800e6).astype(np.int64), pa.timestamp("us"))
            yield pa.table(
                {
                    "vector": pa.FixedSizeListArray.from_arrays(pa.array(self.drawn(count, start).ravel()), DIM),
                    "path": [f"{number // 1000:04}/{number:07}.jpg" for number in numbers.tolist()],
                    "size": pa.array(numbers),
                    "modified": moments,
                    "date": moments,
                    "width": pa.array(numbers * 7907 % 1000),
                    "height": pa.array(np.full(count, 480)),
                    "caption": pa.array([None] * count, pa.string()),
                    "content": [f"{number:032x}" for number in numbers.tolist()],
                }
            )


def filled(folder: Path, clusters: Clusters) -> tuple[Store, float]:
    """An index of all rows, not yet of their vectors, and the seconds that writing took."""
    folder.mkdir(parents=True)
    facts = Facts("none", "none", DIM, str(folder), "pictures-1", {})
    facts.write(folder)
    store = Store(folder, facts)
    took = 0.0
    for table in clusters.tables():
        began = time.perf_counter()
        store.table.add(table)
        took += time.perf_counter() - began
    began = time.perf_counter()
    store.tidy()
    return store, took + time.perf_counter() - began


def timed(search: Search, queries: np.ndarray, where: str | None = None) -> tuple[list[list[str]], np.ndarray, float]:
    """Paths found for every query, the milliseconds each took, sorted, and processor milliseconds of one on average."""
    condition = search.condition(where)
    for query in queries[:WARM]:
        search.nearest(query, TOP, condition)
    found, took, busy = [], [], time.process_time()
    for query in queries:
        began = time.perf_counter()
        hits = search.nearest(query, TOP, condition)
        took.append((time.perf_counter() - began) * 1e3)
        found.append([hit.path for hit in hits])
    return found, np.sort(took), (time.process_time() - busy) / len(queries) * 1e3


def truth(search: Search, queries: np.ndarray, where: str | None = None) -> list[list[str]]:
    """By NumPy."""
    condition = search.condition(where)
    columns = ["vector", "path", *(set(condition.columns()) - {"path"} if condition else ())]
    paths: list[pa.Array] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in search.store.scan(columns):
            paths.append(batch.column("path"))
            yield batch

    rows, _ = nearest(batches(), queries, TOP, condition)
    names = pa.chunked_array(paths, pa.string())
    return [names.take(pa.array(row)).to_pylist() for row in rows]


def recall(found: list[list[str]], true: list[list[str]]) -> float:
    """Share of the true ones that were found; all of them where there are none."""
    if not any(true):
        return float(not any(found))
    hits = sum(len(set(some) & set(right)) for some, right in zip(found, true, strict=True))
    return hits / sum(map(len, true))


def at(took: np.ndarray, share: float) -> float:
    """A percentile of sorted times."""
    return round(float(took[int(len(took) * share)]), 1)


def built(folder: Path, clusters: Clusters) -> list[Row]:
    """An index of all rows, made; what that took."""
    store, writing = filled(folder, clusters)
    plain = store.state().size
    began = time.perf_counter(), time.process_time()
    plan = planned(store, np.empty((0, DIM)), lambda line: print(line, flush=True))
    took, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    store.note(plan.kept())
    size, name = store.state().size, f"{clusters.rows:,} vectors of {DIM}"
    return [
        (f"{name}: written", round(writing, 1), "s", None, None),
        (f"{name}: index built, tuned and its recall measured ({plan})", round(took, 1), "s", None, None),
        (f"{name}: the same, processor time", round(busy, 1), "s", None, None),
        (f"{name}: on disk, index included", round(size / 1e6), "MB", None, None),
        (f"{name}: of it the index", round((size - plain) / 1e6), "MB", None, None),
    ]


def searched(folder: Path, clusters: Clusters) -> list[Row]:
    """Times and recalls of searches, without and with conditions."""
    search, queries = Search(folder), clusters.drawn(QUERIES, 10**9)
    print(search.plan, flush=True)
    found, took, busy = timed(search, queries)
    share, last = round(recall(found, truth(search, queries)), 4), at(took, 0.95)
    name, goal = f"{clusters.rows:,} vectors of {DIM}", clusters.rows == 1_000_000
    told: list[Row] = [
        (f"{name}: recall@10", share, "of 1", *((f">= {FOUND}", share >= FOUND) if goal else (None, None))),
        (f"{name}: query, p50", at(took, 0.5), "ms", None, None),
        (f"{name}: query, p95", last, "ms", *((f"< {FASTEST:g}", last < FASTEST) if goal else (None, None))),
        (f"{name}: query, processor time, mean", round(busy, 1), "ms", None, None),
    ]
    for words, where in WHERE.items():
        found, took, busy = timed(search, queries[:200], where)
        share, kind = round(recall(found, truth(search, queries[:200], where)), 4), f"query where {where} ({words})"
        told.append((f"{name}: {kind}, recall@10", share, "of 1", None, None))
        told.append((f"{name}: {kind}, p50", at(took, 0.5), "ms", None, None))
        told.append((f"{name}: {kind}, p95", at(took, 0.95), "ms", None, None))
        told.append((f"{name}: {kind}, processor time, mean", round(busy, 1), "ms", None, None))
    search.plan = Plan()
    _, took, busy = timed(search, queries[:30])
    told.append((f"{name}: exact query, p50", at(took, 0.5), "ms", None, None))
    told.append((f"{name}: exact query, processor time, mean", round(busy, 1), "ms", None, None))
    return told


def vectors(rows: int, folder: Path) -> list[Row]:
    """A table of so many vectors, made unless it is there, and searched."""
    clusters, folder = Clusters(rows), folder / f"{rows}.lance"
    made = [] if folder.exists() else built(folder, clusters)
    return made + searched(folder, clusters)


def sizes(counts: list[int], folder: Path) -> list[Row]:
    """Exact searches beside those of an index, for tables of several sizes."""
    told: list[Row] = []
    for rows in counts:
        clusters = Clusters(rows)
        store, _ = filled(folder / str(rows), clusters)
        queries, search = clusters.drawn(100, 10**9), Search(folder / str(rows))
        _, exact, _ = timed(search, queries)
        partitions = round(rows**0.5)
        began = time.perf_counter()
        build(store, partitions)
        store.tidy()
        building = time.perf_counter() - began
        search = Search(folder / str(rows))
        search.plan = Plan(False, partitions, 40, 5)
        _, took, _ = timed(search, queries)
        name = f"{rows:,} vectors of {DIM}"
        told.append((f"{name}: exact query, p50", at(exact, 0.5), "ms", None, None))
        told.append((f"{name}: query of an index, p50", at(took, 0.5), "ms", None, None))
        told.append((f"{name}: index built", round(building, 1), "s", None, None))
    return told


def photos(data: Path, rounds: int, threads: int, folder: Path) -> list[Row]:
    """Seconds of indexing over those of embedding the same files."""
    import torch

    from tessella.data.ids import Reading
    from tessella.data.pixels import Preprocess
    from tessella.inference.prepare import prepare
    from tessella.matcher import Matcher
    from tessella.retrieval.indexing import Task, index
    from tessella.text import CodecSpec, train_codec
    from tessella.zoo.catalog import model_spec
    from tessella.zoo.clip import MEAN, STD

    class Quiet:
        def say(self, line: str) -> None:
            print(line, flush=True)

        def begin(self, pictures: int) -> None: ...

        def advance(self, pictures: int) -> None: ...

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    words = ["a photo of a dog", "two cats"]
    reading = Reading(train_codec(CodecSpec(size=300), words, words).source, 77)
    model = prepare(model_spec("clip_vit_b32", {}).build().eval(), "bfloat16")
    matcher = Matcher(model, Preprocess(size=(224, 224), crop=1.0, mean=MEAN, std=STD), reading, "random")
    where = folder / "photos"
    where.mkdir(parents=True)
    for number, file in enumerate(_files(data)):
        (where / f"{number:04}.jpg").write_bytes(file)
    files = sorted(where.iterdir())
    alone, whole, spent = [], [], []
    for turn in range(rounds + 1):  # the first warms up
        began, busy = time.perf_counter(), time.process_time()
        assert sum(isinstance(one, np.ndarray) for one in matcher.images(files)) == len(files)
        alone.append((time.perf_counter() - began, time.process_time() - busy))
        began, busy = time.perf_counter(), time.process_time()
        done = index(Task(where, folder / f"{turn}.lance", "random", matcher), Quiet())
        whole.append((time.perf_counter() - began, time.process_time() - busy))
        assert done.new == len(files)
        spent.append(round(100 * (whole[-1][0] / alone[-1][0] - 1), 1))
        print(f"alone {alone[-1]}, indexing {whole[-1]}, {spent[-1]} %", flush=True)
    pairs = list(zip(whole[1:], alone[1:], strict=True))
    clock = 100 * (statistics.median(w[0] / a[0] for w, a in pairs) - 1)
    busy = 100 * (statistics.median(w[1] / a[1] for w, a in pairs) - 1)
    rate = [round(len(files) / statistics.median(one[0] for one in some[1:]), 1) for some in (alone, whole)]
    name = f"{len(files):,} photos, ViT-B/32 bf16"
    return [
        (f"{name}: embedding alone", rate[0], "photos/s", None, None),
        (f"{name}: indexing", rate[1], "photos/s", None, None),
        (f"{name}: what indexing adds, by the clock", round(clock, 1), "%", f"<= {OVERHEAD:g}", clock <= OVERHEAD),
        (f"{name}: what indexing adds, processor time", round(busy, 1), "%", None, None),
    ]


def _files(data: Path) -> list[bytes]:
    found = []
    for name in ("flickr8k/test.parquet", "imagenet-samples/samples.parquet"):
        column = pyarrow.parquet.read_table(data / name, columns=["image"]).column("image")
        found += [row["bytes"] for row in column.to_pylist()]
    return found


def hardware() -> str:
    """Such as ``2 cores AMD EPYC, LanceDB 0.40.0``."""
    from importlib.metadata import version

    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} cores {found[1].strip() if found else ''}, LanceDB {version('lancedb')}"


def write(path: Path, rows: list[Row], command: str, data: str, signature: str) -> None:
    """Records in the form of docs/results; those of the same names are replaced, others stay."""
    same: dict[str, Any] = {"topic": "clip", "command": command, "data": data, "split": "none", "signature": signature}
    same |= {"seeds": [0], "hardware": hardware(), "date": dt.date.today().isoformat()}
    fields = ("name", "value", "unit", "target", "met")
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    plain = {row[0].partition(" (IVF")[0] for row in rows}
    kept = [record for record in kept if record["name"].partition(" (IVF")[0] not in plain]
    kept += [{**same, **dict(zip(fields, row, strict=True))} for row in rows]
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measures, prints and, if asked, writes down."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--rows", type=int, default=1_000_000)
    parse.add_argument("--sizes", nargs="+", type=int)
    parse.add_argument("--photos", type=Path)
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--keep", type=Path, help="where the index is made, and stays")
    parse.add_argument("--out", type=Path)
    given = parse.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="search-"))
    command, data = "python benchmarks/search.py", f"random clusters of {DIM} dimensions"
    signature = f"{QUERIES} queries one after the other, after {WARM} to warm up"
    try:
        if given.photos:
            rows = photos(given.photos, given.rounds, given.threads, folder)
            command, data = f"{command} --photos DATA", "flickr8k test, imagenet-samples"
            signature = f"medians of {given.rounds} rounds in turns, {given.threads} thread(s)"
        elif given.sizes:
            rows = sizes(given.sizes, folder)
            command, signature = f"{command} --sizes {' '.join(map(str, given.sizes))}", "100 queries"
        else:
            rows = vectors(given.rows, given.keep or folder)
            command += "" if given.rows == 1_000_000 else f" --rows {given.rows}"
    finally:
        shutil.rmtree(folder)
    for name, value, unit, target, met in rows:
        goal = "" if target is None else f"   (target {target}: {'met' if met else 'MISSED'})"
        print(f"{name:90} {value:>10} {unit}{goal}")
    print(f"load of the machine now: {os.getloadavg()[0]:.1f}")
    if given.out:
        write(given.out, rows, command, data, signature)


if __name__ == "__main__":
    main()
