"""Pictures: every format people have gives the same pictures, and what is not usable is set aside by name."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.albums import PictureColumns, natural
from tessella.data.blobs import Blobs
from tessella.data.pictures import as_array, each, held_out, loaded, read_pictures, splits, verify
from tessella.data.pixels import Preprocess, decode
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

CLASSES = ["class2", "Class10", "class11"]
TINY = Preprocess(size=8, crop=1.0)


def png(path: Path, number: int, size: tuple[int, int] = (12, 10)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number * 7 % 256, number % 256, 90)).save(path, "PNG")
    return path.read_bytes()


def folders(root: Path, each_class: int = 3, classes: list[str] = CLASSES) -> Path:
    for number in range(each_class * len(classes)):
        png(root / classes[number % len(classes)] / f"{number}.png", number)
    return root


def told(quarantine: Quarantine) -> list[tuple[str, int, str]]:
    return [(Path(item.where).name, item.line, item.reason) for item in quarantine]


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_idx(path: Path, values: np.ndarray) -> Path:
    data = struct.pack(f">{1 + values.ndim}i", 0x0800 + values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_every_format_gives_the_same_pictures(tmp_path):
    root = folders(tmp_path / "photos")
    expected = read_pictures(root)
    assert expected.classes == CLASSES and expected.counts.tolist() == [3, 3, 3]
    files = [Path(name) for name in expected.names]
    labels = [CLASSES[label] for label in expected.labels]
    inside = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    paths = [str(file.relative_to(tmp_path)) for file in files]
    tables = {
        "struct.parquet": inside,
        "pathless.parquet": [{"bytes": file.read_bytes()} for file in files],
        "binary.parquet": [file.read_bytes() for file in files],
        "paths.parquet": paths,
        "empty.parquet": [{"bytes": None, "path": path} for path in paths],
        "a.csv": paths,
        "a.tsv": paths,
        "a.jsonl": paths,
    }
    pixels = as_array(expected, TINY)
    for name, column in tables.items():
        rows = [{"image": image, "label": label} for image, label in zip(column, labels, strict=True)]
        got = read_pictures(write_table(tmp_path / name, rows))
        assert got.classes == CLASSES and np.array_equal(got.labels, expected.labels), name
        assert torch.equal(as_array(got, TINY), pixels), name
        assert decode(got.read(4)).size == (12, 10)
        assert Path(got.names[4]).exists() or got.names[4] == f"{tmp_path / name} row 5", name


def test_whole_numbers_and_dictionaries_are_labels(tmp_path):
    images = [png(tmp_path / "p" / f"{i}.png", i) for i in range(4)]
    for labels in (pa.array([10, 2, 2, 10]), pa.array([10.0, 2.0, 2.0, 10.0]), pa.array([10, 2, 2, 10], pa.uint8())):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "n.parquet")
        got = read_pictures(tmp_path / "n.parquet")
        assert got.classes == ["2", "10"] and got.labels.tolist() == [1, 0, 0, 1]
    words = pa.array(["b", "a", "a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"img": images, "kind": words}), tmp_path / "d.parquet")
    got = read_pictures(tmp_path / "d.parquet", columns=PictureColumns(image="img", label="kind"))
    assert got.classes == ["a", "b"] and got.labels.tolist() == [1, 0, 0, 1]
    write_table(tmp_path / "n.jsonl", [{"image": f"p/{i}.png", "label": label} for i, label in enumerate([10, 2])])
    assert read_pictures(tmp_path / "n.jsonl").classes == ["2", "10"]
    pq.write_table(pa.table({"image": images, "label": [0.5, 1, 2, 3]}), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="a label is a whole number or text"):
        read_pictures(tmp_path / "f.parquet")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    values = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
    labels = np.asarray([7, 1, 1, 7, 9, 9], np.uint8)
    for word in ("train", "t10k"):
        write_idx(tmp_path / f"{word}-images-idx3-ubyte{suffix}", values)
        write_idx(tmp_path / f"{word}-labels-idx1-ubyte{suffix}", labels)
    assert splits(tmp_path) == ("train", "test")
    got = read_pictures(tmp_path, "test")
    assert got.classes == ["1", "7", "9"] and got.labels.tolist() == [1, 0, 0, 1, 2, 2]
    grey = as_array(got, Preprocess(size=(4, 5), crop=1.0, channels=1))
    assert np.array_equal(grey.numpy(), values[:, None])
    assert got.decode(0).mode == "RGB"
    (tmp_path / "classes.txt").write_text("".join(f"name {i}\n" for i in range(10)))
    assert read_pictures(tmp_path).labels.tolist() == labels.tolist()
    assert read_pictures(tmp_path).classes[7] == "name 7"
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", labels[:5])
    with pytest.raises(InputError, match=r"6 pictures, but .* 5 labels"):
        read_pictures(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-1], "holds fewer"),
        (lambda b: b + b"x", "holds more"),
        (lambda b: b"\0\0\x08\x01" + b[4:], "no IDX file of uint8 with 3 axes"),
        (lambda b: b[:4] + b"\x7f" * 12 + b[16:], "no IDX file"),
        (lambda b: b[:9], "not readable as IDX"),
    ],
)
def test_broken_idx_files_are_refused(tmp_path, damage, message):
    path = write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 4, 5), np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(3, dtype=np.uint8))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        read_pictures(tmp_path)


def test_splits_of_folders_and_tables(tmp_path):
    for split in ("train", "val", "test"):
        folders(tmp_path / "photos" / split)
    assert splits(tmp_path / "photos") == ("train", "validation", "test")
    for name in ("val", "validation", "dev"):
        assert "val" in read_pictures(tmp_path / "photos", name).names[0]
    for split in (None, "tset"):
        with pytest.raises(InputError, match="has train, validation, test"):
            read_pictures(tmp_path / "photos", split)
    with pytest.raises(InputError, match="no splits, not 'test'"):
        read_pictures(tmp_path / "photos" / "test", "test")
    assert len(read_pictures(tmp_path / "photos" / "test", None)) == 9
    rows = [{"image": png(tmp_path / "x.png", i), "label": "ab"[i % 2]} for i in range(6)]
    sheets = tmp_path / "sheets" / "data"
    sheets.mkdir(parents=True)
    for number in range(2):
        write_table(sheets / f"train-0000{number}-of-00002.parquet", rows[3 * number : 3 * number + 3])
    write_table(sheets / "test-00000-of-00001.parquet", rows[:2])
    got = read_pictures(tmp_path / "sheets")
    assert len(got) == 6 and got.place(3) == (str(sheets / "train-00001-of-00002.parquet"), 1)
    write_table(sheets / "train.csv", [{"image": "x.png", "label": "a"}])
    with pytest.raises(InputError, match="same split"):
        read_pictures(tmp_path / "sheets")


def test_a_class_may_be_called_train(tmp_path):
    folders(tmp_path, classes=["bus", "train", "test"])
    assert splits(tmp_path) == () and read_pictures(tmp_path).classes == ["bus", "test", "train"]


def test_all_splits_number_classes_as_the_training_split_does(tmp_path):
    folders(tmp_path / "train", classes=["a", "b", "c"])
    folders(tmp_path / "test", classes=["b", "c", "d"])
    quarantine = Quarantine()
    test = read_pictures(tmp_path, "test", quarantine=quarantine)
    assert test.classes == ["a", "b", "c"] and test.counts.tolist() == [0, 3, 3]
    assert quarantine.reasons() == {"label 'd' is not in the list of classes": 3}


def test_the_order_given_is_kept(tmp_path):
    folders(tmp_path, classes=["a", "b", "c"])
    got = read_pictures(tmp_path, classes=["c", "a", "x", "b"])
    assert got.classes == ["c", "a", "x", "b"] and got.counts.tolist() == [3, 3, 0, 3]
    with pytest.raises(InputError, match="label 'c' is not in the list"):
        read_pictures(tmp_path, classes=["b", "a"])
    with pytest.raises(InputError, match="named twice"):
        read_pictures(tmp_path, classes=["a", "a"])


def test_numbers_are_places_in_a_list_of_names(tmp_path):
    rows = [{"image": png(tmp_path / "p" / f"{i}.png", i), "label": i % 3} for i in range(6)]
    table = write_table(tmp_path / "t.parquet", rows)
    assert read_pictures(table, classes=["cat", "dog", "eel"]).labels.tolist() == [0, 1, 2] * 2
    quarantine = Quarantine()
    assert len(read_pictures(table, classes=["cat", "dog"], quarantine=quarantine)) == 4
    assert told(quarantine)[0] == ("t.parquet", 3, "label '2' is not in the list of classes")
    for name, text in (("labels.txt", "cat\ndog\neel\n\n"), ("classes.json", '{"1": "dog", "0": "cat", "2": "eel"}')):
        (tmp_path / name).write_text(text)
        assert read_pictures(table).classes == ["cat", "dog", "eel"]
        assert read_pictures(table, classes=["eel", "dog", "cat"]).labels.tolist() == [2, 1, 0] * 2
        (tmp_path / name).unlink()
    names = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    told_by = pq.read_table(table).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(told_by, table)
    assert read_pictures(table).classes == ["cat", "dog", "eel"]
    for wrong in ("[1, 2]", "{", '{"a": "b"}'):
        (tmp_path / "classes.json").write_text(wrong)
        with pytest.raises(InputError, match=r"classes\.json"):
            read_pictures(table)


@given(st.lists(st.text("aB019 -é", max_size=6), unique=True))
def test_natural_order_is_a_total_order(names):
    order = sorted(names, key=natural)
    names.reverse()
    assert order == sorted(names, key=natural)


def test_natural_order():
    names = ["class10", "Class9", "class2", "b", "A", "2", "10", "1"]
    assert sorted(names, key=natural) == ["1", "2", "10", "A", "b", "class2", "Class9", "class10"]


def test_what_lies_about_in_folders(tmp_path):
    root = folders(tmp_path / "photos")
    (root / "class2" / "head.gif").write_bytes(b"GIF89a")
    (root / "class2" / "notes.jpg").write_text("no picture at all, but quite a few words")
    (root / "class2" / "zero.png").touch()
    (root / "class2" / ".hidden.png").touch()
    png(root / "class2" / "deeper" / "9.png", 9)
    (root / "class2" / "again").symlink_to(root / "class2")
    (root / "around").symlink_to(root)
    (root / "class2" / "gone.png").symlink_to(root / "nowhere")
    (root / "nothing").mkdir()
    png(root / "loose.png", 1)
    for junk in (".DS_Store", "Thumbs.db", "class2/.DS_Store", "class2/._1.png", "README.md"):
        (root / junk).touch()
    (root / ".ipynb_checkpoints").mkdir()
    quarantine = Quarantine()
    got = read_pictures(root, quarantine=quarantine)
    assert got.classes == CLASSES and len(got) == 10
    reasons = {name: reason for name, line, reason in told(quarantine) if line == 0}
    assert reasons.pop("notes.jpg").startswith("no image of a known kind")
    assert reasons.pop("head.gif")
    assert reasons == {
        "zero.png": "empty file",
        ".hidden.png": "hidden",
        "again": "folder met before (symbolic link)",
        "around": "link to a folder that holds it",
        "gone.png": "no such file",
        "nothing": "empty class folder",
        "loose.png": "in no class folder",
    }
    with pytest.raises(InputError, match="is not usable"):
        read_pictures(root)


def test_rows_that_cannot_be_used(tmp_path):
    good = png(tmp_path / "1.png", 1)
    rows = [{"image": image, "label": label} for image, label in [(good, "a"), (None, "a"), (good, None), (good, "b")]]
    rows.append({"image": b"\0" * 100, "label": "b"})
    quarantine = Quarantine()
    assert len(read_pictures(write_table(tmp_path / "t.parquet", rows), quarantine=quarantine)) == 2
    assert [(line, reason[:8]) for _, line, reason in told(quarantine)] == [
        (2, "empty fi"),
        (3, "no label"),
        (5, "no image"),
    ]
    (tmp_path / "t.csv").write_text("image,label\n1.png,a\n,a\n1.png,\nnone.png,b\nx,y,z\n1.png, b \n")
    quarantine = Quarantine()
    got = read_pictures(tmp_path / "t.csv", quarantine=quarantine)
    assert got.labels.tolist() == [0, 1] and got.classes == ["a", "b"]
    reasons = {line: reason for _, line, reason in told(quarantine)}
    assert reasons == {2: "no path", 3: "no label", 4: "no such file", 5: "3 cells instead of 2"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "photoz", "did you mean 'photos'"),
        (lambda d: d / "photos" / "class2", "holds no labelled pictures; expected folders named by class"),
        (lambda d: png(d / "a.png", 1) and d / "a.png", "holds no labelled pictures"),
        (lambda d: folders(d / "one", classes=["cat"]), "has one class, 'cat'"),
        (lambda d: write_table(d / "w.parquet", [{"image": b"x", "kind": 1}]), "no column 'label'"),
        (lambda d: write_table(d / "w.parquet", [{"image": 3, "label": 1}]), "neither files nor their paths"),
        (lambda d: write_table(d / "w.parquet", [{"image": {"raw": b"x"}, "label": 1}]), "needed: bytes or path"),
        (lambda d: write_table(d / "w.parquet", [{"image": b"x", "label": [1]}]), "a whole number or text"),
        (lambda d: write_table(d / "w.csv", [{"image": "a.png", "label": ""}]), "has no labels"),
        (lambda d: (d / "w.parquet").write_bytes(b"PAR1") and d / "w.parquet", "not a readable .parquet"),
        (lambda d: write_idx(d / "train-images-idx3-ubyte", np.zeros((1, 2, 2), np.uint8)), "no labels beside it"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(tmp_path, make, message):
    folders(tmp_path / "photos")
    with pytest.raises(InputError, match=message) as caught:
        read_pictures(make(tmp_path), quarantine=Quarantine())
    assert "\n" not in str(caught.value)


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"no usable picture \(empty file: 2\)"):
        read_pictures(tmp_path, quarantine=Quarantine())


@pytest.mark.parametrize("workers", [1, 3])
def test_verification_finds_what_headers_hide(tmp_path, workers):
    root = folders(tmp_path, 4)
    whole = png(root / "class2" / "cut.png", 1, (300, 300))
    (root / "class2" / "cut.png").write_bytes(whole[:-200])
    png(root / "class11" / "small.png", 1, (4, 9))
    quarantine = Quarantine()
    read = read_pictures(root, quarantine=quarantine)
    assert len(read) == 14 and not len(quarantine)
    kept = verify(read, quarantine, minimum=(5, 5), workers=workers)
    assert len(kept) == 12
    assert sorted(told(quarantine)) == [("cut.png", 0, "truncated image"), ("small.png", 0, "smaller than 5x5 pixels")]
    with pytest.raises(InputError, match=r"cut\.png is not usable"):
        verify(read, workers=workers)
    with pytest.raises(InputError, match=r"cut\.png is not usable"):
        as_array(read, TINY, workers)
    again = Quarantine()
    both, pixels = loaded(read, TINY, again, workers)
    assert len(both) == len(pixels) == 13 and told(again) == [("cut.png", 0, "truncated image")]
    assert torch.equal(pixels, as_array(both, TINY))


def test_work_comes_back_in_order(tmp_path):
    pictures = read_pictures(folders(tmp_path))
    for workers in (1, 4):
        assert list(each(pictures, lambda number: number, workers)) == list(range(9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
@pytest.mark.filterwarnings("ignore:one picture only")
def test_held_out_is_a_share_of_every_class(labels, share, seed):
    pictures = in_memory(labels)
    if pictures.counts.max() < 2:
        with pytest.raises(InputError, match="nothing can be held out"):
            held_out(pictures, share, seed)
        return
    train, validation = held_out(pictures, share, seed)
    assert sorted([*train.index, *validation.index]) == list(range(len(labels)))
    for total, kept in zip(pictures.counts, validation.counts, strict=True):
        assert kept == 0 if total < 2 else 1 <= kept < total and abs(kept - share * total) <= 1
    again, _ = held_out(pictures, share, seed)
    assert np.array_equal(again.index, train.index)


def in_memory(labels: list[int]):
    from tessella.data.albums import Listing
    from tessella.data.pictures import Pictures

    count, classes = len(labels), [str(number) for number in range(5)]
    none = np.zeros(count, np.int64)
    listing = Listing(np.zeros((count, 2, 2), np.uint8), list(map(str, labels)), ["memory"], none, none + 1)
    return Pictures(listing, np.arange(count), np.asarray(labels), classes)


def test_held_out_says_which_class_has_one_picture():
    with pytest.warns(UserWarning, match="missing in validation: 3"):
        train, validation = held_out(in_memory([0, 0, 1, 1, 3]), 0.5)
    assert train.counts[3] == 1 and validation.counts[3] == 0
    for share in (0, 1, -1):
        with pytest.raises(InputError, match="between 0 and 1"):
            held_out(in_memory([0, 0]), share)
    several = [held_out(in_memory([0] * 40), 0.5, seed)[1].index.tolist() for seed in range(3)]
    assert several[0] != several[1] != several[2]


def test_the_fingerprint_follows_content_and_not_the_place(tmp_path):
    pictures = [read_pictures(folders(tmp_path / name)) for name in ("here", "there")]
    assert pictures[0].fingerprint() == pictures[1].fingerprint()
    assert pictures[0].take([1, 0]).fingerprint() != pictures[0].take([0, 1]).fingerprint()
    rows = [{"image": png(tmp_path / "x.png", i), "label": i} for i in range(3)]
    first = read_pictures(write_table(tmp_path / "t.parquet", rows)).fingerprint()
    rows[0]["image"] = png(tmp_path / "x.png", 77)
    assert read_pictures(write_table(tmp_path / "t.parquet", rows)).fingerprint() != first


def test_some_of_some(tmp_path):
    pictures = read_pictures(folders(tmp_path))
    some = pictures.take([8, 3, 5]).take(np.asarray([2, 0]))
    assert some.names == [pictures.names[5], pictures.names[8]] and len(some) == 2
    assert some.labels.tolist() == pictures.labels[[5, 8]].tolist()
    assert np.array_equal(np.asarray(some.decode(0)), np.asarray(pictures.decode(5)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.binary(max_size=9)), max_size=5), max_size=6), st.integers(0, 30))
def test_blobs_are_what_went_in(columns, in_memory):
    blobs = Blobs.gather((pa.array(column, pa.binary()) for column in columns), in_memory)
    expected = [cell or b"" for column in columns for cell in column]
    assert [blobs[i] for i in range(len(blobs))] == expected
    assert blobs.lengths.tolist() == [len(cell) for cell in expected]
    copy = pickle.loads(pickle.dumps(blobs))
    assert [copy[i] for i in range(len(copy))] == expected
    del copy
    scratch = blobs.scratch
    assert (scratch is not None) == (sum(map(len, expected)) > in_memory)
    assert scratch is None or scratch.exists()
    del blobs
    assert scratch is None or not scratch.exists()


def test_sliced_arrow_columns(tmp_path):
    column = pa.array([b"aa", b"b", None, b"cccc", b"d"])
    assert [Blobs.gather([column.slice(1, 3)])[i] for i in range(3)] == [b"b", b"", b"cccc"]


def test_the_published_sets(shared_data):
    cifar = read_pictures(shared_data / "cifar10", "test")
    assert cifar.classes == list("0123456789") and cifar.counts.tolist() == [500] * 10
    assert as_array(cifar.take(range(50)), Preprocess(size=32, crop=1.0)).shape == (50, 3, 32, 32)
    fashion = read_pictures(shared_data / "fashion-mnist", "test")
    assert fashion.counts.tolist() == [1000] * 10 and fashion.read(0).shape == (28, 28)
    photos = read_pictures(shared_data / "imagenet-samples", columns=PictureColumns(label="name"))
    assert len(photos) == len(photos.classes) == 200
    assert len(verify(photos, minimum=(224, 224))) == 200
