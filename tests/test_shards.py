"""Shards: tar archives as webdataset writes them give the same as tables, and what is broken in one is told."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.captioned import Captioned, captioned_splits, read_captioned
from tessella.data.captions import CaptionColumns
from tessella.data.pictures import as_array
from tessella.data.pixels import Preprocess
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

TINY = Preprocess(size=8, crop=1.0)


def image(number: int, ending: str = "png") -> bytes:
    file = io.BytesIO()
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}.get(ending, "PNG")
    noise = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def packed(members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def shard(path: Path, numbers: range, ending: str = "png") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    members = []
    for number in numbers:
        members += [(f"{number:06}.{ending}", image(number, ending)), (f"{number:06}.txt", f"text {number}".encode())]
    path.write_bytes(packed(members))
    return path


def read(path: Path, columns: CaptionColumns | None = None) -> tuple[Captioned, list[tuple[str, str]]]:
    quarantine = Quarantine()
    found = read_captioned(path, columns=columns, quarantine=quarantine)
    return found, [(item.where.removeprefix(f"{path.parent}/"), item.reason) for item in quarantine]


def test_shards_are_what_a_table_of_the_same_is(tmp_path: Path) -> None:
    for number, ending in enumerate(("png", "jpg", "webp")):
        shard(tmp_path / "s" / f"train-{number:06}.tar", range(3 * number, 3 * number + 3), ending)
    shard(tmp_path / "s" / "val-000000.tar", range(20, 22))
    assert captioned_splits(tmp_path / "s") == ("train", "validation")
    images = [image(number, ("png", "jpg", "webp")[number // 3]) for number in range(9)]
    texts = [f"text {number}" for number in range(9)]
    pq.write_table(pa.table({"image": images, "caption": texts}), tmp_path / "t.parquet")
    found, table = read_captioned(tmp_path / "s"), read_captioned(tmp_path / "t.parquet")
    assert found.captions == table.captions == [(text,) for text in texts]
    assert (as_array(found.pictures, TINY) == as_array(table.pictures, TINY)).all()
    assert found.fingerprint() == table.fingerprint()
    assert found.pictures.names[4] == f"{tmp_path / 's' / 'train-000001.tar'}/000004.jpg"
    assert read_captioned(tmp_path / "s", "val").captions == [("text 20",), ("text 21",)]
    chosen = pickle.loads(pickle.dumps(found.take([8, 0])))  # as worker processes get it
    assert chosen.pictures.read(0) == images[8] and chosen.pictures.read(1) == images[0]


def test_layouts_of_folders(tmp_path: Path) -> None:
    for number in (10, 9, 0):  # numbers by value; what img2dataset leaves beside is no data
        shard(tmp_path / "plain" / f"{number}.tar", range(number, number + 1))
        (tmp_path / "plain" / f"{number}.parquet").write_bytes(b"statistics")
    assert read_captioned(tmp_path / "plain").captions == [("text 0",), ("text 9",), ("text 10",)]
    for word, number in (("train", 0), ("test", 5)):
        shard(tmp_path / "inside" / word / "00000.tar", range(number, number + 2))
        shard(tmp_path / "named" / f"coco-{word}-0001.tar", range(number, number + 2))
    for name in ("inside", "named"):
        assert captioned_splits(tmp_path / name) == ("train", "test")
        assert read_captioned(tmp_path / name, "test").captions == [("text 5",), ("text 6",)]
    assert read_captioned(shard(tmp_path / "one.tar", range(2))).captions == [("text 0",), ("text 1",)]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_a_sample_may_be(tmp_path: Path, kind: int) -> None:
    deep = "folder/" + "long" * (30 if kind != tarfile.USTAR_FORMAT else 20)
    members = [
        ("a.JPG", image(1, "jpg")),
        ("a.txt", b"\xef\xbb\xbfone\r\n\n  two  words \n"),
        ("a.cls", b"3"),
        (f"{deep}/a.png", image(2)),
        (f"{deep}/a.json", json.dumps({"caption": "three", "size": [3, 4]}).encode()),
        ("b.json", json.dumps({"captions": ["four", "five"], "not": "wrong"}).encode()),
        ("b.webp", image(3, "webp")),
        ("c.seg.png", image(9)),
        ("c.png", image(4)),
        ("c.txt", "여섯".encode()),
        ("c.not", b"wrong\nworse"),
        ("c.json", json.dumps({"caption": "not used: there is a .txt"}).encode()),
        ("__index__.json", b"{}"),
        ("._a.jpg", b"left by a Mac"),
    ]
    (tmp_path / "t.tar").write_bytes(packed(members, kind))
    found, aside = read(tmp_path / "t.tar", CaptionColumns(negative="not"))
    assert found.captions == [("one", "two words"), ("three",), ("four", "five"), ("여섯",)]
    assert found.negatives == [(), (), ("wrong",), ("wrong", "worse")]
    assert [found.pictures.read(number) for number in range(4)] == [
        image(1, "jpg"),
        image(2),
        image(3, "webp"),
        image(4),
    ]
    assert aside == []


def test_fields_by_name(tmp_path: Path) -> None:
    told = {"title": "a dog", "caption": "an advertisement", "url": "x"}
    members = [("a.left.png", image(1)), ("a.right.png", image(2)), ("a.json", json.dumps(told).encode())]
    (tmp_path / "t.tar").write_bytes(packed([*members, ("a.en", b"from a file")]))
    found, _ = read(tmp_path / "t.tar", CaptionColumns(image="right.png", caption="title"))
    assert found.captions == [("a dog",)] and found.pictures.read(0) == image(2)
    assert read(tmp_path / "t.tar", CaptionColumns(image="left.png", caption="en"))[0].captions == [("from a file",)]
    for columns, message in (
        (CaptionColumns(image="right.png", caption="titel"), "no picture has a 'titel'; did you mean 'title'"),
        (CaptionColumns(image="right.png", negative="wrong"), "no picture has a 'wrong'; known: caption, title, url"),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "t.tar", columns)
    with pytest.raises(InputError, match=r"no usable picture with a caption \(no picture: 1\)"):
        read(tmp_path / "t.tar", CaptionColumns(image="middle.png"))


def test_bad_members_are_set_aside_by_name(tmp_path: Path) -> None:
    good = image(1)
    members = [
        ("a.png", good),
        ("a.txt", b"fine"),
        ("b.png", b"no picture"),
        ("b.txt", b"a dog"),
        ("c.png", image(2)),
        ("d.txt", b"no picture of it"),
        ("e.png", image(3)),
        ("e.txt", b" \n"),
        ("f.png", image(4)),
        ("f.txt", b"ok\n\xff\xfe"),
        ("g.png", image(5)),
        ("g.json", b"[1]"),
        ("h.png", image(6)),
        ("h.json", b'{"caption": 5}'),
        ("i.png", image(7)),
        ("i.txt", b"x" * (2**20 + 1)),
        ("j.png", b""),
        ("j.txt", b"empty"),
        ("a.jpg", image(8, "jpg")),
        ("k\n.png", image(9)),
    ]
    (tmp_path / "t.tar").write_bytes(packed(members))
    found, aside = read(tmp_path / "t.tar")
    assert found.captions == [("fine",), ("ok",)] and found.pictures.read(0) == good
    assert sorted(aside) == sorted(
        [
            ("t.tar/a.jpg", "a second one of its kind"),
            ("t.tar/i.txt", "over 1048576 bytes"),
            ("t.tar/g.json", "not a JSON object"),
            ("t.tar/c.png", "no caption"),
            ("t.tar/d", "no picture"),
            ("t.tar/e.txt", "caption: empty"),
            ("t.tar/f.txt", "caption: not UTF-8"),
            ("t.tar/g.png", "no caption"),
            ("t.tar/h.png", "no caption"),
            ("t.tar/i.png", "no caption"),
            ("t.tar/k\\n.png", "no caption"),
            ("t.tar/b.png", "no image of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"),
            ("t.tar/j.png", "empty file"),
        ]
    )
    with pytest.raises(InputError, match=r"t\.tar/g\.json is not usable: not a JSON object"):
        read_captioned(tmp_path / "t.tar")


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, kind in (("a", "DIRTYPE"), ("b.png", "SYMTYPE"), ("c.png", "LNKTYPE"), ("e.png", "FIFOTYPE")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = getattr(tarfile, kind), "/etc/hostname"
            tar.addfile(info)
        info = tarfile.TarInfo("../../d.png")
        info.size = len(image(1))
        tar.addfile(info, io.BytesIO(image(1)))
    (tmp_path / "u.tar").write_bytes(packed([("../../d.txt", b"only a name")]))
    before = sorted(tmp_path.parent.rglob("*"))
    quarantine = Quarantine()
    for name in ("t.tar", "u.tar"):
        with pytest.raises(InputError, match="no usable picture"):
            read_captioned(tmp_path / name, quarantine=quarantine)
    assert [item.reason for item in quarantine] == ["no plain file"] * 3 + ["no caption", "no picture"]
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "kept", "reason"),
    [
        (lambda whole: whole[:712], 0, "archive is cut short"),
        (lambda whole: whole[:2700], 1, "archive is cut short"),
        (lambda whole: whole[:2048], 1, "archive has no end mark: is it cut short?"),
        (lambda whole: whole[:2248], 1, "broken archive"),
        (lambda whole: whole[:2048] + b"x" * 512 + whole[2560:], 1, "broken archive"),
        (lambda whole: whole + whole, 3, "more after the end of the archive"),
        (lambda whole: b"x" * 2000, 0, "broken archive"),
        (lambda whole: b"", 0, "broken archive"),
        (lambda whole: whole[:124] + b"\x80" + b"\x7f" * 11 + whole[136:], 0, "broken archive"),
        (lambda whole: bytes(10240), 0, ""),
    ],
)
def test_broken_archives_are_told_of(tmp_path: Path, damage, kept: int, reason: str) -> None:
    (tmp_path / "s").mkdir()
    whole = packed([m for n in range(3) for m in ((f"{n}.png", image(n)), (f"{n}.txt", b"text"))])
    assert max(len(image(n)) for n in range(3)) <= 512  # a sample is four blocks
    (tmp_path / "s" / "0.tar").write_bytes(damage(whole))
    shard(tmp_path / "s" / "1.tar", range(8, 9))
    quarantine = Quarantine()
    found = read_captioned(tmp_path / "s", quarantine=quarantine)
    assert found.captions == [("text",)] * kept + [("text 8",)]
    told = [(Path(item.where).name, item.reason) for item in quarantine]
    if reason:
        assert [(name, why) for name, why in told if why == reason], told
    assert all("\n" not in item.where for item in quarantine)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_never_raises_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(packed([m for n in range(3) for m in ((f"{n}.png", image(n)), (f"{n}.txt", b"text"))]))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "t.tar"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    quarantine = Quarantine()
    try:
        found = read_captioned(path, quarantine=quarantine)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert len(found.verified(quarantine)) <= 3
    assert len(found) == 3 or len(quarantine)


def test_packed_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(gzip.compress(packed([("a.txt", b"x")])))
    with pytest.raises(InputError, match=r"t\.tar is packed with gzip; unpack it"):
        read_captioned(tmp_path / "t.tar", quarantine=Quarantine())


def test_an_archive_that_changed_meanwhile_is_named(tmp_path: Path) -> None:
    found = read_captioned(shard(tmp_path / "t.tar", range(3)))
    whole = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "t.tar").write_bytes(whole[:1000])
    with pytest.raises(InputError, match=r"t\.tar/000002\.png is not usable: archive is cut short"):
        found.pictures.decode(2)
    (tmp_path / "t.tar").unlink()
    quarantine = Quarantine()
    assert len(found.verified(quarantine)) == 0 and quarantine.reasons() == {"archive cannot be opened": 3}
