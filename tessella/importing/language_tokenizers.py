"""Language tokenizers: BERT's word pieces and GPT2's byte-level ones in the files of transformers, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tessella import files
from tessella.errors import InputError
from tessella.importing.clip_tokenizer import ANY, MERGES, OLDER, SPOKEN, VOCABULARY, WHOLE, piece_named, read_merges
from tessella.text import SpecialIds, Tokenizer

WORDS = "vocab.txt"
LARGEST_WORDS = 64 * 2**20
BERT = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
"""The pieces with a meaning of their own where no file names them."""
PREFIX = "##"
"""Of a piece that goes on with a word."""


class Read(NamedTuple):
    """A tokenizer, and the ids of what its files call "cls", "mask" ..."""

    tokenizer: Tokenizer
    ids: Mapping[str, int]


def read_bert(folder: Path) -> Read:
    """The tokenizer of a BERT: tokenizer.json, or vocab.txt with tokenizer_config.json's flags.

    Ids are those of BertTokenizer; "[MASK]" and its like in a text are read as these pieces, as it does. Raises
    InputError in one line where a file is missing or a special piece has no id.
    """
    spoken = _spoken(folder)
    data = _plain(folder / WHOLE) if (folder / WHOLE).is_file() else _word_pieces(folder / WORDS, spoken)
    data["decoder"] = data.get("decoder") or json.loads(_state(decoders.WordPiece(prefix=PREFIX)))
    ids = _special(folder, data, {key: spoken.get(f"{key}_token") or usual for key, usual in BERT.items()})
    data = _literal(data, ids)
    return Read(Tokenizer(data, SpecialIds(ids["pad"], ids["cls"], ids["sep"], ids["unk"])), ids)


def read_gpt2(folder: Path) -> Read:
    """The tokenizer of a GPT-2: tokenizer.json, or vocab.json and merges.txt.

    Its one special piece begins and ends texts and fills the space behind them, unless the files name another for that.
    Raises InputError in one line where a file is missing or the special piece has no id.
    """
    spoken = _spoken(folder)
    data = _plain(folder / WHOLE) if (folder / WHOLE).is_file() else _byte_pieces(folder, spoken)
    data["decoder"] = data.get("decoder") or json.loads(_state(decoders.ByteLevel()))
    names = {key: spoken.get(f"{key}_token") or usual for key, usual in GPT2.items()}
    ids = _special(folder, data, {**names, "pad": spoken.get("pad_token") or names["eos"]})
    data = _literal(data, ids)
    return Read(Tokenizer(data, SpecialIds(ids["pad"], ids["bos"], ids["eos"], ids["unk"])), ids)


def write_tokenizer(read: Read, ends: tuple[str, str] | None, length: int, folder: Path) -> None:
    """The files from which transformers makes a PreTrainedTokenizerFast with the same ids.

    ends: what `read.ids` calls the pieces that it puts around a text, if any. length: ids of a text at most.
    """
    tokenizer = read.tokenizer
    if tokenizer.ids is not None:
        raise InputError("a tokenizer with a numbering of its own, such as Marian's, has no place in this layout")
    names = {key: tokenizer.vocabulary[number] for key, number in read.ids.items()}
    engine = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.model))
    if ends is not None:
        first, last = ends
        engine.post_processor = processors.TemplateProcessing(
            single=f"{names[first]}:0 $A:0 {names[last]}:0",
            pair=f"{names[first]}:0 $A:0 {names[last]}:0 $B:1 {names[last]}:1",
            special_tokens=[(names[key], read.ids[key]) for key in dict.fromkeys(ends)],
        )
    told = {f"{key}_token": name for key, name in names.items()}
    files.write_json(folder / SPOKEN, {"tokenizer_class": ANY, "model_max_length": length, **told})
    files.write_text(folder / WHOLE, engine.to_str())


def _spoken(folder: Path) -> dict[str, Any]:
    return next((files.read_json(folder / name) for name in (SPOKEN, OLDER) if (folder / name).is_file()), {})


def _plain(path: Path) -> dict[str, Any]:
    """A tokenizer.json of any kind, without what it puts around texts."""
    data = files.read_json(path)
    if not isinstance(data.get("model"), Mapping) or not isinstance(data.get("added_tokens") or [], list):
        raise InputError(f"{path} has no model of pieces; expected the file of a tokenizer")
    return {**data, "post_processor": None, "truncation": None, "padding": None}


def _word_pieces(path: Path, spoken: Mapping[str, Any]) -> dict[str, Any]:
    """vocab.txt, a piece a line, as the data of a tokenizer."""
    with files.explained(path):
        if not path.is_file():
            raise InputError(f"{path.parent} has neither {WHOLE} nor {WORDS}, which hold the pieces of a BERT")
        if path.stat().st_size > LARGEST_WORDS:
            raise InputError(f"{path} has more than the {LARGEST_WORDS} bytes that are read")
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    pieces = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    if len(vocab) < len(pieces):
        raise InputError(f"{path} names a piece twice")
    unknown = piece_named(spoken.get("unk_token") or BERT["unk"])
    engine = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unknown))
    engine.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=spoken.get("tokenize_chinese_chars", True),
        strip_accents=spoken.get("strip_accents"),
        lowercase=spoken.get("do_lower_case", True),
    )
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return json.loads(engine.to_str())


def _byte_pieces(folder: Path, spoken: Mapping[str, Any]) -> dict[str, Any]:
    """vocab.json and merges.txt as the data of a tokenizer."""
    merges = read_merges(folder / MERGES)
    try:
        engine = tokenizers.Tokenizer(models.BPE(files.read_json(folder / VOCABULARY), merges))
    except Exception as error:  # the library raises plain Exception
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: the vocabulary and its merges do not fit together: {str(error)[:200]}") from None
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(spoken.get("add_prefix_space", False)))
    return json.loads(engine.to_str())


def _special(folder: Path, data: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, int]:
    """The ids of pieces by what they are for."""
    vocab = data["model"].get("vocab")
    if isinstance(vocab, list):
        vocab = {str(piece[0]): number for number, piece in enumerate(vocab)}
    numbers = {**(vocab or {}), **{token["content"]: token["id"] for token in data.get("added_tokens") or []}}
    missing = next((key for key, name in names.items() if piece_named(name) not in numbers), None)
    if missing is not None:
        raise InputError(f"{folder}: the vocabulary has no '{piece_named(names[missing])}' ({missing}_token)")
    return {key: numbers[piece_named(name)] for key, name in names.items()}


def _literal(data: dict[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """With all special pieces as such that a text may spell out.

    Not "special" to the engine: our Tokenizer reads those as plain text, where nothing spells a special piece.
    """
    added = [{**token, "special": False} for token in data.get("added_tokens") or []]
    there = {token["id"] for token in added}
    vocab = data["model"].get("vocab")
    names = {number: piece for piece, number in vocab.items()} if isinstance(vocab, Mapping) else {}
    for number in sorted(set(ids.values()) - there):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        added.append({"id": number, "content": names[number], **flags})
    return {**data, "added_tokens": sorted(added, key=lambda token: token["id"])}


def _state(part: Any) -> str:
    return part.__getstate__().decode()
