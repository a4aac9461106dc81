"""Filters and conditions: what a person types means the same to LanceDB and to Arrow, and nothing else."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.errors import InputError
from tessella.retrieval.conditions import moments, parse
from tessella.retrieval.exact import nearest
from tessella.retrieval.filters import All, Among, Compare, Contains, Filter, Like, Missing, Not, Some, Term, chosen

lancedb = pytest.importorskip("lancedb")

SCHEMA = pa.schema(
    {
        "vector": pa.list_(pa.float32(), 4),
        "number": pa.int64(),
        "text": pa.string(),
        "it's odd, 이름": pa.string(),
        "share": pa.float64(),
        "kept": pa.bool_(),
        "date": pa.timestamp("us"),
    }
)
NASTY = [
    "",
    "'",
    "''",
    '"',
    "a'b",
    "\\",
    "\\'",
    "%",
    "_",
    "100%",
    "a_b",
    "\\%",
    "x\ny",
    "naïve",
    "개",
    "🐕",
    "dog",
    "Dog",
]
NASTY += ["' OR 1=1 --", "'; DROP TABLE pictures; --", "NULL", "`", "a`b", "\\\\", "e\u0301", "\u202e", "{}", "$1", "?"]
texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
texts = texts.map(lambda text: text[:40])
numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-3, 3)
shares = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0) | st.sampled_from([0.0, 0.1])
dates = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)) | st.sampled_from([dt.datetime(2024, 5, 17)])
VALUES = {
    "number": numbers,
    "text": texts,
    "it's odd, 이름": texts,
    "share": shares,
    "kept": st.booleans(),
    "date": dates,
}


@st.composite
def rows(draw):
    one = {name: draw(st.none() | values) for name, values in VALUES.items()}
    return {"vector": draw(st.lists(st.integers(-3, 3), min_size=4, max_size=4)), **one}


@st.composite
def comparisons(draw):
    name = draw(st.sampled_from(list(VALUES)))
    kind = draw(st.sampled_from(["compare", "among", "missing", "contains", "like", "part"]))
    if kind == "part":
        term, values = Term("date", draw(st.sampled_from(["year", "month"]))), st.integers(1, 2030)
        return Compare(term, draw(st.sampled_from(["=", "!=", "<", ">="])), draw(values))
    if kind == "missing":
        return Missing(Term(name))
    if kind in ("contains", "like"):
        return {"contains": Contains, "like": Like}[kind](Term(draw(st.sampled_from(list(VALUES)[1:3]))), draw(texts))
    if kind == "among":
        return Among(Term(name), tuple(draw(st.lists(VALUES[name], min_size=1, max_size=3))))
    return Compare(Term(name), draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">="])), draw(VALUES[name]))


filters = st.recursive(
    comparisons(),
    lambda part: st.one_of(
        part.map(Not),
        st.lists(part, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(part, min_size=2, max_size=3).map(lambda parts: Some(tuple(parts))),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return lancedb.connect(tmp_path_factory.mktemp("filters"))


@settings(max_examples=15, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=8), st.lists(filters, min_size=5, max_size=12))
def test_lancedb_and_arrow_let_the_same_rows_through(database, held, asked):
    for n, row in enumerate(held):  # each filter is also asked for values that are there
        asked = [*asked, Like(Term("text"), row["text"]), Contains(Term("text"), row["text"])] if row["text"] else asked
        asked = [*asked, Compare(Term("number"), ">=", n if row["number"] is None else row["number"])]
    table = pa.Table.from_pylist(held, SCHEMA)
    numbered = table.append_column("row", pa.array(range(len(held))))
    theirs = database.create_table("rows", numbered, mode="overwrite")
    for where in asked:
        found = theirs.search().where(where.sql()).select(["row"]).limit(100).to_arrow()["row"].to_pylist()
        assert sorted(found) == np.flatnonzero(chosen(table, where)).tolist(), where


@settings(max_examples=10, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=30), comparisons(), st.integers(1, 5), st.integers(0, 2**31))
def test_an_exact_search_of_lancedb_is_the_oracles(database, held, where, top, seed):
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((len(held), 4)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    table = pa.Table.from_pylist([{**row, "vector": made[n].tolist()} for n, row in enumerate(held)], SCHEMA)
    query = rng.standard_normal(4).astype(np.float32)
    query /= np.linalg.norm(query)
    numbered = table.append_column("row", pa.array(range(len(held))))
    theirs = database.create_table("exact", numbered, mode="overwrite")
    asked = theirs.search(query).distance_type("dot").where(where.sql(), prefilter=True).limit(top)
    found = asked.select(["row", "_distance"]).to_arrow()
    (mine,), (scores,) = nearest(numbered.to_batches(max_chunksize=7), query[None], top, where)
    assert found["row"].to_pylist() == mine.tolist()
    np.testing.assert_allclose(1 - found["_distance"].to_numpy(), scores, atol=1e-5)


def test_the_oracle_sorts_every_row_once():
    rng = np.random.default_rng(0)
    made = rng.integers(-1, 2, (500, 3)).astype(np.float32)  # full of equals
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(made.ravel()), 3)})
    queries = rng.integers(-1, 2, (4, 3)).astype(np.float32)
    found, scores = nearest(table.to_batches(max_chunksize=33), queries, 10)
    whole = queries @ made.T
    assert found.tolist() == np.argsort(-whole, axis=1, kind="stable")[:, :10].tolist()
    assert scores.tolist() == np.take_along_axis(whole, found, 1).tolist()
    few, _ = nearest(table.slice(0, 3).to_batches(), queries, 10)
    assert few.shape == (4, 3)
    assert nearest([], queries, 10)[0].shape == (4, 0)


COLUMNS = {field.name: field.type for field in SCHEMA} | {"caption": pa.string(), "two words": pa.string()}
READ: dict[str, Filter] = {
    "number = 3": Compare(Term("number"), "=", 3),
    "number==3": Compare(Term("number"), "=", 3),
    "number <> -3": Compare(Term("number"), "!=", -3),
    "number >= 3.0": Compare(Term("number"), ">=", 3),
    "share < 1": Compare(Term("share"), "<", 1.0),
    "kept = true": Compare(Term("kept"), "=", True),
    "year = 2024": Compare(Term("date", "year"), "=", 2024),
    "month in (6, 7,8)": Among(Term("date", "month"), (6, 7, 8)),
    "caption = 'it''s'": Compare(Term("caption"), "=", "it's"),
    'caption contains "a ""dog"""': Contains(Term("caption"), 'a "dog"'),
    "caption IS NOT NULL": Not(Missing(Term("caption"))),
    "caption not like '%dog'": Not(Like(Term("caption"), "%dog")),
    "`two words` = 'x'": Compare(Term("two words"), "=", "x"),
    "not number = 1": Not(Compare(Term("number"), "=", 1)),
    "number = 1 or number = 2 and number = 3": Some(
        (Compare(Term("number"), "=", 1), All((Compare(Term("number"), "=", 2), Compare(Term("number"), "=", 3))))
    ),
    "(number = 1 or number = 2) and number = 3": All(
        (Some((Compare(Term("number"), "=", 1), Compare(Term("number"), "=", 2))), Compare(Term("number"), "=", 3))
    ),
    "date >= 2024": Compare(Term("date"), ">=", dt.datetime(2024, 1, 1)),
    "date >= '2024-05'": Compare(Term("date"), ">=", dt.datetime(2024, 5, 1)),
    "date > '2024-05'": Compare(Term("date"), ">=", dt.datetime(2024, 6, 1)),
    "date = '2024-12-31'": All(
        (
            Compare(Term("date"), ">=", dt.datetime(2024, 12, 31)),
            Compare(Term("date"), "<", dt.datetime(2025, 1, 1)),
        )
    ),
}


