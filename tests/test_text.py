"""Text: a codec loses nothing, trains the same every time, and refuses what is no codec."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tessella.errors import InputError
from tessella.spec import from_dict, to_dict
from tessella.text import LARGEST_FILE, Codec, CodecSpec, SpecialIds, Tokenizer, train_codec

ENGLISH = ["A dog runs in the park.", "Two dogs play <b>ball</b>.", "The <pad> is 3.13 metres long.", "▁ and \x1a1"] * 5
OTHERS = ["Ein Hund läuft im Park.", "개가 공원에서 뛴다.", "두 마리의 개가 논다."] * 5
METHODS = ["bpe", "unigram"]
# Characters younger than one of the two Unicode tables (Python's, the tokenizer's) may be normalised by only one.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40)
CODECS = {m: train_codec(CodecSpec(method=m, size=400), ENGLISH, OTHERS) for m in METHODS}


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=150, deadline=None)
@given(
    text=st.one_of(
        TEXT, st.lists(st.sampled_from([*"<0xE2>▁\x1a01 a▁", "</s>", "<pad>", "한", "🐕", "e", "́"])).map("".join)
    )
)
@example("</s><pad><unk> <0x41><0xE2> ▁▁ \x1a1 \x1a0\x1a \x00\x7f 👩‍💻 안녕 각")
@example("\u2028a\x1c\x85b\u3000")
def test_decoding_gives_the_text_back(method: str, text: str) -> None:
    tokenizer = CODECS[method].source
    (row,) = tokenizer.encode([text])
    assert row[-1] == tokenizer.eos
    assert not {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk} & set(row[:-1])
    assert tokenizer.decode([[tokenizer.bos, *row, tokenizer.pad]]) == [plain(text)]
    assert len(tokenizer.pieces(row)) == len(row)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, CODECS["bpe"].source.size - 1), max_size=30))
def test_any_ids_decode_to_one_line(ids: list[int]) -> None:
    (text,) = CODECS["bpe"].source.decode([ids])
    assert text == " ".join(text.split())
    assert all(piece.isprintable() for piece in CODECS["bpe"].source.pieces(ids))


def test_batches_encode_as_single_sentences_do() -> None:
    tokenizer = CODECS["bpe"].source
    texts = [*ENGLISH, *OTHERS, "", " ", "🐕"]
    assert tokenizer.encode(texts) == [tokenizer.encode([text])[0] for text in texts]
    assert tokenizer.encode([]) == [] and tokenizer.encode([""]) == [[tokenizer.eos]]


def test_half_surrogate_pairs_become_replacement_characters() -> None:
    tokenizer = CODECS["bpe"].source
    assert tokenizer.decode(tokenizer.encode(["a \ud83d b", "c"])) == ["a \ufffd b", "c"]


def test_lowercase_is_a_choice() -> None:
    lowered = train_codec(CodecSpec(size=400, lowercase=True), ENGLISH, OTHERS).source
    assert lowered.decode(lowered.encode(["Ein HUND Ä"])) == ["ein hund ä"]


def test_pieces_are_readable() -> None:
    tokenizer = CODECS["bpe"].source
    (row,) = tokenizer.encode(["dog 🐕"])
    assert tokenizer.pieces([tokenizer.bos, *row, tokenizer.pad]) == (
        ["<bos>", "▁dog", "▁", "🐕", "·", "·", "·", "<eos>", "<pad>"]
    )
    first_byte = tokenizer.vocabulary.index("<0xF0>")
    assert tokenizer.pieces([first_byte, first_byte]) == ["<F0>", "<F0>"]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_file_keeps_everything(tmp_path, method: str, shared: bool) -> None:
    codec = train_codec(CodecSpec(method=method, size=400, shared=shared), ENGLISH, OTHERS)
    codec.save(tmp_path / "codec.json")
    again = Codec.load(tmp_path / "codec.json")
    assert (again.source is again.target) == again.shared == shared
    assert again.fingerprint == codec.fingerprint and again.target.fingerprint == codec.target.fingerprint
    assert again.target.encode(OTHERS) == codec.target.encode(OTHERS)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "codec.json").read_bytes()
    copied = pickle.loads(pickle.dumps(codec.source))
    assert (
        copied.encode(["<pad> a"]) == codec.source.encode(["<pad> a"])
        and copied.fingerprint == codec.source.fingerprint
    )


def test_training_is_the_same_in_every_process() -> None:
    program = "import tests.test_text as t; print(*[c.fingerprint for c in t.CODECS.values()])"
    here = " ".join(codec.fingerprint for codec in CODECS.values())
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == here
    backwards = train_codec(CodecSpec(size=400), ENGLISH[::-1], OTHERS[::-1])
    assert backwards.fingerprint == CODECS["bpe"].fingerprint


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("text", ["a", "0", "\0", "▁", "가나다", "x" * 5_000, "a a", "<", "\x1a"])
def test_tiny_corpora_train(method: str, text: str) -> None:
    codec = train_codec(CodecSpec(method=method, size=300), [text], [text])
    assert codec.source.size <= 300
    assert codec.source.decode(codec.source.encode([f"{text} 헤 q"])) == [f"{text} 헤 q"]


def test_a_large_alphabet_stays_within_the_size() -> None:
    hanzi = ["".join(map(chr, range(0x4E00 + i, 0x4E00 + i + 20))) for i in range(0, 2000, 10)]
    codec = train_codec(CodecSpec(size=400), hanzi, hanzi)
    assert codec.source.size <= 400 and codec.source.decode(codec.source.encode(hanzi)) == hanzi


@pytest.mark.parametrize(("source", "target", "side"), [([], ["a"], "source"), (["a"], ["", " \n"], "target")])
def test_no_text_is_refused(source: list[str], target: list[str], side: str) -> None:
    with pytest.raises(InputError, match=f"the {side} side has no text"):
        train_codec(CodecSpec(), source, target)


def test_one_string_is_no_list() -> None:
    with pytest.raises(InputError, match="not one string"):
        CODECS["bpe"].source.encode("text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not one string"):
        train_codec(CodecSpec(), "text", ["a"])


def test_the_spec_survives_json() -> None:
    how = CodecSpec(method="unigram", size=500, shared=False)
    assert from_dict(to_dict(how)) == how
    with pytest.raises(InputError, match="size"):
        from_dict({"kind": "codec", "size": 10})


def test_imported_ids_replace_our_own() -> None:
    """As in MarianMT: eos 0, unk 1, pad last and first in the decoder; one piece has no number, one no text."""
    ours = CODECS["unigram"].source
    kept = [p for p in ours.vocabulary[4:] if p != "▁dog"]
    numbers = {"</s>": 0, "<unk>": 1, **{piece: i for i, piece in enumerate(reversed(kept), 2)}}
    numbers |= {"▁only_theirs": len(numbers), "<pad>": len(numbers) + 1}
    last = len(numbers) - 1
    theirs = Tokenizer(ours.model, SpecialIds(pad=last, bos=last, eos=0, unk=1), numbers)
    assert theirs.size == last + 1
    rows = theirs.encode(["A park.", "A dog"])
    assert rows[0] == [numbers[ours.vocabulary[i]] for i in ours.encode(["A park."])[0][:-1]] + [0]
    assert 1 in rows[1]
    assert theirs.decode([[last, *rows[0], last], [last - 1]]) == ["A park.", "only_theirs"]
    assert theirs.pieces([last, 0, 1]) == ["<pad>", "<eos>", "<unk>"]
    codec = Codec(ours, theirs)
    assert not codec.shared and codec.fingerprint != Codec(theirs, ours).fingerprint
    again = Tokenizer.from_dict(json.loads(json.dumps(theirs.to_dict())))
    assert again.encode(["A park."]) == [rows[0]] and again.bos == last


def test_foreign_ids_are_refused() -> None:
    with pytest.raises(InputError, match="no piece with id 99999"):
        CODECS["bpe"].source.decode([[99999]])


def damaged(change) -> bytes:
    data = copy.deepcopy(CODECS["bpe"].to_dict())
    change(data)
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe junk",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"format": 1, "shared": true, "source": null, "target": null}',
        damaged(lambda d: d.update(format=2)),
        damaged(lambda d: d.update(shared=False)),
        damaged(lambda d: d["source"].pop("ids")),
        damaged(lambda d: d["source"]["special"].update(eos=10**9)),
        damaged(lambda d: d["source"]["special"].update(eos=390.5)),
        damaged(lambda d: d["source"]["special"].update(eos="2")),
        damaged(lambda d: d["source"].update(ids={"a": 0, "b": 0})),
        damaged(lambda d: d["source"].update(ids={"a": -1})),
        damaged(lambda d: d["source"].update(ids=[1])),
        damaged(lambda d: d["source"].update(tokenizer={})),
        damaged(lambda d: d["source"]["tokenizer"].update(decoder=None)),
        damaged(lambda d: d["source"]["tokenizer"]["model"].update(merges=[["a"]])),
        damaged(lambda d: d["source"]["tokenizer"]["model"]["vocab"].update(a=2**31)),
    ],
)
def test_what_is_no_codec_is_refused_in_one_line(tmp_path, content: bytes) -> None:
    path = tmp_path / "codec.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        Codec.load(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_missing_and_huge_files_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no codec at"):
        Codec.load(tmp_path)
    huge = tmp_path / "codec.json"
    with huge.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(InputError, match="larger than"):
        Codec.load(huge)
