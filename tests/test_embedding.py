"""Embedding: files, folders and tables in, vectors out, each under its name, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import tiny_matching as tiny
import tiny_vision
import torch
from PIL import Image
from test_cli_matching import bad, run

from tessella import embedding, features, portions
from tessella.embedding import Embedded, Space, space_of
from tessella.errors import InputError
from tessella.portions import Files, Group, picture_portions, text_portions
from tessella.spec import from_dict, to_dict


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.run_folder(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Forty-eight pictures, some in folders, and a table of their paths."""
    root = tmp_path_factory.mktemp("pictures")
    tiny.table(root / "deep", 1)
    for number in range(10):
        (root / "deep" / f"{number}.png").rename(root / f"{number}.png")
    return root


def names(folder: Path) -> list[str]:
    """In natural order."""
    return [str(folder / f"{n}.png") for n in range(10)] + [str(folder / "deep" / f"{n}.png") for n in range(10, 48)]


def vectors(table: pyarrow.Table) -> np.ndarray:
    return np.stack(table["vector"].to_numpy())


def expected(paths) -> np.ndarray:
    return np.stack(list(tiny.matcher().images(paths)))


def test_a_folder_becomes_a_file_of_vectors(model, folder, tmp_path):
    out = tmp_path / "vectors.parquet"
    code, _, err = run("embed", model, folder, "--out", out)
    assert code == 0, err
    table = pq.read_table(out)
    assert table["path"].to_pylist() == names(folder) and table["row"].null_count == 48
    assert set(table["width"].to_pylist()) == set(table["height"].to_pylist()) == {tiny.SIDE}
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), tiny.WIDTH)
    np.testing.assert_allclose(vectors(table), expected(names(folder)), atol=1e-6)
    told = space_of(out)
    assert told["fingerprint"] == tiny.matcher().fingerprint and told["run"] == str(model)
    assert told["dim"] == tiny.WIDTH and told["of"] == "pictures" and told["tessella"]
    assert "48 pictures in" in err and "/s" in err
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.parquet"]


def test_tables_of_files_and_of_paths_tell_their_rows(model, folder, tmp_path):
    paths = names(folder)[:20]
    files = [Path(path).read_bytes() for path in paths]
    here = [os.path.relpath(path, tmp_path) for path in paths]
    tables = {
        "bytes.parquet": pyarrow.table({"photo": pyarrow.array(files, pyarrow.binary())}),
        "struct.parquet": pyarrow.table({"photo": [{"bytes": data, "path": "x"} for data in files]}),
        "mixed.parquet": pyarrow.table(
            {"photo": [{"bytes": None if n % 2 else data, "path": here[n]} for n, data in enumerate(files)]}
        ),
        "paths.parquet": pyarrow.table({"photo": here}),
    }
    for name, table in tables.items():
        pq.write_table(table, tmp_path / name, row_group_size=7)
    tiny.lines(tmp_path / "paths.jsonl", [{"photo": path} for path in here])
    (tmp_path / "paths.csv").write_text("n,photo\n" + "".join(f"{n},{path}\n" for n, path in enumerate(here)))
    for name in (*tables, "paths.jsonl", "paths.csv"):
        code, _, err = run("embed", model, tmp_path / name, "--image", "photo", "--out", tmp_path / "out.parquet")
        assert code == 0, err
        table = pq.read_table(tmp_path / "out.parquet")
        assert table["row"].to_pylist() == list(range(1, 21)), name
        np.testing.assert_allclose(vectors(table), expected(paths), atol=1e-6)
        found = [os.path.normpath(path) for path in table["path"].to_pylist()]
        whole = [str(tmp_path / name)] * 20
        alternating = [path if n % 2 else whole[n] for n, path in enumerate(paths)]
        assert found == {"mixed.parquet": alternating}.get(name, paths if name.startswith("paths") else whole)


