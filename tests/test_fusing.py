"""Rows of mixed columns: learned from, predicted from, and refused where they are of no use."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_rows as tiny
import torch
from command_line import bad, run

from tessella.cli.rows import question_columns
from tessella.data.quarantine import Quarantine
from tessella.data.records import read_records
from tessella.errors import InputError
from tessella.fusing import objective_of, read_rows, train
from tessella.fusion import CrossToConcat
from tessella.objectives import Classify, Regress, Tag
from tessella.predict import load
from tessella.recipes.design import SCHEMES
from tessella.recipes.fusing import MixedRows, answer, fuse
from tessella.recipes.named import from_yaml, to_yaml
from tessella.runs import RunFolder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def finished(base) -> Path:
    return tiny.trained(base)


def silent(line: str) -> None:
    pass


def logits(fuser, path: Path) -> torch.Tensor:
    records = read_records([path], fuser.schema, Quarantine(), labelled=False)
    return torch.stack([one for one in fuser.answers(records) if isinstance(one, torch.Tensor)])


def test_rows_are_learned_from(finished, base, tmp_path):
    """Streams are found, and held-out rows are told apart although some lack a picture or a text."""
    made = from_yaml((finished / "recipe.yaml").read_text(), "recipe")
    assert made.columns.streams == {"photo": "image", "text": "text", "table": "table"}
    assert from_yaml(to_yaml(made), "again") == made
    path = tiny.table(tmp_path / "new.parquet", 100, seed=5)
    both = zip(load(finished)(pq.read_table(path).to_pylist()), tiny.rows(100, 5)["band"], strict=True)
    right = [g.value == b for g, b in both]
    assert np.mean(right) > 0.8


def test_order_of_columns_and_what_else_is_there_do_not_matter(finished, tmp_path):
    fuser, rows = load(finished), tiny.rows(40, seed=9)
    plain = tiny.table(tmp_path / "plain.parquet", 40, seed=9)
    names = [*reversed(rows)]
    pq.write_table(pa.table({"more": [1] * 40, **{name: rows[name] for name in names}}), tmp_path / "turned.parquet")
    without = tiny.table(tmp_path / "without.parquet", 40, seed=9, band=None, price=None, tags=None)
    first = logits(fuser, plain)
    assert first.shape == (40, 2)
    assert torch.equal(first, logits(fuser, tmp_path / "turned.parquet"))
    assert torch.equal(first, logits(fuser, without))


def test_a_column_that_training_had_is_required(finished, tmp_path):
    path = tiny.table(tmp_path / "rows.parquet", 8, size=None, about=None)
    with pytest.raises(InputError, match="lacks the columns 'about', 'size' that training had"):
        logits(load(finished), path)


def test_a_stream_that_is_left_out_is_one_that_no_row_has(finished, tmp_path):
    fuser = load(finished)
    path = tiny.table(tmp_path / "rows.parquet", 20, seed=3)
    lacking = tiny.table(tmp_path / "lacking.parquet", 20, seed=3, photo=[None] * 20)
    # a column that is all null has no type of its own in the table: it is the same as none
    records = read_records([path], fuser.schema, Quarantine(), labelled=False)
    masked = torch.stack(list(fuser.answers(records, without=["photo"])))
    torch.testing.assert_close(masked, logits(fuser, lacking), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="no stream 'photos' to leave out"):
        next(fuser.answers(records, without=["photos"]))
    with pytest.raises(InputError, match="nothing left"):
        next(fuser.answers(records, without=list(fuser.schema.streams)))


def test_resumed_is_as_if_never_interrupted(base, tmp_path):
    """Bit for bit: a run that lost all after step 20 comes to the same weights."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(tiny.recipe(), tiny.data(base), whole, say=silent)
    shutil.copytree(whole, again)
    shutil.rmtree(max((again / "checkpoints").glob("step-*")))
    made = from_yaml((again / "recipe.yaml").read_text(), "recipe")
    train(made, tiny.data(base), again, resume=True, say=silent)
    first, second = (RunFolder.open(path).weights() for path in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_does_not_go_on_with_other_rows(finished, tmp_path):
    path = tiny.table(tmp_path / "rows.parquet", 60, seed=4)
    made = from_yaml((finished / "recipe.yaml").read_text(), "recipe")
    with pytest.raises(InputError, match="not those the run was begun with"):
        train(made, path, finished, resume=True, say=silent)


def test_numbers(base, tmp_path):
    lines: list[str] = []
    train(tiny.recipe("price", steps=60), tiny.data(base), tmp_path / "run", say=lines.append)
    assert any("price" in line and "numbers" in line for line in lines)
    fuser = load(tmp_path / "run")
    assert from_yaml((tmp_path / "run" / "recipe.yaml").read_text(), "recipe").objective == Regress()
    path = tiny.table(tmp_path / "new.parquet", 60, seed=6)
    said = [guess.value["price"] for guess in fuser(pq.read_table(path).to_pylist())]
    true = np.array(tiny.rows(60, 6)["price"])
    assert np.abs(said - true).mean() < 0.8 * np.abs(true - true.mean()).mean()


def test_two_numbers_at_once(base, tmp_path):
    made = tiny.recipe("price,size", steps=4)
    made = made.replace(data=made.data.replace(kinds={"band": "ignore", "tags": "ignore"}))
    train(made, tiny.data(base), tmp_path / "run", say=silent)
    (guess,) = load(tmp_path / "run")([{"about": "old and worn"}])
    assert set(guess.value) == {"price", "size"}
    assert all(np.isfinite(list(guess.value.values())))


def test_labels(base, tmp_path):
    train(tiny.recipe("tags", steps=60), tiny.data(base), tmp_path / "run", say=silent)
    fuser = load(tmp_path / "run")
    assert fuser.schema.task == "labels"
    assert fuser.schema.names == ("big", "good")
    guesses = fuser(pq.read_table(tiny.table(tmp_path / "new.parquet", 60, seed=6)).to_pylist())
    right = ["good" in g.value for g in guesses] == np.array([bool(t) for t in tiny.rows(60, 6)["tags"]])
    assert right.mean() > 0.7


@pytest.mark.parametrize("scheme", [scheme.kind for scheme in SCHEMES])
def test_every_scheme_is_trained_by_its_name(scheme, base, tmp_path):
    """And its parameters are told in the recipe of the run, which alone is enough to predict."""
    made = tiny.recipe(steps=2)
    made = made.replace(design=made.design.replace(scheme=scheme))
    train(made, tiny.data(base), tmp_path / "run", say=silent)
    kept = from_yaml((tmp_path / "run" / "recipe.yaml").read_text(), "recipe")
    assert kept.model.trunk.kind == scheme
    assert load(tmp_path / "run")({"about": "very rare"}).error is None


def test_the_command_line_trains_and_predicts(base, tmp_path):
    data = tiny.data(base)
    small = ["design.dim=16", "design.depth=2", "design.heads=2", "design.hidden=32", "design.patch=4"]
    small += ["image.size=8", "codec.size=400", "loop.steps=3", "loop.validate_every=3", "loop.ema=null"]
    sets = [word for change in small for word in ("--set", change)]
    out = tmp_path / "run"
    code, _, told = run("train", "fuse", "--data", data, "--label", "band", "--scheme", "cross-to-concat", "--out", out,
                        "--column", "price=ignore", "--column", "tags=ignore", *sets)  # fmt: skip
    assert code == 0
    assert "place" in told and "category" in told and "as you say" in told
    kept = from_yaml((out / "recipe.yaml").read_text(), "recipe")
    assert isinstance(kept.model.trunk, CrossToConcat)
    answers = tmp_path / "answers.csv"
    assert run("predict", out, data, "--out", answers)[0] == 0
    found = list(csv.DictReader(answers.open(encoding="utf-8")))
    assert [int(row["row"]) for row in found] == list(range(1, 121))
    assert {row["band"] for row in found} <= {"cheap", "dear"}
    code, text, _ = run("predict", out, data, "--json")
    assert code == 0
    first = json.loads(text.splitlines()[0])
    assert first["answer"] == found[0]["band"]
    assert sum(first["chances"].values()) == pytest.approx(1, abs=1e-4)


def test_nothing_is_lost_in_prediction(finished, tmp_path):
    """A row that cannot be used has its place and its reason; a category never seen is no reason."""
    path = tmp_path / "rows.csv"
    lines = [["photo", "about", "size", "place"], ["", "very rare", "12", "north"], ["", "very rare", "many", "north"],
             ["none.png", "old", "3", "west"], ["", "gold and silver", "", "nowhere"], ["", "", "", ""]]  # fmt: skip
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    code, text, told = run("predict", finished, path)
    assert code == 1
    found = list(csv.DictReader(io.StringIO(text)))
    assert [row["row"] for row in found] == ["1", "2", "3", "4", "5"]
    assert [bool(row["error"]) for row in found] == [False, True, True, False, True]
    assert "size" in found[1]["error"] and "none.png" in found[2]["error"]
    assert "'place': 1 cells have a value that training never saw" in told
    assert "3 rows have no answer" in told


def test_a_file_that_is_no_picture_is_an_answer_too(finished, tmp_path):
    (tmp_path / "bad.png").write_bytes(tiny.picture(True, 1)[:60])
    (tmp_path / "good.png").write_bytes(tiny.picture(True, 1))
    path = tmp_path / "rows.jsonl"
    rows = [{"photo": name, "about": "x", "size": 1.0, "place": "west"} for name in ("good.png", "bad.png")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, text, _ = run("predict", finished, path, "--json")
    assert code == 1
    good, broken = map(json.loads, text.splitlines())
    assert "answer" in good and "error" not in good
    assert "bad.png" in broken["error"] or "photo" in broken["error"]


def test_one_row_in_python(finished, tmp_path):
    photo = tmp_path / "a.png"
    photo.write_bytes(tiny.picture(True, 2))
    fuser = load(finished)
    guess = fuser({"photo": photo, "about": "gold and silver", "size": 16, "place": "north"})
    assert guess.value == "dear"
    assert guess.name == "row 1"
    with pytest.raises(InputError, match="row 1: no such file"):
        fuser({"photo": tmp_path / "none.png"})
    with pytest.raises(InputError, match="row 2"):
        fuser([{"about": "x"}, {"about": None}])


def test_weights_of_classes(base):
    rows = read_rows(tiny.recipe(), tiny.data(base), Quarantine())
    counts = np.bincount(rows.training.labels)
    made = objective_of(Classify(weights="balanced"), rows.schema, rows.training)
    np.testing.assert_allclose(np.array(made.weights) * counts, len(rows.training) / 2, rtol=1e-3)
    with pytest.raises(InputError, match="3 numbers for 2 classes"):
        objective_of(Classify(weights=(1.0, 2.0, 3.0)), rows.schema, rows.training)
    with pytest.raises(InputError, match="learns no classes"):
        objective_of(Regress(), rows.schema, rows.training)
    tags = read_rows(tiny.recipe("tags"), tiny.data(base), Quarantine())
    weighed = objective_of(Tag(weights="balanced"), tags.schema, tags.training)
    have = tags.training.labels.sum(axis=0)
    np.testing.assert_allclose(weighed.weights, (len(tags.training) - have) / have, rtol=1e-3)


def test_what_a_user_can_get_wrong(finished, base, tmp_path):
    data, out = tiny.data(base), tmp_path / "run"
    assert "did you mean 'cross-to-concat'" in bad(
        "train", "fuse", "--data", data, "--out", out, "--scheme", "cross-to-concant"
    )
    assert "no column 'bond' to predict; did you mean 'band'" in bad(
        "train", "fuse", "--data", data, "--label", "bond", "--out", out
    )
    assert "did you mean 'number'" in bad(
        "train", "fuse", "--data", data, "--label", "band", "--column", "size=numbr", "--out", out
    )
    assert "write NAME=KIND" in bad(
        "train", "fuse", "--data", data, "--label", "band", "--column", "size", "--out", out
    )
    assert "no --teacher" in bad(
        "train", "fuse", "--data", data, "--label", "band", "--teacher", finished, "--out", out
    )
    assert "rows of mixed data" in bad("train", "classify", "--data", data, "--label", "band", "--out", out)
    assert not out.exists()
    one = tiny.table(tmp_path / "one.parquet", 20, band=["dear"] * 20)
    assert "one class" in bad("train", "fuse", "--data", one, "--label", "band", "--out", out)
    assert "tessella predict" in bad("classify", finished, "a.png")
    schema = load(finished).schema
    blind = schema.replace(columns=tuple(column for column in schema.columns if column.holds != "image"))
    with pytest.raises(InputError, match="a picture and a question are not enough"):
        question_columns(blind, "runs/x")
    assert "neither .csv nor .jsonl" in bad("predict", finished, data, "--out", tmp_path / "a.xlsx")


def test_early_summation_says_what_it_needs(base, tmp_path):
    made = tiny.recipe(steps=2)
    strict = made.replace(design=made.design.replace(scheme="early-sum", stretch=None))
    with pytest.raises(InputError, match="equally long"):
        train(strict, tiny.data(base), tmp_path / "run", say=silent)


def test_a_fusion_begins_with_another(finished, base, tmp_path):
    """Its weights are there at first, all of them, for the same classes."""
    lines: list[str] = []
    made = tiny.recipe(steps=1, start=str(finished), freeze=True)
    train(made, tiny.data(base), tmp_path / "run", say=lines.append)
    before, after = (RunFolder.open(path).weights() for path in (finished, tmp_path / "run"))
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert set(same) == {name for name in before if not name.startswith("head.")}


def test_named_recipes_are_whole():
    for make in (fuse, answer):
        assert from_yaml(to_yaml(make()), make.__name__) == make()
    assert answer().data == MixedRows(label="answer", kinds={"question": "text"})


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("int8", 0.1)])
def test_other_numbers_answer_alike(dtype, near, finished, tmp_path):
    """Pictures are computed in the model's numbers; categories of a table keep theirs."""
    path = tiny.table(tmp_path / "rows.parquet", 30, seed=8)
    plain, other = (logits(load(finished, dtype=name), path).softmax(dim=1) for name in ("float32", dtype))
    assert (plain - other).abs().max() < near
