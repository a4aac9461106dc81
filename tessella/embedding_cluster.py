"""Embedding cluster: the same embedding with Ray Data, by as many processes or machines as there are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.dataset

from tessella.embedding import Embedded, Space, batches, nothing, save_aside, scratch, write_lance
from tessella.errors import InputError
from tessella.files import write_json
from tessella.portions import Portion
from tessella.spec import from_dict, to_dict

ROWS_A_FILE = 2**16
PORTION = "portion"
OURS = "tessella.errors.InputError: "
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Unless the environment says something else: nobody is told, and Ray's own processes do not talk in between."""


@dataclass(frozen=True)
class Plan:
    """How each process works: the run as it was given, its device and type, pictures at once and threads; and how many
    processes there are, None for one a GPU or, where there is none, one a processor."""

    run: str
    device: str = "auto"
    dtype: str = "float32"
    batch: int = 32
    threads: int = 1
    workers: int | None = None


class Embedder:
    """A process that loads the run once and embeds portions, one after the other, as `embedding.embed` does."""

    def __init__(self, plan: Plan, space: Space, notes: str):
        import torch

        from tessella.features import embedder

        torch.set_num_threads(plan.threads)
        self.plan, self.space, self.notes = plan, space, Path(notes)
        self.embedder = embedder(plan.run, plan.device, plan.dtype)
        if self.embedder.fingerprint != space.fingerprint:
            raise InputError(f"{plan.run} is another model on this machine")

    def __call__(self, table: pyarrow.Table) -> Iterator[pyarrow.Table]:
        """Portions as JSON -> rows of vectors; what has none is noted in a file of the portion's name."""
        for told in table[PORTION].to_pylist():
            found = Embedded()
            portion = from_dict(json.loads(told), Portion)
            yield self.space.schema.empty_table()
            for rows in batches(self.embedder, self.space, [portion], found, self.plan.batch, lambda count: None):
                yield pyarrow.Table.from_batches([rows])
            name = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()  # done twice, it is noted once
            aside = [asdict(item) for item in found.quarantine]
            write_json(self.notes / f"{name}.json", {"rows": found.rows, "cut": found.cut, "aside": aside})


def embed_on_ray(space: Space, portions: Iterable[Portion], found: Embedded, out: Path, plan: Plan) -> None:
    """Writes the vectors of all portions to `out`, a folder of Parquet files or a .lance folder, in any order.

    It runs where RAY_ADDRESS says, or on this machine alone. `out` must lie where every machine can write, the pictures
    where every one can read. Whole or not at all; see `embedding.embed` for the rest.
    """
    with scratch(out, "ray.tmp") as folder, _cluster() as ray:
        (folder / "notes").mkdir()
        rows = [pyarrow.table({PORTION: [json.dumps(to_dict(portion))]}) for portion in portions]
        if not rows:
            raise nothing(found, space.of)
        try:
            _run(ray, rows, folder, plan, space)
        except ray.exceptions.RayError as error:
            raise _cause(error) from None
        for note in sorted((folder / "notes").iterdir()):
            told = json.loads(note.read_text(encoding="utf-8"))
            found.rows, found.cut = found.rows + told["rows"], found.cut + told["cut"]
            for item in told["aside"]:
                found.quarantine.add(item["where"], item["line"], item["reason"], item["sample"])
        if not found.rows:
            raise nothing(found, space.of)
        if out.suffix == ".lance":
            made = pyarrow.dataset.dataset(folder / "vectors", space.schema)
            write_lance(made.to_batches(), space.schema, out)
        else:
            os.rename(folder / "vectors", out)
    save_aside(found.quarantine, out)


def _run(ray: Any, rows: list[pyarrow.Table], folder: Path, plan: Plan, space: Space) -> None:
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if plan.device != "cpu" else 0
    workers = plan.workers or gpus or max(1, int(there.get("CPU", 1)))
    ray.data.from_arrow(rows).map_batches(
        Embedder,
        fn_constructor_args=(plan, space, str(folder / "notes")),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=0.5,  # so that those which write are never without a processor
        num_gpus=1 if gpus else 0,
    ).write_parquet(str(folder / "vectors"), min_rows_per_file=ROWS_A_FILE, ray_remote_args={"num_cpus": 0.5})


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected: to what is there, else to a cluster of this machine that ends with us."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("--ray needs Ray Data; install it with: pip install 'tessella[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    talk = logging.getLogger("ray.data")
    talk.setLevel(logging.WARNING)
    for handler in talk.handlers:
        handler.addFilter(_no_errors)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _no_errors(record: logging.LogRecord) -> bool:
    """What fails is told in one line, by us."""
    return record.levelno < logging.ERROR


def _cause(error: Any) -> InputError:
    """What a person is told of a process that failed: its own line, or the last one that Ray says."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    if isinstance(cause, InputError):
        return InputError(lines[0])
    of_ours = [line.partition(OURS)[2] for line in lines if OURS in line]  # where it failed before its first portion
    return InputError(of_ours[-1] if of_ours else f"Ray could not finish: {lines[-1][:300]}")