def test_several_things_at_once_keep_their_order(model, folder, tmp_path):
    table = tmp_path / "t.parquet"
    pq.write_table(pyarrow.table({"image": [Path(names(folder)[3]).read_bytes()]}), table)
    code, _, _ = run(
        "embed", model, folder / "7.png", table, folder / "deep", folder / "1.png", "--out", tmp_path / "v.parquet"
    )
    assert code == 0
    found = pq.read_table(tmp_path / "v.parquet")["path"].to_pylist()
    assert found == [str(folder / "7.png"), str(table), *names(folder)[10:], str(folder / "1.png")]


def test_what_cannot_be_read_is_named_and_the_rest_is_there(model, folder, tmp_path):
    whole = (folder / "0.png").read_bytes()
    (tmp_path / "in").mkdir()
    for name, data in (("1.png", whole), ("2.png", whole[:-40]), ("3.png", b""), ("4.png", whole)):
        (tmp_path / "in" / name).write_bytes(data)
    os.symlink("nowhere", tmp_path / "in" / "5.png")
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(whole)
    out = tmp_path / "v.parquet"
    code, _, err = run("embed", model, tmp_path / "in", tmp_path / "none.png", "--out", out)
    assert (
        code == 1 and "5 pictures have no vector; they are listed in" in err and "1 set aside: truncated image" in err
    )
    assert [Path(path).name for path in pq.read_table(out)["path"].to_pylist()] == ["1.png", "4.png"]
    aside = [json.loads(line) for line in (tmp_path / "v.parquet.quarantine.jsonl").read_text().splitlines()]
    assert {(Path(one["where"]).name, one["reason"]) for one in aside} == {
        ("2.png", "truncated image"), ("3.png", "empty file"), ("5.png", "no such file"), ("none.png", "no such file"),
        ("\\udcff.png", "its name is not UTF-8")}  # fmt: skip
    code, _, _ = run("embed", model, tmp_path / "in" / "1.png", "--out", out)
    assert code == 0 and not (tmp_path / "v.parquet.quarantine.jsonl").exists()


def test_rows_of_tables_that_cannot_be_used(model, folder, tmp_path):
    table = tmp_path / "t.jsonl"
    table.write_text(json.dumps({"image": str(folder / "0.png")}) + "\nno json\n" + json.dumps({"image": ""}) + "\n")
    whole = (folder / "0.png").read_bytes()
    pq.write_table(pyarrow.table({"image": [whole, None, whole[:50]]}), tmp_path / "t.parquet")
    code, _, err = run("embed", model, table, tmp_path / "t.parquet", "--out", tmp_path / "v.parquet")
    assert code == 1, err
    aside = [json.loads(line) for line in (tmp_path / "v.parquet.quarantine.jsonl").read_text().splitlines()]
    assert sorted((Path(one["where"]).name, one["line"], one["reason"]) for one in aside) == [
        ("t.jsonl", 2, "not JSON"), ("t.jsonl", 3, "no path"),
        ("t.parquet", 2, "empty file"), ("t.parquet", 3, "truncated image")]  # fmt: skip
    assert pq.read_table(tmp_path / "v.parquet")["row"].to_pylist() == [1, 1]


def test_texts_of_lines_and_of_tables(model, tmp_path):
    texts = ["a red disc", "🙂 파란", "x" * 3000]
    (tmp_path / "t.txt").write_text("\n".join([texts[0], "", texts[1], texts[2]]) + "\n")
    tiny.lines(tmp_path / "t.jsonl", [{"said": texts[:2]}, {"said": texts[2]}])
    pq.write_table(pyarrow.table({"caption": texts}), tmp_path / "t.parquet")
    out = tmp_path / "v.parquet"
    for words, rows, code in (
        (("--texts", tmp_path / "t.txt"), [1, 3, 4], 1),
        (("--texts", tmp_path / "t.jsonl", "--text", "said"), [1, 1, 2], 0),
        (("--texts", tmp_path / "t.parquet"), [1, 2, 3], 0),
    ):
        found, _, err = run("embed", model, *words, "--out", out)
        assert found == code, err
        table = pq.read_table(out)
        assert table["text"].to_pylist() == texts and table["row"].to_pylist() == rows
        np.testing.assert_allclose(vectors(table), tiny.matcher().texts(texts), atol=1e-6)
        assert space_of(out)["of"] == "texts" and "texts are longer than the model reads, and were cut" in err
    aside = tmp_path / "v.parquet.quarantine.jsonl"
    assert not aside.exists()


