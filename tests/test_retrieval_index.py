"""An index of pictures: brought up to date, killed, interrupted, refused, and always whole."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from colours import COLOURS, Colours, Silent
from PIL import Image

from tessella.errors import InputError
from tessella.retrieval import approximate, pending, search
from tessella.retrieval.indexing import Task, index
from tessella.retrieval.metadata import read_metadata
from tessella.retrieval.search import Search, fits
from tessella.retrieval.store import Store
from tessella.retrieval.writer import Writer

pytest.importorskip("lancedb")
SCRIPT = Path(__file__).with_name("colours.py")


def paint(path: Path, colour: str, seed: int = 0, exif: dict[int, str] | None = None) -> Path:
    """A picture of one colour, with noise that makes each file another one."""
    noise = np.random.default_rng(seed).integers(-15, 16, (24, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    told = Image.Exif()
    told.update(exif or {})
    values = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(values).save(path, **({"exif": told} if exif else {}))
    return path


@pytest.fixture
def photos(tmp_path):
    for n, colour in enumerate(list(COLOURS) * 3):
        paint(tmp_path / "photos" / colour / f"{n}.jpg", colour, n)
    return tmp_path / "photos"


def update(photos, db, embedder=None, **more):
    watcher = Silent()
    done = index(Task(photos, db, "runs/colours", embedder or Colours(), **more), watcher)
    return done, watcher


def paths(db) -> list[str]:
    return sorted(path for batch in Store.open(db).scan(["path"]) for path in batch.column("path").to_pylist())


def listed(photos) -> list[str]:
    return sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))


def test_only_what_changed_is_embedded(photos, tmp_path):
    db = tmp_path / "photos.lance"
    done, watcher = update(photos, db)
    assert (done.new, done.embedded, watcher.total, watcher.advanced) == (18, 18, 18, 18)
    done, _ = update(photos, db, (again := Colours()))
    assert (done.new, done.changed, done.gone, done.same, again.seen) == (0, 0, 0, 18, 0)

    os.utime(photos / "red/0.jpg", (10**9, 10**9))  # touched: the content is known
    shutil.move(photos / "red/6.jpg", photos / "moved.jpg")
    shutil.copy(photos / "blue/2.jpg", photos / "copy.jpg")
    paint(photos / "red/12.jpg", "green", 99)
    paint(photos / "new.jpg", "yellow", 98)
    (photos / "white/4.jpg").unlink()
    done, _ = update(photos, db, (again := Colours()))
    assert (done.new, done.changed, done.again, done.gone, done.same) == (1, 1, 3, 2, 14)
    assert again.seen == 2
    assert paths(db) == listed(photos)
    hits = {hit.path: hit for hit in Search(db).nearest(Colours().texts(["red"])[0], 2)}
    assert hits["red/0.jpg"].columns["modified"].year == 2001
    assert hits["moved.jpg"].score > 0.99
    green = Search(db).nearest(Colours().texts(["green"])[0], 4)
    assert "red/12.jpg" in [hit.path for hit in green]


def test_two_pictures_that_swap_their_files_keep_their_own_vectors(photos, tmp_path):
    update(photos, tmp_path / "db")
    red, blue = photos / "red/0.jpg", photos / "blue/2.jpg"
    was = red.read_bytes(), blue.read_bytes()
    red.write_bytes(was[1]), blue.write_bytes(was[0])
    done, _ = update(photos, tmp_path / "db", (again := Colours()))
    assert (done.again, again.seen) == (2, 0)
    best = [hit.path for hit in Search(tmp_path / "db").nearest(Colours().texts(["red"])[0], 3)]
    assert "blue/2.jpg" in best and "red/0.jpg" not in best


def test_unreadable_pictures_are_named_and_not_tried_again(photos, tmp_path):
    db = tmp_path / "db"
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("no picture")
    (photos / "cut.jpg").write_bytes((photos / "red/0.jpg").read_bytes()[:300])
    (photos / "link.jpg").symlink_to("nowhere.jpg")
    (photos / "notes.txt").write_text("not even called a picture")
    done, watcher = update(photos, db)
    assert (done.new, done.unreadable, watcher.advanced) == (18, 4, 22)
    aside = [json.loads(line) for line in (db / "quarantine.jsonl").read_text().splitlines()]
    assert [one["path"] for one in aside] == ["cut.jpg", "empty.jpg", "link.jpg", "text.jpg"]
    assert aside[1]["reason"] == "empty file" and aside[2]["reason"] == "no such file"
    done, watcher = update(photos, db)
    assert (done.unreadable, done.still_unreadable, watcher.total) == (0, 4, 0)

    paint(photos / "cut.jpg", "red", 77)
    (photos / "empty.jpg").unlink()
    (photos / "green/1.jpg").write_bytes(b"broken now")
    done, _ = update(photos, db)
    assert (done.new, done.unreadable, done.still_unreadable) == (1, 1, 2)
    aside = [json.loads(line)["path"] for line in (db / "quarantine.jsonl").read_text().splitlines()]
    assert aside == ["green/1.jpg", "link.jpg", "text.jpg"]
    assert paths(db) == sorted({*listed(photos)} - {*aside})


def test_another_model_is_refused_until_the_index_is_rebuilt(photos, tmp_path):
    db = tmp_path / "db"
    update(photos, db)
    with pytest.raises(InputError, match=r"made with runs/colours, .* give --rebuild to start over"):
        update(photos, db, Colours("others"))
    with pytest.raises(InputError, match="is another model"):
        fits(Search(db), "others", "runs/others")
    assert len(paths(db)) == 18
    done, _ = update(photos, db, Colours("others"), rebuild=True)
    assert done.new == 18
    fits(Search(db), "others", "runs/others")
    assert [one.name for one in db.glob("*.lance")] == ["pictures-2.lance"]


def test_an_index_is_of_one_folder(photos, tmp_path):
    db = tmp_path / "db"
    update(photos, db)
    other = tmp_path / "other"
    paint(other / "1.jpg", "red")
    with pytest.raises(InputError, match=r"is the index of .*photos, not of .*other; give another --db"):
        update(other, db)
    with pytest.raises(InputError, match="no folder"):
        update(tmp_path / "nowhere", db)
    with pytest.raises(InputError, match="is there already, and no index"):
        update(photos, photos / "red")
    photos.rename(tmp_path / "renamed")
    done, watcher = update(tmp_path / "renamed", db)
    assert done.same == 18 and "no longer there; taking" in watcher.lines[0]


def test_an_index_may_lie_among_the_photos(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    update(Path("photos"), Path("photos/found.lance"))
    paint(photos / "found.lance" / "odd.jpg", "red")
    assert update(Path("photos"), Path("photos/found.lance"))[0].same == 18
    assert len(paths(photos / "found.lance")) == 18


def test_an_empty_disk_in_its_place_deletes_nothing(photos, tmp_path):
    update(photos, tmp_path / "db")
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(InputError, match=r"holds no pictures, and its index 18: is a disk not mounted\?"):
        update(photos, tmp_path / "db")
    assert len(paths(tmp_path / "db")) == 18


def test_metadata_become_columns(photos, tmp_path):
    table, db = tmp_path / "meta.csv", tmp_path / "db"
    lines = [
        "path,words,stars,day,kept",
        "red/0.jpg,it's red,5,2024-05-17,true",
        "photos/blue/2.jpg,,,,",
        "gone.jpg,x,1,,",
    ]
    table.write_text("\n".join(lines))
    update(photos, db, metadata=read_metadata(table, "words"))
    found = Search(db)
    assert {name: str(kind) for name, kind in found.store.columns.items()}["stars"] == "int64"
    red = Colours().texts(["red"])[0]
    assert [hit.path for hit in found.nearest(red, 9, found.condition("caption = 'it''s red' and stars >= 5"))] == [
        "red/0.jpg"
    ]
    assert [hit.path for hit in found.nearest(red, 9, found.condition("day = '2024-05' and kept = true"))] == [
        "red/0.jpg"
    ]
    assert len(found.nearest(red, 99, found.condition("caption is null"))) == 17

    table.write_text("path,words,stars,by\nred/0.jpg,still red,4,Kim\n")
    done, _ = update(photos, db, (again := Colours()), metadata=read_metadata(table, "words"))
    assert (done.described, again.seen) == (1, 0)
    (hit,) = Search(db).nearest(red, 9, Search(db).condition("by = 'Kim'"))
    assert (hit.columns["caption"], hit.columns["stars"], hit.columns["kept"]) == ("still red", 4, True)

    paint(photos / "red/0.jpg", "red", 55)  # changed, and no metadata given: what was known stays
    assert update(photos, db)[0].changed == 1
    (hit,) = Search(db).nearest(red, 9, Search(db).condition("stars = 4"))
    assert hit.path == "red/0.jpg"


BAD_TABLES = {
    "name,x\na,1\n": "has no column 'path', only 'name', 'x'",
    "path,size\nred/0.jpg,1\n": "has a column 'size', which an index cannot have beside its own",
    "path,a.b\nred/0.jpg,1\n": "has a column 'a.b'",
    "path,x,x\nred/0.jpg,1,2\n": "has 2 columns called 'x'",
    "path,x\nnowhere.jpg,1\n": "names no picture of",
    "": "is empty",
}


@pytest.mark.parametrize("text", BAD_TABLES, ids=list(BAD_TABLES.values()))
def test_metadata_that_cannot_be_used(photos, tmp_path, text):
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(InputError, match=BAD_TABLES[text].replace("(", r"\(")):
        update(photos, tmp_path / "db", metadata=read_metadata(tmp_path / "meta.csv"))


def test_metadata_of_other_types_are_refused(photos, tmp_path):
    (tmp_path / "a.csv").write_text("path,stars\nred/0.jpg,5\n")
    (tmp_path / "b.csv").write_text("path,stars\nred/0.jpg,many\n")
    update(photos, tmp_path / "db", metadata=read_metadata(tmp_path / "a.csv"))
    with pytest.raises(InputError, match="column 'stars' holds text, in the index it holds a whole number"):
        update(photos, tmp_path / "db", metadata=read_metadata(tmp_path / "b.csv"))
    with pytest.raises(InputError, match=r"no column 'stras'|has no column 'stras'; did you mean 'stars'"):
        read_metadata(tmp_path / "a.csv", "stras")


def test_dates_are_the_cameras_where_it_told_one(tmp_path):
    exif = {0x0132: "2019:07:21 18:30:05"}
    paint(tmp_path / "photos/a.jpg", "red", 0, exif)
    os.utime(paint(tmp_path / "photos/b.jpg", "red", 1), (1.7e9, 1.7e9))
    paint(tmp_path / "photos/c.jpg", "red", 2, {0x0132: "0000:00:00 00:00:00"})
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(tmp_path / "photos/b.jpg").save(tmp_path / "photos/d.jpg", exif=turned)
    update(tmp_path / "photos", tmp_path / "db")
    found = Search(tmp_path / "db")
    hits = {hit.path: hit.columns for hit in found.nearest(Colours().texts(["red"])[0], 9)}
    assert str(hits["a.jpg"]["date"]) == "2019-07-21 18:30:05"
    assert hits["b.jpg"]["date"].year == 2023 and hits["c.jpg"]["date"].year >= 2024
    assert (hits["a.jpg"]["width"], hits["d.jpg"]["width"], hits["d.jpg"]["height"]) == (32, 24, 32)
    year = found.condition("year = 2019 and month = 7")
    assert [hit.path for hit in found.nearest(Colours().texts(["red"])[0], 9, year)] == ["a.jpg"]


def test_a_second_writer_is_told_who_writes(photos, tmp_path):
    db = tmp_path / "db"
    with Writer(db), pytest.raises(InputError, match=rf"is being written by process {os.getpid()} on .*; wait for it"):
        update(photos, db)
    assert update(photos, db)[0].new == 18


@pytest.fixture
def many(tmp_path):
    for n in range(150):
        paint(tmp_path / "photos" / f"{n % 7}" / f"{n}.jpg", list(COLOURS)[n % 6], n)
    for n in range(5):
        (tmp_path / "photos" / f"bad{n}.jpg").write_bytes(b"no picture %d" % n)
    return tmp_path / "photos"


def start(photos: Path, db: Path, wait: float, rows: int) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(photos), str(db), str(wait), str(rows)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_loses_and_repeats_nothing(many, tmp_path, kills):
    """A real process, killed again and again while it writes and tidies; between kills files change as well."""
    db = tmp_path / "db"
    rng = random.Random(int.from_bytes(os.urandom(4)))
    for kill in range(kills):
        process = start(many, db, 0.01, 10)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        delay = rng.uniform(0.05, 1.6)
        time.sleep(delay)
        process.kill()
        process.wait()
        paint(many / "0" / "0.jpg", "blue", 1000 + kill)
        if list(db.glob("*.lance")):
            there = paths(db)
            assert len(there) == len(set(there)), f"killed after {delay} s"
    killed = (db / "writer.json").exists()
    done, watcher = update(many, db)
    assert killed == any("ended before it was done; going on from there" in line for line in watcher.lines)
    assert paths(db) == [path for path in listed(many) if not path.startswith("bad")]
    assert done.unreadable + done.still_unreadable == 5
    assert done.after.versions == 1
    for batch in Store.open(db).scan(["path", "content", "vector"]):
        for path, row in zip(batch.column("path").to_pylist(), batch.column("vector").to_pylist(), strict=True):
            (wanted,) = Colours().images([many / path])
            np.testing.assert_allclose(row, wanted, atol=1e-6)


def test_ctrl_c_keeps_what_is_embedded(many, tmp_path):
    class Interrupted(Colours):
        def images(self, sources, batch=32):
            for n, vector in enumerate(super().images(sources, batch)):
                if n == 40:
                    raise KeyboardInterrupt
                yield vector

    watcher = Silent()
    with pytest.raises(KeyboardInterrupt):
        index(Task(many, tmp_path / "db", "runs/colours", Interrupted()), watcher)
    assert watcher.lines[-1] == "interrupted; 40 of 155 pictures are in the index"
    assert len(paths(tmp_path / "db")) == 40
    done, _ = update(many, tmp_path / "db", (again := Colours()))
    assert (done.new, again.seen) == (110, 110)


def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(many, tmp_path):
    db = tmp_path / "db"
    few = many.parent / "few"
    few.mkdir()
    (few / "0").mkdir()
    for path in (many / "0").iterdir():
        shutil.copy2(path, few / "0")
    update(few, db)
    before = paths(db)
    for path in (many / "1").iterdir():
        shutil.copy2(path, few / "0")

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, str(SCRIPT), str(few), str(db)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=limited)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tessella: ") and "File too large" in last
    assert paths(db) == before
    assert update(few, db)[0].new == len(listed(few)) - len(before)
    assert paths(db) == listed(few)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("lance error: LanceError(IO): No space left on device (os error 28)", "the disk is full"),
        ("Permission denied (os error 13)", "permission denied; choose a folder that can be written to"),
        ("Read-only file system (os error 30)", "permission denied"),
    ],
)
def test_what_lancedb_says_of_disks_is_one_line(photos, tmp_path, monkeypatch, said, told):
    def fails(*_):
        raise RuntimeError(said)

    update(photos, tmp_path / "db")
    paint(photos / "more.jpg", "red", 44)
    monkeypatch.setattr("lancedb.table.LanceTable.add", fails)
    with pytest.raises(InputError, match=told):
        update(photos, tmp_path / "db")
    monkeypatch.undo()
    assert update(photos, tmp_path / "db")[0].new == 1


def test_what_is_no_matter_of_disks_is_not_swallowed(photos, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("compaction failed")

    monkeypatch.setattr("lancedb.table.LanceTable.optimize", fails)
    with pytest.raises(RuntimeError, match="compaction failed"):
        update(photos, tmp_path / "db")


def test_a_missing_library_is_one_line(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(InputError, match=r"pip install 'tessella\[search\]'"):
        update(photos, tmp_path / "db")
    assert not (tmp_path / "db").exists()


def test_no_index_is_one_line(tmp_path):
    with pytest.raises(InputError, match="does not exist; make one with: tessella index"):
        Search(tmp_path / "db")
    (tmp_path / "db").mkdir()
    with pytest.raises(InputError, match="is no index"):
        Search(tmp_path / "db")


def test_small_writes_are_put_together(many, tmp_path, monkeypatch):
    monkeypatch.setattr(pending, "ROWS", 10)
    monkeypatch.setattr(pending, "WRITES", 4)
    done, _ = update(many, tmp_path / "db")
    assert done.before.pieces < 8 and done.before.versions > 1
    assert (done.after.pieces, done.after.versions, done.after.rows) == (1, 1, 150)


def test_slow_embedding_is_written_before_there_is_much(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pending, "SECONDS", 0.0)
    done, watcher = update(photos, tmp_path / "db")
    assert done.before.pieces == done.after.rows == watcher.advanced == 18


def test_everything_leaves_as_parquet(photos, tmp_path):
    update(photos, tmp_path / "db")
    assert Store.open(tmp_path / "db").export(tmp_path / "out.parquet") == 18
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 18 and sorted(table["path"].to_pylist()) == listed(photos)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 16)


@pytest.fixture
def clusters(tmp_path):
    """A table of 6,000 vectors in clusters, made without pictures."""
    (tmp_path / "photos").mkdir()
    paint(tmp_path / "photos" / "0.jpg", "red")
    update(tmp_path / "photos", tmp_path / "db")
    store = Store.open(tmp_path / "db")
    rng = np.random.default_rng(0)
    made = rng.standard_normal((60, 16))[rng.integers(0, 60, 6000)] + 0.4 * rng.standard_normal((6000, 16))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    rows = [{"vector": v, "path": f"{n}", "width": n % 100, "content": f"{n}"} for n, v in enumerate(made.astype("f4"))]
    store.add(rows)
    return store, rng


def test_an_index_of_vectors_is_built_when_it_pays_and_tested(clusters, monkeypatch):
    store, rng = clusters
    assert approximate.planned(store, np.empty((0, 16)), print).exact
    monkeypatch.setattr(approximate, "PAYS", 5000)
    said = []
    texts = rng.standard_normal((8, 16)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    plan = approximate.planned(store, texts, said.append)
    assert not plan.exact and plan.partitions == 77 and plan.asked >= 72
    assert plan.recall is not None and plan.recall >= approximate.AIMED
    assert f"recall@10 of the index {plan.recall:.3f}" in said[-1]
    store.note(plan.kept())

    opened = Search(store.path)
    assert opened.plan == plan
    monkeypatch.setattr(search, "FEW", 50)
    for where in (None, "width < 10", "width = 3", "width > 100"):
        condition = opened.condition(where)
        for query in texts:
            found = [hit.path for hit in opened.nearest(query, 10, condition)]
            exact = Search(store.path)
            exact.plan = approximate.Plan()
            true = [hit.path for hit in exact.nearest(query, 10, condition)]
            assert len(found) == len(true) and len(set(found) & set(true)) >= 0.7 * len(true)

    assert approximate.planned(store, texts, said.append) == plan  # nothing changed, nothing is built
    monkeypatch.setattr(approximate, "PAYS", 10_000)
    assert approximate.planned(store, texts, said.append).exact
    assert not store.table.list_indices()


def test_an_index_that_finds_too_little_is_not_used(clusters, monkeypatch):
    store, _ = clusters
    monkeypatch.setattr(approximate, "PAYS", 5000)
    monkeypatch.setattr(approximate, "STEPS", ((1, 1),))
    said = []
    plan = approximate.planned(store, np.empty((0, 16)), said.append)
    assert plan.exact and plan.recall is not None and plan.recall < approximate.PROMISED
    assert said[-1] == "that is below 0.97: searches of this table will be exact"
    store.note(plan.kept())
    assert approximate.planned(store, np.empty((0, 16)), said.append) == plan  # and not built again
    assert len(Search(store.path).nearest(np.eye(16, dtype=np.float32)[0], 5)) == 5


def test_a_reader_outlives_a_writers_tidying(photos, tmp_path):
    update(photos, tmp_path / "db")
    reader = Search(tmp_path / "db")
    red = Colours().texts(["red"])[0]
    assert len(reader.nearest(red, 99)) == 18
    for n in range(3):
        paint(photos / f"more{n}.jpg", "red", 200 + n)
        update(photos, tmp_path / "db")
    assert len(reader.nearest(red, 99)) in (18, 21)
