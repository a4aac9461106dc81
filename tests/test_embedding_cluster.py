"""Embedding on a local cluster of Ray gives the vectors that one process gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import tiny_matching as tiny
from test_cli_matching import bad, run

from tessella.embedding_cluster import _cause
from tessella.errors import InputError

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'tessella[ray]'")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Two processors of this machine, and nothing but its loopback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 * 2**20,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.run_folder(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[Path]:
    """A folder, a table of files with one that is broken, and a file that is not there."""
    root = tmp_path_factory.mktemp("pictures")
    tiny.table(root / "folder", 1)
    files = [(root / "folder" / f"{n}.png").read_bytes() for n in range(20)]
    files[13] = files[13][:-30]
    pq.write_table(pyarrow.table({"image": files}), root / "t.parquet", row_group_size=8)
    return [root / "folder", root / "t.parquet", root / "none.png"]


def rows(path: Path) -> list[dict]:
    """In the order of their names."""
    table = pyarrow.dataset.dataset(path).to_table()
    return sorted(table.to_pylist(), key=lambda row: (row["path"], row["row"] or 0))


def same(ones: list[dict], others: list[dict]) -> None:
    assert [(one["path"], one["row"], one["width"]) for one in ones] == [
        (other["path"], other["row"], other["width"]) for other in others]  # fmt: skip
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(np.array(one["vector"], np.float32), np.array(other["vector"], np.float32))


def test_a_cluster_writes_what_one_process_writes(cluster, model, given, tmp_path):
    """Bit for bit, by two processes that take any portion; what has no vector is named the same."""
    told = ("embed", model, *given, "--batch", 4, "--device", "cpu", "--out")
    here, there = tmp_path / "v.parquet", tmp_path / "vectors"
    for out, further in ((here, ()), (there, ("--ray", "--workers", 2))):
        code, _, err = run(*told, out, *further)
        assert code == 1 and "67 pictures in" in err and "2 pictures have no vector" in err, err
    same(rows(there), rows(here))
    aside = [(tmp_path / f"{out.name}.quarantine.jsonl").read_text().splitlines() for out in (here, there)]
    assert sorted(aside[0]) == sorted(aside[1]) and len(aside[0]) == 2
    schema = pq.read_schema(next(there.glob("*.parquet")))
    assert schema.equals(pq.read_schema(here), check_metadata=True)
    assert json.loads(schema.metadata[b"tessella"])["fingerprint"] == tiny.matcher().fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {
        "v.parquet", "v.parquet.quarantine.jsonl", "vectors", "vectors.quarantine.jsonl"}  # fmt: skip


def test_texts_become_a_lance_folder(cluster, model, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    texts, told = tmp_path / "t.txt", ("--out", tmp_path / "v.lance", "--ray", "--workers", 1)
    texts.write_text("a red disc\n\nblue\n")
    code, _, err = run("embed", model, "--texts", texts, *told)
    assert code == 1 and "2 texts in" in err and "1 texts have no vector" in err, err
    table = lancedb.connect(str(tmp_path)).open_table("v").to_arrow().to_pylist()
    assert [(row["row"], row["text"]) for row in table] == [(1, "a red disc"), (3, "blue")]
    np.testing.assert_allclose(
        [row["vector"] for row in table], tiny.matcher().texts(["a red disc", "blue"]), atol=1e-6
    )
    assert "is there already" in bad("embed", model, "--texts", texts, *told)


def test_what_fails_elsewhere_is_told_in_one_line():
    """Of a table that breaks, of a run that is not there, and of a machine that has no memory left."""
    mine = "t.parquet cannot be read: thrift"
    task = ray.exceptions.RayTaskError("map", "Traceback\n...", InputError(f"{mine}\nFailed to apply UDF"))
    assert str(_cause(task.as_instanceof_cause())) == mine
    died = "The actor died because of an error raised in its creation task\n  File x\n"
    assert str(_cause(RuntimeError(f"{died}tessella.errors.InputError: there is no run x"))) == "there is no run x"
    assert str(_cause(RuntimeError(f"{died}killed"))) == "Ray could not finish: killed"
    assert str(_cause(RuntimeError())) == "Ray could not finish: RuntimeError"
