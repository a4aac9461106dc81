"""Answers written word by word: learned from rows, exact, resumed, and refused where they are of no use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tiny_matching as pictures
import torch
from command_line import bad, run
from PIL import Image

from tessella import answering, load, predict, tasks
from tessella.answering import same, train
from tessella.data.pixels import Preprocess
from tessella.errors import InputError
from tessella.loop import LoopSpec
from tessella.objectives import Classify
from tessella.optimizers import AdamW
from tessella.recipes.answering import Answering, answer_open, begun
from tessella.recipes.design import Design
from tessella.recipes.fusing import MixedRows, fuse
from tessella.recipes.named import from_yaml, to_yaml
from tessella.recipes.recipe import Chosen
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.text import CodecSpec

QUESTIONS = {
    "what colour is it?": lambda scene: scene[0],
    "where is it?": lambda scene: f"at the {scene[2]} side",
    "what is the ground like?": lambda scene: scene[3],
}


def silent(line: str) -> None:
    pass


def table(folder: Path, each: int = 1, name: str = "rows.jsonl", first: int = 0) -> Path:
    """Three questions about every scene, with their answers in one word or in several."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, scene in enumerate(pictures.SCENES * each, first):
        pictures.picture(scene, number).save(folder / f"{number}.png")
        for question, answer in QUESTIONS.items():
            rows.append({"image": f"{number}.png", "question": question, "answer": answer(scene)})
    return pictures.lines(folder / name, rows)


def recipe(**changes) -> Answering:
    """A hundred and fifty quick steps."""
    made = answer_open().replace(
        image=Preprocess(size=pictures.SIDE, crop=1.0),
        design=Design(dim=32, depth=2, heads=2, hidden=64, dropout=0.0, drop=0.0, patch=4),
        codec=CodecSpec(size=300, lowercase=True),
        data=MixedRows(label="answer", kinds={"question": "text"}, held_out=0.2),
        writes=1,
        optimizer=AdamW(beta2=0.99),
        schedule=Cosine(peak=5e-3, warmup=5),
        loop=LoopSpec(steps=150, metric="exact", validate_every=75, checkpoint_every=75, log_every=50),
        batch=48,
    )
    return made.replace(**changes)


def brief(steps: int = 2, **changes) -> LoopSpec:
    return LoopSpec(steps=steps, metric="exact", validate_every=steps, checkpoint_every=steps, log_every=1, **changes)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return table(tmp_path_factory.mktemp("rows"), each=2)


@pytest.fixture(scope="module")
def finished(rows, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("answers") / "run"
    train(recipe(), rows, out, say=silent)
    return out


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in RunFolder(folder).metrics() if "loss" in record]


def test_answers_are_learned_and_written(finished, tmp_path):
    """Questions about pictures drawn anew: the kind of answer is always right, the answer mostly."""
    best = max(r["validation"]["exact"] for r in RunFolder(finished).metrics() if "validation" in r)
    assert best > 60
    answerer = load(finished)
    picture = pictures.picture(("red", "disc", "left", "dark"), 9001)
    picture.save(tmp_path / "p.png")
    ground, where = answerer(
        [{"image": tmp_path / "p.png", "question": q} for q in ("what is the ground like?", "where is it?")]
    )
    assert ground.value == "dark" and where.value in ("at the left side", "at the right side")
    assert 0 < ground.chances["dark"] <= 1


def test_a_run_is_its_recipe(finished):
    made = from_yaml((finished / "recipe.yaml").read_text(), "recipe")
    assert isinstance(made, Answering) and made.columns.task == "words" and not made.columns.names
    assert made.columns.streams == {"image": "image", "text": "text"} and from_yaml(to_yaml(made), "it") == made


class Stop(Exception):
    pass


def test_a_run_goes_on_exactly_and_only_with_its_answers(rows, tmp_path, monkeypatch):
    made = recipe(loop=brief(3).replace(steps=6))
    train(made, rows, tmp_path / "a", say=silent)
    plain, left = answering.validate, [1]

    def interrupted(*given):
        if not left:
            raise Stop
        left.pop()
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "validate", interrupted)
        with pytest.raises(Stop):
            train(made, rows, tmp_path / "b", say=silent)
    tasks.resume(tmp_path / "b", None, [], silent)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    ours, theirs = RunFolder(tmp_path / "b").weights(), RunFolder(tmp_path / "a").weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    other = rows.parent / "others.jsonl"
    other.write_text(rows.read_text().replace('"red"', '"rose"'))
    with pytest.raises(InputError, match="not those the run was begun with"):
        tasks.resume(tmp_path / "b", other, [], silent)


