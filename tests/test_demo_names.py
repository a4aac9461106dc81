"""The names chapter: damage is what it says it is, nothing of the test is learned, and words follow the numbers."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.columns import read_schema
from tessella.data.records import read_records
from tessella.demo import chapters, names, names_chapter
from tessella.demo.digits import Digits, digit_splits
from tessella.demo.digits_drawings import Line
from tessella.demo.names import NAMES, damaged_rows, ideal, likelihood, misspelt, torn, write_rows
from tessella.demo.names_drawings import Pair, Scene, scenes
from tessella.demo.names_looks import Habit, habits, scene
from tessella.demo.names_words import fused_told, habits_told, missing_told, multiplied_told
from tessella.predict import load


def test_the_names_are_those_of_the_digits():
    assert NAMES[:4] == ("zero", "one", "two", "three")
    assert len(set(NAMES)) == 10


def test_one_half_of_a_digit_is_lost(monkeypatch):
    rng, full = np.random.default_rng(0), np.full((8, 8), 200, np.uint8)
    lost = [torn(full, rng) == 0 for _ in range(60)]
    halves = {one.tobytes() for one in lost if one.sum() == 32}
    assert len(halves) == 4, "noise of 0.15 inks rarely wipes out a pixel of 200, so all four halves are seen"
    monkeypatch.setattr(names, "NOISE", 0.0)
    kept = torn(full, rng)
    assert sorted(np.unique(kept).tolist()) == [0, 200]
    assert (kept == 0).sum() == 32


@given(st.integers(0, 10_000), st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None)
def test_a_misspelt_name_has_some_of_its_letters_in_order(seed, word):
    seen = misspelt(word, np.random.default_rng(seed))
    assert 1 <= len(seen) <= len(word)
    assert likelihood(seen, word) > 0
    assert likelihood(seen + "a" * len(word), word) == 0, "no letter is ever added"


def test_likelihoods_are_those_of_the_damage(monkeypatch):
    monkeypatch.setattr(names, "LETTERS", "abc")
    seen = ["".join(one) for n in (1, 2, 3) for one in itertools.product("abc", repeat=n)]
    assert sum(likelihood(one, "abc") for one in seen) == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = [misspelt("ab", rng) for _ in range(4000)]
    for one in ("a", "b", "c", "ab", "cc"):
        assert np.mean([word == one for word in drawn]) == pytest.approx(likelihood(one, "ab"), abs=0.03)


def test_the_ideal_reader_reads_whole_names_and_guesses_well():
    assert ideal(list(NAMES)).tolist() == list(range(10))
    assert ideal(["svn", "x", "thr", "igh"]).tolist() == [7, 6, 3, 8]


def test_rows_are_of_their_own_digits(monkeypatch):
    monkeypatch.setattr(names, "NOISE", 0.0)
    splits = {}
    for split, mark in (("train", 20), ("val", 40), ("test", 60)):  # all pixels say what digit of which split they are
        labels = np.arange(10)
        pixels = np.broadcast_to((labels + mark)[:, None, None], (10, 8, 8)).astype(np.uint8)
        splits[split] = Digits(pixels, labels, labels)
    parts = damaged_rows(splits)
    for split, mark in (("train", 20), ("val", 40), ("test", 60)):
        assert len(parts[split].words) == 10 * names.COPIES[split]
        for pixels, word, label in zip(*parts[split], strict=True):
            assert set(pixels[pixels > 0].tolist()) == {label + mark}
            assert likelihood(word, NAMES[label]) > 0
    again = damaged_rows(splits)
    assert all(np.array_equal(parts[s].pixels, again[s].pixels) and parts[s].words == again[s].words for s in parts)


def test_written_rows_are_read_back(tmp_path):
    parts = damaged_rows({name: Digits(*(one[:30] for one in part)) for name, part in digit_splits().items()})
    write_rows(tmp_path, parts)
    schema = read_schema([tmp_path / "train.parquet"], "label", names_chapter.KINDS, "classes")
    records = read_records([tmp_path / "test.parquet"], schema)
    assert list(schema.streams) == list(names.STREAMS.values())
    assert [records.text(i) for i in range(len(records))] == parts["test"].words
    assert records.labels is not None
    assert [schema.names[label] for label in records.labels] == parts["test"].labels.astype(str).tolist()
    assert pyarrow.parquet.read_table(tmp_path / "test.parquet").column_names == ["digit", "word", "label"]


def some(share: float, n: int = 200, start: int = 0) -> np.ndarray:
    """So many right, one in a row, from a place on."""
    return np.roll(np.arange(n) < round(share * n), start)


shares = st.floats(0.05, 0.95)


@settings(max_examples=40, deadline=None)
@given(shares, shares, shares, shares)
def test_what_is_said_of_fusion_follows_the_numbers(digit, word, early, cross):
    alone = {"digit alone": some(digit), "word alone": some(word, start=100)}
    fused = {"early": some(early, start=50), "cross": some(cross, start=150)}
    told = fused_told(alone, fused)
    best = max(alone, key=lambda name: alone[name].mean())
    assert told.startswith(f"The {best} reads {alone[best].mean():.1%}")
    (said,) = re.findall(r"\*\*(.+)\*\*", told)
    for name, right in fused.items():
        assert f"With {name} it is {right.mean():.1%}" in told
        if right.mean() <= alone[best].mean():
            assert "more from both" not in said or not re.match(rf".*\b{name}\b.* read", said, re.IGNORECASE)
        if right.mean() >= alone[best].mean() + 0.25:
            assert re.match(rf".*{name}.*more from both", said, re.IGNORECASE)
    neither = ~(alone["digit alone"] | alone["word alone"])
    assert (f"of the {neither.sum()} rows that neither" in said) == bool(neither.any())
    product = some(0.6)
    for name, right in fused.items():
        beside = multiplied_told(product, {name: right})
        if abs(right.mean() - 0.6) > 0.021:
            assert ("short of that" in beside) == (right.mean() < 0.6)
            assert ("ahead of that" in beside) == (right.mean() > 0.6)


def test_what_is_said_of_missing_streams_follows_the_numbers():
    alone = {"digit": some(0.7), "word": some(0.8)}
    kept = {"early": {"digit": some(0.6), "word": some(0.75)}, "cross": {"digit": some(0.5), "word": some(0.65)}}
    told = missing_told(alone, kept, {"digit": some(0.2), "word": some(0.3)})
    assert "60.0% (early) and 50.0% (cross)" in told
    assert "a system of its own for the word reads 80.0%" in told
    assert "**What had to do without" in told
    assert "+40.0 points with the digit left and +45.0 points with the word left" in told
    assert "**What it was worth" in missing_told(alone, kept, {"digit": some(0.6), "word": some(0.3)})


def test_what_is_said_of_attention_follows_the_numbers():
    mass = {"digit": {"digit": 0.7, "word": 0.3}, "word": {"digit": 0.9, "word": 0.1}}
    only = {"digit": {"digit": 0.0, "word": 1.0}, "word": {"digit": 1.0, "word": 0.0}}
    even = {"digit": 0.8, "word": 0.2}
    told = habits_told("both", [Habit("at others", only, even), Habit("all", mass, even)], {"digit": 3.0, "word": 1.0})
    assert "4.0 likelier in log-odds; to that the digit adds 3.0 (75%) and the word adds 1.0 (25%)" in told
    assert "“at others”, none looks at itself" in told
    assert "the digit gives 30% of its attention to the word, which has 20% of the tokens" in told
    assert "the word gives 90% of its own to the digit" in told


def test_scenes_are_drawn_place_by_place():
    places = torch.zeros(4, 4)
    places[1, 2], places[3, 3] = 2.0, -1.0
    pixels = np.zeros((8, 8), np.uint8)
    pair = Pair(pixels, ["<t", "o"], places, torch.tensor([0.5, 0.0]), "a note & more")
    drawn = scenes([Scene([Pair(pixels, ["t"]), pair], torch.eye(2), [Line("a 2", True)])], "abcd", "xy", "drawn")
    assert '<rect x="4" y="2" width="2" height="2" fill="var(--c1)" fill-opacity="0.75">' in drawn
    assert '<rect x="6" y="6" width="2" height="2" fill="var(--c0)" fill-opacity="0.38">' in drawn
    assert "&lt;t" in drawn
    assert "a note &amp; more" in drawn
    assert drawn.count("100%") == 2
    assert "var(--good)" in drawn


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[str, list[str], Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_chapter, "STEPS", 4)
        patch.setattr(names_chapter, "MEANT", 3)
        patch.setattr(names_chapter, "BATCH", 16)
        patch.setattr(names_chapter, "SHOWN", 2)
        patch.setattr(names, "COPIES", {"train": 1, "val": 1, "test": 1})
        patch.setattr(names_chapter, "COPIES", {"train": 1, "val": 1, "test": 1})
        splits = {name: Digits(*(one[:120] for one in part)) for name, part in digit_splits().items()}
        patch.setattr(names_chapter, "digit_splits", lambda: splits)
        said: list[str] = []
        out = tmp_path_factory.mktemp("demo")
        return chapters.tell("names", out, said.append).read_text(), said, out / "names"


def test_the_names_chapter_from_data_to_page(told):
    page, said, _ = told
    for system in names_chapter.SYSTEMS:
        assert any(line.startswith(f"{system.name}: ") and "unseen rows" in line for line in said)
        assert system.name in page
    for part in ("What is read from both", "When one of them is missing", "What attended to what", "multiplied"):
        assert part in page, part
    assert page.count("<svg") >= 3, "bars, and rows as both schemes read them, are drawn"
    assert not re.search(r'(src|href)="http', page), "the page needs nothing from elsewhere"


def test_looks_add_up(told):
    _, _, out = told
    fuser = load(out / "cross-to-concat")
    records = read_records([out / "data" / "test.parquet"], fuser.schema)
    drawn = scene(fuser, records, 0, np.zeros((8, 8), np.uint8), [])
    bare, rests, seen = drawn.pairs
    assert bare.places is None
    assert rests.places is not None
    assert rests.letters is not None
    assert rests.places.shape == (4, 4)
    assert len(rests.letters) == len(rests.pieces)
    assert seen.places is not None
    assert bool((seen.places >= 0).all())
    assert torch.allclose(drawn.between.sum(dim=1), torch.ones(2), atol=1e-5)
    blocks, added = habits(fuser, records.take([0]))
    assert blocks[0].mass["digit"]["word"] == pytest.approx(1, abs=1e-5), "at first each looks at the other alone"
    assert sum(blocks[-1].mass["word"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(blocks[0].even.values()) == pytest.approx(1)
    alone = float(rests.places.sum() + rests.letters.sum())
    assert sum(added.values()) == pytest.approx(alone, abs=1e-3), "in parts or as a whole, all that is known is known"
