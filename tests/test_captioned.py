"""Captioned: every format gives the same pictures and captions, and what is unusable is set aside by name."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.captioned import Captioned, captioned_splits, read_captioned
from tessella.data.captions import CaptionColumns
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

SAID = [("a dog runs", "a brown dog", "호랑이"), ("two cats",), ("a red car", "a car, parked"), ("snow",)]
WRONG = [("a cat",), (), ("a boat", "a plane"), ()]


def png(path: Path, number: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (number * 7 % 256, number % 256, 90)).save(path, "PNG")
    return path.read_bytes()


@pytest.fixture
def images(tmp_path: Path) -> list[bytes]:
    return [png(tmp_path / "p" / f"{number}.png", number) for number in range(len(SAID))]


def write_rows(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def reasons(quarantine: Quarantine) -> list[tuple[str, int, str]]:
    return [(Path(item.where).name, item.line, item.reason) for item in quarantine]


def same(one: Captioned, other: Captioned) -> bool:
    pictures = [[np.asarray(c.pictures.decode(number)).tobytes() for number in range(len(c))] for c in (one, other)]
    return pictures[0] == pictures[1] and one.captions == other.captions and one.negatives == other.negatives


def test_every_table_tells_the_same(tmp_path: Path, images: list[bytes]) -> None:
    paths = [f"p/{number}.png" for number in range(len(SAID))]
    flat = [(path, text) for path, texts in zip(paths, SAID, strict=True) for text in texts]
    flat = flat[::2] + flat[1::2][::-1]  # rows of one picture need not stand together
    structs = [{"bytes": image, "path": "x"} for image in images]
    lists = pa.array(SAID, pa.large_list(pa.large_string()))
    pq.write_table(pa.table({"image": structs, "captions": list(map(list, SAID))}), tmp_path / "s.parquet")
    pq.write_table(pa.table({"image": images, "caption": lists}), tmp_path / "b.parquet", row_group_size=3)
    pq.write_table(pa.table({"image": paths, "caption": list(map(list, SAID))}), tmp_path / "p.parquet")
    named = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": named, "caption": list(map(list, SAID))}), tmp_path / "n.parquet")
    several = [{"image": path, "captions": list(texts)} for path, texts in zip(paths, SAID, strict=True)]
    write_lines(tmp_path / "l.jsonl", several)
    expected = read_captioned(tmp_path / "s.parquet")
    assert expected.captions == SAID and expected.negatives is None and len(expected) == 4
    for name in ("b.parquet", "p.parquet", "n.parquet", "l.jsonl"):
        assert same(read_captioned(tmp_path / name), expected), name
    rows = [{"filepath": path, "title": text, "more": "1"} for path, text in flat]
    columns = CaptionColumns(image="filepath", caption="title")
    write_rows(tmp_path / "c.csv", rows)
    write_rows(tmp_path / "t.tsv", [{**row, "title": row["title"].replace('"', "")} for row in rows], "\t")
    write_rows(tmp_path / "open_clip.csv", rows, "\t")
    whole = list(rows)
    pq.write_table(pa.Table.from_pylist(whole), tmp_path / "f.parquet")
    repeated = [{"filepath": images[paths.index(path)], "title": text} for path, text in flat]
    pq.write_table(pa.Table.from_pylist(repeated), tmp_path / "r.parquet")
    write_lines(tmp_path / "f.jsonl", whole)
    first = read_captioned(tmp_path / "c.csv", columns=columns)
    order = list(dict.fromkeys(paths.index(path) for path, _ in flat))
    assert [sorted(texts) for texts in first.captions] == [sorted(SAID[number]) for number in order]
    for name in ("t.tsv", "open_clip.csv", "f.parquet", "r.parquet", "f.jsonl"):
        assert same(read_captioned(tmp_path / name, columns=columns), first), name


def test_wrong_captions(tmp_path: Path, images: list[bytes]) -> None:
    table = pa.table({"image": images, "caption": list(map(list, SAID)), "not": list(map(list, WRONG))})
    pq.write_table(table, tmp_path / "b.parquet")
    columns = CaptionColumns(negative="not")
    got = read_captioned(tmp_path / "b.parquet", columns=columns)
    assert got.captions == SAID and got.negatives == WRONG
    rows = [{"image": f"p/{n}.png", "caption": SAID[n][0], "not": "".join(WRONG[n][:1])} for n in range(4)]
    assert read_captioned(write_rows(tmp_path / "c.csv", rows), columns=columns).negatives == [
        ("a cat",),
        (),
        ("a boat",),
        (),
    ]


def test_splits_of_folders(tmp_path: Path, images: list[bytes]) -> None:
    for split, share in (("train", slice(0, 3)), ("val", slice(3, 4))):
        table = pa.table({"image": images[share], "caption": [texts[0] for texts in SAID[share]]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert captioned_splits(tmp_path) == ("train", "validation")
    assert [len(read_captioned(tmp_path, split)) for split in ("train", "dev")] == [3, 1]
    with pytest.raises(InputError, match="has train, validation, not 'test'"):
        read_captioned(tmp_path, "test")
    for split, number in (("train", 0), ("test", 1)):  # the layout of the datasets library's image folders
        png(tmp_path / "f" / split / "i.png", number)
        write_lines(tmp_path / "f" / split / "metadata.jsonl", [{"file_name": "i.png", "text": "a dog"}])
    columns = CaptionColumns(image="file_name", caption="text")
    assert captioned_splits(tmp_path / "f") == ("train", "test")
    assert read_captioned(tmp_path / "f", "test", columns).pictures.names == [str(tmp_path / "f" / "test" / "i.png")]


def test_bad_captions_and_pictures_are_set_aside(tmp_path: Path, images: list[bytes]) -> None:
    (tmp_path / "p" / "9.png").write_bytes(b"no picture")
    long = " ".join(["word"] * 10_000)
    rows = [
        {"image": "p/0.png", "caption": ["fine", "", None, "a\0b", "  two \n lines "]},
        {"image": "p/1.png", "caption": []},
        {"image": "p/2.png", "caption": long},
        {"image": "p/8.png", "caption": "there is no such file"},
        {"image": "p/8.png", "caption": "twice"},
        {"image": "p/9.png", "caption": "no picture"},
        {"image": "", "caption": "no path"},
        {"image": "p/3.png", "caption": 5},
        {"image": "p/3.png", "caption": None},
        {"image": "p/0.png", "caption": "again"},
    ]
    quarantine = Quarantine()
    table = write_lines(tmp_path / "t.jsonl", rows)
    got = read_captioned(table, quarantine=quarantine)
    assert got.captions == [("fine", "two lines", "again"), (long,)]
    assert got.pictures.names == [str(tmp_path / "p" / "0.png"), str(tmp_path / "p" / "2.png")]
    assert reasons(quarantine) == [
        ("t.jsonl", 1, "caption: empty"),
        ("t.jsonl", 1, "caption: missing"),
        ("t.jsonl", 1, "caption: NUL character"),
        ("t.jsonl", 2, "no caption"),
        ("t.jsonl", 7, "no path"),
        ("t.jsonl", 8, "'caption' is no text"),
        ("t.jsonl", 9, "caption: missing"),
        ("t.jsonl", 4, "no such file"),
        ("t.jsonl", 6, "no image of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"),
    ]
    with pytest.raises(InputError, match=r"t\.jsonl row 1 is not usable: caption: empty"):
        read_captioned(table)
    (tmp_path / "b.csv").write_bytes(b"image,caption\np/0.png,caf\xe9\np/0.png,two,cells\np/0.png,good\n")
    quarantine = Quarantine()
    assert read_captioned(tmp_path / "b.csv", quarantine=quarantine).captions == [("good",)]
    assert reasons(quarantine) == [("b.csv", 1, "caption: not UTF-8"), ("b.csv", 2, "3 cells instead of 2")]
    texts = pa.array([[b"\xff", b"ok"], None, [b"x"], [b"y"]], pa.list_(pa.binary()))
    pq.write_table(pa.table({"image": [*images[:2], b"broken", None], "caption": texts}), tmp_path / "b.parquet")
    quarantine = Quarantine()
    assert read_captioned(tmp_path / "b.parquet", quarantine=quarantine).captions == [("ok",)]
    assert [item.line for item in quarantine] == [1, 2, 3, 4]


def test_pictures_that_break_later_are_set_aside(tmp_path: Path, images: list[bytes]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "p" / "1.png")
    whole = (tmp_path / "p" / "1.png").read_bytes()
    (tmp_path / "p" / "1.png").write_bytes(whole[: len(whole) // 2])
    rows = [{"image": f"p/{number}.png", "caption": texts[0]} for number, texts in enumerate(SAID)]
    quarantine = Quarantine()
    got = read_captioned(write_rows(tmp_path / "t.csv", rows), quarantine=quarantine)
    assert len(got) == 4
    kept = got.verified(quarantine)
    assert kept.captions == [texts[:1] for texts in SAID[:1] + SAID[2:]] and len(kept.pictures) == 3
    assert reasons(quarantine) == [("t.csv", 2, "truncated image")]
    assert len(got.verified(Quarantine(), minimum=(11, 11))) == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (CaptionColumns(caption="titel"), "no column 'titel'.*did you mean 'title'"),
        (CaptionColumns(caption="title", image="imgae"), "no column 'imgae'.*did you mean 'image'"),
        (CaptionColumns(caption="title", negative="wrong"), "no column 'wrong', only 'image', 'title', 'size'"),
        (CaptionColumns(), "no column 'caption', only 'image', 'title', 'size'"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_unknown_columns(tmp_path: Path, images: list[bytes], columns: CaptionColumns, message: str, suffix) -> None:
    rows = [{"image": "p/0.png", "title": "a dog", "size": 3}]
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        write_rows(path, rows)  # pyright: ignore[reportArgumentType]
    else:
        write_lines(path, rows)
    with pytest.raises(InputError, match=message) as refused:
        read_captioned(path, columns=columns)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_what_is_no_data_is_refused_in_one_line(tmp_path: Path, images: list[bytes]) -> None:
    pq.write_table(pa.table({"image": images, "caption": [3, 4, 5, 6]}), tmp_path / "n.parquet")
    (tmp_path / "e.jsonl").write_text('{"image": "nowhere.png", "caption": "a"}\n')
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "n.parquet").read_bytes()[:200])
    (tmp_path / "zero.csv").touch()
    for name, message in (
        ("n.parquet", "column 'caption' holds int64, not text"),
        ("e.jsonl", r"no usable picture with a caption \(no such file: 1\)"),
        ("cut.parquet", "not a readable .parquet"),
        ("zero.csv", "is empty"),
        ("e.jsonk", "did you mean 'e.jsonl'"),
        ("p", "is no table or tar"),
        ("p/0.png", "is no table or tar"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            read_captioned(tmp_path / name, quarantine=Quarantine())
        assert "\n" not in str(refused.value)


def test_a_picture_that_occurs_twice_is_one(tmp_path: Path, images: list[bytes]) -> None:
    shutil.copy(tmp_path / "p" / "0.png", tmp_path / "p" / "copy.png")
    names = ["p/0.png", "p/1.png", "./p/../p/0.png", "p/copy.png"]
    rows = [{"image": name, "caption": f"text {number}"} for number, name in enumerate(names)]
    got = read_captioned(write_rows(tmp_path / "t.csv", rows))
    assert got.captions == [("text 0", "text 2", "text 3"), ("text 1",)]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_held_out_pictures_are_on_one_side(count: int, share: float, seed: int) -> None:
    found = made(count)
    one, two = found.held_out(share, seed)
    assert len(one) >= 1 and len(two) >= 1 and abs(len(two) - share * count) <= 1
    places = [set(part.pictures.index.tolist()) for part in (one, two)]
    assert not places[0] & places[1] and places[0] | places[1] == set(range(count))
    for part in (one, two):
        assert part.captions == [(f"text {number}",) for number in part.pictures.index]
        assert part.negatives == [(f"not {number}",) for number in part.pictures.index]
    again = found.held_out(share, seed)
    assert [part.captions for part in again] == [one.captions, two.captions]


def made(count: int) -> Captioned:
    from tessella.data.albums import Listing
    from tessella.data.pictures import Pictures

    nowhere = np.zeros(count, np.int64)
    values = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    listing = Listing(values, [""] * count, ["made"], nowhere, np.arange(1, count + 1))
    texts = [[(f"{what} {number}",) for number in range(count)] for what in ("text", "not")]
    return Captioned(Pictures(listing, np.arange(count), nowhere, ["picture"]), *texts)


def test_what_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match="one picture"):
        made(1).held_out(0.5)
    for share in (0, 1, -1, 2):
        with pytest.raises(InputError, match="between 0 and 1"):
            made(5).held_out(share)


def test_fingerprints(tmp_path: Path, images: list[bytes]) -> None:
    def written(name: str, texts: list[str], first: bytes = images[0]) -> str:
        pq.write_table(pa.table({"image": [first, *images[1:]], "caption": texts}), tmp_path / name)
        return read_captioned(tmp_path / name).fingerprint()

    one = written("a.parquet", ["a", "b", "c", "d"])
    assert one == written("b.parquet", ["a", "b", "c", "d"])
    assert one != written("c.parquet", ["a", "b", "c", "e"])
    assert one != written("d.parquet", ["a", "b", "c", "d"], png(tmp_path / "x.png", 77))


def test_flickr8k(shared_data: Path) -> None:
    if not (shared_data / "flickr8k").is_dir():
        pytest.skip("no flickr8k among the data sets")
    quarantine = Quarantine()
    test = read_captioned(shared_data / "flickr8k", "test", quarantine=quarantine)
    assert captioned_splits(shared_data / "flickr8k") == ("train", "validation", "test")
    assert len(test) == 500 and all(len(texts) == 5 for texts in test.captions) and not len(quarantine)
    assert len(test.take(range(5)).verified(quarantine)) == 5 and test.pictures.decode(3).size == (144, 144)


def test_openmoji(shared_data: Path) -> None:
    if not (shared_data / "openmoji").is_dir():
        pytest.skip("no openmoji among the data sets")
    quarantine = Quarantine()
    columns = CaptionColumns(caption="annotation_ko")
    found = read_captioned(shared_data / "openmoji", columns=columns, quarantine=quarantine)
    assert quarantine.reasons() == {"caption: missing": 461}
    assert sum(map(len, found.captions)) == 1883 and found.captions[0] == ("활짝 웃는 얼굴",)