@pytest.mark.parametrize("typed", READ)
def test_what_is_typed_is_understood(typed):
    assert parse(typed, COLUMNS) == READ[typed]


WRONG = {
    "": "ends too early: expected a column",
    "yaer = 2024": "no column 'yaer'; did you mean 'year'?",
    "vector = 1": "no column 'vector'",
    "number = 'three'": "number is a whole number, and 'three' is not",
    "number = 2.5": "number is a whole number, and 2.5 is not",
    "number = 9223372036854775808": "is a whole number, and",
    "share = 1e999": "share is a number, and 1e999 is not",
    "text = 3": "text is text, and 3 is not; text stands in quotes",
    "text = dog": "expected a value for text at 'dog' (letter 8); text stands in quotes: 'dog'",
    "kept = 1": "kept is true or false, and 1 is not",
    "date = '2024-13'": "date is a date, and '2024-13' is not; dates are written",
    "date = 3": "dates are written",
    "number contains 'x'": "'contains' looks into text, but number is a whole number",
    "text = 'dog": "a quote that is never closed (letter 8)",
    "text = 'a' and": "ends too early",
    "(number = 1": "ends too early: expected ')'",
    "number = 1)": "expected 'and', 'or' or the end at ')' (letter 11)",
    "number = 1; drop table pictures": "cannot be read at '; drop table picture'",
    "number = 1 -- comment": "cannot be read at '-- comment'",
    "number is 3": "expected 'null' at '3'",
    "number": "ends too early: expected how number is compared",
    "number in ()": "expected a value for number at ')'",
    "number not 3": "expected in, like or contains after 'not'",
    "text = 'a\0b'": "text is text",
    "(" * 60 + "number = 1" + ")" * 60: "more than 50 conditions inside each other",
    "number = 1 or " * 2000 + "number = 1": "conditions of up to 20000 are read",
}


@pytest.mark.parametrize("typed", WRONG, ids=[typed[:30] for typed in WRONG])
def test_what_is_wrong_is_one_line(typed):
    with pytest.raises(InputError) as caught:
        parse(typed, COLUMNS)
    assert WRONG[typed] in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_anything_typed_is_understood_or_refused(typed):
    try:
        found = parse(typed, COLUMNS)
    except InputError:
        return
    assert set(found.columns()) <= set(COLUMNS)


@given(texts, texts)
def test_texts_survive_quotes(value, pattern):
    quoted = "'" + value.replace("'", "''") + "'"
    assert parse(f"text = {quoted} and caption like '{pattern.replace(chr(39), chr(39) * 2)}'", COLUMNS) == All(
        (Compare(Term("text"), "=", value), Like(Term("caption"), pattern))
    )


def test_a_date_is_all_of_what_it_names():
    assert moments("2024") == (dt.datetime(2024, 1, 1), dt.datetime(2025, 1, 1))
    assert moments("2024-12") == (dt.datetime(2024, 12, 1), dt.datetime(2025, 1, 1))
    assert moments("2024-02-29") == (dt.datetime(2024, 2, 29), dt.datetime(2024, 3, 1))
    assert moments("2024-02-29 23:59") == (dt.datetime(2024, 2, 29, 23, 59), dt.datetime(2024, 3, 1))
    assert moments("2024-02-29T23:59:59") == (dt.datetime(2024, 2, 29, 23, 59, 59), dt.datetime(2024, 3, 1))
    assert moments("2023-02-29") is None
    assert moments("9999") is None  # its end is no date
    assert moments("yesterday") is None
