"""The digits chapter: three parts that share nothing, words that follow the numbers, and runs one can use."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.class_scores import compare
from tessella.demo import chapters, digits, digits_chapter
from tessella.demo.digits import digit_splits, write_digits
from tessella.demo.digits_drawings import Line, Panel, confusion_matrix, sheet
from tessella.demo.digits_words import SURE, bias_told, teacher_told
from tessella.errors import InputError
from tessella.predict import load


def test_no_digit_is_in_two_parts_and_each_is_in_one():
    parts = digit_splits()
    every = np.concatenate([part.index for part in parts.values()])
    assert sorted(every) == list(range(1797))
    assert [len(parts[name].labels) for name in ("train", "val", "test")] == [1097, 100, 600]


def test_the_split_is_a_function_of_the_seed():
    first, again, other = digit_splits(3), digit_splits(3), digit_splits(4)
    for name in first:
        assert all(np.array_equal(a, b) for a, b in zip(first[name], again[name], strict=True))
        assert not np.array_equal(first[name].index, other[name].index)


def test_fewer_to_learn_from_leave_the_test_as_it_is():
    few, all_of_them = digit_splits(train=30), digit_splits()
    assert np.array_equal(few["test"].index, all_of_them["test"].index)
    assert set(few["train"].index) < set(all_of_them["train"].index)
    with pytest.raises(InputError, match="1098 digits to learn from: there are 1 to 1097"):
        digit_splits(train=1098)


def test_every_part_has_about_the_same_share_of_each_digit():
    for part in digit_splits().values():
        counts = np.bincount(part.labels, minlength=10)
        assert counts.min() > 0.85 * len(part.labels) / 10
        assert counts.max() < 1.15 * len(part.labels) / 10


def test_written_digits_are_the_digits(tmp_path):
    test = digit_splits(train=20)["test"]
    write_digits(tmp_path, {"test": test})
    files = sorted((tmp_path / "test").glob("*/*.png"))
    assert len(files) == len(test.labels)
    path = tmp_path / "test" / f"{test.labels[7]}" / f"{test.index[7]:04}.png"
    assert np.array_equal(np.asarray(Image.open(path)), test.pixels[7])


def answers(share: float, n: int = 600) -> np.ndarray:
    """So many right answers, always at the same images first."""
    return np.arange(n) < round(share * n)


shares = st.floats(0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(shares, shares, shares, shares)
def test_what_is_said_of_the_bias_follows_the_numbers(few_conv, few_vit, many_conv, many_vit):
    conv, vit = {50: answers(few_conv), 900: answers(many_conv)}, {50: answers(few_vit), 900: answers(many_vit)}
    told = bias_told("CNN", conv, "ViT", vit)
    gap = compare(vit[50], conv[50])
    said = re.search(r"\*\*(.+)\*\*", told)
    assert said
    assert ("no difference" in said[1]) == (gap.p >= SURE)
    assert ("no help" in said[1]) == (gap.p < SURE and gap.top1 < 0)
    shrinks = "shrinks" in said[1]
    if shrinks:
        assert conv[900].mean() - vit[900].mean() <= gap.top1 / 2
    assert f"{vit[50].mean():.1%}" in told
    assert f"{conv[900].mean():.1%}" in told


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=4))
def test_what_is_said_of_the_teacher_follows_the_numbers(pairs):
    alone = {100 * (i + 1): answers(one) for i, (one, _) in enumerate(pairs)}
    taught = {100 * (i + 1): answers(two) for i, (_, two) in enumerate(pairs)}
    told = teacher_told("ViT", alone, "DeiT", taught)
    gaps = [compare(alone[n], taught[n]) for n in alone]
    said = told.rsplit("**", 2)[1].lower()
    assert ("helps" in said) == any(gap.p < SURE and gap.top1 > 0 for gap in gaps)
    assert ("harm" in said) == any(gap.p < SURE and gap.top1 < 0 for gap in gaps)
    assert told.count("may be chance") == sum(gap.p >= SURE and gap.gained != gap.lost for gap in gaps)


def test_drawings_show_what_they_are_given():
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2, 5] = 255
    over = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    drawn = sheet({"row": [Panel(pixels, over, (Line("<a 7>", right=False),))]}, "a picture")
    assert "M5 2h1v1h-1z" in drawn
    assert "75.0% of" in drawn
    assert "&lt;a 7&gt;" in drawn
    matrix = confusion_matrix(["cat", "dog"], [[8, 2], [0, 5]], "confused")
    assert "2 images of cat, taken for dog" in matrix
    assert "0 images" not in matrix


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(digits, "SIZES", {"val": 10, "test": 30})
    monkeypatch.setattr(digits_chapter, "digit_splits", lambda: digit_splits(train=60))
    monkeypatch.setattr(digits_chapter, "SIZES", (30, None))
    monkeypatch.setattr(digits_chapter, "STEPS", 2)


def test_the_digits_chapter_from_data_to_page(quick, tmp_path):
    said: list[str] = []
    out = tmp_path / "demo"
    page = chapters.tell("digits", out, said.append).read_text()
    for system in digits_chapter.SYSTEMS:
        assert sum(line.startswith(f"{system.name}: ") and "of 30 unseen" in line for line in said) == 2
    for part in ("30 images", "60 images", "What convolution brings along", "What a teacher passes on", "rollout"):
        assert part in page, part
    assert page.count("<svg") >= 6, "the curve, looks of two systems and three matrices are drawn"
    assert page.count("distillation token") >= 2
    assert not re.search(r'(src|href)="http', page), "the page needs nothing from elsewhere"
    picture = sorted((out / "digits" / "data" / "test").glob("*/*.png"))[0]
    for run in ("cnn", "vit", "deit", "cnn-30", "vit-30", "deit-30"):
        assert load(out / "digits" / run)(picture) in "0123456789"
