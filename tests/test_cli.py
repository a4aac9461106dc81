"""The command line as a user meets it: what works, and what one clear line says when it does not."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tessella.cli import main as cli
from tessella.predict import load

WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "hund": "dog", "katze": "cat", "haus": "house"}
TINY = [
    "loop.steps=30", "loop.validate_every=15", "loop.checkpoint_every=15", "loop.log_every=10", "loop.average=0",
    "codec.size=320", "batch_tokens=600", "schedule.warmup=10", "loop.precision=32", "model.encoder.depth=1",
    "model.decoder.depth=1",
]  # fmt: skip


class Stdin(io.StringIO):
    """Standard input with a descriptor behind it."""

    def __init__(self, data: bytes):
        super().__init__()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as self; a pipe would fill up, unread
        self.file.write(data)
        self.file.seek(0)

    def fileno(self) -> int:
        return self.file.fileno()


def run(*words: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `tessella ...`, in this process."""
    old = sys.argv, sys.stdin, sys.stdout, sys.stderr
    out, err = io.StringIO(), io.StringIO()
    sys.argv, sys.stdout, sys.stderr = ["tessella", *map(str, words)], out, err
    if stdin is not None:
        sys.stdin = Stdin(stdin)
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = old
    return code, out.getvalue(), err.getvalue()


def sentences(n: int, start: int = 0) -> list[tuple[str, str]]:
    """Pairs that are word for word translations."""
    german = list(WORDS)
    rows = []
    for i in range(start, start + n):
        picked = [german[(i * k + k) % len(german)] for k in range(1, 3 + i % 3)]
        rows.append((" ".join(picked), " ".join(WORDS[w] for w in picked)))
    return rows


