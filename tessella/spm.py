"""Spm: a SentencePiece model file as one of our tokenizers, with the ids of a Marian vocabulary."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from tessella.errors import InputError
from tessella.text import SPACE, SpecialIds, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM = 1
# Noncharacters: no text needs them, and the character maps leave them alone.
MARK, NEVER = "\ufdd0", "\ufdd1"
# Spaces have become "▁" when pieces are sought, so that no text spells a code with one behind it.
UNKNOWN_CODE = ">>?<< "


@dataclass(frozen=True, slots=True)
class SpmModel:
    """What a .spm file says: pieces with their scores (log-probabilities) and types, and how text is normalised."""

    pieces: tuple[tuple[str, float, int], ...]
    charsmap: bytes
    """Compiled map of characters; empty: text stays as it is."""
    byte_fallback: bool
    dummy_prefix: bool
    remove_extra_spaces: bool


def read_spm(data: bytes, name: str = "the .spm file") -> SpmModel:
    """A serialised `ModelProto` (sentencepiece_model.proto). Raises InputError where it is damaged or not unigram."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for field, value in _fields(data):
            if field == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]
                pieces.append((piece[1].decode(), score, piece.get(3, NORMAL)))
            elif field == 2:
                trainer = dict(_fields(value))
            elif field == 3:
                normalizer = dict(_fields(value))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
        raise InputError(f"{name} is not a SentencePiece model, or is damaged") from None
    if trainer.get(3, UNIGRAM) != UNIGRAM:
        raise InputError(f"{name} is not a unigram model; only these are imported")
    if trainer.get(24, 0) or not normalizer.get(5, 1):
        raise InputError(f"{name} writes spaces in a way that is not imported (suffixes, or no '{SPACE}')")
    if not any(kind == UNKNOWN for _, _, kind in pieces) or not any(kind == NORMAL for _, _, kind in pieces):
        raise InputError(f"{name} has no pieces, or none for the unknown")
    return SpmModel(
        pieces=tuple(pieces),
        charsmap=normalizer.get(2, b""),
        byte_fallback=bool(trainer.get(35, 0)),
        dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_spaces=bool(normalizer.get(4, 1)),
    )


def marian_tokenizer(model: SpmModel, ids: Mapping[str, int], special: SpecialIds, literal: Sequence[str]) -> Tokenizer:
    """One side of a Marian codec: text to the ids of MarianTokenizer.

    ids: the content of vocab.json. literal: pieces that a text may spell out ("</s>"), as MarianTokenizer reads them.
    A code like `>>fra<<` at the very beginning of a text is one piece: that of the vocabulary, or else unknown.
    """
    codes = [piece for piece in ids if piece.startswith(">>") and piece.find("<<", 2) == len(piece) - 2]
    engine = tokenizers.Tokenizer(_unigram(model, codes))
    engine.normalizer = _normalizer(model, codes)
    engine.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"\A>>[^ ]*<< "), "isolated")
    spelled = [decoders.ByteFallback()] if model.byte_fallback else []
    engine.decoder = decoders.Sequence(
        [decoders.Replace(" ", ""), decoders.Replace(SPACE, " "), *spelled, decoders.Fuse()]
    )
    # Not "special" to the engine: our Tokenizer reads those as plain text, where nothing spells a special piece.
    engine.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in literal])
    numbers = {f"{piece} " if piece in codes else piece: number for piece, number in ids.items()}
    return Tokenizer(json.loads(engine.to_str()), special, numbers)


def _unigram(model: SpmModel, codes: list[str]) -> models.Unigram:
    """The pieces in their order; those that text must never match get a name that no text has."""
    normal = [score for _, score, kind in model.pieces if kind == NORMAL]
    low, high = min(normal), max(normal)
    vocabulary: list[tuple[str, float]] = []
    for number, (piece, score, kind) in enumerate(model.pieces):
        if kind in (UNKNOWN, CONTROL, UNUSED):
            vocabulary.append((f"{NEVER}{number}", high))
        elif kind == USER_DEFINED:  # as sentencepiece's unigram lattice scores them, so that they always win
            vocabulary.append((piece, len(piece) * high - 0.1))
        else:
            vocabulary.append((piece, low if kind == BYTE else score))
    vocabulary += [*((f"{code} ", high) for code in codes), (UNKNOWN_CODE, high)]
    unknown = next(i for i, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN)
    return models.Unigram(vocabulary, unk_id=unknown, byte_fallback=model.byte_fallback)


def _normalizer(model: SpmModel, codes: list[str]) -> normalizers.Normalizer:
    """Set the language code apart, map characters, make spaces one and visible, put one in front."""
    known = "|".join(_escaped(code[2:-2]) for code in codes) or r"(?!)"
    apart = {rf"\A>>(?:{known})\K<<": f"<<{MARK}", rf"\A>>(?>(?:(?!<<)(?m:.))*)<<(?!{MARK})": f">>?<<{MARK}"}
    trim = {" {2,}": " ", r"\A +| +\z": "", rf"\A>>[^{MARK}]*<<\K{MARK} +": MARK}
    show = {" ": SPACE, MARK: " "}
    after_code = {rf"\A{SPACE}>>[^ ]*<<\K (?=(?m:.))": f" {SPACE}", rf"\A{SPACE}(?=>>[^ ]*<< )": ""}
    # NFC first: sentencepiece composes decomposed Hangul by its map, the engine only looks at single characters.
    mapped = [normalizers.NFC(), normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    prefixed = [normalizers.Prepend(SPACE), *_replace(after_code)] if model.dummy_prefix else []
    trimmed = _replace(trim) if model.remove_extra_spaces else []
    return normalizers.Sequence([*_replace(apart), *mapped, *trimmed, *_replace(show), *prefixed])


def _replace(steps: Mapping[str, str]) -> list[normalizers.Normalizer]:
    return [normalizers.Replace(tokenizers.Regex(pattern), content) for pattern, content in steps.items()]


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() else rf"\x{{{ord(c):X}}}" for c in text)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer message: varints as int, the rest as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
        else:
            if wire == 2:
                size, at = _varint(data, at)
            else:
                size = {1: 8, 5: 4}[wire]
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("cut off")
        yield field, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("not a number")
