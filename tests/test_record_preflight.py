"""What is wrong with rows of mixed columns, before a training: found, named by row, and told in lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny_vision as tiny
from command_line import run
from PIL import Image

from tessella.data.record_preflight import RecordFindings, has_rows, record_preflight

ROWS = 60
WORDS = ["sun", "rain", "hill", "lake", "fog", "snow", "road", "barn"]


def picture(number: int) -> bytes:
    kept = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


def columns(first: int = 0, **changed) -> dict:
    """Rows that have nothing wrong with them."""
    rng, numbers = np.random.default_rng(first), range(first, first + ROWS)
    made = {
        "photo": [{"bytes": picture(number)} if number % 3 else None for number in numbers],
        "words": [f"{' '.join(rng.choice(WORDS, 6))} {number}" for number in numbers],
        "town": rng.choice(["Ulm", "Rom", "Wien"], ROWS).tolist(),
        "area": rng.normal(size=ROWS).tolist(),
        "price": rng.choice(["low", "high"], ROWS).tolist(),
    }
    return {**made, **changed}


def table(path: Path, **cells) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(cells), path)
    return path


@pytest.fixture
def place(tmp_path) -> Path:
    table(tmp_path / "train.parquet", **columns())
    table(tmp_path / "val.parquet", **columns(ROWS))
    return tmp_path


def about(findings: RecordFindings, what: str) -> tuple[str, list[str]]:
    """(severity, names) of the one problem that is about this."""
    (found,) = (problem for problem in findings.problems if what in problem.what)
    return found.severity, [name.rpartition("/")[2] for name in found.names]


def test_data_in_order_have_no_problems(place):
    found = record_preflight(place, "price")
    assert found.problems == []
    assert found.fine == [
        "every row has a label, and its files can be decoded",
        "no category is new in another split",
        "no column of numbers or categories tells the label by itself",
        "no row occurs twice",
    ]
    told = found.render()
    assert "columns, as streams: photo, text, table" in told
    assert told.endswith("no problems")
    (head, train, *_) = [line for line in told.splitlines() if "no photo" in line or line.startswith("  train")]
    assert head.split() == ["rows", "set", "aside", "no", "photo", "no", "text", "no", "table"]
    assert train.split() == ["train", "60", "0", "20", "0", "0"]
    assert found.parts[0].classes["high"] + found.parts[0].classes["low"] == ROWS


def test_what_would_be_set_aside_is_named_by_row(place):
    changed = columns(ROWS)
    changed["photo"][7] = {"bytes": picture(3)[:-30]}
    changed["photo"][10] = {"bytes": b"no picture"}
    changed["price"][1:3] = [None, "medium"]
    changed["town"][0] = "Bonn"
    table(place / "val.parquet", **changed)
    found = record_preflight(place, "price")
    assert about(found, "validation: truncated image in 'photo': 1") == ("serious", ["val.parquet row 8"])
    assert about(found, "no image of a known kind")[1] == ["val.parquet row 11"]
    assert about(found, "validation: no label: 1")[1] == ["val.parquet row 2"]
    assert about(found, "label is not among those of training: 1")[1] == ["val.parquet row 3"]
    assert about(found, "validation: categories that train does not have") == ("note", ["town: 1"])
    assert not found.fatal
    assert record_preflight(place, "price", bad_share=0.01).fatal
    assert found.parts[1].usable == ROWS - 4


def test_a_column_that_tells_the_label_is_named(place):
    changed = columns()
    changed["sold"] = ["no" if price == "low" else "yes" for price in changed["price"]]
    table(place / "train.parquet", **changed)
    other = columns(ROWS)
    table(place / "val.parquet", **other, sold=["yes"] * ROWS)
    found = record_preflight(place, "price")
    severity, names = about(found, "tell the label by themselves")
    assert (severity, names) == ("serious", ["sold: right for 100.00% of the rows"])
    cents = [100 * area for area in changed["area"]]
    table(place / "train.parquet", **changed, cents=cents)
    table(place / "val.parquet", **other, sold=other["price"], cents=cents)
    assert about(record_preflight(place, "cents"), "by themselves")[1] == ["area: correlation 1.0000"]


def test_rows_that_occur_again_are_told(place):
    changed, first = columns(ROWS), columns()
    for name in changed:
        changed[name][5] = first[name][4]
        changed[name][20] = changed[name][19]
    changed["price"][20] = "low" if changed["price"][19] == "high" else "high"
    table(place / "val.parquet", **changed)
    found = record_preflight(place, "price")
    severity, names = about(found, "the same rows in several of train, validation: 1")
    assert (severity, names) == ("serious", ["val.parquet row 6"])
    assert about(found, "the same row with different labels: 1")[0] == "serious"
    assert about(found, "occur more than once in a split: 1")[0] == "note"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"price": ["low"] * ROWS}, "one class"),
        ({"price": [None] * ROWS}, "no row has a label"),
        ({"cost": [1.0] * ROWS, "price": None}, "no column 'price'"),
    ],
)
def test_what_training_would_refuse_is_fatal(place, changed, said):
    cells = {name: values for name, values in columns(**changed).items() if values is not None}
    table(place / "train.parquet", **cells)
    found = record_preflight(place, "price")
    assert found.fatal
    assert said in found.render()


def test_a_split_without_a_usable_row_or_a_column_is_fatal_too(place):
    table(place / "val.parquet", **columns(price=["medium"] * ROWS))
    found = record_preflight(place, "price")
    assert about(found, "validation: no usable row")[0] == "fatal"
    assert len(about(found, "not among those of training: 60")[1]) == ROWS
    lacking = columns()
    del lacking["town"]
    table(place / "val.parquet", **lacking)
    assert about(record_preflight(place, "price"), "lacks the column 'town'")[0] == "fatal"


def test_columns_that_are_not_used_or_mostly_missing_are_told(tmp_path):
    path = table(tmp_path / "t.parquet", **columns(row=list(range(ROWS)), rare=[1.5, 2.5] + [None] * (ROWS - 2)))
    found = record_preflight(path, "price")
    assert about(found, "columns that are not used: 1")[1] == ["row: counts the rows"]
    assert about(found, "columns that most rows lack: 1")[1] == ["rare: 96.7% of the rows lack it"]
    assert about(found, "no table to validate on")[0] == "note"
    assert record_preflight(path, "price", {"town": "ignore"}).schema.streams.keys() == {"photo", "text", "table"}


def test_numbers_and_several_labels_are_checked_alike(place):
    assert record_preflight(place, "area").parts[0].classes == {}
    lists = [["a", "b"] if number % 2 else ["a"] for number in range(ROWS)]
    path = table(place / "t.parquet", **columns(tags=lists))
    assert record_preflight(path, "tags").parts[0].classes == {"a": ROWS, "b": ROWS // 2}


def test_which_data_are_rows(place, tmp_path):
    assert has_rows(place, "price")
    assert not has_rows(place, None)  # no column "label"
    assert not has_rows(tmp_path / "nowhere", "price")
    bare = table(place / "bare.parquet", image=[{"bytes": picture(n)} for n in range(4)], label=["a", "b"] * 2)
    assert not has_rows(bare, None)
    assert not has_rows(bare, "label")
    more = table(place / "more.parquet", image=[{"bytes": picture(n)} for n in range(40)], label=["a", "b"] * 20,
                 words=[f"so it is {n} here" for n in range(40)])  # fmt: skip
    assert not has_rows(more, None)
    assert has_rows(more, "label")


def test_the_command_line_checks_rows(place, tmp_path):
    code, out, _ = run("check", place, "--label", "price")
    assert code == 0
    assert "rows of mixed columns" in out
    code, out, _ = run("check", place, "--label", "price", "--column", "town=ignore", "--json")
    told = json.loads(out)
    assert told["splits"]["train"]["lacking"] == {"photo": 20, "text": 0, "table": 0}
    assert {one["name"]: one["holds"] for one in told["columns"]}["town"] == "ignore"
    table(place / "train.parquet", **columns(price=["low"] * ROWS))
    assert run("check", place, "--label", "price")[0] == 1
    code, out, _ = run("check", tiny.album(tmp_path / "photos"))
    assert code == 0
    assert "classes" in out