def write_split(folder: Path, split: str, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    for side, language in enumerate(("de", "en")):
        (folder / f"{split}.{language}").write_text("".join(row[side] + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pairs"
    write_split(folder, "train", sentences(200))
    write_split(folder, "val", sentences(20, 200))
    return folder


@pytest.fixture(scope="module")
def trained(data) -> Path:
    out = data.parent / "run"
    changes = [word for change in TINY for word in ("--set", change)]
    code, _, err = run("train", "multi30k_en_de", "--data", data, "--out", out, *changes,
                       "--set", "data.source=de", "--set", "data.target=en")  # fmt: skip
    assert code == 0, err
    return out


def test_a_run_folder_is_complete(trained):
    names = {p.name for p in trained.iterdir()}
    assert {
        "recipe.yaml",
        "model.safetensors",
        "codec.json",
        "metrics.jsonl",
        "quarantine.jsonl",
        "manifest.json",
    } <= names
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in steps if "validation" in r] == [15, 30]


def test_translate_from_arguments_a_file_and_standard_input(trained, tmp_path):
    code, out, _ = run("translate", trained, "eins zwei", "hund")
    assert code == 0
    assert len(out.splitlines()) == 2
    file, answers = tmp_path / "in.txt", tmp_path / "out.txt"
    file.write_text("eins zwei\nhund\n")
    assert run("translate", trained, "--file", file, "--out", answers)[0] == 0
    assert answers.read_text() == out
    assert run("translate", trained, stdin=b"eins zwei\nhund")[1] == out


def test_translate_gives_nbest_and_json(trained):
    code, out, _ = run("translate", trained, "eins zwei", "--nbest", 3, "--beam", 4)
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert [r[0] for r in rows] == ["1"] * 3
    assert [float(r[1]) for r in rows] == sorted((float(r[1]) for r in rows), reverse=True)
    record = json.loads(run("translate", trained, "eins", "--nbest", 2, "--json")[1])
    assert record["line"] == 1
    assert len(record["others"]) == 1


def test_one_bad_line_costs_only_itself(trained):
    lines = [b"eins", b"", b"\xff\xfe bad", b"x " * 50_000, b"nul\0nul", "하나 👍".encode(), b"zwei"]
    code, out, err = run("translate", trained, stdin=b"\n".join(lines))
    answers = out.splitlines()
    assert code == 1
    assert len(answers) == len(lines)
    assert [bool(a) for a in answers[:5]] == [True, False, False, False, False]
    assert answers[6]
    for number, reason in [(2, "empty"), (3, "not UTF-8"), (4, "tokens long"), (5, "NUL")]:
        assert f"line {number} is not translated" in err
        assert reason in err
    assert "4 of 7 lines are not translated" in err


def test_evaluate_prints_signatures_and_compares(trained, data, tmp_path):
    other, scores = tmp_path / "other", tmp_path / "scores.json"
    shutil.copytree(trained, other)
    code, out, _ = run(
        "evaluate", trained, other, "--source", data / "val.de", "--target", data / "val.en", "--out", scores
    )
    assert code == 0
    assert "nrefs:1|case:lc|eff:no|tok:13a" in out
    assert "paired bootstrap" in out
    found = json.loads(scores.read_text())
    assert found["runs"][0]["sentences"] == 20
    assert found["runs"][0]["scores"] == found["runs"][1]["scores"]
    assert len(found["answers"]) == 20


def test_show_draws(trained, tmp_path):
    for name in ("a.png", "a.html"):
        assert run("show", trained, "eins zwei", "--out", tmp_path / name)[0] == 0
        assert (tmp_path / name).stat().st_size > 1000
    assert run("show", trained, "eins", "--out", tmp_path / "a.gif")[0] == 2
    assert "no layer 7" in run("show", trained, "eins", "--out", tmp_path / "a.png", "--layer", 7)[2]


def test_python_gives_scores_and_attention(trained):
    translator = load(trained)
    one = translator("eins zwei", attention=True)
    assert one.score < 0
    assert one.looked.weights.shape == (len(one.looked.target), len(one.looked.source))
    assert one.looked.weights.sum(1).tolist() == pytest.approx([1.0] * len(one.looked.target), abs=1e-4)
    assert next(a.text for a in translator(["eins zwei", "hund"])) == one.text
    assert translator([]) == []


def test_resume_of_a_finished_run_changes_nothing(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    before = (copy / "model.safetensors").read_bytes()
    assert run("train", "--resume", copy)[0] == 0
    assert (copy / "model.safetensors").read_bytes() == before
    code, _, err = run("train", "--resume", copy, "--set", "model.encoder.depth=3")
    assert code == 2
    assert "keeps its recipe" in err


def test_lists_and_stories():
    assert "multi30k_de_en" in run("recipes")[1]
    assert "63,082,496" in run("models", "base")[1]
    story = run("story", "transformer_tiny")[1]
    for part in ("class Dot(", "class Block(", "class EncoderDecoderModel("):
        assert part in story
    assert story.index("class Attention(") < story.index("class Block(") < story.index("class PlainEncoder(")


def bad(*words: object) -> str:
    """The one line that a mistake gets."""
    code, _, err = run(*words)
    assert code == 2, err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    return err


def test_mistakes_in_training_get_one_line(data, tmp_path):
    out = tmp_path / "out"
    assert "did you mean 'multi30k_de_en'" in bad("train", "multi30k_de_ne", "--data", data, "--out", out)
    assert "needs a recipe, --data and --out" in bad("train", "translate")
    changed = ("train", "multi30k_de_en", "--data", data, "--out", out, "--set")
    assert "did you mean 'epochs'" in bad(*changed, "loop.epoch=3")
    assert "'six' is not usable there" in bad(*changed, "model.encoder.depth=six")
    assert "train.xx" in bad(*changed, "data.source=xx")
    assert "no data at" in bad("train", "multi30k_de_en", "--data", tmp_path / "nowhere", "--out", out)
    assert not out.exists() or not any(out.iterdir())
    (out / "x").mkdir(parents=True)
    assert "is not empty" in bad("train", "multi30k_de_en", "--data", data, "--out", out)


def test_mistakes_in_data_get_one_line(data, tmp_path):
    crooked = tmp_path / "crooked"
    write_split(crooked, "train", sentences(20))
    write_split(crooked, "val", sentences(5))
    (crooked / "train.en").write_text("only one\n")
    assert "same number of lines" in bad("train", "multi30k_de_en", "--data", crooked, "--out", tmp_path / "o1")
    table = tmp_path / "pairs.csv"
    table.write_text("german,english\neins,one\n")
    assert "no column 'source'" in bad("train", "translate", "--data", table, "--out", tmp_path / "o2")
    spoiled = tmp_path / "spoiled"
    write_split(spoiled, "train", [("eins", "one")] * 10 + [("", "x")] * 10)
    write_split(spoiled, "val", sentences(5))
    assert "10 of 25 lines are not usable" in bad(
        "train", "multi30k_de_en", "--data", spoiled, "--out", tmp_path / "o3"
    )


def test_bad_pairs_are_set_aside_and_counted(data, tmp_path):
    folder, out = tmp_path / "d", tmp_path / "r"
    write_split(folder, "train", [*sentences(60), ("", "nothing"), ("wort " * 50_000, "word")])
    write_split(folder, "val", sentences(5))
    changes = [w for c in [*TINY, "loop.steps=2", "data.source=de", "data.target=en"] for w in ("--set", c)]
    code, _, err = run("train", "multi30k_en_de", "--data", folder, "--out", out, *changes)
    assert code == 0, err
    assert "2 set aside" in err
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rows] == [61, 62]


@pytest.mark.parametrize("name", ["recipe.yaml", "model.safetensors", "codec.json", "manifest.json"])
def test_a_missing_or_changed_file_is_named(trained, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    assert name in bad("translate", copy, "eins")
    (copy / name).write_bytes(content[:-3] + b"xyz")
    assert name in bad("translate", copy, "eins")


def test_another_run_s_codec_is_refused(trained, data, tmp_path):
    other = tmp_path / "other"
    changes = [
        w for c in [*TINY, "loop.steps=1", "codec.size=310", "data.source=de", "data.target=en"] for w in ("--set", c)
    ]
    assert run("train", "multi30k_en_de", "--data", data, "--out", other, *changes)[0] == 0
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    shutil.copy(other / "codec.json", copy / "codec.json")
    manifest, theirs = (json.loads((p / "manifest.json").read_text()) for p in (copy, other))
    manifest["files"]["codec.json"] = theirs["files"]["codec.json"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "codec of another run" in bad("translate", copy, "eins")


def test_other_mistakes_get_one_line(trained, tmp_path):
    assert "no run" in bad("translate", tmp_path / "nowhere", "eins")
    assert "no file" in bad("translate", trained, "--file", tmp_path / "nowhere.txt")
    assert "not both" in bad("translate", trained, "eins", "--file", tmp_path / "x")
    assert "no dtype" in bad("translate", trained, "eins", "--dtype", "float8")
    assert "nbest must lie in 1..beam" in bad("translate", trained, "eins", "--nbest", 3, "--beam", 2)
    assert "no file" in bad("evaluate", trained, "--source", tmp_path / "x", "--target", tmp_path / "y")
    assert "no model called" in bad("story", "transformer_tine")
    assert "no chapter 'digit'" in bad("demo", "digit", "--out", tmp_path / "demo")
    assert "no model's name contains" in bad("models", "zzz")
