"""The command line for images and texts: what works, exit codes, and one clear line for every mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_matching as tiny
import tiny_vision
from command_line import bad, run

NAMES = ",".join(tiny.COLOURS)
TEMPLATES = ("--template", "a {} disc at the left, light", "--template", "dark: right, a bar in {}")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("matching")


@pytest.fixture
def match(base) -> Path:
    return tiny.trained(base)


@pytest.fixture(scope="module")
def test_pairs(place) -> Path:
    return tiny.table(place / "test", 1, "test.jsonl", first=7000)


@pytest.fixture(scope="module")
def album(place) -> Path:
    return tiny.album(place / "album", each=6)


@pytest.fixture(scope="module")
def classifier(place) -> Path:
    return tiny_vision.run_folder(place / "vit", tiny_vision.vit())


SHORT = ["loop.steps=2", "loop.workers=0", "batch=24", "image.size=[32, 32]", "data.held_out=0.25"]
CHANGES = [word for change in SHORT for word in ("--set", change)]


def test_train_match_makes_a_run_that_can_be_used_and_gone_on_with(base, place):
    out, data = place / "trained", tiny.pairs(base)
    code, _, err = run("train", "match", "--data", data, "--model", "clip_micro", "--out", out, *CHANGES)
    assert code == 0, err
    assert "72 images with 144 captions to learn from, 24 images to validate, 0 set aside" in err
    assert (out / "codec.json").is_file() and (out / "manifest.json").is_file()
    code, _, err = run("train", "--resume", out, "--set", "loop.steps=3")
    assert code == 0, err
    code, told, _ = run("evaluate", out, "--data", data)
    assert code == 0 and "96 images" in told


def test_evaluate_both_ways_for_people_and_machines(match, test_pairs, tmp_path):
    code, out, err = run("evaluate", match, "--data", test_pairs, "--out", tmp_path / "scores.json")
    assert code == 0, err
    for word in ("48 images, 96 captions", "R@1", "R@5", "R@10", "median rank", "chance", "text to image", "images/s"):
        assert word in out
    told = json.loads((tmp_path / "scores.json").read_text())
    (one,) = told["runs"]
    by_text, by_image = one["text to image"], one["image to text"]
    assert (one["images"], one["captions"], by_text["queries"], by_image["queries"]) == (48, 96, 96, 48)
    assert by_text["R@10"] > 0.8 and by_text["R@10"] > 3 * by_text["chance R@10"]
    assert f"{by_text['R@10']:.1%}" in out and told["data"] == str(test_pairs)


def test_several_runs_stand_beside_each_other(match, test_pairs, tmp_path):
    fresh = tiny.run_folder(tmp_path / "fresh")
    code, out, _ = run("evaluate", match, fresh, "--data", test_pairs, "--out", tmp_path / "scores.json")
    assert code == 0
    first, second = json.loads((tmp_path / "scores.json").read_text())["runs"]
    assert str(fresh) in out and first["text to image"]["R@10"] > 2 * second["text to image"]["R@10"]


def test_columns_splits_and_what_is_set_aside(match, tmp_path):
    folder = tiny.table(tmp_path / "t", 1, "train.jsonl").parent
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [{"photo": row["image"], "title": row["caption"]} for row in rows[:12]]
    rows[0]["title"] = [" ".join(["red"] * 10_000)]
    rows[1]["title"] = ""
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-40])
    tiny.lines(folder / "test.jsonl", rows)
    columns = ("--image", "photo", "--caption", "title")
    code, out, err = run("evaluate", match, "--data", folder, *columns, "--out", tmp_path / "s.json")
    assert code == 0, err
    assert "10 images, 19 captions of test" in out
    assert "1 captions are longer than it reads, and were cut" in out
    assert "1 set aside: truncated image" in out and "test.jsonl row 2" in out
    assert {item["reason"] for item in json.loads((tmp_path / "s.json").read_text())["runs"][0]["quarantined"]} == {
        "truncated image", "caption: empty"}  # fmt: skip
    assert "has no column" in bad("evaluate", match, "--data", folder, "--split", "test")
    assert "not 'tets'" in bad("evaluate", match, "--data", folder, "--split", "tets", *columns)
    assert "47 images" in run("evaluate", match, "--data", folder, "--split", "train")[1]


def test_evaluate_by_the_classes_of_labelled_pictures(match, album, tmp_path):
    scores = tmp_path / "scores.json"
    code, out, err = run("evaluate", match, "--data", album, *TEMPLATES, "--out", scores, "--csv", tmp_path / "p.csv")
    assert code == 0, err
    told = json.loads(scores.read_text())["runs"][0]
    assert told["images"] == 24 and told["top1"] > 0.8 and "by class" in out
    names = tmp_path / "names.txt"
    names.write_text("\n".join([*tiny.COLOURS, "purple", ""]))
    code, out, _ = run("evaluate", match, "--data", album, "--labels", names)
    assert code == 0 and "1 of its classes have no image here and count nowhere: purple" in out


def test_classify_by_names_alone(match, album):
    pictures = [album / name / "0.png" for name in tiny.COLOURS]
    code, out, err = run("classify", match, *pictures, "--labels", NAMES, *TEMPLATES, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == list(map(str, pictures))
    right = [row["classes"][0]["class"] == name for row, name in zip(rows, tiny.COLOURS, strict=True)]
    assert sum(right) >= 3
    assert all(sum(one["probability"] for one in row["classes"]) == pytest.approx(1, abs=1e-3) for row in rows)


def test_classes_are_built_once_and_kept(match, album, tmp_path):
    kept, picture = tmp_path / "colours.safetensors", album / "red" / "0.png"
    code, first, _ = run("classify", match, picture, "--labels", NAMES, *TEMPLATES, "--save", kept)
    assert code == 0 and kept.is_file()
    code, again, _ = run("classify", match, picture, "--classes", kept)
    assert code == 0 and again == first
    code, out, _ = run("evaluate", match, "--data", album, "--classes", kept)
    assert code == 0 and "24 images" in out
    other = tiny.run_folder(tmp_path / "other", seed=3)
    assert "made with another model" in bad("classify", other, picture, "--classes", kept)


def test_none_of_these_is_found_by_labelled_pictures(match, album, tmp_path):
    kept = tmp_path / "two.safetensors"
    given = ("--labels", "red,blue", *TEMPLATES, "--calibrate", album, "--save", kept)
    code, out, err = run("classify", match, album / "green" / "0.png", *given)
    assert code == 0
    assert "it is none of these:" in err and "of 12 pictures of the classes stay" in err and "of 12 others" in err
    assert "none of these" in out
    answers = []
    for name in ("red", "green"):
        lines = run("classify", match, album / name, "--classes", kept, "--json")[1].splitlines()
        answers.append([json.loads(line)["classes"][0]["class"] for line in lines])
    assert answers[0].count("none of these") < answers[1].count("none of these")


def test_show_draws_where_the_image_tower_looked(match, album, tmp_path):
    texts = [word for name in tiny.COLOURS for word in ("--text", f"a {name} disc at the left, light")]
    for name in ("why.png", "why.html"):
        code, out, err = run("show", match, album / "red" / "0.png", "--out", tmp_path / name, *texts)
        assert code == 0, err
        assert out.startswith("a red disc") and (tmp_path / name).stat().st_size > 10_000


def test_mistakes_get_one_line(match, classifier, album, test_pairs, tmp_path):
    picture = album / "red" / "0.png"
    (tmp_path / "notes.txt").write_text("hello")
    for told, words in (
        ("give --labels, or --classes FILE", ("classify", match, picture)),
        ("give --labels, or --classes FILE", ("classify", match, picture, "--labels", "a,b", "--classes", "x")),
        ("two or more class names", ("classify", match, picture, "--labels", "red")),
        ("two or more class names", ("classify", match, picture, "--labels", "red,,blue")),
        ("named twice", ("classify", match, picture, "--labels", "red,red")),
        ("has not one {}", ("classify", match, picture, "--labels", "a,b", "--template", "a photo")),
        ("no file", ("classify", match, picture, "--labels", tmp_path / "none.txt")),
        ("no file", ("classify", match, picture, "--classes", tmp_path / "none")),
        ("holds no classes", ("classify", match, picture, "--classes", tmp_path / "notes.txt")),
        ("no folder or file", ("classify", match, picture, "--labels", "a,b", "--calibrate", tmp_path / "none")),
        ("no validation image", ("classify", match, picture, "--labels", "a,b", "--calibrate", album)),
        ("holds no picture", ("classify", match, tmp_path, "--labels", "a,b")),
        ("--labels is not for", ("classify", classifier, picture, "--labels", "a,b")),
        ("use `tessella classify`", ("translate", match, "hello")),
        ('give two or more: --text "a dog"', ("show", match, picture, "--out", tmp_path / "x.png")),
        ("--text is not for", ("show", classifier, picture, "--out", tmp_path / "x.png", "--text", "a")),
        ("give --data", ("evaluate", match)),
        ("no folder or file", ("evaluate", match, "--data", tmp_path / "nowhere")),
        ("only runs of one kind", ("evaluate", match, classifier, "--data", test_pairs)),
        ("named twice", ("evaluate", match, match, "--data", test_pairs)),
        ("--source is not for", ("evaluate", match, "--data", test_pairs, "--source", "x")),
        ("--csv is not for", ("evaluate", match, "--data", test_pairs, "--csv", tmp_path / "x")),
        ("--caption is not for", ("evaluate", match, "--data", album, "--labels", "a,b", "--caption", "x")),
        ("--labels is not for", ("evaluate", classifier, "--data", album, "--labels", "a,b")),
        ("of classes give --template or --labels", ("evaluate", match, "--data", album)),
    ):
        assert told in bad(*words), words


def test_trainings_that_cannot_be_get_one_line(match, classifier, base, tmp_path):
    data, out = tiny.pairs(base), tmp_path / "run"
    soon = ("--set", "loop.steps=1", "--set", "loop.workers=0")  # so that one that can be is soon over
    start = ("train", "match", "--data", data, "--out", out, *soon)
    lone = tiny.lines(tmp_path / "lone.jsonl", [{"image": str(data.parent / "0.png"), "caption": "alone"}])
    for told, words in (
        ("mixed images have no caption", (*start, "--set", "augment.mixup=0.5")),
        ("more than the 32 positions", (*start, "--set", "length=50")),
        ("no model called 'transformer_tiny'", (*start, "--model", "transformer_tiny")),
        ("did you mean", (*start, "--model", "clip_smal")),
        ("there is no --teacher", (*start, "--teacher", match)),
        ("no run", (*start, "--from", tmp_path / "none")),
        ("has no column 'titel'", (*start, "--set", "data.caption=titel")),
        ("nothing can be held out", ("train", "match", "--data", lone, "--out", out)),
        ("check the path", ("train", "match", "--data", tmp_path / "none.csv", "--out", out)),
        ("is not empty", ("train", "match", "--data", data, "--out", match)),
    ):
        assert told in bad(*words), words
    assert not out.exists()


def test_a_damaged_run_is_refused(match, album, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(match, copy)
    (copy / "codec.json").write_text("{}")
    assert "codec.json" in bad("classify", copy, album / "red" / "0.png", "--labels", "a,b")


def test_unreadable_pictures_are_exit_code_1(match, album, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    code, out, err = run("classify", match, album / "red" / "0.png", tmp_path / "x.png", "--labels", NAMES)
    assert code == 1 and "1 of 2 pictures have no answer" in err and len(out.splitlines()) == 2
