"""Parallel text: every line is a pair or an item of the quarantine, and every mistake has one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.parallel import Columns, Pair, read_parallel, read_split
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def reasons(quarantine: Quarantine) -> list[tuple[str, int, str]]:
    return [(Path(item.where).name, item.line, item.reason) for item in quarantine]


def test_plain_files_and_their_bad_lines(tmp_path: Path) -> None:
    long = " ".join(["w"] * 50_000)
    source = write(
        tmp_path / "a", b"\xef\xbb\xbfone\r\ntw\xffo\n thr\xe2\x80\xa8ee \n\nfi\0ve\n" + f"{long}\nx\ny".encode()
    )
    target = write(tmp_path / "b", "1\n2\n3\n\n5\n6\n\n" + "字" * 5000 + "\n")
    quarantine = Quarantine()
    pairs = read_parallel(source, target, quarantine=quarantine)
    assert pairs == [Pair("one", "1", 1), Pair("thr\u2028ee", "3", 3)]
    assert reasons(quarantine) == [
        ("a", 2, "source: not UTF-8"),
        ("a", 4, "source: empty; target: empty"),
        ("a", 5, "source: NUL character"),
        ("a", 6, "source: over 4000 characters"),
        ("b", 7, "target: empty"),
        ("b", 8, "target: over 4000 characters"),
    ]
    assert [item.sample for item in quarantine][:3] == ["tw\\xffo", "", "fi\\x00ve"]


@pytest.mark.parametrize(("words", "good"), [(10, True), (11, False)])
def test_the_limit_of_words(tmp_path: Path, words: int, good: bool) -> None:
    source, target = write(tmp_path / "a", "a\n" + "b " * words), write(tmp_path / "b", "1\n2")
    quarantine = Quarantine()
    assert len(read_parallel(source, target, quarantine=quarantine, max_words=10)) == 1 + good
    assert len(quarantine) == 1 - good


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), min_size=1, max_size=20))
def test_nothing_is_lost(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[bytes, bytes]]) -> None:
    folder = tmp_path_factory.mktemp("lines")
    columns = [b"".join(row[side].replace(b"\n", b"") + b"\n" for row in [(b"a", b"b"), *lines]) for side in (0, 1)]
    quarantine = Quarantine()
    pairs = read_parallel(write(folder / "a", columns[0]), write(folder / "b", columns[1]), quarantine=quarantine)
    numbers = [pair.line for pair in pairs] + [item.line for item in quarantine]
    assert sorted(numbers) == list(range(1, len(lines) + 2))


def test_a_line_without_end_is_set_aside(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a", b"x" * 3_000_000 + b"\nb\n"), write(tmp_path / "b", "1\n2\n")
    quarantine = Quarantine()
    assert read_parallel(source, target, quarantine=quarantine, max_words=10**9) == [Pair("b", "2", 2)]
    assert reasons(quarantine) == [("a", 1, "source: over 1048576 bytes")]


def test_without_a_quarantine_a_bad_line_is_an_error(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a", "a\n\n"), write(tmp_path / "b", "1\n2\n")
    with pytest.raises(InputError, match=r"a line 2 is not usable \(source: empty\)"):
        read_parallel(source, target)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\nb\nc\n", b"1\n2\n", "same number of lines: .*a has 3, .*b has 2"),
        (b"a\n", b"", "b is empty"),
        (b"\n", b"\n", "none of 1 lines is usable"),
        ("a\n".encode("utf-16"), b"1\n", "UTF-16"),
        (None, b"1\n", "no file .*a; check the path"),
    ],
)
def test_unusable_files(tmp_path: Path, source: bytes | None, target: bytes, message: str) -> None:
    if source is not None:
        write(tmp_path / "a", source)
    with pytest.raises(InputError, match=message) as refused:
        read_parallel(tmp_path / "a", write(tmp_path / "b", target), quarantine=Quarantine())
    assert "\n" not in str(refused.value)


def test_folders_and_mixed_up_arguments(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", "a\n")
    with pytest.raises(InputError, match="is a folder"):
        read_parallel(tmp_path, text)
    with pytest.raises(InputError, match="is no table"):
        read_parallel(text)
    with pytest.raises(InputError, match="columns belong to one table"):
        read_parallel(text, text, Columns())
    with pytest.raises(InputError, match="domain column"):
        read_parallel(text, domain=text)


CSV = b'\xef\xbb\xbfde,en,kind\r\nx,"two\nlines, y",n\n\nbad,row\nu,\xff,z\na,b,c,d\nNULL,,m\nend,"an ""end""",\n'


def test_csv(tmp_path: Path) -> None:
    quarantine = Quarantine()
    columns = Columns(source="de", target="en", domain="kind")
    pairs = read_parallel(write(tmp_path / "t.csv", CSV), columns=columns, quarantine=quarantine)
    assert pairs == [Pair("x", "two\nlines, y", 1, "n"), Pair("end", 'an "end"', 7, None)]
    assert reasons(quarantine) == [
        ("t.csv", 2, "source: empty; target: empty"),
        ("t.csv", 3, "2 cells instead of 3"),
        ("t.csv", 4, "target: not UTF-8"),
        ("t.csv", 5, "4 cells instead of 3"),
        ("t.csv", 6, "target: empty"),
    ]


