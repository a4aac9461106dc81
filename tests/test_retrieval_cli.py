"""The verbs index and search, as a person meets them, with a real model of a few thousand weights."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pyarrow.parquet
import pytest
import tiny_matching as tiny
from PIL import Image
from typer.testing import CliRunner

from tessella.cli.main import app
from tessella.errors import InputError

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos, their metadata, an untrained run, and an index of them."""
    here = tmp_path_factory.mktemp("search")
    for n, scene in enumerate(tiny.SCENES[:24]):
        (here / "photos" / scene[0]).mkdir(parents=True, exist_ok=True)
        tiny.picture(scene, n).save(here / "photos" / scene[0] / f"{n}.png")
    rows = [
        {"path": p.relative_to(here / "photos").as_posix(), "words": "it's <b>&"}
        for p in (here / "photos").rglob("*.png")
    ]
    tiny.lines(here / "meta.jsonl", rows[:5])
    tiny.run_folder(here / "run")
    done = said(
        "index",
        here / "photos",
        "--model",
        here / "run",
        "--db",
        here / "p.lance",
        "--metadata",
        here / "meta.jsonl",
        "--caption",
        "words",
    )
    assert "24 new, 0 changed, 0 deleted, 0 unchanged" in done
    return here


def ran(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def said(*arguments) -> str:
    done = ran(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments) -> str:
    done = ran(*arguments)
    assert isinstance(done.exception, InputError), done.output
    return str(done.exception)


def hits(*arguments) -> list[dict]:
    done = CliRunner().invoke(app, ["search", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_words_and_pictures_find_pictures(place):
    found = hits(place / "p.lance", "a red disc", "--top", 7)
    assert [one["rank"] for one in found] == [1, 2, 3, 4, 5, 6, 7]
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    matcher = tiny.matcher()
    (wanted,) = matcher.images([place / "photos" / found[0]["path"]])
    assert scores[0] == pytest.approx(float(matcher.texts(["a red disc"])[0] @ wanted), abs=1e-4)
    picture = place / "photos" / found[3]["path"]
    for like in (("--image", picture), (picture,)):
        assert hits(place / "p.lance", *like)[0]["file"] == str(picture)
    table = said("search", place / "p.lance", "a red disc", "--top", 3)
    assert len(re.findall(r"\.png", table)) == 3


def test_conditions_of_the_command_line(place):
    assert len(hits(place / "p.lance", "x", "--where", "caption = 'it''s <b>&' and width = 16")) == 5
    assert {one["path"][:4] for one in hits(place / "p.lance", "x", "--where", "path like 'red/%'")} == {"red/"}
    none = ran("search", place / "p.lance", "x", "--where", "year = 1999")
    assert none.exit_code == 0 and "none of 24 pictures passes --where year = 1999" in none.output
    assert "no column 'yaer'; did you mean 'year'?" in refused("search", place / "p.lance", "x", "--where", "yaer = 1")
    assert "no column 'vector'" in refused("search", place / "p.lance", "x", "--where", "vector is null")


def test_contact_sheets(place):
    gone = place / "photos" / "gone.png"
    tiny.picture(tiny.SCENES[0], 99).save(gone)
    said("index", place / "photos", "--db", place / "p.lance")
    gone.unlink()
    said("search", place / "p.lance", "a disc", "--top", 25, "--html", place / "o.html", "--png", place / "o.png")
    page = (place / "o.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 24 and page.count("no longer readable") == 1
    assert "it&#x27;s &lt;b&gt;&amp;" in page and "http" not in page
    assert Image.open(place / "o.png").width > 400
    assert "1 deleted" in said("index", place / "photos", "--db", place / "p.lance")
    assert "written as .png" in refused("search", place / "p.lance", "x", "--png", place / "o.jpg")


def test_what_an_index_holds(place):
    told = said("search", place / "p.lance", "--stats")
    for words in ("24 of ", "set aside  none", "16 numbers a vector", "search     exact", "fragments ", "caption"):
        assert words in told
    said("search", place / "p.lance", "--export", place / "out.parquet")
    table = pyarrow.parquet.read_table(place / "out.parquet")
    assert table.num_rows == 24
    np.testing.assert_allclose(np.linalg.norm(np.stack(table["vector"].to_numpy()), axis=1), 1, atol=1e-5)


def test_what_cannot_be_searched(place, tmp_path):
    db = place / "p.lance"
    assert "does not exist; make one with" in refused("search", tmp_path / "nothing", "x")
    assert "say what to look for" in refused("search", db)
    assert "not both" in refused("search", db, "x", "--image", place / "o.png")
    assert "are empty" in refused("search", db, "  ")
    assert "is not looked at" in ran("search", db, "a red disc " * 10_000).output
    assert "no such file" in refused("search", db, "--image", tmp_path / "none.png")
    (tmp_path / "photos").mkdir()
    empty = ran("index", tmp_path / "photos", "--model", place / "run", "--db", tmp_path / "db")
    assert empty.exit_code == 0 and "holds no pictures" in empty.output
    assert "is empty; fill it with: tessella index" in refused("search", tmp_path / "db", "x")


def test_words_in_a_script_the_codec_never_saw(place):
    told = ran("search", place / "p.lance", "개가 뛴다")
    assert told.exit_code == 0 and "byte by byte: it has hardly seen this script" in told.output


def test_words_of_no_known_piece(place, monkeypatch):
    tokenizer = tiny.codec().source
    monkeypatch.setattr("tessella.text.Tokenizer.encode", lambda self, texts: [[tokenizer.unk] * 3 + [tokenizer.eos]])
    assert "knows no piece of '개'" in refused("search", place / "p.lance", "개")


def test_models_that_do_not_belong_to_an_index(place, tmp_path):
    tiny.run_folder(tmp_path / "other", seed=1)
    db = place / "p.lance"
    assert "embeddings of two models cannot be compared" in refused("search", db, "x", "--model", tmp_path / "other")
    assert "give --rebuild" in refused("index", place / "photos", "--db", db, "--model", tmp_path / "other")
    assert "needs a model; give --model" in refused("index", place / "photos", "--db", tmp_path / "new")
    assert "give --metadata" in refused("index", place / "photos", "--db", db, "--caption", "words")
    assert "no folder" in refused("index", tmp_path / "none", "--db", db)


def test_the_extra_is_named_where_it_is_missing(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    for verb in (("index", place / "photos", "--db", place / "p.lance"), ("search", place / "p.lance", "x")):
        assert "pip install 'tessella[search]'" in refused(*verb)
