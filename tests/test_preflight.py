"""Preflight: each thing that can be wrong with a data set is found, named and weighed, in every format."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessella.data.pictures import read_pictures
from tessella.data.preflight import Findings, preflight


def file(number: int, mode: str = "RGB", size: tuple[int, int] = (16, 12)) -> bytes:
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).convert(mode).save(out, "PNG")
    return out.getvalue()


def photos(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        for number in range(count):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file(10_000 * seed + 1000 * place + number))
    return root


def about(findings: Findings, words: str) -> tuple[str, list[str]]:
    """(severity, names) of the one problem that speaks of something."""
    (found,) = [problem for problem in findings.problems if words in problem.what]
    return found.severity, [name.replace(f"{findings.path}/", "") for name in found.names]


@pytest.fixture
def clean(tmp_path) -> Path:
    for seed, split in enumerate(("train", "val", "test")):
        photos(tmp_path / "photos" / split, {"cat": 6, "dog": 5}, seed)
    return tmp_path / "photos"


def test_clean_data(clean):
    findings = preflight(clean)
    assert not findings.problems and not findings.fatal and len(findings.fine) == 3
    text = findings.render()
    assert "no problems" in text and "cat 6/6/6, dog 5/5/5" in text and "12x16 to 12x16" in text
    assert [len(part.pictures) for part in findings.parts] == [11, 11, 11]


def test_copies_are_found_within_and_across_splits(clean):
    copy = (clean / "train/cat/0.png").read_bytes()
    (clean / "test/cat/leak.png").write_bytes(copy)
    (clean / "train/dog/torn.png").write_bytes((clean / "train/cat/1.png").read_bytes())
    findings = preflight(clean)
    assert about(findings, "scores would flatter") == ("serious", ["train/cat/0.png = test/cat/leak.png"])
    assert about(findings, "different labels") == ("serious", ["train/cat/1.png = train/dog/torn.png"])
    assert about(findings, "more than once in a split")[0] == "note"
    assert "no picture occurs twice" not in findings.fine and not findings.fatal


def test_unusable_files_by_reason(clean):
    whole = file(1, size=(90, 90))
    (clean / "train/cat/cut.png").write_bytes(whole[:-500])
    (clean / "train/cat/zero.png").touch()
    findings = preflight(clean, minimum=(12, 17), bad_share=1)
    assert about(findings, "truncated image: 1") == ("serious", ["train/cat/cut.png"])
    assert about(findings, "empty file: 1") == ("serious", ["train/cat/zero.png"])
    assert about(findings, "train: smaller than 12x17 pixels: 11")[0] == "serious"
    assert findings.fatal and "no usable picture" in findings.render()
    shown = preflight(clean, bad_share=0.05).render(examples=1)
    assert "train and validation: 2 of 24 cannot be used, more than 5%" in shown and "training would refuse" in shown


def test_classes_that_lack_pictures(clean):
    photos(clean / "train", {"eel": 1, "Dog": 2, "ant": 80}, seed=7)
    photos(clean / "test", {"yak": 2}, seed=8)
    findings = preflight(clean)
    assert about(findings, "validation: 3 of 5 classes") == ("serious", ["ant", "Dog", "eel"])
    assert about(findings, "label 'yak' is not in the list of classes: 2")[0] == "serious"
    assert about(findings, "of which none can be held out") == ("note", ["eel"])
    assert about(findings, "upper and lower case") == ("serious", ["Dog", "dog"])
    assert about(findings, "uneven") == ("note", ["cat: 6", "Dog: 2", "dog: 5", "eel: 1"])
    assert about(preflight(clean, classes=["cat", "dog", "x"]), "train: 1 of 3 classes")[1] == ["x"]


def test_odd_pictures(tmp_path):
    photos(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "cat" / "grey.png").write_bytes(file(90, "L"))
    Image.new("1", (6000, 4001)).save(tmp_path / "dog" / "huge.png")
    findings = preflight(tmp_path)
    assert about(findings, "most are stored as RGB") == ("note", ["cat/grey.png: L", "dog/huge.png: 1"])
    assert about(findings, "over 24 megapixels") == ("note", ["dog/huge.png"])
    assert "4001x6000" in findings.render()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: d / "none", "check the path"),
        (lambda d: d, "holds no labelled pictures"),
        (lambda d: photos(d, {"cat": 3}), "one class only"),
        (lambda d: (d / "t.parquet").write_bytes(b"PAR1 no table") and d / "t.parquet", "not a readable"),
    ],
)
def test_what_training_would_refuse(tmp_path, make, words):
    findings = preflight(make(tmp_path))
    assert findings.fatal and words in findings.render() and "not usable as it is" in findings.render()


def test_the_share_of_the_unusable_is_judged_as_training_does(tmp_path):
    """A poor validation split is a finding, but where the whole is good enough nothing is refused; nor for a test."""
    for split, each in (("train", 20), ("val", 3), ("test", 3)):
        photos(tmp_path / split, {"cat": each, "dog": each})
    for split in ("val", "test"):
        for number in range(2):
            (tmp_path / split / "cat" / f"bad{number}.png").write_bytes(b"no picture")
    findings = preflight(tmp_path)
    assert not findings.fatal and about(findings, "validation: no image of a known kind")[1]
    for number in range(3):
        (tmp_path / "train" / "dog" / f"bad{number}.png").write_bytes(b"no picture")
    assert not preflight(tmp_path).fatal  # 5 of 51
    for number in range(3, 6):
        (tmp_path / "train" / "dog" / f"bad{number}.png").write_bytes(b"no picture")
    assert "train and validation: 8 of 54 cannot be used, more than 10%" in preflight(tmp_path).render()


def test_a_broken_split_is_one_finding(clean, tmp_path):
    rows = [{"image": file(i), "label": i % 2} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(whole[: len(whole) // 2])
    findings = preflight(tmp_path)
    assert findings.fatal and len(findings.parts) == 1 and "test.parquet is not a readable" in findings.render()


def test_it_agrees_with_what_is_read(tmp_path):
    rows = [{"image": file(i % 7), "label": i % 3} for i in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    findings = preflight(tmp_path / "t.parquet")
    assert findings.parts[0].pictures.names == read_pictures(tmp_path / "t.parquet").names
    assert len(about(findings, "more than once")[1]) == 2


def test_pictures_that_are_no_files(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    values[3] = values[0]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 4, 5, 6) + values.tobytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 4) + bytes([0, 1, 1, 0]))
    findings = preflight(tmp_path)
    assert about(findings, "more than once")[1] == ["train-images-idx3-ubyte row 1 = train-images-idx3-ubyte row 4"]
    assert "5x6 to 5x6, median 5x6; L 4" in findings.render() and not findings.fatal


def test_the_published_photos(shared_data):
    findings = preflight(shared_data / "imagenet-samples" / "samples.parquet")
    assert findings.fatal and "no column 'label'" in findings.render()