def test_tsv_takes_quotes_as_text_and_may_end_badly(tmp_path: Path) -> None:
    quarantine = Quarantine()
    table = write(tmp_path / "t.tsv", 'source\ttarget\n"a\tb"\n1\t2\nlast\n')
    assert read_parallel(table, quarantine=quarantine) == [Pair('"a', 'b"', 1), Pair("1", "2", 2)]
    assert reasons(quarantine) == [("t.tsv", 3, "1 cells instead of 2")]


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        b'{"source": "a", "target": "b", "more": 1}',
        b"",
        b'{"source": 1, "target": "b"}',
        b"[1]",
        b'{"source": "a"}',
        b'{"source": "\\ud800", "target": "b"}',
        b"\xff",
        b"[" * 50_000,
        b'{"source": null, "target": "b"}',
    ]
    quarantine = Quarantine()
    assert read_parallel(write(tmp_path / "t.jsonl", b"\n".join(lines)), quarantine=quarantine) == [Pair("a", "b", 1)]
    assert [reason for _, _, reason in reasons(quarantine)] == [
        "not JSON",
        "'source' is no text",
        "not a JSON object",
        "target: missing",
        "source: half a surrogate pair",
        "not UTF-8",
        "not JSON",
        "source: missing",
    ]


def test_parquet(tmp_path: Path) -> None:
    sources = pyarrow.array(["a", None, "c", "d"]).dictionary_encode()
    targets = pyarrow.array([b"1", b"2", b" ", b"\xff"])
    pyarrow.parquet.write_table(
        pyarrow.table({"source": sources, "target": targets, "n": [1, 2, 3, 4]}), tmp_path / "t.parquet"
    )
    quarantine = Quarantine()
    assert read_parallel(tmp_path / "t.parquet", quarantine=quarantine) == [Pair("a", "1", 1)]
    assert [reason for _, _, reason in reasons(quarantine)] == ["source: missing", "target: empty", "target: not UTF-8"]
    with pytest.raises(InputError, match="column 'n' holds int64, not text"):
        read_parallel(tmp_path / "t.parquet", columns=Columns(target="n"))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_wrong_columns_are_named_with_the_right_ones(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"source": ["a"], "english": ["b"]}), path)
    else:
        comma = "\t" if path.suffix == ".tsv" else ","
        write(path, '{"source": "a", "english": "b"}' if name == "t.jsonl" else f"source{comma}english\na{comma}b\n")
    with pytest.raises(InputError, match="no column 'englsh', only 'source', 'english'; did you mean 'english'"):
        read_parallel(path, columns=Columns(target="englsh"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"PAR1 junk", "not a readable .parquet"),
        ("t.csv", b"source,target\n", "no pairs in it"),
        ("t.csv", b"source,target,source\na,b,c\n", "2 columns called 'source'"),
        ("t.csv", b"\n", "no column 'source'"),
        ("t.csv", "source,target\na,b\n".encode("utf-16"), "UTF-16"),
        ("t.jsonl", b"junk\n", "none of 1 lines"),
    ],
)
def test_unusable_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_parallel(write(tmp_path / name, content), quarantine=Quarantine())
    assert "\n" not in str(refused.value)


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for name, content in (
        ("train.de", "a\nb\n"),
        ("train.en", "1\n2\n"),
        ("train.domain", "news\n\n"),
        ("val.de", "a\n"),
    ):
        write(tmp_path / name, content)
    assert read_split(tmp_path, "train", ("de", "en")) == [Pair("a", "1", 1, "news"), Pair("b", "2", 2, None)]
    with pytest.raises(InputError, match=r"no file val.en in .*; did you mean 'val.de'\?"):
        read_split(tmp_path, "val", ("de", "en"))
    with pytest.raises(InputError, match=r"no folder .*expected one with val.de and val.en"):
        read_split(tmp_path / "none", "val", ("de", "en"))


def test_too_many_bad_lines_stop_with_one_line(tmp_path: Path) -> None:
    quarantine = Quarantine()
    quarantine.add("train.de", 3, "source: empty", "")
    quarantine.refuse_if_too_many(10)
    with pytest.raises(
        InputError, match=r"1 of 9 lines are .* limit is 10% \(source: empty: 1\); the first is train.de line 3: clean"
    ):
        quarantine.refuse_if_too_many(9, of="lines")
    whole_file = Quarantine()
    whole_file.add("cat/1.jpg", 0, "empty file")
    with pytest.raises(InputError, match=r"the first is cat/1.jpg: clean .* \(--set data.bad_share=…\)"):
        whole_file.refuse_if_too_many(9)
    quarantine.refuse_if_too_many(2, share=0.5)


def test_the_quarantine_is_saved_line_by_line(tmp_path: Path) -> None:
    quarantine = Quarantine()
    quarantine.add(tmp_path / "a", 1, "not UTF-8", b"\xff\n" + b"x" * 1000)
    quarantine.add("b", 2, "empty", "한\u2028")
    quarantine.save(tmp_path / "quarantine.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_bytes().splitlines())
    assert first["sample"].startswith("\\xff\\nxx") and len(first["sample"]) == 80
    assert second == {"where": "b", "line": 2, "reason": "empty", "sample": "한\\u2028"}
    assert quarantine.reasons() == {"not UTF-8": 1, "empty": 1}


@pytest.mark.skipif(not (SHARED / "ko-en").is_dir(), reason="needs the ko-en data set beside the repository")
def test_a_real_folder_is_read_whole() -> None:
    pairs = read_split(SHARED / "ko-en", "dev", ("ko", "en"))
    assert len(pairs) == 1000 and {pair.domain for pair in pairs} == {"tatoeba", "python-docs"}
