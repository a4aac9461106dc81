"""The numbers chapter: nothing unseen leaks, words follow the numbers, and what is found is what is nearest."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.captioned import read_captioned
from tessella.demo import chapters, numbers, numbers_chapter
from tessella.demo.digits import Digits, digit_splits
from tessella.demo.numbers import ALL, LANGUAGES, composed, files, name, unseen, write_numbers
from tessella.demo.numbers_drawings import similarity
from tessella.demo.numbers_reading import GROUPS, Reading
from tessella.demo.numbers_search import compared, indexed
from tessella.demo.numbers_words import CHANCE, FAR, mistakes_told, translated_told, unseen_told
from tessella.predict import load
from tessella.text import train_codec

FEW = {"train": (1, 0), "val": (1, 0), "test": (1, 2)}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(numbers, "PICTURES", FEW)


def test_names_are_one_word_each_and_all_different():
    assert [name(23, language) for language in LANGUAGES] == ["twenty-three", "이십삼"]
    for language in LANGUAGES:
        names = [name(n, language) for n in range(ALL)]
        assert len(set(names)) == ALL
        assert not any(re.search(r"\s", one) for one in names)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_each_digit_is_learned_equally_often_in_each_place(seed):
    held = unseen(seed)
    seen = np.setdiff1d(np.arange(ALL), held)
    assert len(held) == 20
    for place in (seen // 10, seen % 10):
        assert np.bincount(place, minlength=10).tolist() == [8] * 10
    assert np.array_equal(held, unseen(seed))


def test_pictures_are_of_their_own_digits_and_numbers(few):
    splits = {}
    for split, mark in (("train", 20), ("val", 40), ("test", 60)):  # all pixels say what digit of which split they are
        labels = np.arange(10)
        pixels = np.broadcast_to((labels + mark)[:, None, None], (10, 8, 8)).astype(np.uint8)
        splits[split] = Digits(pixels, labels, labels)
    parts, held = composed(splits), unseen()
    for split, mark in (("train", 20), ("val", 40), ("test", 60)):
        for pixels, value in zip(*parts[split], strict=True):
            left, right = np.split(pixels, 2, axis=1)
            assert [set(half[half > 0].tolist()) for half in (left, right)] == [
                {value // 10 + mark},
                {value % 10 + mark},
            ]
            assert (left > 0).sum() == (right > 0).sum() == 64
        known, new = FEW[split]
        counts = np.bincount(parts[split].values, minlength=ALL)
        assert counts[held].tolist() == [new] * len(held)
        assert np.delete(counts, held).tolist() == [known] * (ALL - len(held))
    again = composed(splits)
    assert all(np.array_equal(parts[split].pixels, again[split].pixels) for split in parts)


def test_written_numbers_are_read_as_captioned_pictures(few, tmp_path):
    parts = composed(digit_splits())
    write_numbers(tmp_path, parts)
    test = read_captioned(tmp_path, "test")
    assert len(test) == len(parts["test"].values)
    assert test.captions[-1] == tuple(name(int(parts["test"].values[-1]), language) for language in LANGUAGES)
    path = files(tmp_path, "test", parts["test"])[7]
    assert np.array_equal(np.asarray(Image.open(path)), parts["test"].pixels[7])


def test_names_are_spelled_by_their_parts():
    learned = [name(n, language) for n in np.setdiff1d(np.arange(ALL), unseen()) for language in LANGUAGES] * 30
    tokenizer = train_codec(numbers_chapter.recipe().codec, learned, learned).source
    for number in range(ALL):
        english, korean = (tokenizer.encode([name(number, language)])[0] for language in LANGUAGES)
        assert max(len(english), len(korean)) <= numbers_chapter.LENGTH
        if number > 20 and number % 10:
            assert "-" in tokenizer.pieces(english)
            assert name(number, "Korean") not in [piece.strip("▁") for piece in tokenizer.pieces(korean)]


def reading(answers: np.ndarray, values: np.ndarray, names: np.ndarray | None = None) -> Reading:
    """Each picture lies at the name of its answer, in both languages; each name at its translation unless `names`."""
    one = np.eye(ALL, dtype=np.float32)
    other = one if names is None else one[names]
    return Reading(values, unseen(), one[answers], dict(zip(LANGUAGES, (one, other), strict=True)), 10.0)


def test_reading_is_the_nearest_name():
    values = np.repeat(np.arange(ALL), 3)
    answers = values.copy()
    held = unseen()
    answers[values == held[0]] = held[1]
    found = reading(answers, values)
    for language in LANGUAGES:
        assert np.array_equal(found.answers(language), answers)
        assert found.right(language).sum() == 3 * 99
        assert found.groups(language)["20 to 99"].all()
        assert sum(map(len, found.groups(language).values())) == 3 * len(held) == found.new.sum()
        assert np.array_equal(found.together(language).argmax(axis=1) == np.arange(ALL), np.arange(ALL) != held[0])
    swapped = np.arange(ALL)
    swapped[held[:2]] = held[:2][::-1]
    assert reading(values, values, swapped).translated(*LANGUAGES).sum() == len(held) - 2
    far = reading(np.full(300, 55), values)
    assert far.right("English", held).sum() == 3 * (55 in held)
    assert set(far.answers("English", np.array([7, 9])).tolist()) <= {7, 9}


shares = st.floats(0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.tuples(shares, shares, shares))
def test_what_is_said_of_the_unseen_follows_the_numbers(right):
    values = np.repeat(np.arange(ALL), 20)
    answers = values.copy()
    for share, group in zip(right, GROUPS.values(), strict=True):
        mine = np.flatnonzero(np.isin(values, group))
        wrong = mine[np.arange(len(mine)) % 20 >= round(20 * share)]
        answers[wrong] = (values[wrong] + 37) % ALL  # another first and another second digit
    found = reading(answers, values)
    told = unseen_told(found)
    said = re.search(r"\*\*(.+)\*\*", told)
    assert said
    overall = found.right("English")[found.new].mean()
    assert ("hardly" in said[1]) == (overall < FAR * CHANCE)
    if "hardly" not in said[1]:
        assert f"{overall / CHANCE:.0f} times" in said[1]
    groups = {group: one.mean() for group, one in found.groups("Korean").items()}
    for group, share in groups.items():
        assert f"from {group}, {share:.0%} in English and {share:.0%} in Korean" in told
    best = max(groups.values())
    for group in re.findall(r"most often from (\d+ to \d+)", said[1]):
        assert groups[group] == best
    assert ("most often" in said[1]) == (best - min(groups.values()) >= 0.2)
    mistakes = mistakes_told(found)
    if found.right("English")[found.new].all():
        assert mistakes.count("none of them is read wrong") == 2
    else:
        assert mistakes.count(" 0% have one of the two digits right") == 2


def test_what_is_said_of_translations_follows_the_names():
    values, held = np.arange(ALL), unseen()
    assert translated_told(reading(values, values)).count("20") >= 3
    swapped = np.arange(ALL)
    swapped[held[:2]] = held[:2][::-1]
    told = translated_told(reading(values, values, swapped))
    assert "for 18 of the 20; the other way round, for 18" in told
    first, second = (int(n) for n in held[:2])
    assert f"{name(first, 'English')}: {name(second, 'Korean')} (and not {name(first, 'Korean')})" in told


def test_the_matrix_is_drawn_cell_by_cell():
    cosines = np.full((20, 20), -0.5)
    cosines[3, 17], cosines[5, 5] = 1.0, 0.4
    drawn = similarity(cosines, [f"<{n}>" for n in range(20)], [5], "near")
    assert re.findall(r"M\d+ \d+h1v1h-1z", drawn) == ["M5 5h1v1h-1z", "M17 3h1v1h-1z"], "lighter shades come first"
    assert drawn.count("<title>") == 1
    assert "&lt;5&gt;: 0.40" in drawn
    assert "<10>" not in drawn


def test_comparing_all_finds_the_nearest():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = compared(vectors)(vectors[7], 5)
    assert found.places == np.argsort(-(vectors @ vectors[7]), kind="stable")[:5].tolist()
    assert found.places[0] == 7
    assert found.cosines == sorted(found.cosines, reverse=True)
    assert found.cosines[0] == pytest.approx(1)


@pytest.fixture
def quick(monkeypatch, few):
    monkeypatch.setattr(numbers_chapter, "STEPS", 2)
    monkeypatch.setattr(numbers_chapter, "BATCH", 16)


def test_the_numbers_chapter_from_data_to_page(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(numbers_chapter, "installed", lambda: False)
    said: list[str] = []
    out = tmp_path / "demo"
    page = chapters.tell("numbers", out, said.append).read_text()
    for language in LANGUAGES:
        assert any(line.startswith(f"{language}: ") and "of 40 pictures of unseen" in line for line in said)
    for part in ("Which of the unseen", "Two languages", "How near", "One picture of each unseen", "not installed"):
        assert part in page, part
    assert page.count("<svg") >= 7, "bars, four matrices, pictures, and what was found are drawn"
    assert not re.search(r'(src|href)="http', page), "the page needs nothing from elsewhere"
    matcher = load(out / "numbers" / "clip")
    pictures = sorted((out / "numbers" / "data" / "test").glob("*/*.png"))
    near = matcher(pictures[0], ["twenty-three", "이십삼"])
    assert all(-1.001 <= cosine <= 1.001 for cosine in near.values())
    if importlib.util.find_spec("lancedb") is None:
        pytest.skip("LanceDB is not installed: no index to ask")
    folder, run = out / "numbers" / "data" / "test", out / "numbers" / "clip"
    vectors = np.stack(list(matcher.images(pictures)))
    found = indexed(tmp_path / "db", folder, pictures, matcher, run)(vectors[3], 6)
    exactly = compared(vectors)(vectors[3], 6)
    assert found.cosines == pytest.approx(exactly.cosines, abs=1e-5)
    assert found.places[0] == 3 or vectors[found.places[0]] @ vectors[3] > 1 - 1e-5
