"""Fusions evaluated: what each stream is worth, who lacks what, what was set aside; tables and pages of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny_rows
import torch
from command_line import bad, run
from PIL import Image
from sklearn.metrics import log_loss

from tessella import fuse_evaluate, fuse_tables
from tessella.class_scores import softmax
from tessella.data.columns import Schema, read_schema
from tessella.data.pixels import Unreadable
from tessella.data.quarantine import Quarantine
from tessella.data.records import Records, read_records
from tessella.errors import InputError
from tessella.fuse_evaluate import Fused, compared, judge, refuse_different
from tessella.fuse_page import save_page
from tessella.fuse_words import masked_name, worth
from tessella.fusing import train
from tessella.predict import load

ROWS = 40
LABELS = {"classes": "who", "numbers": "weight", "labels": "likes", "several": "weight,height"}


def picture(grey: int) -> bytes:
    kept = io.BytesIO()
    Image.new("L", (8, 8), grey).save(kept, "PNG")
    return kept.getvalue()


def table(path: Path, **changed) -> Path:
    """Who is old is told by age; by a sentence but for every fifth row; and by a photo, which every second row has."""
    old = np.arange(ROWS) >= ROWS // 2
    columns = {
        "age": [float(row) for row in range(ROWS)],
        "town": ["Ulm", "Rom"] * (ROWS // 2),
        "story": [f"{'old' if o ^ (row % 5 == 0) else 'young'}, and lives in house {row}" for row, o in enumerate(old)],
        "photo": [{"bytes": picture(200 if o else 50)} if row % 2 else None for row, o in enumerate(old)],
        "who": ["old" if o else "young" for o in old],
        "weight": [50.0 + row for row in range(ROWS)],
        "height": [1.5 + row / 100 for row in range(ROWS)],
        "likes": [["tea"] if row % 3 else ["tea", "rain"] if o else [] for row, o in enumerate(old)],
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table({**columns, **changed}), path)
    return path


def schema(path: Path, task: str) -> Schema:
    kinds = dict.fromkeys({"who", "weight", "height", "likes"} - set(LABELS[task].split(",")), "ignore")
    return read_schema([path], LABELS[task], {**kinds, "age": "number", "town": "category", "story": "text"})


class Knowing:
    """Knows by age, where that is told, else by the photo, else by the story; `fails` are rows that it cannot read."""

    def __init__(self, schema: Schema, fails: Sequence[int] = (), sure: float = 2.0):
        self.schema, self.fails, self.sure = schema, fails, sure
        self.asked: list[tuple[str, ...]] = []

    def answers(self, records: Records, without: Sequence[str] = (), batch: int = 32) -> Iterator:
        self.asked.append(tuple(without))
        for number in range(len(records)):
            if records.place(number)[1] in self.fails:
                yield Unreadable("photo", "truncated")
                continue
            yield torch.tensor(self.answer(self.belief(records, number, without)), dtype=torch.float32)

    def belief(self, records: Records, number: int, without: Sequence[str]) -> float:
        at = int(records.index[number])
        if "table" not in without and not np.isnan(records.table[at, 0]):
            return float(records.table[at, 0])
        photo = None if "photo" in without else records.read("photo", number)
        if photo is not None:
            return 1.0 if photo == picture(200) else -1.0
        if "text" not in without and records.text(number):
            return 1.0 if "old" in records.text(number) else -1.0
        return -0.1

    def answer(self, belief: float) -> list[float]:
        if self.schema.task == "classes":
            return [self.sure * belief, -self.sure * belief]  # old, young
        if self.schema.task == "numbers":
            return [belief] * len(self.schema.names)
        return [belief, 1.0]  # rain, tea


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    table(folder / "test.parquet")
    return folder


def judged(place: Path, task: str = "classes", name: str = "runs/people", **how) -> Fused:
    path = place / "test.parquet"
    return judge(name, Knowing(schema(path, task), **how), [path])


def test_what_each_stream_is_worth(place):
    found = judged(place)
    assert found.scores.measured[""]["accuracy"] == 1
    assert found.scores.plain[""]["accuracy"] == 0.5
    told = {masked_name(one): one for one in found.masked}
    assert list(told) == [
        "without photo", "without text", "without table", "photo alone", "text alone", "table alone",
    ]  # fmt: skip
    assert told["without photo"].change.difference == told["table alone"].change.difference == 0
    assert told["text alone"].measured[""]["accuracy"] == 0.8  # every fifth sentence lies
    assert worth(found.schema, told["text alone"]) == "text alone: -20.0 points"
    low, high = told["text alone"].change.interval
    assert low < -0.2 < high < 0
    assert told["text alone"].change.p == pytest.approx(2 / 2**8)  # eight rows are lost, none is gained
    lies = [row for row in range(ROWS) if row % 5 == 0 and row % 2 == 0]
    assert told["without table"].measured[""]["accuracy"] == 1 - len(lies) / ROWS
    assert found.whole == found.scores.measured


def test_what_rows_lack(place):
    found = judged(place)
    assert [(group.lacking, group.rows, group.outcome) for group in found.groups] == [
        ((), ROWS // 2, 1.0),
        (("photo",), ROWS // 2, 1.0),
    ]
    assert found.groups[0].interval == pytest.approx((0.839, 1), abs=1e-3)


def test_only_some_rows_are_masked_spread_evenly_and_none_where_nobody_asks(place):
    fuser = Knowing(schema(place / "test.parquet", "classes"))
    found = judge("run", fuser, [place / "test.parquet"], masked_rows=8)
    assert {one.change.rows for one in found.masked} == {8}
    assert found.whole[""]["accuracy"] == 1
    assert "8 rows" in fuse_tables.without_streams(found).title
    fuser.asked.clear()
    none = judge("run", fuser, [place / "test.parquet"], masked_rows=0)
    assert (none.masked, none.whole, fuser.asked) == ([], {}, [()])


def test_one_stream_has_nothing_to_be_masked(tmp_path):
    path = table(tmp_path / "t.parquet")
    kinds = dict.fromkeys(["photo", "story", "weight", "height", "likes"], "ignore")
    found = judge("run", Knowing(read_schema([path], "who", {**kinds, "age": "number"})), [path])
    assert (found.masked, found.groups) == ([], [])
    assert found.scores.measured[""]["accuracy"] == 1


def test_rows_that_cannot_be_used_are_set_aside_by_number(place, tmp_path):
    known = schema(place / "test.parquet", "classes")
    path = table(tmp_path / "t.parquet", who=["old", "young", "new", None] * (ROWS // 4), town=["Ulm", "Bonn"] * 20)
    found = judge("run", Knowing(known, fails=[1, 6]), [path])
    assert found.quarantine.reasons() == {
        "label is not among those of training": 10,
        "no label": 10,
        "truncated": 2,
    }
    assert len(found.records) == ROWS // 2 - 2
    assert found.unseen == {"town": 10}
    told = "\n".join(fuse_tables.remarks(found))
    assert "2 set aside: truncated" in told
    assert "never seen in training, read as unknown: town 10" in told
    assert f"{path} row 1: truncated" in "\n".join(f"{i.where} row {i.line}: {i.reason}" for i in found.quarantine)
    with pytest.raises(InputError, match=r"none of 20 rows can be read .*truncated: 20"):
        judge("run", Knowing(known, fails=range(ROWS + 1)), [path])


def test_numbers_are_told_in_their_own_unit(place):
    found = judged(place, "numbers")
    assert found.scores.measured["weight"]["MAE"] < 1e-4  # age and weight are the same, standardised
    assert found.scores.plain["weight"]["MAE"] == pytest.approx(10)
    assert found.scores.plain["weight"]["R²"] == pytest.approx(0)
    told = {masked_name(one): one for one in found.masked}
    assert told["without table"].change.difference > 3
    assert worth(found.schema, told["without table"]).endswith(" of MAE")
    assert found.scores.trends["weight"][0] == (pytest.approx(50.5), pytest.approx(50.5))


def test_several_numbers_and_several_labels(place):
    both = judged(place, "several")
    assert list(both.scores.measured) == ["weight", "height"]
    assert both.scores.plain["height"]["MAE"] == pytest.approx(0.1)
    assert both.level[0] < 1e-5
    some = judged(place, "labels")
    assert [one.name for one in some.scores.labels] == ["rain", "tea"]
    assert 0 < some.scores.measured[""]["all right"] < 1


def test_runs_are_compared_on_the_rows_that_both_have_answered(place):
    whole, poor = judged(place), judged(place, name="poor", fails=[2, 3])
    poor.sums.answers.all[:10] = 0
    (found,) = compared([whole, poor])
    assert (found.run, found.difference.rows) == ("poor", ROWS - 2)
    assert found.difference.difference == pytest.approx(-10 / 38)
    assert found.difference.p < 0.01
    with pytest.raises(InputError, match=r"a predicts who \(classes\), b predicts weight \(numbers\)"):
        refuse_different({"a": whole.schema, "b": schema(place / "test.parquet", "numbers")})


@pytest.mark.parametrize("task", LABELS)
def test_all_that_is_told_fits_into_80_columns_and_is_whole_in_files(place, tmp_path, capsys, monkeypatch, task):
    monkeypatch.setenv("COLUMNS", "80")
    found = [judged(place, task), judged(place, task, name="runs/other", fails=[5])]
    differences = compared(found)
    fuse_tables.show_fused(found, differences, "test")
    fuse_tables.show_fused(found[:1], [], None)
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    for told in ("rows of test", "without a stream", "all streams", "rows by what they lack", "against runs/people"):
        assert told in out
    assert "…" not in out
    fuse_evaluate.save(found, differences, place, "test", tmp_path / "scores.json")
    told = json.loads((tmp_path / "scores.json").read_text())
    assert [run["rows"] for run in told["runs"]] == [ROWS, ROWS - 1]
    assert len(told["runs"][0]["without streams"]) == 6
    assert told["paired comparison"][0]["difference"]["rows"] == ROWS - 1
    fuse_evaluate.save_predictions(found, tmp_path / "answers.csv")
    with open(tmp_path / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * ROWS
    assert [row["lacking"] for row in rows[:2]] == ["photo", ""]
    assert [row["row"] for row in rows if row["error"]] == ["5"]
    page = save_page(found, differences, "people", tmp_path / "page.html").read_text()
    for told in ("runs/other", "What each stream is worth", "without photo", "truncated", "Against runs/people"):
        assert told in page


def test_the_rows_that_went_most_wrong_are_shown_with_their_picture_and_text(place, tmp_path):
    found = judged(place)
    found.sums.answers.all[7] = 1 - found.sums.answers.all[7]
    page = save_page([found], [], "people", tmp_path / "page.html").read_text()
    assert found.sums.worst(9) == [7]
    assert "What went most wrong" in page
    assert "lives in house 7" in page
    assert "data:image/png" in page


def test_the_split_is_the_test_where_there_is_one(tmp_path):
    for name in ("train", "val", "test"):
        table(tmp_path / f"{name}.parquet")
    assert fuse_evaluate.chosen_tables(tmp_path, None) == ("test", [tmp_path / "test.parquet"])
    assert fuse_evaluate.chosen_tables(tmp_path, "val")[1] == [tmp_path / "val.parquet"]
    assert fuse_evaluate.chosen_tables(tmp_path / "val.parquet", None) == (None, [tmp_path / "val.parquet"])
    (tmp_path / "test.parquet").unlink()
    assert fuse_evaluate.chosen_tables(tmp_path, None)[0] == "validation"
    with pytest.raises(InputError, match="no split 'test'; it has train, validation"):
        fuse_evaluate.chosen_tables(tmp_path, "test")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return tiny_rows.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def prices(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prices") / "run"
    train(
        tiny_rows.recipe("price", steps=4), tiny_rows.data(tmp_path_factory.getbasetemp()), out, say=lambda line: None
    )
    return out


def test_a_real_run_from_the_command_line(finished, tmp_path):
    path = tiny_rows.table(tmp_path / "new.parquet", 80, seed=5)
    places = tmp_path / "scores.json", tmp_path / "answers.csv", tmp_path / "page.html"
    told = ("--out", places[0], "--csv", places[1], "--html", places[2])
    code, out, _ = run("evaluate", finished, "--data", path, "--mask", 40, "--batch", 16, *told, columns=80)
    assert code == 0
    assert "band: 80 rows" in out
    assert "without a stream, 40 rows" in out
    (scores,) = json.loads(places[0].read_text())["runs"]
    records = read_records([path], load(finished).schema, Quarantine())
    logits = np.stack([one.numpy() for one in load(finished).answers(records)])
    assert scores["scores"]["measured"]["accuracy"] == (logits.argmax(1) == records.labels).mean() > 0.8
    loss = log_loss(records.labels, softmax(logits.astype(float)))
    assert scores["scores"]["measured"]["log loss"] == pytest.approx(loss)
    assert [one["without"] for one in scores["without streams"]][:3] == [["photo"], ["text"], ["table"]]
    assert {tuple(one["lacking"]) for one in scores["by what rows lack"]} >= {(), ("photo",), ("text",)}
    with open(places[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == [records.schema.names[i] for i in logits.argmax(1)]
    assert "What each stream is worth" in places[2].read_text()


def test_a_masked_stream_scores_as_an_absent_one(finished, tmp_path):
    """What is evaluated without a stream is what rows without it would score."""
    path = tiny_rows.table(tmp_path / "new.parquet", 60, seed=6)
    lacking = tiny_rows.table(tmp_path / "lacking.parquet", 60, seed=6, photo=[None] * 60)
    fuser = load(finished)
    found, without = judge("a", fuser, [path]), judge("b", fuser, [lacking], masked_rows=0)
    assert found.masked[0].without == ("photo",)
    assert found.masked[0].measured[""]["log loss"] == pytest.approx(without.scores.measured[""]["log loss"], abs=1e-6)


def test_numbers_from_the_command_line_are_in_their_unit(prices, tmp_path):
    path = tiny_rows.table(tmp_path / "new.parquet", 60, seed=5)
    code, _, _ = run("evaluate", prices, "--data", path, "--mask", 0, "--out", tmp_path / "scores.json")
    assert code == 0
    (scores,) = json.loads((tmp_path / "scores.json").read_text())["runs"]
    truth = np.array(tiny_rows.rows(60, 5)["price"])
    guessed = np.array([guess.value["price"] for guess in load(prices)(pyarrow.parquet.read_table(path).to_pylist())])
    assert scores["scores"]["price"]["MAE"] == pytest.approx(np.abs(guessed - truth).mean(), rel=1e-4)
    assert 15 < scores["scores"]["price"]["of the training mean"]["MAE"] < 35
    assert scores["without streams"] == []


def test_mistakes_on_the_command_line_are_one_line(finished, prices, tmp_path):
    path = tiny_rows.table(tmp_path / "new.parquet", 8)
    unlabelled = tiny_rows.table(tmp_path / "bare.parquet", 8, band=None)
    other = tiny_rows.table(tmp_path / "other.parquet", 8, band=["new"] * 8)
    for said, words in [
        ("give --data", (finished,)),
        ("lacks the column 'band'", (finished, "--data", unlabelled)),
        ("no row can be used (label is not among those of training: 8)", (finished, "--data", other)),
        ("only runs of one label can be compared", (finished, prices, "--data", path)),
        ("has no split 'val'", (finished, "--data", path, "--split", "val")),
        ("no folder or file", (finished, "--data", tmp_path / "nowhere.parquet")),
        ("--temperature", (finished, "--data", path, "--temperature")),
        ("--label", (finished, "--data", path, "--label", "band")),
        ("twice", (finished, finished, "--data", path)),
    ]:
        assert said in bad("evaluate", *words)
