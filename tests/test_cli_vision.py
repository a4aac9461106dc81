"""The command line for pictures: what works, what machines get, exit codes, and one clear line for every mistake."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import tiny_vision as tiny
from command_line import bad, run

CLASSES = tiny.NAMES


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vision")


@pytest.fixture(scope="module")
def vit(place) -> Path:
    return tiny.run_folder(place / "vit", tiny.vit())


@pytest.fixture(scope="module")
def other(place) -> Path:
    return tiny.run_folder(place / "other", tiny.vit(), seed=1)


@pytest.fixture(scope="module")
def convnet(place) -> Path:
    return tiny.run_folder(place / "resnet", tiny.resnet())


@pytest.fixture(scope="module")
def photos(place) -> Path:
    return tiny.album(place / "photos")


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "broken.jpg"
    path.write_bytes(tiny.encoded(tiny.picture(), "JPEG")[:-200])
    return path


def test_classify_answers_for_people(vit, photos):
    code, out, _ = run("classify", vit, photos / "red" / "0.png", "--top", 2)
    assert code == 0
    name, _, told = out.strip().rpartition(": ")
    assert name == str(photos / "red" / "0.png")
    shares = [float(one.rsplit(" ", 1)[1].rstrip("%")) for one in told.split(", ")]
    assert len(shares) == 2
    assert shares == sorted(shares, reverse=True)
    assert all(one.rsplit(" ", 1)[0] in CLASSES for one in told.split(", "))


def test_classify_answers_for_machines_and_says_what_it_could_not_read(vit, photos, broken, tmp_path):
    missing, out = tmp_path / "none.png", tmp_path / "answers.jsonl"
    code, _, err = run("classify", vit, photos / "red" / "0.png", broken, missing, "--json", "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 1
    assert [row["image"] for row in rows] == [str(photos / "red" / "0.png"), str(broken), str(missing)]
    assert sum(one["probability"] for one in rows[0]["classes"]) == pytest.approx(1, abs=0.2)
    assert "truncated" in rows[1]["error"]
    assert "no such file" in rows[2]["error"]
    assert "2 of 3 pictures have no answer" in err


def test_folders_are_walked_in_natural_order(vit, tmp_path):
    for name in ("b/10.png", "b/2.png", "a/1.PNG", "a/notes.txt", ".hidden/3.png", "c/.x.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.encoded(tiny.picture()))
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    code, out, _ = run("classify", vit, tmp_path / "in", "--json")
    assert code == 0
    names = [os.path.relpath(json.loads(line)["image"], tmp_path / "in") for line in out.splitlines()]
    assert names == ["a/1.PNG", "b/2.png", "b/10.png"]


def tessella(*words: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """The command as a process."""
    command = [sys.executable, "-m", "tessella.cli", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=120)


def test_a_process_reads_paths_from_standard_input_and_ends_as_it_should(vit, photos, broken, tmp_path):
    strange = tmp_path / "naïve 그림.png"
    strange.write_bytes(tiny.encoded(tiny.picture()))
    paths = [photos / "red" / "0.png", strange, broken]
    done = tessella("classify", vit, "-", "--json", stdin="\n".join(map(str, paths)).encode() + b"\n\n")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["image"] for row in rows] == list(map(str, paths))
    assert b"Traceback" not in done.stderr
    done = tessella("classify", tmp_path / "nowhere", photos)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("tessella: there is no run ")
    assert len(done.stderr.decode().strip().splitlines()) == 1


def test_evaluate_prints_and_writes_everything(vit, photos, tmp_path):
    scores, table, page = tmp_path / "scores.json", tmp_path / "predictions.csv", tmp_path / "page.html"
    code, out, _ = run("evaluate", vit, "--data", photos, "--out", scores, "--csv", table, "--html", page)
    assert code == 0
    for word in ("18 images", "top-1", "ECE", "by class", "taken for", "images/s"):
        assert word in out
    found = json.loads(scores.read_text())["runs"][0]
    rows = list(csv.DictReader(table.open()))
    assert found["images"] == len(rows) == 18
    assert found["top1"] == pytest.approx(sum(row["correct"] == "1" for row in rows) / 18)
    assert all((row["label"] == row["prediction"]) == (row["correct"] == "1") for row in rows)
    assert all(row["image"].split("/")[-2] == row["label"] for row in rows)
    assert all(len(row["top5"].split("; ")) == 5 for row in rows)
    assert found["images a second"] > 0
    text = page.read_text(encoding="utf-8")
    assert "surest mistakes" in text
    assert "data:image/png" in text


def test_what_is_set_aside_is_counted_and_named(vit, tmp_path):
    data, table = tiny.album(tmp_path / "photos", names=("red", "green", "mauve")), tmp_path / "predictions.csv"
    (data / "green" / "cut.jpg").write_bytes(tiny.encoded(tiny.picture(), "JPEG")[:-300])
    (data / "red" / "text.png").write_text("hello")
    code, out, _ = run("evaluate", vit, "--data", data, "--csv", table)
    assert code == 0
    assert "6 images" in out
    assert "3 set aside: label 'mauve' is not in the list of classes" in out
    assert "truncated" in out
    assert "4 of its classes have no image here and count nowhere: blue" in out
    rows = list(csv.DictReader(table.open()))
    assert sum(bool(row["error"]) for row in rows) == 5
    assert sum(bool(row["prediction"]) for row in rows) == 6
    assert any(row["image"].endswith("cut.jpg") and "truncated" in row["error"] for row in rows)


def test_names_are_shown_as_they_are(tmp_path):
    names = ("[red]", "[/bold]", "b\\[x]", "d%s", "e{}", "f")
    strange = tiny.run_folder(tmp_path / "[green]", tiny.vit(), names=names)
    data = tmp_path / "test.csv"
    tiny.picture().save(tmp_path / "a.png")
    data.write_text("image,label\n" + "".join(f"a.png,{name}\n" for name in names))
    code, out, err = run("evaluate", strange, "--data", data, "--temperature", "--html", tmp_path / "page.html")
    assert code == 0, err
    for name in names:
        assert name in out
    assert "[green]" in out
    assert "would be calibrated best here" in out


def test_data_of_other_classes_altogether_gets_one_line(vit, tmp_path):
    data = tiny.album(tmp_path / "photos", names=("mauve", "teal"))
    assert "label 'mauve' is not in the list of classes" in bad("evaluate", vit, "--data", data)


def test_several_runs_are_compared_image_by_image(vit, other, convnet, photos, tmp_path):
    scores = tmp_path / "scores.json"
    code, out, _ = run("evaluate", vit, other, convnet, "--data", photos, "--out", scores)
    assert code == 0
    assert "image by image" in out
    found = json.loads(scores.read_text())
    assert [one["run"] for one in found["runs"]] == [str(vit), str(other), str(convnet)]
    for one, compared in zip(found["runs"][1:], found["paired comparison"], strict=True):
        difference = compared["difference"]
        assert difference["top1"] == pytest.approx(one["top1"] - found["runs"][0]["top1"])
        assert difference["gained"] - difference["lost"] == round(18 * difference["top1"])
        assert 0 <= difference["p"] <= 1


def test_a_comparison_fits_a_terminal(vit, other, photos, tmp_path, monkeypatch):
    """Of 80 columns: names of runs are whole in every table."""
    (tmp_path / "runs").mkdir()
    for name, folder in (("first", vit), ("cvt-two", other)):
        shutil.copytree(folder, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("evaluate", "runs/first", "runs/cvt-two", "--data", photos, columns=80)
    assert code == 0
    assert out.count("runs/cvt-two") == 4
    assert max(map(len, out.splitlines())) <= 80


def test_runs_whose_classes_are_in_another_order_see_the_same_labels(vit, photos, place, tmp_path):
    turned = tiny.run_folder(tmp_path / "turned", tiny.vit(), names=CLASSES[::-1])
    scores = tmp_path / "scores.json"
    assert run("evaluate", vit, turned, "--data", photos, "--out", scores)[0] == 0
    found = json.loads(scores.read_text())["runs"]
    assert {c["name"]: c["images"] for c in found[0]["classes"]} == {
        c["name"]: c["images"] for c in found[1]["classes"]
    }


def test_a_split_is_chosen_and_said(vit, tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        tiny.album(tmp_path / "photos" / split, each=number + 1)
    assert "18 images of test" in run("evaluate", vit, "--data", tmp_path / "photos")[1]
    page = tmp_path / "page.html"
    assert (
        "12 images of val" in run("evaluate", vit, "--data", tmp_path / "photos", "--split", "val", "--html", page)[1]
    )
    assert "photos, val, 12 images" in page.read_text(encoding="utf-8")
    assert "not 'tets'" in bad("evaluate", vit, "--data", tmp_path / "photos", "--split", "tets")


def test_tables_are_read_by_their_columns(vit, tmp_path):
    images = [{"bytes": tiny.encoded(tiny.picture(i)), "path": None} for i in range(4)]
    table = pyarrow.table({"photo": images, "kind": ["red", "green", "blue", "red"]})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    code, out, _ = run("evaluate", vit, "--data", tmp_path / "test.parquet", "--image", "photo", "--label", "kind")
    assert code == 0
    assert "4 images" in out
    assert "photo" in bad("evaluate", vit, "--data", tmp_path / "test.parquet")


def test_options_of_the_other_kind_are_refused(vit, photos, tmp_path):
    told = bad("evaluate", vit, "--data", photos, "--source", tmp_path / "x")
    assert "--source is not for" in told
    assert "takes --data" in told
    assert "give --data" in bad("evaluate", vit)
    assert "named twice" in bad("evaluate", vit, vit, "--data", photos)
    assert "use `tessella classify`" in bad("translate", vit, "hello")


def test_show_draws_attention_or_says_that_there_is_none(vit, convnet, photos, tmp_path):
    picture = photos / "red" / "0.png"
    for name in ("why.png", "why.html"):
        code, out, err = run("show", vit, picture, "--out", tmp_path / name)
        assert code == 0
        assert out.split(" ")[0] in CLASSES
        assert err == ""
        assert (tmp_path / name).stat().st_size > 10_000
    code, _, err = run("show", convnet, picture, "--out", tmp_path / "map.png")
    assert code == 0
    assert "no attention; drawn is its class activation map" in err
    assert "no layer 9" in bad("show", vit, picture, "--out", tmp_path / "x.png", "--layer", 9)
    assert "no such file" in bad("show", vit, "a sentence", "--out", tmp_path / "x.png")
    assert "not 'x.gif'" in bad("show", vit, picture, "--out", tmp_path / "x.gif")


def test_check_lists_what_is_wrong_and_ends_with_1_where_training_would_refuse(photos, tmp_path):
    code, out, _ = run("check", photos)
    assert code == 0
    assert "6 classes" in out
    alone = tiny.album(tmp_path / "alone", names=("red",))
    code, out, _ = run("check", alone, "--json")
    assert code == 1
    found = json.loads(out)
    assert found["fatal"] is True
    assert any(problem["severity"] == "fatal" for problem in found["problems"])
    code, out, _ = run("check", photos, "--smallest", 64, "--json")
    assert code == 1
    assert json.loads(out)["splits"]["all"]["set aside"] == 18
    assert run("check", tmp_path / "nowhere")[0] == 1


def test_other_mistakes_get_one_line(vit, photos, tmp_path):
    picture = photos / "red" / "0.png"
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in bad("classify", vit, tmp_path / "empty")
    assert "give it alone" in bad("classify", vit, "-", picture)
    assert "not tiled by patches" in bad("classify", vit, picture, "--image-size", 30)
    assert "no dtype" in bad("classify", vit, picture, "--dtype", "float8")
    assert "no run" in bad("classify", tmp_path / "nowhere", picture)
    assert "no folder or file" in bad("evaluate", vit, "--data", tmp_path / "nowhere")
    assert "no model's name contains" in bad("models", "zzz")
    copy = tmp_path / "copy"
    shutil.copytree(vit, copy)
    (copy / "labels.json").write_text('["red"]')
    assert "labels.json" in bad("classify", copy, picture)
    (copy / "recipe.yaml").unlink()
    assert "recipe.yaml" in bad("classify", copy, picture)


def test_models_are_listed_with_what_is_published():
    code, out, _ = run("models", "swin_tiny_patch4")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.startswith("swin_tiny_patch4_window7_224")]
    assert "28,288,354" in row
    assert "4.49 G" in row
    assert "[1]" in row
    assert "  [1] " in out
    assert max(map(len, out.splitlines())) <= 100
    assert "*" not in row
    assert "37,000" in run("models", "transformer_base")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "--resume", "x", "--model", "cvt_13"), "leave them out"),
        (("train", "classify", "--model", "cvt_31", "--data", "d", "--out", "o"), "cvt_"),
        (("train", "multi30k_de_en", "--model", "cvt_13", "--data", "d", "--out", "o"), "chosen for images"),
        (("export", "nowhere", "--to", "onnx", "--out", "x.onnx"), "no run"),
        (("import", "nowhere", "--out", "o", "--layout", "timm"), "nowhere"),
    ],
)
def test_mistakes_before_anything_is_done(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in bad(*words)
    assert not list(tmp_path.iterdir())


def test_help_of_every_verb_is_there():
    for verb in ("train", "check", "classify", "evaluate", "show", "models", "import", "export"):
        code, out, _ = run(verb, "--help")
        assert code == 0
        assert "Usage" in out
