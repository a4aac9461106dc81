"""Rows of mixed columns: what is read, what is set aside by number, and that it takes bounded memory."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from mixed_tables import files, listings, png, wav, written

from tessella.data.columns import Schema, read_schema
from tessella.data.quarantine import Quarantine
from tessella.data.records import Records, read_records
from tessella.data.targets import divided
from tessella.errors import InputError

WORDS = [f"text {number} of its own" for number in range(100)]


def asides(quarantine: Quarantine) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in quarantine]


def read(table: Path, schema: Schema, **more) -> tuple[Records, Quarantine]:
    quarantine = Quarantine()
    return read_records([table], schema, quarantine, **more), quarantine


@pytest.fixture
def flats(tmp_path) -> tuple[Path, Schema]:
    table = written(tmp_path / "train.csv", listings())
    return table, read_schema([table], "band")


@pytest.mark.parametrize("suffix", [".parquet", ".tsv", ".jsonl"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path, flats, suffix):
    table, schema = flats
    one, _ = read(table, schema)
    other, quarantine = read(written(tmp_path / f"t{suffix}", listings()), schema)
    assert not len(quarantine)
    np.testing.assert_array_equal(one.table, other.table)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert [one.text(n) for n in range(40)] == [other.text(n) for n in range(40)]
    assert one.fingerprint() == other.fingerprint()


def test_cells_become_numbers_as_the_schema_says(flats):
    table, schema = flats
    records, _ = read(table, schema)
    town, size, rooms, balcony = records.table.T
    assert town[:4].tolist() == [3, 1, 2, 3]  # Bonn, Jena, Ulm
    assert np.isnan(size).nonzero()[0].tolist() == list(range(4, 40, 5))
    assert np.nanmean(size) == pytest.approx(0, abs=1e-6) and np.nanstd(size) == pytest.approx(1, abs=1e-6)
    assert rooms[:2].tolist() == pytest.approx([-1.5 / 1.25**0.5, -0.5 / 1.25**0.5])
    assert balcony[:3].tolist() == [2, 1, 2]  # false, true
    assert records.labels is not None and records.labels[:4].tolist() == [1, 1, 0, 0]  # high, low
    assert records.text(3) == listings()["text"][3]
    assert records.place(7) == (str(table), 8) and records.name(7) == f"{table} row 8"


def test_the_order_of_columns_and_further_ones_do_not_matter(tmp_path, flats):
    table, schema = flats
    columns = dict(reversed(listings().items()))
    other, _ = read(written(tmp_path / "t.csv", {"more": list(range(40)), **columns}), schema)
    assert other.fingerprint() == read(table, schema)[0].fingerprint()


def test_some_rows_are_those_rows(flats):
    table, schema = flats
    records, _ = read(table, schema)
    some = records.take([5, 2]).take([1])
    assert len(some) == 1 and some.place(0)[1] == 3 and some.text(0) == records.text(2)
    assert some.labels is not None and records.labels is not None and some.labels[0] == records.labels[2]
    assert some.fingerprint() != records.fingerprint()


def test_fingerprints_tell_every_change(tmp_path, flats):
    table, schema = flats
    seen = {read(table, schema)[0].fingerprint()}
    for name, value in (("town", "Ulm"), ("size", 33.0), ("text", "other"), ("band", "high"), ("balcony", True)):
        columns = listings()
        columns[name] = [columns[name][0], value, *columns[name][2:]]
        seen.add(read(written(tmp_path / "t.csv", columns), schema)[0].fingerprint())
    assert len(seen) == 6


def test_columns_that_are_lacking_are_named(tmp_path, flats):
    _, schema = flats
    columns = {name: cells for name, cells in listings().items() if name not in ("size", "town")}
    table = written(tmp_path / "t.csv", columns)
    with pytest.raises(InputError, match=r"lacks the columns 'town', 'size' that training had") as error:
        read(table, schema)
    assert "\n" not in str(error.value)
    records, _ = read(table, schema, absent=("size", "town"))
    assert np.isnan(records.table[:, :2]).all() and not np.isnan(records.table[:, 2:]).any()
    renamed = written(
        tmp_path / "u.csv", {"Size" if name == "size" else name: cells for name, cells in listings().items()}
    )
    with pytest.raises(InputError, match="lacks the column 'size' that training had; did you mean 'Size'"):
        read(renamed, schema)


def test_labels_may_be_lacking_where_they_are_not_asked_for(tmp_path, flats):
    _, schema = flats
    table = written(tmp_path / "t.csv", {name: cells for name, cells in listings().items() if name != "band"})
    with pytest.raises(InputError, match="lacks the column 'band'"):
        read(table, schema)
    records, quarantine = read(table, schema, labelled=False)
    assert records.labels is None and len(records) == 40 and not len(quarantine)


def test_wrong_cells_set_their_row_aside_by_number_column_and_value(tmp_path, flats):
    _, schema = flats
    columns = listings()
    columns["size"] = ["90", "n/a", "12 m", "inf", "1,5", "", "NaN", *columns["size"][7:]]
    columns["band"] = [*columns["band"][:8], "", "medium", *columns["band"][10:]]
    columns["text"] = ["", *columns["text"][1:]]
    records, quarantine = read(written(tmp_path / "t.csv", columns), schema)
    assert asides(quarantine) == [
        (3, "no number in 'size'"),
        (4, "no finite number in 'size'"),
        (5, "no number in 'size'"),
        (9, "no label"),
        (10, "label is not among those of training"),
    ]
    assert [item.sample for item in quarantine] == ["12 m", "inf", "1,5", "", "medium"]
    assert len(records) == 35 and [records.place(n)[1] for n in range(4)] == [1, 2, 6, 7]
    assert np.isnan(records.table[1:4, 1]).all()
    assert records.there("text").tolist() == [False, *[True] * 34]
    with pytest.raises(InputError, match=r"t.csv row 3 is not usable: no number in 'size' \(12 m\)"):
        read_records([tmp_path / "t.csv"], schema)


def test_mixed_types_in_json_are_told_apart(tmp_path, flats):
    _, schema = flats
    columns = listings()
    columns["size"] = [50, "60", "sixty", True, [70], {"m": 2}, None, *columns["size"][7:]]
    records, quarantine = read(written(tmp_path / "t.jsonl", columns), schema)
    assert asides(quarantine) == [(row, "no number in 'size'") for row in (3, 4, 5, 6)]
    assert len(records) == 36


def test_broken_rows_are_told_once_however_a_table_is_divided(tmp_path):
    lines = ["x,y", *[f"{n / 7},{'ab'[n % 2]}" for n in range(20)]]
    lines[5] = "1,a,too many"
    (tmp_path / "t.csv").write_text("\n".join([*lines, "1,b,at the end"]) + "\n")
    paths = [tmp_path / "t.csv"]
    own, held = divided(paths, "y", 0.3)
    schema = read_schema(paths, "y", rows=own)
    quarantine = Quarantine()
    parts = [read_records(paths, schema, quarantine, rows) for rows in (own, held)]
    assert asides(quarantine) == [(5, "3 cells instead of 2"), (21, "3 cells instead of 2")]
    rows = sorted(part.place(n)[1] for part in parts for n in range(len(part)))
    assert rows == [n for n in range(1, 21) if n != 5]


def test_bytes_that_are_no_text_are_set_aside(tmp_path, flats):
    _, schema = flats
    columns = listings()
    table = pyarrow.table(columns).set_column(
        3, "text", pyarrow.array([b"caf\xe9", b"nul\0", *[t.encode() for t in columns["text"][2:]]], pyarrow.binary())
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    _, quarantine = read(tmp_path / "t.parquet", schema)
    assert asides(quarantine) == [(1, "not UTF-8 in 'text'"), (2, "NUL character in 'text'")]


def test_a_row_without_anything_is_set_aside(tmp_path, flats):
    _, schema = flats
    columns = {name: [None if name != "band" else "low", *cells[1:]] for name, cells in listings().items()}
    for suffix in (".csv", ".parquet", ".jsonl"):
        _, quarantine = read(written(tmp_path / f"t{suffix}", columns), schema)
        assert asides(quarantine) == [(1, "every column is missing")]


def test_a_category_never_seen_is_number_0_and_counted(tmp_path, flats):
    _, schema = flats
    columns = listings()
    columns["town"] = ["Rome", " Ulm ", None, "ulm", *columns["town"][4:]]
    records, quarantine = read(written(tmp_path / "t.csv", columns), schema)
    assert not len(quarantine)
    assert records.table[[0, 1, 3], 0].tolist() == [0, 3, 0] and np.isnan(records.table[2, 0])
    assert records.unseen == {"town": 2, "balcony": 0}


def test_numbers_and_words_are_the_same_however_a_table_writes_them(tmp_path):
    train = written(
        tmp_path / "a.parquet", {"k": [1, 2, 3, 4] * 10, "flag": [True, False] * 20, "y": [0, 1, 1, 0] * 10}
    )
    schema = read_schema([train], "y", {"k": "category"})
    (tmp_path / "b.csv").write_text("flag,k,y\nTrue,3.0,1.0\nfalse, 4,0\nFALSE,,1\n")
    records, quarantine = read(tmp_path / "b.csv", schema)
    assert not len(quarantine) and records.unseen == {"k": 0, "flag": 0}
    np.testing.assert_array_equal(records.table, [[3, 2], [4, 1], [np.nan, 1]])
    assert records.labels is not None and records.labels.tolist() == [1, 0, 1]


def test_a_number_far_away_stays_finite(tmp_path, flats):
    _, schema = flats
    columns = {**listings(), "size": [1e300, -1e300, *listings()["size"][2:]]}
    records, _ = read(written(tmp_path / "t.csv", columns), schema)
    assert records.table[:2, 1].tolist() == [1000, -1000]


def test_dates_are_days_however_they_are_written(tmp_path):
    days = [f"2020-{1 + n % 12:02}-{1 + n % 28:02}" for n in range(40)]
    columns = {"when": days, "y": [0, 1] * 20}
    schema = read_schema([written(tmp_path / "t.csv", columns)], "y")
    one, _ = read(tmp_path / "t.csv", schema)
    columns["when"] = pyarrow.array([f"{day}T00:00:00Z" for day in days]).cast(pyarrow.timestamp("us", "UTC"))
    other, _ = read(written(tmp_path / "t.parquet", columns), schema)
    np.testing.assert_array_equal(one.table, other.table)
    columns["when"] = [days[0] + "T12:00:00Z", "last week", *days[2:]]
    third, quarantine = read(written(tmp_path / "t.jsonl", columns), schema)
    assert asides(quarantine) == [(2, "no date in 'when'")]
    assert third.table[0, 0] - one.table[0, 0] == pytest.approx(0.5 / schema.columns[0].deviation, rel=1e-3)


def test_numbers_and_several_labels_to_predict(tmp_path):
    columns = {"x": WORDS[:8], "a": [1.0, 2.0, 3.0, None] * 2, "b": [5, 6, 7, 8] * 2}
    table = written(tmp_path / "t.csv", columns)
    schema = read_schema([table], "a,b")
    records, quarantine = read(table, schema)
    assert asides(quarantine) == [(4, "no label"), (8, "no label")]
    assert records.labels is not None
    raw = records.labels * [t.deviation for t in schema.targets] + [t.mean for t in schema.targets]
    assert raw[:3] == pytest.approx(np.array([[1, 5], [2, 6], [3, 7]]), abs=1e-5)
    tags = {"x": WORDS[:6], "y": [["red", "round"], ["red"], [], None, ["blue"], ["red"]]}
    table = written(tmp_path / "t.parquet", tags)
    schema = read_schema([table], "y", rows=[np.array([1, 1, 1, 1, 0, 1], bool)])
    records, quarantine = read(table, schema)
    assert asides(quarantine) == [(4, "no label"), (5, "label is not among those of training")]
    assert records.labels is not None and records.labels.tolist() == [[1, 1], [1, 0], [0, 0], [1, 0]]


def test_files_inside_and_beside(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_text("no picture")
    inside = {"photo": files([png(), b"junk", None, png(), b""]), "x": WORDS[:5], "y": ["a", "b", "a", "b", "a"]}
    schema = read_schema([written(tmp_path / "t.parquet", inside)], "y", {"photo": "image"})
    records, quarantine = read(tmp_path / "t.parquet", schema)
    assert [line for line, _ in asides(quarantine)] == [2] and "no image of a known kind" in asides(quarantine)[0][1]
    assert records.there("photo").tolist() == [True, False, True, False]
    assert records.read("photo", 0) == png() and records.read("photo", 1) is None
    paths = ["0.png", str(tmp_path / "1.png"), "none.png", "empty.png", "words.png", None, "x" * 300 + ".png"]
    beside = {"photo": paths, "x": WORDS[:7], "y": ["a", "b"] * 3 + ["a"]}
    for suffix in (".csv", ".parquet", ".jsonl"):
        records, quarantine = read(written(tmp_path / f"u{suffix}", beside), schema)
        assert [line for line, _ in asides(quarantine)] == [3, 4, 5, 7]
        assert [reason.partition(" in '")[0] for _, reason in asides(quarantine)][:2] == ["no such file", "empty file"]
        assert records.read("photo", 0) == tmp_path / "0.png" and records.read("photo", 1) == tmp_path / "1.png"
        assert records.there("photo").tolist() == [True, True, False]


def test_paths_may_be_bytes_and_look_like_the_beginnings_of_files(tmp_path):
    (tmp_path / "BM").mkdir()
    for number in range(3):
        (tmp_path / f"BM/{number}.png").write_bytes(png())
    cells = pyarrow.array([b"BM/0.png", b"BM/1.png", b"BM/2.png", png()] * 5, pyarrow.binary())
    table = written(tmp_path / "t.parquet", {"photo": cells, "x": WORDS[:20], "y": [0, 1] * 10})
    records, quarantine = read(table, read_schema([table], "y", {"photo": "image"}))
    assert not len(quarantine)
    assert records.read("photo", 0) == tmp_path / "BM/0.png" and records.read("photo", 3) == png()


def test_sounds_are_looked_at_too(tmp_path):
    cells = files([wav(), b"RIFF\0\0\0\0WAVEjunk", wav(seconds=0.0), wav()])
    table = written(tmp_path / "t.parquet", {"voice": cells, "y": ["a", "b", "b", "b"]})
    records, quarantine = read(table, read_schema([table], "y", {"voice": "sound"}))
    assert len(records) == 2 and [line for line, _ in asides(quarantine)] == [2, 3]


def test_nothing_usable_is_an_error(tmp_path, flats):
    _, schema = flats
    table = written(tmp_path / "t.csv", {**listings(), "band": ["none"] * 40})
    with pytest.raises(InputError, match="no row can be used"):
        read(table, schema)


def test_several_tables_are_one_behind_the_other(tmp_path, flats):
    table, schema = flats
    columns = {name: cells[:3] for name, cells in listings().items()}
    records = read_records([table, written(tmp_path / "b.jsonl", columns)], schema)
    assert len(records) == 43 and records.place(41) == (str(tmp_path / "b.jsonl"), 2)
    np.testing.assert_array_equal(records.table[40:], records.table[:3])


def test_records_go_to_other_processes(flats):
    table, schema = flats
    records, _ = read(table, schema)
    assert pickle.loads(pickle.dumps(records)).fingerprint() == records.fingerprint()


def many_rows(path: Path, count: int, at_once: int = 100_000) -> None:
    rng = np.random.default_rng(0)
    writer: pyarrow.parquet.ParquetWriter | None = None
    for _ in range(count // at_once):
        columns = {f"n{k}": rng.standard_normal(at_once) for k in range(4)}
        for name, values in (("town", 500), ("colour", 3)):
            words = np.array([f"{name} {value}" for value in range(values)])
            columns[name] = words[rng.integers(0, values, at_once)]
        table = pyarrow.table({**columns, "y": rng.integers(0, 2, at_once)})
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


MEASURED = """
import resource, sys, time
from pathlib import Path
from tessella.data.columns import read_schema
from tessella.data.record_batches import Preparation, RecordData, prepared
from tessella.data.records import read_records
from tessella.data.targets import divided

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before, paths = peak(), [Path(sys.argv[1])]
own, held = divided(paths, "y", 0.1)
schema = read_schema(paths, "y", rows=own)
records = read_records(paths, schema, rows=own)
data = RecordData(prepared(records, Preparation(schema)))
data.batch(0, 0, data.epoch(0, 512)[0])
print(len(records), peak() - before, round(time.process_time()))
"""


@pytest.mark.slow
def test_two_million_rows_take_bounded_memory(tmp_path):
    """1.8 of 2 million rows are 43 MB of numbers; all else is held for some thousand rows at a time."""
    many_rows(tmp_path / "t.parquet", 2_000_000)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "t.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    count, grown, took = map(int, done.stdout.split())
    assert count == 1_800_000 and grown < 600, f"{grown} MB more"
    assert took < 40, f"{took} processor seconds, imports included"


def test_reasons_name_the_column_so_that_they_can_be_counted(tmp_path, flats):
    _, schema = flats
    columns = {
        **listings(),
        "size": ["x"] * 3 + listings()["size"][3:],
        "rooms": [1, 2, 3, "y", *listings()["rooms"][4:]],
    }
    _, quarantine = read(written(tmp_path / "t.csv", columns), schema)
    assert quarantine.reasons() == {"no number in 'size'": 3, "no number in 'rooms'": 1}
    assert all(re.fullmatch(r".*t\.csv", item.where) for item in quarantine)
