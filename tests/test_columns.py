"""What columns of tables are taken for, and what is to be predicted from them."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import math
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from mixed_tables import files, gif, listings, png, wav, written

from tessella.data.columns import KINDS, Schema, read_schema, told
from tessella.data.media import sniffed
from tessella.data.profiles import Moments
from tessella.data.quarantine import Quarantine
from tessella.data.records import read_records
from tessella.data.targets import TASKS, divided
from tessella.errors import InputError
from tessella.spec import from_dict, to_dict


def kinds(schema: Schema) -> dict[str, str]:
    return {column.name: column.holds for column in schema.columns}


def column(tmp_path: Path, cells, name: str = "x", suffix: str = ".parquet", **said):
    """The column that a schema has for these cells; the label is another."""
    table = written(
        tmp_path / f"t{suffix}", {name: cells, "y": [n % 2 for n in range(len(cells))], "z": WORDS[: len(cells)]}
    )
    schema = read_schema([table], "y", said.get("kinds"))
    return next(column for column in schema.columns if column.name == name)


WORDS = [f"text {number} of its own" for number in range(5000)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_every_kind_of_table_has_the_same_columns(tmp_path, suffix):
    schema = read_schema([written(tmp_path / f"t{suffix}", listings())], "band")
    assert kinds(schema) == {
        "town": "category",
        "size": "number",
        "rooms": "number",
        "text": "text",
        "balcony": "category",
    }
    town, size, _, _, balcony = schema.columns
    assert town.values == ("Bonn", "Jena", "Ulm") and balcony.values == ("false", "true")
    known = [value for value in listings()["size"] if value is not None]
    assert size.mean == pytest.approx(np.mean(known)) and size.deviation == pytest.approx(np.std(known))
    assert size.missing == 0.2
    assert schema.task == "classes" and schema.names == ("high", "low") and schema.rows == 40
    assert schema.streams == {"text": "text", "table": "table"} and schema.sizes == (3, 0, 0, 2)


def test_a_schema_is_plain_data_and_told_in_a_line_a_column(tmp_path):
    schema = read_schema([written(tmp_path / "t.csv", listings())], "band")
    assert from_dict(to_dict(schema)) == schema
    lines = told(schema)
    assert len(lines) == 6 and all("\n" not in line for line in lines)
    assert re.match(r"size +number +numbers 2.* to 1.*; missing in 20.00%", lines[1])
    assert re.match(r"band +to predict +classes: high, low", lines[-1])


@pytest.mark.parametrize(
    ("cells", "holds"),
    [
        ([0.5 * n for n in range(50)], "number"),
        ([n * n for n in range(50)], "number"),
        ([n % 2 for n in range(50)], "category"),
        ([f"{n / 7:.3f}" for n in range(50)], "number"),
        ([f"0{n % 5}1" for n in range(50)], "category"),
        (["a", "b"] * 25, "category"),
        (["x"] * 25 + [None] * 25, "category"),
        ([f"word{n}" for n in range(50)], "text"),
        (["what colour is the round thing?", "is there a square thing in it?"] * 25, "text"),
        ([datetime.date(2020, 1, 1) + datetime.timedelta(n) for n in range(50)], "number"),
        ([f"2020-01-{1 + n % 28:02}" for n in range(50)], "number"),
        ([n % 3 == 0 for n in range(50)], "category"),
    ],
)
def test_what_cells_are_taken_for(tmp_path, cells, holds):
    assert column(tmp_path, cells).holds == holds


@pytest.mark.parametrize(
    ("name", "cells", "why"),
    [
        ("x", list(range(50)), "counts the rows"),
        ("", list(range(1, 51)), "counts the rows"),
        ("x", ["same"] * 50, "the same in every row: 'same'"),
        ("x", [None] * 50, "every row lacks it"),
        ("x", [math.nan] * 50, "every row lacks it"),
        ("user_id", [n * 17 % 1009 for n in range(50)], "an id"),
        ("x", [f"{n:08x}-1234-1234-1234-123456789abc" for n in range(50)], "ids"),
        ("x", [[1.5, 2.5]] * 50, "cells of list"),
        ("x", [{"a": 1}] * 50, "cells of struct"),
        ("x", [datetime.date(2020, 1, 1)] * 50, "the same date"),
    ],
)
def test_what_tells_nothing_is_ignored_and_said(tmp_path, name, cells, why):
    found = column(tmp_path, cells, name)
    assert found.holds == "ignore" and found.why.startswith(why)


ODD = {
    "decimal": pyarrow.array([decimal.Decimal(f"{n}.25") for n in range(40)]),
    "large": pyarrow.array([2**63 + n * 7 % 11 for n in range(40)], pyarrow.uint64()),
    "half": pyarrow.array([n / 8 for n in range(40)]).cast(pyarrow.float16()),
    "time": pyarrow.array([datetime.time(n % 24) for n in range(40)]),
    "span": pyarrow.array([datetime.timedelta(n) for n in range(40)]),
    "coded": pyarrow.array(["a", "b"] * 20).dictionary_encode(),
    "coded numbers": pyarrow.array([n * n for n in range(40)]).dictionary_encode(),
    "map": pyarrow.array([[("a", 1)]] * 40, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "pair": pyarrow.array([[1.0, 2.0]] * 40, pyarrow.list_(pyarrow.float64(), 2)),
    "view": pyarrow.array(["a", "b"] * 20, pyarrow.string_view()),
    "bytes": pyarrow.array([b"a", b"b"] * 20, pyarrow.binary_view()),
    "two bytes": pyarrow.array([b"ab", b"cd"] * 20, pyarrow.binary(2)),
    "zoned": pyarrow.array(
        [datetime.datetime(2020, 1, 1 + n % 28) for n in range(40)], pyarrow.timestamp("ns", "Asia/Tokyo")
    ),
    "nothing": pyarrow.nulls(40),
}


@pytest.mark.parametrize("name", ODD)
def test_every_type_of_arrow_is_read_or_refused_in_one_line(tmp_path, name):
    table = written(tmp_path / "t.parquet", {"x": ODD[name], "w": WORDS[:40], "y": [0, 1] * 20})
    schema = read_schema([table], "y")
    holds = {"coded": "category", "view": "category", "bytes": "category"}
    holds |= dict.fromkeys(("time", "span", "map", "pair", "two bytes", "nothing"), "ignore")
    assert schema.columns[0].holds == holds.get(name, "number")
    assert len(read_records([table], schema)) == 40
    for kind in KINDS:
        with contextlib.suppress(InputError):
            read_records([table], read_schema([table], "y", {"x": kind}), Quarantine())
    for task in (None, *TASKS):
        with contextlib.suppress(InputError):
            read_records([table], read_schema([table], "x", task=task), Quarantine())
    with contextlib.suppress(InputError):
        divided([table], "x", 0.2)


def test_ids_that_recur_are_categories(tmp_path):
    assert column(tmp_path, [n * 7 % 4 * 100 for n in range(200)], "Clothing ID").values == ("0", "100", "200", "300")


def test_counting_through_several_tables_is_counting(tmp_path):
    tables = [
        written(tmp_path / f"{k}.csv", {"": list(range(20)), "x": [n * n % 7 for n in range(20)], "y": [0, 1] * 10})
        for k in "ab"
    ]
    assert kinds(read_schema(tables, "y")) == {"": "ignore", "x": "number"}


def test_numbers_are_those_of_all_rows_not_of_the_first(tmp_path):
    cells = [0.0] * 20_000 + [1.5] * 20_000
    table = written(tmp_path / "t.parquet", {"x": cells, "y": [0, 1] * 20_000})
    (x,) = read_schema([table], "y").columns
    assert (x.mean, x.deviation) == (pytest.approx(0.75), pytest.approx(0.75))
    chosen = np.arange(40_000) < 20_001
    (x,) = read_schema([table], "y", rows=[chosen]).columns
    assert x.mean == pytest.approx(1.5 / 20_001)


def test_moments_part_by_part_are_those_of_the_whole():
    values = np.random.default_rng(0).standard_normal(1000) * 3 + 1e6
    moments = Moments()
    for part in np.split(values, [1, 10, 500]):
        moments.add(np.append(part, np.nan))
    assert moments.mean == pytest.approx(values.mean(), rel=1e-12)
    assert moments.deviation == pytest.approx(values.std(), rel=1e-9)


def test_files_inside_are_known_by_their_beginnings(tmp_path):
    columns = {
        "photo": files([png()] * 20),
        "voice": files([wav()] * 19 + [None]),
        "raw": pyarrow.array([png()] * 20, pyarrow.binary()),
        "notes": pyarrow.array([f"some words in bytes, {n}".encode() for n in range(20)], pyarrow.binary()),
        "junk": files([b"\0junk"] * 20),
        "both": files([png(), wav()] * 10),
        "y": [0, 1] * 10,
    }
    schema = read_schema([written(tmp_path / "t.parquet", columns)], "y")
    assert kinds(schema) == {
        "photo": "image", "voice": "sound", "raw": "image", "notes": "text", "junk": "ignore", "both": "ignore"
    }  # fmt: skip
    assert schema.streams == {"photo": "image", "voice": "sound", "raw": "image", "text": "text"}
    assert "several kinds" in schema.columns[5].why


@pytest.mark.parametrize(
    ("start", "holds"),
    [
        (png(), "image"), (gif(), "image"), (wav(), "sound"), (b"\xff\xd8\xff\xe0", "image"), (b"fLaC\0", "sound"),
        (b"ID3\x04", "sound"), (b"OggS\0\x02", "sound"), (b"\0\0\0 ftypisom", "video"), (b"\0\0\0 ftypM4A ", "sound"),
        (b"RIFF\0\0\0\0AVI LIST", "video"), (b"\x1a\x45\xdf\xa3", "video"), (b"RIFF\0\0\0\0WEBPVP8 ", "image"),
        (b"BMW is a car", None), (b"", None), (b"%PDF-1.4", None),
    ],
)  # fmt: skip
def test_magic(start, holds):
    assert sniffed(start[:16]) == holds


def test_paths_of_files_that_are_there_are_media(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / f"in/{number}.png").write_bytes(png())
        (tmp_path / f"in/{number}.wav").write_bytes(wav())
        (tmp_path / f"in/film{number}").mkdir()
    columns = {
        "photo": [f"in/{n % 4}.png" for n in range(12)],
        "voice": [f"in/{n % 4}.wav" for n in range(12)],
        "film": [f"in/film{n % 4}" for n in range(12)],
        "y": [0, 1] * 6,
    }
    for suffix in (".csv", ".parquet", ".jsonl"):
        schema = read_schema([written(tmp_path / f"t{suffix}", columns)], "y")
        assert kinds(schema) == {"photo": "image", "voice": "sound", "film": "video"}


def test_paths_of_files_that_are_not_there_are_refused_unless_ignored(tmp_path):
    table = written(tmp_path / "t.csv", {"photo": ["a.jpg", "b.jpg"] * 5, "x": WORDS[:10], "y": [0, 1] * 5})
    with pytest.raises(InputError, match=r"'photo' names files such as 'a.jpg', but none .* --column 'photo=ignore'"):
        read_schema([table], "y")
    assert kinds(read_schema([table], "y", {"photo": "ignore"})) == {"photo": "ignore", "x": "text"}
    assert kinds(read_schema([table], "y", {"photo": "text"}))["photo"] == "text"


def test_what_you_say_counts(tmp_path):
    table = written(tmp_path / "t.csv", listings())
    said = {"rooms": "category", "town": "text", "size": "ignore", "balcony": "category"}
    schema = read_schema([table], "band", said)
    assert kinds(schema) == {**said, "text": "text"}
    assert schema.columns[2].values == ("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"sise": "number"}, "no column 'sise'; did you mean 'size'"),
        ({"size": "numbers"}, "cannot hold 'numbers'; did you mean 'number'"),
        ({"band": "category"}, "'band' is what is to be predicted"),
        ({"town": "number"}, "'town' cannot be number: fewer than 90% of its cells are, 'Ulm' is not"),
        (dict.fromkeys(["town", "size", "rooms", "text", "balcony"], "ignore"), "no column is left"),
    ],
)
def test_what_cannot_be_said_is_refused_in_one_line(tmp_path, said, message):
    with pytest.raises(InputError, match=message) as error:
        read_schema([written(tmp_path / "t.csv", listings())], "band", said)
    assert "\n" not in str(error.value)


def test_a_category_of_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tessella.data.profiles.MOST_VALUES", 30)
    with pytest.raises(InputError, match="'x' cannot be category"):
        column(tmp_path, WORDS[:40], kinds={"x": "category"})


def test_two_streams_of_one_name_are_refused(tmp_path):
    table = written(tmp_path / "t.parquet", {"text": files([png()] * 4), "words": WORDS[:4], "y": [0, 1] * 2})
    with pytest.raises(InputError, match="two streams would be called 'text'"):
        read_schema([table], "y")


@pytest.mark.parametrize(
    ("labels", "task", "found", "names"),
    [
        (["b", "a"] * 10, None, "classes", ("a", "b")),
        ([True, False] * 10, None, "classes", ("false", "true")),
        ([10, 9, 2, 1] * 5, None, "classes", ("1", "2", "9", "10")),
        ([1.0, 0.0, None, 1.0] * 5, None, "classes", ("0", "1")),
        ([0.5, 1.25] * 10, None, "numbers", ("y",)),
        (list(range(0, 100, 2)), None, "numbers", ("y",)),
        ([10, 9, 2, 1] * 5, "numbers", "numbers", ("y",)),
        ([["red", "round"], ["red"], []] * 5, None, "labels", ("red", "round")),
        (["red|round", "red", "blue | round"] * 5, "labels", "labels", ("blue", "red", "round")),
    ],
)
def test_what_is_to_be_predicted(tmp_path, labels, task, found, names):
    table = written(tmp_path / "t.parquet", {"x": WORDS[: len(labels)], "y": labels})
    schema = read_schema([table], "y", task=task)
    assert (schema.task, schema.names) == (found, names)


def test_several_numbers_at_once(tmp_path):
    columns = {"x": WORDS[:8], "a": [1.0, 2.0, 3.0, 4.0] * 2, "b, c": [5, 6, 7, 8] * 2}
    table = written(tmp_path / "t.csv", columns)
    assert read_schema([table], "b, c").label == ("b, c",)
    renamed = written(tmp_path / "u.csv", {"x": WORDS[:8], "a": columns["a"], "b": columns["b, c"]})
    both = read_schema([renamed], "a, b")
    assert both.task == "numbers" and both.label == ("a", "b")
    assert [(t.mean, t.deviation) for t in both.targets] == [
        (2.5, pytest.approx(1.25**0.5)),
        (6.5, pytest.approx(1.25**0.5)),
    ]


@pytest.mark.parametrize(
    ("labels", "label", "task", "message"),
    [
        (["a"] * 30, "y", None, "'y' has one class, 'a'"),
        ([None] * 30, "y", None, "no row has a label"),
        (WORDS[:30], "y", None, "30 different labels in 30 rows"),
        (["a", "b"] * 15, "yy", None, "no column 'yy' to predict; did you mean 'y'"),
        (["a", "b"] * 15, "y", "numbers", "'y' cannot be predicted as numbers"),
        ([2.5] * 30, "y", None, "2.5 in every row"),
        (["a", "b"] * 15, "y", "class", "no task 'class'; did you mean 'classes'"),
        (["a", "b"] * 15, "y,y", None, "names a column twice"),
        (["a", "b"] * 15, "y,x", "classes", "several can only be numbers"),
        ([{"a": 1}] * 30, "y", None, "a label is text, a number, or a list of texts"),
        ([["a"], ["b"]] * 15, "y", "classes", "lists of labels"),
    ],
)
def test_labels_that_nothing_can_be_learned_from(tmp_path, labels, label, task, message):
    table = written(tmp_path / "t.parquet", {"x": WORDS[: len(labels)], "y": labels})
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_schema([table], label, task=task)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"x", "is no table"),
        ("t.csv", b"", "is empty"),
        ("t.parquet", b"PAR1 but not really", "not a readable .parquet file"),
        ("t.csv", b"x,y,x\n1,2,3\n", "2 columns called 'x'"),
        ("t.csv", "x,y\n1,2\n".encode("utf-16"), "looks like UTF-16"),
        ("t.csv", b"x;y\n1;2\n", "it seems to have semicolons"),
        ("t.csv", "x,y\ncafé,2\nthé,1\n".encode("latin-1"), "2 of 2 cells of column 'x' are no UTF-8"),
        ("t.csv", "café,y\n1,2\n".encode("latin-1"), "not a readable .csv file"),
        ("t.csv", b"x,y\n", "no row has a label"),
        ("t.jsonl", b"\n\n", "no column 'y'"),
        ("t.csv", b"x,y\n1,2\n1,3\n", r"no column is left to predict from \('x': the same in every row: '1'\)"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_schema([tmp_path / name], "y")


def test_a_share_of_each_class_is_held_out_and_the_same_again(tmp_path):
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] + [None] * 9
    table = written(tmp_path / "t.parquet", {"x": WORDS[:100], "y": labels})
    ((own,), (held,)) = divided([table], "y", 0.1, seed=3)
    assert [int(held[:60].sum()), int(held[60:90].sum()), int(held[90:].sum())] == [6, 3, 0]
    assert (own == ~held).all()
    assert (divided([table], "y", 0.1, seed=3)[1][0] == held).all()
    assert (divided([table], "y", 0.1, seed=4)[1][0] != held).any()


def test_of_numbers_a_share_of_all_is_held_out(tmp_path):
    tables = [written(tmp_path / f"{k}.csv", {"x": WORDS[:50], "y": [n / 7 for n in range(50)]}) for k in "ab"]
    own, held = divided(tables, "y", 0.2)
    assert [len(part) for part in held] == [50, 50] and sum(part.sum() for part in held) == 20
    assert all((a == ~b).all() for a, b in zip(own, held, strict=True))


def test_a_class_keeps_one_row_where_few_are_held_out(tmp_path):
    labels = [f"c{n // 2}" for n in range(20)]
    table = written(tmp_path / "t.csv", {"x": WORDS[:20], "y": labels})
    ((own,), (held,)) = divided([table], "y", 0.1)
    assert held.sum() == 1 and {labels[n] for n in np.flatnonzero(own)} == set(labels)


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 2])
def test_a_share_lies_between_nothing_and_all(tmp_path, share):
    table = written(tmp_path / "t.csv", {"x": WORDS[:4], "y": [0, 1] * 2})
    with pytest.raises(InputError, match="between 0 and 1"):
        divided([table], "y", share)


def test_reviews(shared_data):
    """A published table: see its README for what its columns are."""
    table = shared_data / "womens-clothing-reviews" / "train.parquet"
    if not table.is_file():
        pytest.skip(f"no {table}")
    schema = read_schema([table], "Recommended IND")
    assert kinds(schema) == {
        "Clothing ID": "category", "Age": "number", "Title": "text", "Review Text": "text", "Rating": "number",
        "Positive Feedback Count": "number", "Division Name": "category", "Department Name": "category",
        "Class Name": "category",
    }  # fmt: skip
    assert schema.task == "classes" and schema.rows == 17_465