def test_a_lance_folder_is_a_table(model, folder, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    out = tmp_path / "v.lance"
    assert run("embed", model, folder, "--out", out)[0] == 0
    table = lancedb.connect(str(tmp_path)).open_table("v").to_arrow()
    assert table["path"].to_pylist() == names(folder)
    np.testing.assert_allclose(vectors(table), expected(names(folder)), atol=1e-6)
    assert json.loads(table.schema.metadata[b"tessella"])["fingerprint"] == tiny.matcher().fingerprint
    assert "is there already" in bad("embed", model, folder, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["v.lance"]


@pytest.mark.parametrize("ending", ["parquet", "lance"])
def test_whole_or_not_at_all(model, folder, tmp_path, ending):
    """A table that breaks in the middle ends it; what was there before is as it was."""
    if ending == "lance":
        pytest.importorskip("lancedb")
    files = [Path(path).read_bytes() for path in names(folder)]
    pq.write_table(pyarrow.table({"image": files}), tmp_path / "t.parquet", row_group_size=10)
    place = pq.read_metadata(tmp_path / "t.parquet").row_group(3).column(0).dictionary_page_offset
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[place : place + 40] = b"\xff" * 40
    (tmp_path / "t.parquet").write_bytes(data)
    out = tmp_path / f"v.{ending}"
    if ending == "parquet":
        assert run("embed", model, folder, "--out", out)[0] == 0
        before = out.read_bytes()
    assert "cannot be read" in bad("embed", model, tmp_path / "t.parquet", "--out", out)
    assert ending == "lance" or out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"t.parquet"} | (
        {"v.parquet"} if ending == "parquet" else set()
    )


def test_a_full_disk_is_told_and_leaves_nothing(model, folder, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in bad("embed", model, folder, "--out", tmp_path / "v.parquet")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(folder, tmp_path):
    def stop(count):
        raise KeyboardInterrupt

    matcher = tiny.matcher()
    for name in ("v.parquet", "v.lance"):
        with pytest.raises(KeyboardInterrupt):
            found = Embedded()
            some = picture_portions([folder], "image", found.quarantine.add)
            embedding.embed(matcher, Space.by(matcher, "run", "pictures"), some, found, tmp_path / name, done=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vit", "resnet", "swin"])
def test_a_classifier_gives_what_its_last_layer_reads(tmp_path, name):
    """Its last layer, applied to the vectors, gives its logits; as it was trained, or prepared for speed."""
    spec = getattr(tiny_vision, name)()
    classifier = tiny_vision.run_folder(tmp_path / "run", spec)
    tiny_vision.album(tmp_path / "album", each=1)
    assert run("embed", classifier, tmp_path / "album", "--out", tmp_path / "v.parquet")[0] == 0
    table = pq.read_table(tmp_path / "v.parquet")
    plain = tiny_vision.classifier(spec)
    logits = plain.model.head.scores(torch.from_numpy(vectors(table)))
    answers = plain.answers(map(Path, table["path"].to_pylist()), lambda path: Image.open(path).convert("RGB"))
    torch.testing.assert_close(logits, torch.stack(list(answers)), atol=1e-4, rtol=1e-4)
    assert space_of(tmp_path / "v.parquet")["dim"] == vectors(table).shape[1] == spec.head.dim
    other = tiny_vision.run_folder(tmp_path / "other", spec, seed=1)
    assert features.embedder(str(other)).fingerprint != space_of(tmp_path / "v.parquet")["fingerprint"]
    assert "vectors of texts are made by" in bad("embed", classifier, "--texts", "x", "--out", tmp_path / "t.parquet")


def test_memory_holds_one_batch_of_rows(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SIZE", 5)
    matcher, found = tiny.matcher(), Embedded()
    some = picture_portions([folder], "image", found.quarantine.add, size=20)
    embedding.embed(matcher, Space.by(matcher, "run", "pictures"), some, found, tmp_path / "v.parquet", batch=3)
    file = pq.ParquetFile(tmp_path / "v.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [5] * 4 + [5] * 4 + [5, 3]
    assert file.read()["path"].to_pylist() == names(folder)
    np.testing.assert_allclose(vectors(file.read()), expected(names(folder)), atol=1e-6)


def test_portions_are_plain_data(folder, tmp_path):
    pq.write_table(pyarrow.table({"image": [b"a", b"bc", b"d"]}), tmp_path / "t.parquet", row_group_size=2)
    (tmp_path / "t.txt").write_text("one\ntwo\nthree\n")

    def refuse(*told):
        pytest.fail(str(told))

    some = [*picture_portions([folder, tmp_path / "t.parquet"], "image", refuse, size=30),
            *text_portions(tmp_path / "t.txt", "", refuse, size=2)]  # fmt: skip
    assert [type(one).__name__ for one in some] == ["Files", "Files", "Group", "Group", "Texts", "Texts"]
    again = [from_dict(json.loads(json.dumps(to_dict(one))), portions.Portion) for one in some]
    assert again == some
    items = [(item.path, item.row, item.source) for one in again for item in one.items(refuse)]
    assert items[:2] == [(path, 0, Path(path)) for path in names(folder)[:2]] and len(items) == 54
    assert [(row, source) for _, row, source in items[48:]] == [
        (1, b"a"), (2, b"bc"), (3, b"d"), (1, "one"), (2, "two"), (3, "three")]  # fmt: skip


def test_pictures_are_counted_before(folder, tmp_path):
    pq.write_table(pyarrow.table({"image": [b"a", b"bc", b"d"]}), tmp_path / "t.parquet")
    assert portions.counted([folder, tmp_path / "t.parquet", "x.png"]) == 52
    assert portions.counted([folder, tmp_path / "t.csv"]) is None


def test_sizes_are_those_one_looks_at(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert run("embed", model, tmp_path, "--out", tmp_path / "v.parquet")[0] == 0
    row = pq.read_table(tmp_path / "v.parquet").to_pylist()[0]
    assert (row["width"], row["height"]) == (20, 40)


def test_mistakes_get_one_line(model, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "void.txt").write_text("\n\n")
    pq.write_table(pyarrow.table({"photo": [b"x"], "n": [1]}), tmp_path / "t.parquet")
    out = ("--out", tmp_path / "v.parquet")
    for told, words in (
        ("say what to embed", ("embed", model, *out)),
        ("say what to embed", ("embed", model, folder, "--texts", "x", *out)),
        ("not as 'v.csv'", ("embed", model, folder, "--out", tmp_path / "v.csv")),
        ("No such file or directory", ("embed", model, folder, "--out", tmp_path / "none" / "v.parquet")),
        ("there is no run", ("embed", tmp_path / "nothing", folder, *out)),
        ("holds no picture", ("embed", model, tmp_path / "empty", *out)),
        ("no column 'image'", ("embed", model, tmp_path / "t.parquet", *out)),
        ("holds int64, neither files", ("embed", model, tmp_path / "t.parquet", "--image", "n", *out)),
        ("there are no pictures to embed (no image of a known kind",
         ("embed", model, tmp_path / "t.parquet", "--image", "photo", *out)),
        ("there are no texts to embed (empty: 2)", ("embed", model, "--texts", tmp_path / "void.txt", *out)),
        ("no column 'caption'", ("embed", model, "--texts", tmp_path / "t.parquet", *out)),
        ("no file", ("embed", model, "--texts", tmp_path / "none.txt", *out)),
        ("--workers is for --ray", ("embed", model, folder, "--workers", 2, *out)),
    ):  # fmt: skip
        assert told in bad(*words), words
    assert not (tmp_path / "v.parquet").exists()
    with pytest.raises(InputError, match="holds no vectors"):
        space_of(tmp_path / "t.parquet")
    assert isinstance(Files(paths=(), rows=()), portions.Portion) and Group.kind == "row-group"