def test_any_text_may_be_an_answer(rows, tmp_path):
    """Every row another answer, which no list of classes could have."""
    told = [json.loads(line) for line in rows.read_text().splitlines()]
    free = pictures.lines(rows.parent / "free.jsonl", [{**row, "answer": f"number {n}"} for n, row in enumerate(told)])
    said: list[str] = []
    train(recipe(loop=brief(1)), free, tmp_path / "run", say=said.append)
    assert any("different answers" in line for line in said)
    assert any("230 rows to learn from, 58 to validate" in line for line in said), said
    with pytest.raises(InputError, match="these are no classes"):
        tasks.train("answer", free, tmp_path / "no", [], silent)


def test_from_the_command_line(finished, rows, tmp_path):
    picture = rows.parent / "0.png"
    code, out, err = run("answer", finished, picture, "what is the ground like?", "where is it?", "--json", "--top", 2)
    assert code == 0, err
    first, second = [json.loads(line) for line in out.splitlines()]
    assert first["answers"][0]["answer"] in ("light", "dark") and len(second["answers"]) == 2
    given = ("evaluate", finished, "--data", rows, "--out", tmp_path / "scores.json", "--csv", tmp_path / "all.csv")
    code, out, err = run(*given)
    assert code == 0, err
    assert "answers exact; always the commonest answer" in out and "without 'image'" in out
    (scores,) = json.loads((tmp_path / "scores.json").read_text())["runs"]
    assert scores["exact"] > scores["commonest"] and scores["without"]["text"] < scores["exact"]
    told = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert len(told) == 288 and sum(row["exact"] == "True" for row in told) == round(scores["exact"] * 2.88)
    code, out, err = run("predict", finished, rows, "--out", tmp_path / "p.csv")
    assert code == 0, err
    assert [row["answer"] for row in csv.DictReader((tmp_path / "p.csv").open())] == [row["written"] for row in told]


def test_rows_that_cannot_be_used_are_set_aside(finished, rows, tmp_path):
    told = [json.loads(line) for line in rows.read_text().splitlines()[:60]]
    told[3]["answer"], told[4]["image"] = "  ", "nowhere.png"
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    data = pictures.lines(rows.parent / "odd.jsonl", told)
    train(recipe(loop=brief(1)), data, tmp_path / "run", say=silent)
    kept = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {row["line"] for row in kept} == {4, 5} and any(row["reason"] == "no label" for row in kept)
    none = pictures.lines(rows.parent / "none.jsonl", [{k: v for k, v in row.items() if k != "answer"} for row in told])
    assert "no column 'answer'" in bad("train", "answer_open", "--data", none, "--out", tmp_path / "none")
    assert "--beam is not for" in bad("evaluate", finished, "--data", data, "--beam", 2)
    assert "use `tessella answer`" in bad("show", finished, rows.parent / "0.png", "q", "--out", tmp_path / "x.png")
    assert "--mask is not for" in bad("evaluate", finished, "--data", data, "--mask", 5)


def test_starts(finished, rows, tmp_path):
    """Another run of its kind gives all; a fusion is refused, for it writes nothing."""
    made = begun(recipe(loop=brief(1), schedule=Cosine(peak=1e-6)), predict.opened(finished)[1])
    train(made.replace(start=str(finished)), rows, tmp_path / "run", say=silent)
    before, after = RunFolder(finished).weights(), RunFolder(tmp_path / "run").weights()
    assert before.keys() == after.keys() and all(torch.allclose(after[n], before[n], atol=1e-3) for n in before)
    with pytest.raises(InputError, match="a fusion writes no answers"):
        begun(recipe(), fuse())
    with pytest.raises(InputError, match="learns no answers in words"):
        recipe(objective=Classify())
    with pytest.raises(InputError, match="there is no --teacher"):
        tasks.train("answer_open", rows, tmp_path / "no", [], silent, Chosen(teacher="x"))


def test_answers_are_the_same_but_for_case_and_white_space():
    assert same("At the  left", "at the left") and not same("left", "the left")
